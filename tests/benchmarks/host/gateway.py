# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""On a deployed host, as root: pushes through the gateway beside plain ones to the same forge. Prints one JSON object.

Called by ../gateway.py. With the word ``push`` it is the cycle's side, as the loop's user in a unit of its own.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, "/usr/local/lib/engineering-loop")
from engineering_loop_core.cell import pristine
from engineering_loop_core.cycle import engine_run
from engineering_loop_core.forge import tokens
from engineering_loop_core.gateway import audit, sessions
from engineering_loop_core.git import command as gitcmd
from engineering_loop_core.host import settings, users
from engineering_loop_core.policy import schema

RUNS = 11
UNIT = "bench-gateway.service"
REPO, DEST = "AS215932/network-operations", "hyrule-infra"
# An issue that no forge has, another one each time: nothing of this is a cycle's.
NUMBER = int(sys.argv[2]) if sys.argv[2:] else 900_000_000 + int(time.time()) % 10_000_000
CYCLE = f"20260101T000000Z-{NUMBER:08x}"
BRANCH, PLAIN = f"hyrule-feature/ISSUE_NETWORK_OPERATIONS_{NUMBER}/{DEST}", f"bench/plain-{NUMBER}"
FILES, EACH = 10_000, 2_000
WHO = ("-c", "user.name=b", "-c", "user.email=b@example.invalid")


def git(directory: str, *words: str, environment: dict[str, str] | None = None, check: bool = True) -> float:
    began = time.monotonic()
    env = {**os.environ, **(environment or {})}
    done = subprocess.run(["git", *WHO, *words], cwd=directory, env=env, capture_output=True, text=True, check=False)
    if check and done.returncode:
        sys.exit(f"git {words[0]}: {done.stderr}")
    return time.monotonic() - began


def push() -> None:
    """As the loop's user: a small push many times, both ways in turn, and a large one."""
    given = json.loads(Path("/run/bench-gateway.json").read_text(encoding="utf-8"))
    config = settings.load()
    clone = next(one for one in pristine.clones(config) if one.dest == DEST)
    way = engine_run.way_out(config)
    plain = gitcmd.safe_environment(*gitcmd.credentials(clone.url, given["token"]))
    with tempfile.TemporaryDirectory() as top:
        wanted = [one for one in config.workspace_repositories if one["dest"] == DEST]
        pristine.check_out(settings.Settings(config, workspace_repositories=wanted), top)
        work = f"{top}/{DEST}"
        taken: dict[str, list[float]] = {"gateway": [], "plain": []}
        for number in range(RUNS + 1):
            Path(work, "docs").mkdir(exist_ok=True)
            Path(work, "docs", "bench.md").write_text(f"Page {number}\n", encoding="utf-8")
            git(work, "add", ".")
            git(work, "commit", "--quiet", "-m", f"Page {number}")
            taken["gateway"].append(git(work, "push", "--quiet", "origin", f"HEAD:{BRANCH}", environment=way))
            taken["plain"].append(git(work, "push", "--quiet", "origin", f"HEAD:refs/heads/{PLAIN}", environment=plain))
        git(work, "checkout", "--quiet", "-b", "large", "origin/main")
        for number in range(FILES):
            place = Path(work, "docs", str(number // 100), f"{number}.md")
            place.parent.mkdir(exist_ok=True)
            lines = [f"{number} {line} some plain words that nobody denies" for line in range(EACH // 48)]
            place.write_text("\n".join(lines), encoding="utf-8")
        git(work, "add", ".")
        git(work, "commit", "--quiet", "-m", "Large")
        searched = []
        for _run in range(3):
            began = time.monotonic()
            read_and_search(config, f"{work}/docs")
            searched.append(time.monotonic() - began)
        large = [
            git(work, "push", "--quiet", "origin", f"HEAD:{BRANCH}", environment=way, check=False) for _run in range(3)
        ]
    print(json.dumps({"small": {name: times[1:] for name, times in taken.items()}, "large": large, "search": searched}))


def read_and_search(config: dict[str, object], top: str) -> None:
    """One pass: read every file and look for every pattern in it."""
    policy = schema.load_file(str(config.policy_file))
    patterns = [re.compile(text) for text in schema.effective(policy, DEST)["denied_content_patterns"]]
    for place in Path(top).rglob("*.md"):
        for line in place.read_text(encoding="utf-8").splitlines():
            for pattern in patterns:
                pattern.search(line)


def note(config: dict[str, object], entries: list[dict[str, object]]) -> None:
    os.makedirs(f"{config.gate_dir}/records", mode=0o700, exist_ok=True)
    for entry in entries:
        audit.append(config, CYCLE, entry)


class Memory(threading.Thread):
    """The most that all processes of the gateway had at once, in bytes of their own."""

    def __init__(self, uid: int) -> None:
        super().__init__(daemon=True)
        self.uid, self.most, self.largest = uid, 0, 0

    def run(self) -> None:
        while True:
            found = []
            for place in Path("/proc").iterdir():
                try:
                    if place.name.isdigit() and place.stat().st_uid == self.uid:
                        text = (place / "smaps_rollup").read_text(encoding="ascii")
                        found.append(1024 * int(text.split("Pss:")[1].split()[0]))
                except (OSError, IndexError):
                    continue
            self.most = max(self.most, sum(found))
            self.largest = max([self.largest, *found])
            time.sleep(0.05)


def main() -> None:
    config = settings.load()
    token, _login = tokens.acting(config, config.env_file)
    account = users.account(config.user)
    given = Path("/run/bench-gateway.json")
    given.write_text(json.dumps({"token": token}), encoding="utf-8")
    os.chown(given, account.pw_uid, -1)
    given.chmod(0o400)
    taken = [
        {"what": "list", "repo": REPO, "offered": [{"number": NUMBER, "title": "Bench"}], "held": []},
        {"what": "view", "repo": REPO, "number": NUMBER, "body": True},
    ]
    sessions.open_session(config, UNIT, CYCLE)
    memory = Memory(users.account(config.gate_user).pw_uid)
    memory.start()
    try:
        users.as_user(config.gate_user, lambda: note(config, taken))
        socket = f"{config.unit}-gate.socket"
        command = ["systemd-run", f"--unit={UNIT}", "--quiet", "--wait", "--pipe", "--collect", "-p", f"Wants={socket}"]
        command += ["-p", f"After={socket}", "-p", f"User={config.user}", "python3", __file__, "push", str(NUMBER)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        sessions.close_session(config, UNIT)
        given.unlink()
    if done.returncode:
        sys.exit(done.stderr or done.stdout)
    told = json.loads(done.stdout)
    entries = audit.read(config, CYCLE)
    middle = {name: statistics.median(times) for name, times in told["small"].items()}
    large, search = statistics.median(told["large"]), statistics.median(told["search"])
    result = {
        "push_gateway_seconds": round(middle["gateway"], 3),
        "push_plain_seconds": round(middle["plain"], 3),
        "push_ratio": round(middle["gateway"] / middle["plain"], 2),
        "judged_seconds": statistics.median(one["judged"] for one in entries if one.get("allowed")),
        "large_seconds": round(large, 2),
        "search_seconds": round(search, 2),
        "large_ratio": round(large / search, 2),
        "memory_mib": memory.most >> 20,
        "largest_process_mib": memory.largest >> 20,
        "large_ended": next((one["reason"] for one in reversed(entries) if not one.get("allowed", True)), ""),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    push() if sys.argv[1:2] == ["push"] else main()
