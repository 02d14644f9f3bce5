# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the world up for one test and take it down again: a forge that serves an engine, and a model.

    python tests/world/stage.py up DIR [--real-agent] [--engine URL|BUNDLE --from SHA --to SHA]
    python tests/world/stage.py down DIR

``up`` prints, and leaves in DIR/stage.json, {"url", "api_url", "tls_url", "ca", "token", "pid", "model", "engine",
"from", "to", "agent"}: ``tls_url`` is the same forge as a GitHub Enterprise whose certificates ``ca`` trusts, ``agent``
the role's variables for the agent: a real one whose model is played, where that was fetched.
``down`` prints what went through the forge and is not as GitHub describes its API.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

WORLD = Path(__file__).resolve().parent
FETCHED = WORLD.parents[1] / ".cache/agent"
ENGINE_REPO = "AS215932/engineering-loop"
START_SECONDS = 60


class StageError(Exception):
    """The world cannot be put up; the text says why in one line."""


def _python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise StageError(f"{Path(arguments[0]).name} {arguments[1]}: {last[0] if last else 'failed'}")
    return done.stdout


def _engine(directory: Path, source: str, before: str, after: str) -> tuple[str, str, str]:
    """Repository and the two commits: the one from outside, or the reference engine made here."""
    if not source:
        built = _python(str(WORLD / "engine.py"), "build", str(directory / "engine.git"))
        made = json.loads(built[built.index("{") :])
        return str(directory / "engine.git"), made["a"], made["b"]
    for name, value in (("FROM", before), ("TO", after)):
        if not re.fullmatch(r"[0-9a-f]{40}", value):
            raise StageError(
                f"{name}={value!r} is not a full SHA of 40 lower-case hex digits; ENGINE= wants FROM= and TO="
            )
    return source, before, after


def agent_variables(model: str, real: bool) -> dict[str, Any]:
    """What the role is told of the agent. A played one is on the host already, and asks no model."""
    known = FETCHED / "setup.key"
    if not real or not known.exists():
        return {"engineering_loop_agent": {}, "engineering_loop_egress_local": [], "engineering_loop_home_files": []}
    package, version, integrity = known.read_text(encoding="utf-8").split()
    return {
        "engineering_loop_agent": {
            "package": package,
            "version": version,
            "integrity": integrity,
            "program": "pi",
            "lockfile": str(FETCHED / "package-lock.json"),
        },
        "engineering_loop_egress_local": [int(model.rsplit(":", 1)[1])],
        "engineering_loop_home_files": [
            {"src": f"/etc/loop-world/{name}.json", "dest": f".pi/agent/{name}.json"} for name in ("models", "settings")
        ],
    }


def up(
    directory: Path, source: str = "", before: str = "", after: str = "", *, real_agent: bool = False
) -> dict[str, Any]:
    """Seed the forge in ``directory``, give it the engine and start it; what ``stage.json`` holds."""
    directory.mkdir(parents=True, exist_ok=True)
    root = directory / "forge"
    repository, first, second = _engine(directory, source, before, after)
    _python(str(WORLD / "forge.py"), "seed", "--root", str(root))
    _python(str(WORLD / "forge.py"), "import", str(root), ENGINE_REPO, repository)
    # Each takes its port itself and then says which: one that was looked for here could be gone by then.
    told, pid = _serve(directory, "forge", "--root", str(root))
    try:
        model, model_pid = _serve(directory, "model")
    except StageError:
        os.kill(pid, signal.SIGTERM)
        raise
    stage = {
        **{name: told[name] for name in ("url", "api_url", "tls_url", "ca")},
        "token": (root / "token").read_text(encoding="utf-8").strip(),
        "pid": pid,
        "model": model["url"],
        "model_pid": model_pid,
        "engine": f"{told['url']}/{ENGINE_REPO}.git",
        "from": first,
        "to": second,
        "agent": agent_variables(model["url"], real_agent),
    }
    (directory / "stage.json").touch(mode=0o600)
    (directory / "stage.json").write_text(json.dumps(stage, indent=2) + "\n", encoding="utf-8")
    return stage


def _serve(directory: Path, name: str, *arguments: str) -> tuple[dict[str, str], int]:
    """Start one of the world's servers; what it says of itself as soon as it listens, and its process."""
    with (directory / f"{name}.url").open("wb") as said, (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(WORLD / f"{name}.py"), "serve", *arguments, "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        line = (directory / f"{name}.url").read_text(encoding="utf-8")
        if line.endswith("\n"):
            return dict(json.loads(line)), process.pid
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise StageError(f"the {name} does not start, see {directory / f'{name}.log'}")


def down(directory: Path) -> list[str]:
    """Stop the forge of ``directory``; what went through it that GitHub does not know. Nothing to do is fine."""
    found: list[str] = []
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        stage = json.loads((directory / "stage.json").read_text(encoding="utf-8"))
        if _is("forge.py", stage["pid"]):
            url = f"{stage['url']}/_forge/violations"
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own
                found = sorted(set(json.load(answer)))
            os.kill(stage["pid"], signal.SIGTERM)
        if _is("model.py", stage.get("model_pid", 0)):
            os.kill(stage["model_pid"], signal.SIGTERM)
    return found


def clear(directory: Path) -> None:
    """Have the directory empty, whatever an earlier run, such as one that was killed, left in it, a forge included."""
    down(directory)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _is(program: str, pid: int) -> bool:
    """Whether the process is still the one that was started: its number may be another's by now."""
    with contextlib.suppress(OSError):
        return program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["up", "down"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--engine", default="")
    parser.add_argument("--from", dest="before", default="")
    parser.add_argument("--to", dest="after", default="")
    parser.add_argument("--real-agent", action="store_true")
    asked = parser.parse_args()
    try:
        if asked.what == "down":
            print("\n".join(down(asked.directory)))
        else:
            print(json.dumps(up(asked.directory, asked.engine, asked.before, asked.after, real_agent=asked.real_agent)))
    except StageError as problem:
        print(f"stage: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
