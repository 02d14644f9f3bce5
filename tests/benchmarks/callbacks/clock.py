# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: clock
type: aggregate
short_description: How long each task took
author: AS215932 (@AS215932)
description:
  - Writes the seconds of each task, from its start to the next one's, as JSON.
options:
  file:
    description: Where to.
    type: path
    required: true
    env:
      - name: BENCH_CLOCK
"""

import json
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible's plugins have no types
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "clock"

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[str, float]] = [("before the first task", time.monotonic())]

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._steps.append((task.get_name().split(" : ")[-1], time.monotonic()))

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self.v2_playbook_on_task_start(task, False)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        ends = [began for _name, began in self._steps[1:]] + [time.monotonic()]
        told = [[name, round(end - began, 3)] for (name, began), end in zip(self._steps, ends, strict=True)]
        Path(self.get_option("file")).write_text(json.dumps(told), encoding="utf-8")
