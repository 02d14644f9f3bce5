# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run tests in a fork of a Python that has imported what is not ours; asked and answered in lines of JSON."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

THEIRS = "ansible.module_utils.basic ansible.module_utils.testing flask hypothesis.strategies jsonschema requests yaml"
for name in THEIRS.split():
    importlib.import_module(name)

OPTIONS = ["-q", "-x", "-o", "addopts=--import-mode=importlib"]


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def tested(seconds: float, files: list[str]) -> str:
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDWR), 0)
        os.dup2(2 if os.environ.get("SAY") else 0, 1)
        # SAY=1 shows what they say.
        os._exit(int(pytest.main([*OPTIONS, *files])))
    end, status = time.monotonic() + seconds, None
    while status is None and time.monotonic() < end:
        time.sleep(0.02)
        pid, how = os.waitpid(child, os.WNOHANG)
        status = how if pid else None
    while left := children():  # also what a test left behind: a change may have it wait for ever
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
    return "timeout" if status is None else "killed" if status else "survived"


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    for line in sys.stdin:
        seconds, *files = json.loads(line)
        print(json.dumps(tested(seconds, files)), flush=True)
