# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What judging costs: a big diff, and a push of one commit.

A diff of 10,000 files and 20 MB that 50 globs and 50 patterns find nothing in, so nothing ends early;
one line in twenty holds a word that makes a pattern look twice. It is judged, and beside that read and
searched once with all patterns joined. Five runs of each in turn, medians. The push is judged in a new
process each time, as the gate does: in all, and the processor's time of judging without git's processes.
Growth is from half the diff to the whole: 1.0 is linear.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / ".collections"), str(TOP / "tests")]
import bench  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git import command  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import rules, schema  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.commits import work_between  # noqa: E402
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.diff import changes_in_diff  # noqa: E402

FILES = 10_000
FILE_BYTES = 2_000
MB = 1_000_000
MOST_RATIO, MOST_GROWTH = 3.0, 1.25
MOST_PUSH_MS = 25.0  # of the processor, beside git's processes
PUSH_RUNS = 11

GLOBS = [
    *[".env", ".env.*", "*.key", "*.pem", "id_*", "secrets/**", "**/secrets/**", "*.p12", "*.kdbx", "**/.aws/*"],
    *[f"vendor/{name}/**" for name in "abcdefghijklmnopqrst"],
    *[f"*.{name}" for name in ("jks", "pfx", "ovpn", "asc", "gpg", "keystore", "tfstate", "tfvars", "dump", "sqlite")],
    *[f"**/private-[0-9]{name}/*.cfg" for name in "abcdefghij"],
]
PREFIXES = [
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "glpat-", "xoxb-", "xoxp-"),
    *("xoxa-", "sk-ant-", "sk_live_", "rk_live_", "npm_", "pypi-", "dop_v1_", "shpat_"),
]
SERVICES = [
    *("aws", "azure", "google", "stripe", "twilio", "slack", "discord"),
    *("vault", "consul", "netbox", "icinga", "grafana", "sentry", "heroku"),
]
PATTERNS = [
    "-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "AKIA[0-9A-Z]{16}",
    r"(?i:(api_key|token|secret)\s*=\s*['\"][^'\"]+['\"])",
    *[rf"\b{re.escape(prefix)}[0-9A-Za-z_-]{{20,}}" for prefix in PREFIXES],
    *[rf"(?i:{name}[a-z_]*(key|token|secret)\s*[:=]\s*['\"][^'\"]{{8,}}['\"])" for name in SERVICES],
    *[rf"{name}://[^:/@\s]+:[^@/\s]+@" for name in ("postgres", "mysql", "redis", "amqp", "mongodb", "ftp", "smtp")],
    *[rf"^{name}=\S{{12,}}$" for name in ("PGPASSWORD", "MYSQL_PWD", "RESTIC_PASSWORD", "VAULT_TOKEN", "GH_TOKEN")],
    # These have no text that every match contains, so each line is searched.
    r"[0-9a-f]{8}:[0-9a-f]{32}$",
    r"\b[A-Z]{4}[0-9]{12}[A-Z]{4}\b",
    r"\bey[\w-]{16,}\.ey[\w-]{16,}\.",
    r"[1-9][0-9]{9}:AA[\w-]{33}",
    r"\b[0-9]{6}\.[0-9]{9}\.[0-9a-f]{32}\b",
]
WORDS = [
    *("the", "loop", "host", "route", "peer", "token", "prefix", "deploys", "a", "release"),
    *("and", "then", "proves", "it", "with", "one", "canary", "before", "timer"),
]


def make_diff(files: int) -> bytes:
    """A diff of new files with lines of prose and code, the same at every run."""
    chance = random.Random(1)
    parts = []
    for number in range(files):
        lines: list[str] = []
        length = 0
        while length < FILE_BYTES - 130:
            line = " ".join(chance.choices(WORDS, k=9))
            if chance.random() < 0.05:
                line += f" secret = load({number})"
            lines.append(f"+{line}\n")
            length += len(line) + 2
        name = f"docs/part{number % 97}/page{number}.md"
        parts.append(
            f"diff --git a/{name} b/{name}\nnew file mode 100644\nindex 0000000..{number + 1:07x}\n"
            f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{''.join(lines)}"
        )
    return "".join(parts).encode()


def make_policy() -> schema.Policy:
    defaults: dict[str, Any] = {
        "max_changed_files": FILES,
        "max_file_bytes": MB,
        "denied_path_globs": GLOBS,
        "denied_content_patterns": PATTERNS,
        "allowed_gate_commands": ["git"],
        "protected_branch_prefixes": ["main"],
        "allowed_pr_remotes": ["origin"],
        "allowed_handoff_dirs": ["/srv/runs"],
    }
    policy = {"version": 1, "defaults": defaults, "guards": {"defaults": {"max_patch_bytes": 10 * FILES * FILE_BYTES}}}
    schema.validate(policy, "the benchmark's policy")
    return policy


def seconds(work: Callable[[], object]) -> float:
    """Of the processor, so that a busy host does not count."""
    began = time.process_time()
    work()
    return time.process_time() - began


def make_push(directory: str) -> tuple[str, str]:
    """A repository with a base and one commit of docs: their names."""
    who = {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*arguments: str) -> str:
        return command.git(directory, arguments, environment=who)[1].strip()

    git("init", "--quiet", ".")
    git("commit", "--quiet", "--allow-empty", "--message=base")
    page = Path(directory, "docs/page.md")
    page.parent.mkdir()
    page.write_text("one line of a page\n" * 40, encoding="utf-8")
    git("add", "docs")
    git("commit", "--quiet", "--message=a page")
    return git("rev-parse", "HEAD~1"), git("rev-parse", "HEAD")


def judge_push(directory: str, base: str, head: str) -> None:
    """Judge one push, the first in this process, and print seconds, those of the processor, and git's processes."""
    policy = make_policy()
    run, started = command.git, 0

    def counted(*arguments: Any, **options: Any) -> tuple[int, str, str]:
        nonlocal started
        started += 1
        return run(*arguments, **options)

    def judge() -> None:
        work = work_between(directory, base, head)
        found = rules.judge_branch(policy, "hyrule-feature/ISSUE_APP_1/app")
        found += rules.judge_changes(policy, "app", work.changes, ["docs"])
        found += rules.judge_text(policy, "app", "a commit", work.commits)
        if found or not work.changes:
            raise RuntimeError("the benchmark's push is meant to be allowed")

    vars(command)["git"] = counted
    began = time.perf_counter()
    own = seconds(judge)
    print(json.dumps([time.perf_counter() - began, own, started]))


def measure_push() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        words = [sys.executable, __file__, directory, *make_push(directory)]
        runs = [json.loads(subprocess.run(words, check=True, capture_output=True).stdout) for _run in range(PUSH_RUNS)]
    return {
        "push_ms": round(statistics.median(run[0] for run in runs) * 1000, 1),
        "push_ms_of_judging": round(statistics.median(run[1] for run in runs) * 1000, 1),
        "push_git_processes": runs[0][2],
    }


def main() -> None:
    policy = make_policy()
    schema.try_patterns(policy, "the benchmark's policy")
    joined = re.compile("|".join(f"(?:{pattern})" for pattern in PATTERNS), re.MULTILINE)

    def judge(file: Path) -> None:
        if rules.judge_changes(policy, "app", changes_in_diff(file.read_bytes()), ["docs"]):
            raise RuntimeError("the benchmark's diff is meant to be allowed")

    def search(file: Path) -> None:
        if joined.search(file.read_text(encoding="utf-8")):
            raise RuntimeError("the benchmark's diff is meant to hold nothing that is denied")

    with tempfile.TemporaryDirectory() as scratch:
        whole, half = Path(scratch) / "whole.diff", Path(scratch) / "half.diff"
        whole.write_bytes(make_diff(FILES))
        half.write_bytes(make_diff(FILES // 2))
        size, half_size = whole.stat().st_size, half.stat().st_size
        judged, halves, searched = [], [], []
        for _run in range(bench.RUNS):
            judged.append(seconds(lambda: judge(whole)))
            searched.append(seconds(lambda: search(whole)))
            halves.append(seconds(lambda: judge(half)))
    took, took_half, reference = map(statistics.median, (judged, halves, searched))
    result: dict[str, Any] = {
        "files": FILES,
        "megabytes": round(size / MB, 1),
        "globs": len(GLOBS),
        "patterns": len(PATTERNS),
        "judged_mb_per_s": round(size / MB / took, 1),
        "joined_search_mb_per_s": round(size / MB / reference, 1),
        "ratio_to_joined_search": round(took / reference, 2),
        "growth": round((took / took_half) / (size / half_size), 2),
        **measure_push(),
    }
    speed = f"{result['judged_mb_per_s']} MB/s against {result['joined_search_mb_per_s']} MB/s"
    processes = f"beside {result['push_git_processes']} processes of git"
    rows = [
        bench.row("judging 20 MB, against one search of all patterns", took / reference, MOST_RATIO, of=speed),
        bench.row("growth of that from 10 MB, 1 is linear", result["growth"], MOST_GROWTH),
        bench.row("judging a push, of the processor", result["push_ms_of_judging"], MOST_PUSH_MS, "ms", processes),
    ]
    bench.tell("policy", rows, **result)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        judge_push(*sys.argv[1:])
    else:
        bench.run(main)
