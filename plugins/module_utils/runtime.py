# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The core as it is installed on the loop host: one implementation, run by systemd as well."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import shlex
from collections.abc import Iterable

from . import (
    canary,
    cycle,
    egress_squid,
    enter,
    gateway,
    gateway_access,
    gateway_client,
    habits,
    prepare,
    sandbox,
    settings,
    settle,
    watch,
)  # fmt: skip
from .errors import LoopError
from .hostfiles import Entry

# The same as in galaxy.yml; a receipt names it.
VERSION = "0.2.0"

PACKAGE = "engineering_loop_core"

# What runs on the host. To import them here is what makes Ansible ship them, with all that they import.
PROGRAMS = (
    canary,
    cycle,
    egress_squid,
    enter,
    gateway,
    gateway_access,
    gateway_client,
    habits,
    prepare,
    sandbox,
    settle,
    watch,
)

LAUNCHER = """\
#!/usr/bin/python3 -I
\"\"\"Commands of the engineering loop on this host. Deployed by the collection; do not edit.\"\"\"

import sys

sys.path.insert(0, {lib_dir!r})
from engineering_loop_core.habits import speak_plainly

speak_plainly()
match sys.argv[1:]:
    case ["prepare", *words] if len(words) <= 1:
        from engineering_loop_core.prepare import main
    case ["cycle", *words] if len(words) <= 1:
        from engineering_loop_core.cycle import main
    case ["settle", *words] if len(words) <= 1:
        from engineering_loop_core.settle import main
    case ["watch", *words] if len(words) <= 1:
        from engineering_loop_core.watch import main
    case ["egress-settings", *words] if len(words) <= 1:
        from engineering_loop_core.egress_squid import prepare as main
    case ["alone", *words] if words:
        from engineering_loop_core.sandbox import alone as main
    case ["enter", *words]:
        from engineering_loop_core.enter import main
        words = [{config!r}, *words]
    case ["inside", *words] if len(words) >= 2:
        from engineering_loop_core.enter import inside as main
    case ["earlier", *words] if len(words) >= 2:
        from engineering_loop_core.enter import earlier as main
    case ["worktrees", *words] if len(words) == 1:
        from engineering_loop_core.enter import worktrees as main
    case ["pack", *words] if len(words) == 3:
        from engineering_loop_core.enter import pack as main
    case ["access", *words] if len(words) <= 1:
        from engineering_loop_core.gateway_access import bring as main
    case ["gateway", *words] if len(words) <= 1:
        from engineering_loop_core.gateway import main
    case _:
        sys.exit("usage: loop enter [--as-engine] CELL [-- COMMAND...]")
sys.exit(main(*words))
"""

# The cycle's side of the gateway's socket. Nothing but Python itself is loaded: it is started for every request.
CLIENT = "#!/usr/bin/python3 -IS\n"
# What runs generated code: the agent, and the policy's gate commands.
ALONE = """\
#!/bin/sh
exec {lib_dir}/loop alone "${{0##*/}}" "$@"
"""
# An engine starts gate commands with its sys.executable as well, which is an absolute path and no name.
ENGINE_PYTHON = """\
#!/bin/sh
exec {lib_dir}/loop alone {name} "$@"
"""
GATE_COMMANDS = ("pytest", "python", "python3", "uv")
DOORS = ("gh",)


def sources() -> dict[str, bytes]:
    """File name -> content of the core, read from wherever it was imported (a zip within a module).

    A module is shipped with what it imports and nothing else, so that is what the host gets.
    """
    found = {"__init__.py": b""}
    package = importlib.import_module(str(__package__))
    for shipped in pkgutil.iter_modules(package.__path__):
        name = f"{__package__}.{shipped.name}"
        spec = importlib.util.find_spec(name)
        read = getattr(spec.loader, "get_source", None) if spec else None
        source = read(name) if read else None
        if source is None:
            raise LoopError(f"the source of {name} is not part of this module")
        found[f"{shipped.name}.py"] = source.encode()
    return found


def entries(lib_dir: str, programs: Iterable[str] = (), config: str = settings.DEFAULT_PATH) -> list[Entry]:
    """What must stand below ``lib_dir``: core, launcher, client, programs. What is no longer ours goes."""
    package = f"{lib_dir}/{PACKAGE}"
    content = sources()
    quoted = shlex.quote(lib_dir)
    client = CLIENT.encode() + content["gateway_client.py"]
    launcher = LAUNCHER.format(lib_dir=lib_dir, config=config)
    wanted = [
        Entry(lib_dir, "directory", mode=0o755),
        Entry(package, "directory", mode=0o755),
        Entry(f"{lib_dir}/loop", content=launcher.encode(), mode=0o755),
        Entry(f"{lib_dir}/bin", "directory", mode=0o755),
        Entry(f"{lib_dir}/bin/gh", content=client, mode=0o755),
        Entry(f"{lib_dir}/gateway-client", content=client, mode=0o755),
    ]
    names = sorted({*GATE_COMMANDS, *(os.path.basename(program) for program in programs)} - {*DOORS})
    alone = ALONE.format(lib_dir=quoted).encode()
    wanted += [Entry(f"{lib_dir}/bin/{name}", content=alone, mode=0o755) for name in names]
    own = ENGINE_PYTHON.format(lib_dir=quoted, name=sandbox.ENGINE_PYTHON).encode()
    wanted.append(Entry(f"{lib_dir}/engine", "directory", mode=0o755))
    wanted.append(Entry(f"{lib_dir}/engine/python", content=own, mode=0o755))
    wanted += [Entry(f"{package}/{name}", content=text) for name, text in sorted(content.items())]
    ours = ((package, set(content)), (f"{lib_dir}/bin", {*DOORS, *names}), (f"{lib_dir}/hooks", set[str]()))
    wanted.append(Entry(f"{lib_dir}/git-askpass", "absent"))  # an earlier version's, as what is in hooks
    for directory, known in ours:
        if os.path.isdir(directory):
            wanted += [
                Entry(f"{directory}/{name}", "absent")
                for name in sorted(os.listdir(directory))
                if name not in known and (directory != package or name.endswith(".py"))
            ]
    return wanted
