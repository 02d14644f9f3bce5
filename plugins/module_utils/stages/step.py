# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module that is one stage, asked of the code that is installed here: it does what it would do if it were sent."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from typing import Any

from ..base.errors import LoopError
from ..host.habits import speak_plainly
from .order import BEGUN, STAGES
from .outcome import STEP, How, answer, done, failed, filled
from .settled import WORK


def on_host(given: Mapping[str, Any]) -> str:
    """JSON with ``result`` and ``warnings``, after a line that says that it has begun; nothing where it is not to.

    ``given`` has the ``module``, its ``options`` as they stand in the task, ``check`` and ``diff``. Where the options
    are not as the module takes them it says so itself, when it is sent. Values that no log may have are in no text.
    """
    options, bring = next(WORK[name] for name, stage in STAGES.items() if stage.module == given["module"])
    try:
        wanted = filled({**options, **STEP}, given["options"])
    except LoopError:
        return ""
    speak_plainly()
    sys.stdout.write(f"{BEGUN}\n")
    sys.stdout.flush()
    warnings: list[str] = []
    try:
        found = done(wanted, bring, How(given["check"], given["diff"]))
        result, warnings = found.result, [*found.warnings]
    except LoopError as error:
        result = {"failed": True, **failed(error)}
    except Exception as error:  # noqa: BLE001 - as Ansible tells of any other module
        told = f"{type(error).__name__}: {error}"
        result = {"failed": True, "changed": False, "msg": told, "module_stderr": traceback.format_exc()}
    return answer(result, warnings, options, wanted)
