# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can happen to a cycle on a loop host: run there as root, against the forge of the tests.

``cycles.py now`` tries one thing after the other and leaves a cycle running; ``cycles.py rebooted`` looks
at the host after that.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

UNIT = "hyrule-engineering-loop"
STATE = Path("/var/lib/engineering-loop")
ETC = Path("/etc/engineering-loop")
LIB = Path("/usr/local/lib/engineering-loop")
KEY, ENV, SETTINGS = ETC / "github-app.private-key.pem", Path("/opt/engineering-loop/.env"), ETC / "loop.json"
BUDGET = Path("/opt/engineering-loop/budget.json")
ISSUE = ETC / "rebooted.issue"
REPO = "AS215932/network-operations"
API = json.loads(Path("/etc/loop-world.json").read_text(encoding="utf-8"))["api_url"]
FORGE = API.removesuffix("/api/v3")
RATING = 2.2
REPOSITORIES = 100


class Wrong(Exception):
    """Something is not as it must be."""


def must(holds: object, what: object) -> None:
    if not holds:
        raise Wrong(what)


def sh(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def ask(method: str, url: str, body: dict[str, Any]) -> Any:
    login = requests.post(f"{FORGE}/_forge/tokens", json={"login": "operator", "role": "admin"}, timeout=30).json()
    answer = requests.request(method, url, json=body, headers={"Authorization": f"Bearer {login['token']}"}, timeout=30)
    answer.raise_for_status()
    return answer.json()


# --- cycles


@contextlib.contextmanager
def approved(title: str, *orders: str) -> Iterator[str]:
    """An issue that tells the agent what to do; its change id. It is closed again."""
    body = "\n".join(["Explain.", "", *(f"<!-- {order} -->" for order in orders)])
    asked = {"repo": REPO, "title": title, "body": body, "labels": ["loop:approved"]}
    number = ask("POST", f"{FORGE}/_forge/issues", asked)["number"]
    try:
        yield f"ISSUE_NETWORK_OPERATIONS_{number}"
    finally:
        ask("PATCH", f"{API}/repos/{REPO}/issues/{number}", {"state": "closed"})


def cycle() -> tuple[int, dict[str, Any]]:
    """Start one and wait for its end; how systemctl ended, and the account."""
    known = set((STATE / "cycles").glob("*.json"))
    status = sh("systemctl", "start", UNIT).returncode
    sh("systemctl", "reset-failed", UNIT)
    fresh = set((STATE / "cycles").glob("*.json")) - known
    must(len(fresh) == 1, f"{len(fresh)} accounts instead of one")
    return status, json.loads(fresh.pop().read_text(encoding="utf-8"))


def account() -> dict[str, Any]:
    newest = max((STATE / "cycles").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)  # two may share a second
    found: dict[str, Any] = json.loads(newest.read_text(encoding="utf-8"))
    return found


def show(name: str) -> str:
    return sh("systemctl", "show", UNIT, "-P", name).stdout.strip()


def journal() -> str:
    sh("journalctl", "--sync")  # the last words may still be on their way
    return sh("journalctl", "-o", "cat", f"_SYSTEMD_INVOCATION_ID={account()['invocation_id']}").stdout


def of_the_loop() -> str:
    """Its user's processes."""
    return sh("pgrep", "-u", "loop", "-a").stdout


def runs(day: str = "") -> int:
    """How many were started, or how many on that day: midnight may pass while a test counts."""
    days = json.loads(BUDGET.read_text(encoding="utf-8"))
    return sum(len(one["runs"]) for name, one in days.items() if day in ("", name))


def wait(what: str, holds: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not holds():
        must(time.monotonic() < end, f"waited in vain for {what}")
        time.sleep(0.1)


def ended() -> bool:
    return show("ActiveState") in ("inactive", "failed")


def published(found: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    status, seen = found
    must((status, seen["outcome"]) == (0, "published"), (status, seen["outcome"], seen["detail"]))
    return seen


@contextlib.contextmanager
def settings(**changed: Any) -> Iterator[None]:
    """Other settings for a while."""
    before = SETTINGS.read_text(encoding="utf-8")
    SETTINGS.write_text(json.dumps({**json.loads(before), **changed}), encoding="utf-8")
    try:
        yield
    finally:
        SETTINGS.write_text(before, encoding="utf-8")


# --- what is tried


def the_unit_is_shut() -> None:
    told = sh("systemd-analyze", "--no-pager", "security", f"{UNIT}.service").stdout
    rating = float(re.findall(r"Overall exposure level .*: ([0-9.]+)", told)[0])
    must(rating <= RATING, told)
    judged = sh("systemd-analyze", "verify", f"{UNIT}.service", f"{UNIT}.timer")
    must((judged.returncode, judged.stderr) == (0, ""), judged.stderr)
    must(show("MemoryMax") == str(2 << 30), show("MemoryMax"))
    must((show("TasksMax"), show("CPUQuotaPerSecUSec")) == ("2048", "1.900000s"), show("TasksMax"))
    must("systemd-ask-password-wall.service" in show("OnFailure").split(), show("OnFailure"))
    print(f"  rated {rating}")


def the_canary_had_the_apps_token() -> None:
    seen = account()
    must(seen["outcome"] == "published" and seen["token"]["kind"] == "app" and seen["token"]["expires"], seen)
    must(runs() == 1, f"the canary's run counts: {runs()}")
    (pushed,) = [one for one in requests.get(f"{FORGE}/_forge/requests", timeout=30).json() if one.get("push")]
    must(pushed["login"].endswith("[bot]"), pushed)


def the_loops_user_reads_neither_key_nor_secrets() -> None:
    for path in (KEY, ENV):
        status = path.stat()
        must((stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, 0), f"{path}: {status}")
        must(sh("runuser", "-u", "loop", "--", "cat", str(path)).returncode != 0, f"loop reads {path}")
    must(not Path(f"/run/{UNIT}").exists(), "the runtime directory is still there")


def each_child_gets_its_own() -> None:
    """A git before the real one, and the engine's gh, tell their environment; the agent tells its own."""
    git = Path("/usr/bin/git").rename("/usr/bin/git.real")
    door = LIB / "bin/gh"
    real, before = LIB / "gh.real", door.read_text(encoding="utf-8")
    real.write_text(before.replace("os.path.basename(sys.argv[0])", "'gh'"), encoding="utf-8")
    real.chmod(0o755)
    tell = 'case $HOME in */state) env | cut -d= -f1 >> "$HOME/seen-{}";; esac\n'  # where the engine is at home
    try:
        for name, place, actual in (("git", Path("/usr/bin/git"), git), ("gh", door, real)):
            place.write_text(f'#!/bin/sh\n{tell.format(name)}exec {actual} "$@"\n', encoding="utf-8")
            place.chmod(0o755)
        look = f"grep -rlE 'gh[sp]_[0-9a-f]{{36}}' /run {STATE} > $HOME/seen-disk || true"
        with approved("What the agent has", f"pi: run env | cut -d= -f1 > $HOME/seen-agent; {look}"):
            cell = Path(published(cycle())["cell"])
    finally:
        git.rename("/usr/bin/git")
        door.write_text(before, encoding="utf-8")
        real.unlink()
    told = [path for part in ("home", "state") for path in (cell / part).glob("seen-*")]
    seen = {path.name.removeprefix("seen-"): path for path in told}
    names = {name: set(seen[name].read_text(encoding="utf-8").split()) for name in ("git", "gh", "agent")}
    for name, found in names.items():
        must("HYRULE_ICINGA_PASSWORD" not in found or name != "agent", f"{name}: {sorted(found)}")
        must(not [one for one in found if "TOKEN" in one or "PRIVATE_KEY" in one], f"{name}: {sorted(found)}")
    must("OPENAI_API_KEY" in names["agent"], sorted(names["agent"]))
    must(seen["disk"].read_text(encoding="utf-8") == "", "a token is on a disk")
    record = json.loads(max((STATE / "gate/records").glob("*.jsonl")).read_text(encoding="utf-8").splitlines()[-1])
    must(record["what"] == "open", record)


def what_a_cell_is_given() -> None:
    """Root's file and cache are there, and what the agent does to them ends with it."""
    conf, cache = ETC / "agent.conf", Path("/srv/cache/page")
    sh("chown", "-R", "loop:loop", str(cache.parent))  # else it could be read and no more
    orders = [
        "pi: run mkdir -p docs; cat $HOME/.agent/conf/agent.conf $HOME/.cache/pages/page > docs/given.md",
        "pi: run echo mine > $HOME/.cache/pages/more; echo mine > $HOME/.cache/pages/page; mkdir $HOME/.agent/mine",
        "pi: run if echo mine > $HOME/.agent/conf/agent.conf; then exit 9; fi; ! rm $HOME/.agent/conf/agent.conf",
    ]
    with approved("What it is given", *orders):
        seen = published(cycle())
    (page,) = Path(seen["cell"]).glob("runs/*/worktrees/*/docs/given.md")
    must(page.read_text(encoding="utf-8") == "configured\ncached\n", page)
    must(
        (conf.read_text(encoding="utf-8"), cache.read_text(encoding="utf-8")) == ("configured\n", "cached\n"), "changed"
    )
    must(os.listdir(cache.parent) == ["page"], os.listdir(cache.parent))
    conf.rename(f"{conf}.gone")
    status, seen = cycle()
    Path(f"{conf}.gone").rename(conf)
    must((status != 0, seen["outcome"]) == (True, "refused"), seen)
    must("agent.conf is missing: put it there, or take it out of engineering_loop_home_files" in seen["detail"], seen)


def secrets_that_are_not_fit() -> None:
    before = ENV.read_text(encoding="utf-8")
    rows: list[tuple[str | None, int, int, str]] = [
        (None, 0o600, 0o600, "is missing: it must hold the secrets"),
        (before, 0o642, 0o600, "can be written by others than root (mode 0642)"),
        (before + "hunter2\n", 0o600, 0o600, "line 4: no KEY=value"),
        (before + "VAULT_TOKEN=hunter2\n", 0o600, 0o600, "holds VAULT_TOKEN, which must not be where generated code"),
        (
            before + "HYRULE_MODEL_POLICY_FILE=/none.yml\n",
            0o600,
            0o600,
            "where nothing is: the engine would play its mock",
        ),
        (before, 0o600, 0o660, "can be written by others than root"),
    ]
    counted = runs()
    for text, mode, key_mode, reason in rows:
        ENV.unlink()
        if text is not None:
            ENV.write_text(text, encoding="utf-8")
            ENV.chmod(mode)
        KEY.chmod(key_mode)
        status, seen = cycle()
        ENV.write_text(before, encoding="utf-8")
        ENV.chmod(0o600)
        KEY.chmod(0o600)
        must((status != 0, seen["outcome"]) == (True, "refused"), seen)
        must(reason in seen["detail"] and seen["detail"] in journal(), seen["detail"])
        must("hunter2" not in journal() + seen["detail"], "a value was shown")
    must(runs() == counted, "a refusal was counted as a run")


def rendered_anew(path: Path, text: str) -> None:
    """As a Vault Agent does that was told nothing better: root's, readable by the loop's group, by a rename."""
    fresh = Path(f"{path}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(0o640)
    os.chown(fresh, 0, int(sh("id", "-g", "loop").stdout))
    fresh.rename(path)


def secrets_are_rotated_with_no_apply() -> None:
    """Another key of the App, other keys of the provider: the next cycle has them, and neither can be read in it."""
    before = ENV.read_text(encoding="utf-8")
    asked = {"app_id": 12, "installation_id": 345}
    made = requests.post(f"{FORGE}/_forge/apps", json=asked, timeout=30).json()
    rendered_anew(KEY, made["private_key"])
    overridden = "GIT_ASKPASS=/usr/local/lib/engineering-loop/git-askpass\nHYRULE_HANDOFF_DIR=/srv\nPATH=/nowhere\n"
    rendered_anew(ENV, f"{before}{overridden}")
    try:
        with approved(
            "Rotated", f"pi: run ! cat {KEY} && ! cat {ENV} && [ $PATH != /nowhere ] && echo >docs/rotated.md"
        ):
            seen = published(cycle())
        must((seen["token"]["kind"], seen["programs"], seen["backend"]) == ("app", ["pi"], "pi"), seen)
        must(list(Path(seen["cell"]).glob("runs/*/worktrees/*/docs/rotated.md")), "the agent could read a secret")
    finally:
        ENV.write_text(before, encoding="utf-8")
        for path in (ENV, KEY):
            path.chmod(0o600)
            os.chown(path, 0, 0)


def work_that_no_agent_does_is_none() -> None:
    before, policy = ENV.read_text(encoding="utf-8"), Path("/etc/model-policy.yml")
    policy.write_text("version: 1\nbackends: {default: mock}\n", encoding="utf-8")
    ENV.write_text(f"{before}HYRULE_MODEL_POLICY_FILE={policy}\n", encoding="utf-8")
    counted = runs()
    try:
        with approved("Played"):
            status, seen = cycle()
        must((status != 0, seen["outcome"] in ("refused", "error")) == (True, True), seen)
        must("mock" in seen["detail"] and seen["agents"] == 0 and not seen["pr_url"], seen)
        must(runs() <= counted + 1, "counted twice")
    finally:
        ENV.write_text(before, encoding="utf-8")
        policy.unlink()


def the_break_glass_token_is_said() -> None:
    before = ENV.read_text(encoding="utf-8")
    spare = requests.post(f"{FORGE}/_forge/tokens", json={"login": "hyrule-loop[bot]"}, timeout=30).json()["token"]
    ENV.write_text(f"{before}GH_TOKEN={spare}\n", encoding="utf-8")
    KEY.rename(f"{KEY}.gone")
    try:
        with approved("Without the App"):
            seen = published(cycle())
        must(seen["token"]["kind"] == "break-glass", seen["token"])
        must("BREAK-GLASS TOKEN USED, the GitHub App gave none" in journal(), "not said")
        must(spare not in journal() + json.dumps(seen), "the token was shown")
    finally:
        Path(f"{KEY}.gone").rename(KEY)
        ENV.write_text(before, encoding="utf-8")


def nothing_to_do_is_no_run() -> None:
    counted = runs()
    status, seen = cycle()
    must((status, seen["outcome"], runs()) == (0, "idle", counted), seen)
    must(seen["numbers"]["runs_today"] == counted and "cell" not in seen, seen)
    must(not list((STATE / "runs").glob(f"*{seen['invocation_id'][:8]}")), "an empty cell is kept")


def stopped(how: Callable[[], object], result: str) -> tuple[str, str]:
    """A cycle that is ended from outside, with a child that does not listen and has left every group.

    Its change id and its cell.
    """
    counted = runs()
    deaf = "setsid sh -c 'trap \"\" TERM HUP INT; sleep 986 & wait; sleep 987' > /dev/null 2>&1 &"
    with approved(
        "Stopped in the middle", f"pi: run {deaf}", "pi: write docs/precious.md mine", "pi: sleep 600"
    ) as change:
        sh("systemctl", "start", "--no-block", UNIT)
        wait("the agent", lambda: "sleep 986" in of_the_loop())
        wait("its page", lambda: list(STATE.glob(f"runs/*/runs/{change.lower()}/worktrees/*/docs/precious.md")))
        began = time.monotonic()
        how()
        wait("the end of the unit", ended, 30)
        must(of_the_loop() == "", of_the_loop())
        must(show("Result") == result, show("Result"))
        must(account()["outcome"] == "interrupted", account())
        must(runs() == counted + 1, "a run that was ended counts")
        print(f"  ended within {time.monotonic() - began:.1f} s, result {result}: {account()['detail']}")
        sh("systemctl", "reset-failed", UNIT)
        return change, account()["cell"]


def what_was_stopped_heals() -> None:
    for how, result in (
        (lambda: sh("systemctl", "stop", UNIT), "exit-code"),
        (lambda: sh("systemctl", "kill", "--signal=KILL", "--kill-whom=main", UNIT), "signal"),
    ):
        kept_now(*stopped(how, result))


def a_time_out_ends_everything() -> None:
    drop = Path(f"/run/systemd/system/{UNIT}.service.d/time.conf")
    drop.parent.mkdir(parents=True)
    drop.write_text("[Service]\nTimeoutStartSec=15\n", encoding="utf-8")
    sh("systemctl", "daemon-reload")
    try:
        stopped(lambda: None, "timeout")
    finally:
        drop.unlink()
        sh("systemctl", "daemon-reload")


def kept_now(change: str, cell: str) -> None:
    """The next cycle takes the issue again and goes through; the cell of the stopped one is kept whole and closed."""
    number = change.rsplit("_", 1)[1]
    ask("PATCH", f"{API}/repos/{REPO}/issues/{number}", {"state": "open", "body": "Explain."})
    try:
        published(cycle())
    finally:
        ask("PATCH", f"{API}/repos/{REPO}/issues/{number}", {"state": "closed"})
    (page,) = Path(cell).glob(f"runs/{change.lower()}/worktrees/*/docs/precious.md")
    must(page.read_text(encoding="utf-8") == "mine\n", page)
    status = Path(cell).stat()
    must((status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o700), f"{cell}: {status}")
    must(json.loads(Path(cell, "cell.json").read_text(encoding="utf-8"))["outcome"] == "interrupted", cell)


def a_day_has_so_many_runs() -> None:
    """Errors count, which the engine's ledger misses, and the loop's user cannot make it forget."""
    counted = runs()
    for _attempt in range(2):
        with approved("An engine that dies", "engine: crash-at commit"):
            status, seen = cycle()
        must((status != 0, seen["outcome"]) == (True, "error"), seen)
    must(runs() == counted + 2, "an error was not counted")
    known = len(list((STATE / "cycles").glob("*.json")))
    sh("runuser", "-u", "loop", "--", "sh", "-c", f"rm -f {STATE}/cycles/*.json {BUDGET}")
    must(len(list((STATE / "cycles").glob("*.json"))) == known, "the loop's user removed records")
    today = datetime.now(UTC).date().isoformat()
    with settings(max_runs_per_day=runs(today)), approved("One too many"):
        status, seen = cycle()
    must((status, seen["outcome"]) == (0, "over_budget"), seen)
    must(f"{runs(today)} of {runs(today)} runs were started today" in seen["detail"], seen["detail"])
    must(seen["detail"] in journal() and "[worktree]" not in journal(), journal())


def a_hundred_repositories() -> None:
    others = [f"AS215932/many-{number}" for number in range(REPOSITORIES - 1)]
    for name in others:
        requests.post(f"{FORGE}/_forge/repos", json={"repo": name}, timeout=30).raise_for_status()
    known = json.loads(SETTINGS.read_text(encoding="utf-8"))
    checkouts = [one for one in known["workspace_repositories"] if one["repo"] == REPO]
    checkouts += [{"repo": name, "dest": name.split("/")[1], "version": "main"} for name in others]
    many = {"repos": [REPO, *others], "workspace_repositories": checkouts}
    with settings(**many), approved("One of a hundred"):
        seen = published(cycle())
    made = list(Path(seen["cell"], "workspace").glob("many-*/.git"))
    must(len(made) == REPOSITORIES - 1, "not all were checked out")
    before = seen["numbers"]["seconds_before_engine"]
    must(before < 180, f"{before} s before the engine")
    print(f"  {before} s before the engine, with all of them to clone")


def rebooted() -> None:
    must(of_the_loop() == "", of_the_loop())
    must(account()["outcome"] == "running", account())
    (number,) = re.findall(r"\d+", ISSUE.read_text(encoding="utf-8"))
    kept_now(f"ISSUE_NETWORK_OPERATIONS_{number}", account()["cell"])
    closed = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((STATE / "cycles").glob("*.json"))][-2]
    must((closed["outcome"], closed["detail"]) == ("interrupted", "the cycle was killed before it could end"), closed)


def leave_one_running() -> None:
    orders = ["pi: write docs/precious.md mine", "pi: sleep 600"]
    body = "\n".join(f"<!-- {order} -->" for order in orders)
    asked = {"repo": REPO, "title": "Rebooted under", "body": body, "labels": ["loop:approved"]}
    number = ask("POST", f"{FORGE}/_forge/issues", asked)["number"]
    ISSUE.write_text(str(number), encoding="utf-8")
    sh("systemctl", "start", "--no-block", UNIT)
    wait(
        "its page",
        lambda: list(STATE.glob(f"runs/*/runs/issue_network_operations_{number}/worktrees/*/docs/precious.md")),
    )
    os.sync()


NOW = [
    the_unit_is_shut, the_canary_had_the_apps_token, the_loops_user_reads_neither_key_nor_secrets,
    each_child_gets_its_own, what_a_cell_is_given, secrets_that_are_not_fit,
    secrets_are_rotated_with_no_apply, work_that_no_agent_does_is_none, the_break_glass_token_is_said,
    nothing_to_do_is_no_run,
    what_was_stopped_heals, a_time_out_ends_everything, a_day_has_so_many_runs, a_hundred_repositories,
    leave_one_running,
]  # fmt: skip


def main() -> int:
    if sys.argv[1] == "now":
        ask("PATCH", f"{API}/repos/{REPO}/issues/235", {"state": "closed"})
    failed = 0
    for tried in NOW if sys.argv[1] == "now" else [rebooted]:
        began = time.monotonic()
        try:
            tried()
        except Wrong as error:
            failed += 1
            print(f"FAIL: {tried.__name__}: {error}"[:3000])
        print(f"{tried.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
