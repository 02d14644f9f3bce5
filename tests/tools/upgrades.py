# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""From every version that the collection ever had to this tree, on a booted host: upgrades.py [VERSION...]

Of each version the history is asked for its first commit and its last one; of the oldest one for the last alone, since
it began with nothing. That is installed as a user would, applied and proven, a cycle is killed in the middle of its
work, and then this tree is applied: what was proven, recorded, remembered and half done must be there, the next apply
have nothing to change, and a cycle publish.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "world")]

import demo  # noqa: E402
import stage  # noqa: E402
from demo import CANARY_REPO, SENTINEL, UNIT, Host  # noqa: E402

HOME = ROOT / ".cache" / "upgrades"
BIN = Path(sys.executable).parent
ETC, OPT, STATE = "/etc/engineering-loop", "/opt/engineering-loop", "/var/lib/engineering-loop"
PROVE = ("-e", "engineering_loop_canary_run=true")
VERSION = re.compile(r"^version: *(\S+)", re.MULTILINE)
# What must be the same afterwards, file by file.
RECEIPTS = f"find {OPT}/receipts -type f -exec sha256sum {{}} + 2>/dev/null | sort -k2"
MEMORY = f"cd {STATE}/memory && find . -type f -exec sha256sum {{}} + 2>/dev/null | sort -k2"


class Past(NamedTuple):
    """A version, as it was at one commit."""

    version: str
    commit: str


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"upgrades: git {words[0]}: {done.stderr.strip()}")
    return done.stdout


def past() -> list[Past]:
    """The versions before this tree, each at its first commit (but the oldest one's) and at its last.

    An exit where the history is not here.
    """
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        sys.exit("upgrades: this clone is shallow, so the versions before are not in it: git fetch --unshallow")
    versions: dict[str, list[str]] = {}
    before = ""
    for commit in git("log", "--reverse", "--topo-order", "--format=%H", "--", "galaxy.yml").split():
        found = VERSION.search(git("show", f"{commit}:galaxy.yml"))
        version = str(found[1]) if found else ""
        if version != before:
            if before:
                versions[before].append(git("rev-parse", f"{commit}^").strip())
            versions.setdefault(version, []).append(commit)
        before = version
    released = yaml.safe_load((ROOT / "changelogs/changelog.yaml").read_text(encoding="utf-8"))["releases"]
    if missing := sorted({*released} - {*versions}):
        sys.exit(
            f"upgrades: {', '.join(missing)} of the changelog is not in the history of galaxy.yml: fetch all of it"
        )
    oldest, *later = versions.items()
    begins = (oldest[0], oldest[1][1:])
    found_all = [Past(version, commit) for version, commits in (begins, *later) for commit in dict.fromkeys(commits)]
    return [one for number, one in enumerate(found_all) if number == 0 or not _same(one, found_all[number - 1])]


def _same(one: Past, other: Past) -> bool:
    """Whether nothing that is installed differs, but the version's name."""
    names = git("diff", "--name-only", other.commit, one.commit, "--", "plugins", "roles", "playbooks", "meta")
    return not names.strip()


class Operator:
    """Somebody with one inventory, and the collection first as it was, then as it is."""

    def __init__(self, host: Host, made: dict[str, Any]) -> None:
        self.made = made
        self.inventory = HOME / "inventory.yml"
        known = {**host.variables, "ansible_python_interpreter": "/usr/bin/python3"}
        self.inventory.write_text(
            yaml.safe_dump({"engineering_loop": {"hosts": {"loop": {**known, **self.variables()}}}}), encoding="utf-8"
        )

    def variables(self) -> dict[str, Any]:
        return {
            "engineering_loop_version": self.made["from"],
            "engineering_loop_repo": self.made["engine"],
            "engineering_loop_git_url": self.made["url"],
            "engineering_loop_github_api_url": self.made["api_url"],
            "engineering_loop_environment": {"GH_TOKEN": self.made["token"], "OPENAI_API_KEY": "played"},
            "engineering_loop_repos": [CANARY_REPO],
            "engineering_loop_canary": {"mode": "docs", "repo": CANARY_REPO, "issue": demo.CANARY_ISSUE},
            "engineering_loop_max_runs_per_day": 20,
            "engineering_loop_timer_enabled": True,
            "engineering_loop_timer_on_calendar": "yearly",
        }

    def play(self, collections: Path, playbook: str, *words: str) -> str:
        """Run a playbook of a collection, which must end well; what it said."""
        done = subprocess.run(
            [str(BIN / "ansible-playbook"), "-i", str(self.inventory), playbook, *words],
            cwd=HOME, env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_NOCOLOR": "1"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{playbook} failed: {done.stdout[-5000:]}{done.stderr[-1000:]}"
        return done.stdout

    def apply(self, collections: Path, *words: str) -> int:
        """How much the playbook apply changed."""
        said = self.play(collections, "as215932.engineering_loop.apply", *words)
        return int(re.findall(r"changed=(\d+)", said)[-1])


def installed(one: Past) -> Path:
    """The collection as it was, installed from the repository."""
    place = HOME / f"collections-{one.commit[:12]}"
    if not place.exists():
        source = f"git+file://{ROOT},{one.commit}"
        words = [str(BIN / "ansible-galaxy"), "collection", "install", "-p", str(place), source]
        done = subprocess.run(words, cwd=HOME, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(place, ignore_errors=True)
            sys.exit(f"upgrades: {one.version} cannot be installed: {done.stdout}{done.stderr}")
    return place


def lines(host: Host, script: str) -> set[str]:
    return {*host.sh(script, check=False).splitlines()}


def records(host: Host) -> dict[str, dict[str, Any]]:
    """What is recorded of each cycle, by its name."""
    each = f"for one in {STATE}/cycles/*.json; do tr -d '\\n' <$one; echo; done"
    found = [json.loads(line) for line in host.sh(each).splitlines()]
    return {one["cycle"]: one for one in found}


def changed(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Where a record is not what it was, or one that was open has not been ended."""
    for name, record in before.items():
        now = after.get(name, {})
        if record["outcome"] == "running":
            if now.get("outcome") != "interrupted":
                yield f"the record of the killed cycle {name} says {now.get('outcome', 'nothing, and is gone')}"
        elif different := [key for key in record if now.get(key) != record[key]]:
            yield f"the record of {name} is not what it was: {', '.join(different)}"


def half_done(host: Host, forge: demo.Forge) -> None:
    """A cycle is killed in the middle of its work, with a page that nobody has committed."""
    demo.label(forge, demo.CANARY_ISSUE, on=False)  # an earlier version would take that again, and first
    number = forge.approve("Write down how to drain a router", "Explain it.\n\n<!-- pi: sleep 600 -->\n")
    host.sh(f"systemctl start --no-block {UNIT}.service")
    seen = f"find {STATE}/runs {STATE}/workspace -path '*/docs/write-down*' -name '*.md' 2>/dev/null | grep ."
    page = host.wait_for(seen, 120, "the agent's first file").split()[0]
    host.sh(f"printf %s {shlex.quote(SENTINEL)} >{Path(page).parent}/half-done.md")
    host.sh(f"chown loop: {Path(page).parent}/half-done.md; systemctl kill --signal=SIGKILL {UNIT}.service")
    host.wait_for(f"! systemctl is-active --quiet {UNIT}.service", 60, "the killed cycle's end")
    demo.label(forge, number, on=False)


def wrong(host: Host, forge: demo.Forge, made: dict[str, Any], one: Past) -> Iterator[str]:
    """What is not as it must be."""
    operator, before = Operator(host, made), installed(one)
    demo.label(forge, demo.CANARY_ISSUE, on=True)
    operator.apply(before, *PROVE)
    half_done(host, forge)
    receipts, recorded, memory = lines(host, RECEIPTS), records(host), lines(host, MEMORY)
    engine = host.sh(f"readlink {OPT}/current").strip()
    if not receipts or len(recorded) < 2:
        yield f"nothing was proven and recorded before: {receipts}, {[*recorded]}"
    demo.reset_canary(forge)
    first = operator.apply(ROOT / ".collections", "-e", json.dumps(made["agent"]), *PROVE)
    again = operator.apply(ROOT / ".collections", "-e", json.dumps(made["agent"]), *PROVE)
    if not first or again:
        yield f"the upgrade changed {first} things, and the next apply {again}"
    yield from changed(recorded, records(host))
    if lost := sorted(receipts - lines(host, RECEIPTS)):
        yield f"receipts lost or changed: {'; '.join(lost)}"
    if lost := sorted(memory - lines(host, MEMORY)):
        yield f"memory lost or changed: {'; '.join(lost)}"
    if host.sh(f"readlink {OPT}/current").strip() != engine:
        yield "another engine is active"
    if not host.sh(f"grep -rlF {shlex.quote(SENTINEL.strip())} {STATE} {OPT} 2>/dev/null", check=False):
        yield "the killed cycle's work is lost"
    said = operator.play(ROOT / ".collections", "as215932.engineering_loop.restore")
    if one.version == "0.1.0" and "half" not in said and "loop enter" not in said and not re.search(r"\d{8}T", said):
        yield f"the killed cycle's work is not listed: {said[-1500:]}"
    demo.reset_canary(forge)
    host.sh(f"systemctl start {UNIT}.service", check=False)
    _newest, record = max(records(host).items())
    if record["outcome"] != "published":
        yield f"the cycle afterwards: {record['outcome']}, {record.get('detail')}"


def upgraded(one: Past) -> bool:
    """Whether all of it is right, on a host and with a forge of its own."""
    demo.HOME = HOME / "world"
    stage.clear(demo.HOME)
    made = stage.up(demo.HOME, "", "", "")
    forge = demo.Forge(made["url"], made["token"])
    try:
        with demo.throwaway(False, "upgrades") as host:
            operator = Operator(host, made)
            given = {"loop_world_stage": str(demo.HOME / "stage.json"), "loop_world_programs": ["pi", "gh"]}
            operator.play(ROOT / ".collections", str(demo.WORLD / "install.yml"), "-e", json.dumps(given))
            found = [*wrong(host, forge, made, one)]
    except (AssertionError, demo.DemoError) as problem:
        found = [str(problem)]
    finally:
        stage.down(demo.HOME)
    print(f"{'FAULT' if found else 'ok   '} {one.version} at {one.commit[:12]} becomes this tree", flush=True)
    for line in found:
        print(f"      {line}", flush=True)
    return not found


def main(*versions: str) -> int:
    HOME.mkdir(parents=True, exist_ok=True)
    known = [one for one in past() if not versions or one.version in versions or one.commit.startswith(versions)]
    if not known:
        sys.exit(f"upgrades: no version {', '.join(versions)} in the history of galaxy.yml")
    results = [upgraded(one) for one in known]  # all of them, also after one that fails
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
