#!/usr/bin/python3
# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays claude, codex, opencode or aider, by the name that it is called by, in a worktree with the prompt of an issue.

It does to file system and processes what the real one does: configuration and caches in its home, a database that
several processes have open, locks, memory that is written and run, children of its own, a terminal, temporary files and
sockets. What is refused ends it with 1 and says what. It writes one page, and into its home what it saw.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import pty
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

HOME = Path(os.environ.get("HOME", "/nonexistent"))
# Where each keeps what: its settings, what it remembers, its database, its lock.
PLACES = {
    "claude": (".claude.json", ".claude/projects/x/session.jsonl", ".claude/todos/x.db", ".claude/ide/x.lock"),
    "codex": (".codex/version.json", ".codex/sessions/2026/x.jsonl", ".codex/state_5.sqlite", ".codex/tmp/x.lock"),
    "opencode": (
        ".local/state/opencode/kv.json", ".local/share/opencode/log/x.log", ".local/share/opencode/opencode.db",
        ".cache/opencode/x.lock",
    ),
    "aider": (".aider/analytics.json", ".aider/caches/model_prices.json", ".aider/caches/x.db", ".aider/x.lock"),
}  # fmt: skip
WRITER = """\
import sqlite3, sys
opened = sqlite3.connect(sys.argv[1], timeout=30)
opened.execute("insert into t values (2)")
opened.commit()
"""
ANSWERS = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'here')"


def put(path: Path, text: str) -> None:
    """Written beside its place and renamed into it, as all of them do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def child(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def settings_and_sessions(name: str) -> None:
    settings, session, _database, _lock = PLACES[name]
    for _time in range(2):
        put(HOME / settings, json.dumps({"numStartups": 1}))
    (HOME / session).parent.mkdir(parents=True, exist_ok=True)
    with (HOME / session).open("a", encoding="utf-8") as handle:
        handle.write('{"role": "user"}\n')
        os.fsync(handle.fileno())


def database(name: str) -> None:
    """A journal beside it and memory that is shared by name, as two processes write."""
    path = HOME / PLACES[name][2]
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = sqlite3.connect(path, timeout=30)
    assert opened.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    opened.execute("create table t (n)")
    opened.execute("insert into t values (1)")
    opened.commit()
    child(sys.executable, "-c", WRITER, str(path))
    assert opened.execute("select sum(n) from t").fetchone() == (3,)
    opened.close()


def locks(name: str) -> None:
    path = HOME / PLACES[name][3]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    directory = HOME / f"{PLACES[name][0]}.lock"  # another kind: who makes it has it
    directory.mkdir(parents=True)
    directory.rmdir()


def memory_that_is_run(_name: str) -> None:
    """node and bun compile at run time."""
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    os.close(os.memfd_create("jit"))
    assert "MemTotal" in Path("/proc/meminfo").read_text(encoding="utf-8") and os.cpu_count()


def children(_name: str) -> None:
    """A shell on a terminal, git, Python, threads, one that is left behind."""
    mine, theirs = pty.openpty()
    shell = subprocess.Popen(["/bin/sh", "-c", "echo on $(tty)"], stdin=theirs, stdout=theirs, start_new_session=True)
    assert shell.wait(60) == 0 and b"on /dev/pts/" in os.read(mine, 100)
    assert child("git", "rev-parse", "--show-toplevel").strip() == str(Path.cwd())
    child("git", "status", "--porcelain")
    threads = [threading.Thread(target=os.getpid) for _number in range(32)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def temporary(_name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/ipc.sock"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen(1)
            called = subprocess.Popen([sys.executable, "-c", ANSWERS, path])
            connection, _address = server.accept()
            with connection:
                assert connection.recv(10) == b"here"
            assert called.wait(60) == 0
    Path("/tmp/claude-1-cwd").write_text(os.getcwd(), encoding="utf-8")


def in_the_worktree(name: str) -> None:
    """aider writes there, unless its environment says otherwise."""
    if name != "aider":
        return
    chat = os.environ.get("AIDER_CHAT_HISTORY_FILE", ".aider.chat.history.md")
    Path(chat).write_text("# aider chat started\n", encoding="utf-8")
    if os.environ.get("AIDER_MAP_TOKENS") != "0":
        put(Path(".aider.tags.cache.v4/cache.db"), "x")
    if os.environ.get("AIDER_GITIGNORE") != "false":
        with Path(".gitignore").open("a", encoding="utf-8") as handle:
            handle.write(".aider*\n")


STEPS: tuple[Callable[[str], None], ...] = (
    settings_and_sessions, database, locks, memory_that_is_run, children, temporary, in_the_worktree,
)  # fmt: skip


def main() -> int:
    name = Path(sys.argv[0]).name
    if "--version" in sys.argv[1:]:
        print(f"{name} 1.0 (played)")
        return 0
    prompt = next((word for word in sys.argv[1:] if "\n" in word), "")
    if not prompt:  # the question whether its model answers
        print("ok")
        return 0
    there = [str(path.relative_to(HOME)) for path in HOME.rglob("*") if path.is_file()]
    put(HOME / "saw.json", json.dumps({"environment": sorted(os.environ), "home": there}))
    for step in STEPS:
        try:
            step(name)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to be told
            print(f"{name}: {step.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.partition("## Request")[2].strip().splitlines()[0].lower()).strip("-")
    put(Path("docs") / f"{slug}.md", f"# A page by {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
