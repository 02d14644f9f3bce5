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
from typing import TYPE_CHECKING

from ..base.errors import LoopError
from ..cell import sandbox
from ..host import settings
from ..host.managed_files import Entry

if TYPE_CHECKING:
    # What runs on the host. That they stand here is what makes Ansible ship them, with all that they import; they are
    # sources to this module, and to load them would take it longer than its work. The report is a room above this one:
    # the module that writes these files names that.
    from ..cell import squid  # noqa: F401
    from ..cycle import engine_run, enter, job_run, prepare, settle, watch  # noqa: F401
    from ..gateway import access, client, server  # noqa: F401
    from ..host import habits  # noqa: F401
    from ..proof import canary  # noqa: F401

# The same as in galaxy.yml; a receipt names it.
VERSION = "0.2.0"

PACKAGE = "engineering_loop_core"
# The package that holds the rooms, under the name that it has here.
CORE = str(__package__).rpartition(".")[0]

LAUNCHER = """\
#!/usr/bin/python3 -I
\"\"\"Commands of the engineering loop on this host. Deployed by the collection; do not edit.\"\"\"

import sys

sys.path.insert(0, {lib_dir!r})
from engineering_loop_core.host.habits import speak_plainly

speak_plainly()
match sys.argv[1:]:
    case ["prepare", *words] if len(words) <= 1:
        from engineering_loop_core.cycle.prepare import main
    case ["cycle", *words] if len(words) <= 1:
        from engineering_loop_core.cycle.engine_run import main
    case ["settle", *words] if len(words) <= 1:
        from engineering_loop_core.cycle.settle import main
    case ["watch", *words] if len(words) <= 1:
        from engineering_loop_core.cycle.watch import main
    case ["tell", *words] if len(words) <= 1:
        from engineering_loop_core.report.tell import main
    case ["send"]:
        from engineering_loop_core.report.send import main
        words = []
    case ["job-prepare", config, name]:
        from engineering_loop_core.cycle.job_run import before as main
        words = [config, name]
    case ["job", config, name]:
        from engineering_loop_core.cycle.job_run import run as main
        words = [config, name]
    case ["job-settle", config, name]:
        from engineering_loop_core.cycle.job_run import after as main
        words = [config, name]
    case ["egress-settings", *words] if len(words) <= 1:
        from engineering_loop_core.cell.squid import prepare as main
    case ["alone", *words] if words:
        from engineering_loop_core.cell.sandbox import alone as main
    case ["status", *words]:
        from engineering_loop_core.report.command import main
        words = [{config!r}, *words]
    case ["cycles", *words] if len(words) <= 1:
        from engineering_loop_core.report.history import main
        words = [{config!r}, *words]
    case ["enter", *words]:
        from engineering_loop_core.cycle.enter import main
        words = [{config!r}, *words]
    case ["inside", *words] if len(words) >= 2:
        from engineering_loop_core.cycle.enter import inside as main
    case ["earlier", *words] if len(words) >= 2:
        from engineering_loop_core.cycle.enter import earlier as main
    case ["worktrees", *words] if len(words) == 1:
        from engineering_loop_core.cycle.enter import worktrees as main
    case ["pack", *words] if len(words) == 3:
        from engineering_loop_core.cycle.enter import pack as main
    case ["access", *words] if len(words) <= 1:
        from engineering_loop_core.gateway.access import bring as main
    case ["gateway", *words] if len(words) <= 1:
        from engineering_loop_core.gateway.server import main
    case _:
        sys.exit(
            "usage: loop enter [--as-engine] CELL [-- COMMAND...]\\n       loop status [--json]\\n"
            "       loop cycles [ID]"
        )
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
    """File name below the package -> content of the core, read from wherever it was imported (a zip in a module).

    A module is shipped with what it imports and nothing else, so that is what the host gets.
    """
    found = {"__init__.py": b""}
    core = importlib.import_module(CORE)
    for shipped in pkgutil.walk_packages(core.__path__, f"{CORE}."):
        spec = importlib.util.find_spec(shipped.name)
        read = getattr(spec.loader, "get_source", None) if spec else None
        source = read(shipped.name) if read else None
        if source is None:
            raise LoopError(f"the source of {shipped.name} is not part of this module")
        path = shipped.name.removeprefix(f"{CORE}.").replace(".", "/")
        found[f"{path}/__init__.py" if shipped.ispkg else f"{path}.py"] = source.encode()
    return found


def entries(lib_dir: str, programs: Iterable[str] = (), config: str = settings.DEFAULT_PATH) -> list[Entry]:
    """What must stand below ``lib_dir``: core, launcher, client, programs. What is no longer ours goes."""
    package = f"{lib_dir}/{PACKAGE}"
    content = sources()
    quoted = shlex.quote(lib_dir)
    client = CLIENT.encode() + content["gateway/client.py"]
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
    rooms = sorted({os.path.dirname(name) for name in content} - {""})
    wanted += [Entry(f"{package}/{room}", "directory", mode=0o755) for room in rooms]
    wanted += [Entry(f"{package}/{name}", content=text) for name, text in sorted(content.items())]
    wanted.append(Entry(f"{lib_dir}/git-askpass", "absent"))  # an earlier version's, as what is in hooks
    known = {entry.path for entry in wanted}
    stale = [*_files(package, ".py"), *_files(f"{lib_dir}/bin"), *_files(f"{lib_dir}/hooks")]
    return wanted + [Entry(path, "absent") for path in stale if path not in known]


def _files(directory: str, suffix: str = "") -> list[str]:
    """Every file below ``directory`` whose name ends so."""
    walked = os.walk(directory)
    return sorted(os.path.join(base, name) for base, _rooms, names in walked for name in names if name.endswith(suffix))
