# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's own habits end here: its Python, root's umask, its language. Every module imports this before all else,
and what systemd starts of ours begins with it."""

from __future__ import annotations

import json
import os
import sys

PYTHON = (3, 11)
ANSIBLE = (2, 19)  # as in meta/runtime.yml, which only warns

if sys.version_info < PYTHON:
    # As Ansible's own basic.py does it where it is imported by a Python that is too old for it.
    told = (
        "The modules of as215932.engineering_loop need Python 3.11 or later on the host, and %s is %s. Debian 13 has"
        " 3.13: let the host's ansible_python_interpreter be /usr/bin/python3 there, or remove it."
    )
    sys.stdout.write(json.dumps({"failed": True, "msg": told % (sys.executable, sys.version.split()[0])}))
    raise SystemExit(1)

from ..base.errors import LoopError


def put_habits_aside(ansible: str) -> None:
    """Let nothing that is usual on this host reach what is done from here on. LoopError on an Ansible too old for it.

    What root makes may be read by whom it is for, also where root's umask is 077; whatever must not be read gets a mode
    of its own.
    """
    check_controller(ansible)
    if os.geteuid() == 0:
        os.umask(0o022)
    speak_plainly()


def check_controller(ansible: str) -> None:
    """LoopError where this version of ansible-core is too old (0.0 is what a module hears that a person starts)."""
    if (0, 0) < tuple(int(part) for part in ansible.split(".")[:2]) < ANSIBLE:
        raise LoopError(
            f"as215932.engineering_loop needs ansible-core 2.19 or later on the controller, and this is {ansible}:"
            " nothing was changed. A newer one, with Python 3.11 or later: pipx install 'ansible-core>=2.19'"
        )


def speak_plainly() -> None:
    """Programs answer in their own language, since their answers are read: by us, and by an engine."""
    os.environ.update(LANG="C.UTF-8", LC_ALL="C.UTF-8")
    os.environ.pop("LANGUAGE", None)
