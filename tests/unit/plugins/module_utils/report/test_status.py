# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status of a host: what it says where all is well, and in each bad state what is wrong and what mends it."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.clock import today, utc_now, written
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import attempts, budget, cells, records
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge.client import Forge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import pause, receipts, rollout_ledger
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import needs, signs, status
from celled import NEEDS_ROOT
from deployed import ISSUE, REPO, SHA
from disks import with_mounts_of_its_own
from proofs import HOSTILE, prove
from watched import UNIT, Watched

pytestmark = NEEDS_ROOT


def only(well: Watched) -> tuple[str, str, str]:
    """The one thing that the host needs."""
    ((code, (what, do)),) = well.needs().items()
    return code, what, do


def test_a_host_that_fares_well(well: Watched) -> None:
    told = well.look()
    assert told["needs"] == [] and told["well"] and told["state"] == "deployed"
    assert told["timer"] == {"active": True, "next": "2026-01-01T12:00:00Z", "reason": ""}
    assert told["proof"]["matches"] and told["policy"]["matches"]
    assert told["engine"] == {"pin": "", "active": SHA, "drift": [], "back": None, "options": status.NO_OPTIONS}
    assert told["today"] == {"runs": 0, "max_runs": 2, "cost_usd": 0.25, "max_cost_usd": 10.0}
    (cycle,) = told["history"]
    assert (cycle["outcome"], cycle["cost_usd"], cycle["issue"]) == ("published", 0.25, f"{REPO}#{ISSUE}")
    assert told["last_cycle"] == {
        "cycle": cycle["cycle"], "started": cycle["started"], "outcome": "published", "seconds": 12.5,
        "pr_url": "https://forge.example/pull/1", "issue": f"{REPO}#{ISSUE}", "detail": "",
    }  # fmt: skip
    assert json.loads(json.dumps(told)) == told


def test_every_code_has_its_place() -> None:
    assert len(set(needs.ORDER)) == len(needs.ORDER)
    told = set(re.findall(r"Need\(\s*\"(\w+)\"", Path(needs.__file__).read_text() + Path(status.__file__).read_text()))
    assert told - {"unreachable", "failed"} <= set(needs.ORDER) and len(told) > 15


# --- nothing there, or nothing that can be read


def test_nothing_is_deployed(well: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "no-units"
    empty.mkdir()
    monkeypatch.setattr(systemd, "UNIT_DIR", str(empty))
    told = status.of_host(f"{tmp_path}/none.json")
    assert (told["state"], told["well"], told["needs"][0]["code"]) == ("absent", False, "absent")
    assert "engineering_loop.apply" in told["needs"][0]["do"]
    # What the role wrote is there, and its settings are gone.
    (empty / "x.service").write_text("# Written by the role as215932.engineering_loop.engineering_loop\n")
    told = status.of_host(f"{tmp_path}/none.json")
    assert (told["state"], told["needs"][0]["code"]) == ("broken", "broken")
    assert "none.json is missing" in told["problem"]


def test_the_code_on_the_host_tells_the_same(well: Watched) -> None:
    config = str(well.host.config_file)
    told = json.loads(status.on_host({"config": config, "pin": "1" * 40, "lib_dir": "/opt"}))
    expected = status.of_host(config, "1" * 40)
    for one in (told["result"]["status"], expected):
        assert one.pop("looked_at") and one["disk"].pop("free_bytes")  # which others change meanwhile
        one["proof"].pop("age_seconds")
    assert told == {"result": {"status": expected}, "warnings": []} and expected["engine"]["pin"] == "1" * 40


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold one JSON object"),
        ('{"collection_version": "0.0.9"}', "is missing or not a str"),
        ("\0" * 100, "is not JSON"),
    ],
)
def test_settings_that_cannot_be_read(well: Watched, content: str, why: str) -> None:
    well.host.config_file.write_text(content)
    told = status.of_host(str(well.host.config_file))
    assert told["state"] == "broken" and why in told["problem"]
    assert told["version"] == ("0.0.9" if "0.0.9" in content else "")
    assert "engineering_loop.apply" in told["needs"][0]["do"]


@pytest.mark.parametrize("name", ["budget.json", "rollout.json", "releases.json", "attempts.json"])
def test_a_part_that_cannot_be_read_is_said_and_all_else_is_told(well: Watched, name: str) -> None:
    Path(well.host.config["install_dir"], name).write_text("[1, {")
    told = well.look()
    assert any(need["code"] == "broken" and name in need["what"] for need in told["needs"]), told["needs"]
    assert told["history"] and told["unit"] == UNIT


# --- the bad states


def test_a_cycle_that_hangs(well: Watched) -> None:
    began = (time.clock_gettime(time.CLOCK_MONOTONIC) - 2 * 3600) * 1e6
    well.units[f"{UNIT}.service"].update(
        ActiveState="activating", SubState="start", InactiveExitTimestampMonotonic=f"{began:.0f}",
        TimeoutStartUSec="30min",
    )  # fmt: skip
    code, what, do = only(well)
    assert code == "wedged" and "has run for 2 h" in what and "after 41 min" in what
    assert do.startswith(f"on HOST: systemctl kill --signal=SIGKILL {UNIT}.service")
    well.units[f"{UNIT}.service"]["TimeoutStartUSec"] = "3h"
    assert well.needs() == {} and well.look()["running"]["started"] == ""


@pytest.mark.parametrize(
    ("ending", "state", "do"),
    [
        ("-gate.socket", {"ActiveState": "failed"}, f"systemctl reset-failed {UNIT}-gate.socket"),
        (".service", {"LoadState": "masked"}, f"systemctl unmask {UNIT}.service"),
        (".service", {"LoadState": "bad-setting"}, "engineering_loop.apply"),
        ("-watch.service", {"LoadState": "not-found"}, "engineering_loop.apply"),
    ],
)
def test_a_unit_that_a_cycle_needs(well: Watched, ending: str, state: dict[str, str], do: str) -> None:
    well.units[f"{UNIT}{ending}"].update(state)
    code, what, told = only(well)
    assert code == "wedged" and f"{UNIT}{ending}" in what and do in told


def test_a_lock_that_a_stranger_holds(well: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = f"{well.host.config['install_dir']}/.cells.lock"
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, lock]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    waiter = None
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        monkeypatch.setattr(signs, "FOREIGN_SECONDS", 0.0)
        assert well.needs() == {}  # nobody waits for it, and it is not held for long
        waiter = subprocess.Popen(["flock", lock, "true"])
        found: dict[str, tuple[str, str]] = {}
        for _try in range(50):
            if found := well.needs():
                break
            time.sleep(0.1)
        what, do = found["wedged"]
        assert lock in what and f"process {holder.pid} (" in what and do == f"on HOST: kill {holder.pid}"
    finally:
        for each in (waiter, holder):  # who waits would have it as soon as it is free
            if each:
                each.kill()
                each.communicate()
    with open(lock, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_full_disk(well: Watched) -> None:
    well.host.config["min_free"] = "9000T"
    code, what, do = only(well)
    assert code == "disk_full" and "less than 9000T, so no cycle starts" in what
    assert "findmnt -T" in do and "too small for any cycle" in do
    disk = os.statvfs(well.host.config["runs_dir"])
    well.host.config["min_free"] = f"{(disk.f_bavail * disk.f_frsize >> 20) + 100}M"
    code, what, do = only(well)
    assert code == "disk_full" and f"du -xah --max-depth=3 {well.look()['disk']['mount']} |" in do


def test_no_secrets(well: Watched) -> None:
    Path(well.host.config["env_file"]).unlink()
    code, what, do = only(well)
    assert code == "secrets" and well.host.config["env_file"] in what and f"systemctl start {UNIT}.service" in do


@NEEDS_ROOT
def test_a_lock_on_another_file_system_is_not_ours_for_its_number(tmp_path: Path) -> None:
    ours, others = tmp_path / "ours", tmp_path / "others"

    def work() -> None:
        for place in (ours, others):
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
            (place / "lock").touch()
        path, number = str(ours / "lock"), (ours / "lock").stat().st_ino
        assert (others / "lock").stat().st_ino == number
        with open(others / "lock", "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            assert signs._kernel_locks({number: path}) == ({}, set())
        with open(path, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            assert signs._kernel_locks({number: path}) == ({path: os.getpid()}, set())

    with_mounts_of_its_own(work)


def test_a_token_that_ends_soon(well: Watched) -> None:
    now = datetime.datetime.now(datetime.UTC)

    def ends_in(days: float, kind: str = "break-glass") -> dict[str, tuple[str, str]]:
        ends = written(now + datetime.timedelta(days=days))
        well.record(2, "nothing_to_do", token={"kind": kind, "note": "", "expires": ends})
        return well.needs()

    assert ends_in(8) == {} and well.look()["secrets"]["expires_at"] and ends_in(0.01, "app") == {}
    (what, do) = ends_in(2.52)["secrets_expire"]
    assert " in 2 d 12 h: then no cycle gets to the forge" in what and well.host.config["env_file"] in do
    os.utime(well.host.config["env_file"], (time.time() + 5, time.time() + 5))
    assert ends_in(2.52) == {} and well.look()["secrets"]["expires_at"] == ""  # somebody put another one there


def test_secrets_that_are_missing_are_told_as_such_whatever_the_last_cycle_knew(well: Watched) -> None:
    ends = written(datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2))
    well.record(2, "nothing_to_do", token={"kind": "break-glass", "note": "", "expires": ends})
    os.unlink(well.host.config["env_file"])
    assert "is missing: it must hold the secrets" in well.look()["secrets"]["problem"]
    assert not [line for line in well.look()["needs"] if "Errno" in line["what"]]


def test_a_cycle_of_a_clock_that_ran_years_ahead_is_not_the_last(well: Watched) -> None:
    ahead = {"cycle": "20990101T000000Z-0000000f", "started": "2099-01-01T00:00:00Z", "outcome": "error", "detail": "x"}
    records.write(well.host.config["cycles_dir"], ahead)
    well.record(2, "published")
    assert well.look()["last_cycle"]["outcome"] == "published" and well.needs() == {}


def test_what_nobody_foresaw_is_a_problem_of_that_part_alone(well: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_words: object) -> None:
        raise OverflowError("date value out of range")

    monkeypatch.setattr(status, "_proof", odd)
    told = well.look()
    assert told["last_cycle"]["outcome"] == "published"
    assert any("OverflowError: date value out of range" in need["what"] for need in told["needs"])


def test_the_last_cycle_says_when_the_token_ends(well: Watched) -> None:
    now = datetime.datetime.now(datetime.UTC)
    for number, days in ((2, 0.5), (3, 1), (4, 80)):  # it was exchanged meanwhile
        ends = written(now + datetime.timedelta(days=days))
        well.record(number, "nothing_to_do", token={"kind": "break-glass", "note": "", "expires": ends})
        assert well.look()["secrets"]["expires_at"] == ends
    assert well.needs() == {}


def test_no_token(well: Watched) -> None:
    path = Path(well.host.config["env_file"])
    path.write_text("OTHER=1\n")
    path.chmod(0o600)
    code, what, _do = only(well)
    assert code == "credentials" and "no forge token: put GH_TOKEN into" in what


def refusal_of(api_url: str, token: str) -> str:
    """What the collection itself says where the forge refuses."""
    with pytest.raises(LoopError) as caught:
        Forge(api_url, token, patience=0.1).repository(REPO)
    return str(caught.value)


def test_a_token_that_the_forge_does_not_take(well: Watched) -> None:
    said = refusal_of(well.host.config["api_url"], "revoked")
    assert "HTTP 401" in said
    for number, outcome, more in (
        (2, "refused", {"detail": f"the gateway to the forge says: {said}"}),
        (3, "error", {"detail": "x", "refusals": [{"asked": "issue list", "why": said}]}),
    ):
        well.record(number, outcome, **more)
        code, what, do = only(well)
        assert (code, "HTTP 401" in what) == ("credentials", True) and well.host.config["env_file"] in do
        assert do.endswith(f"then on HOST: systemctl start {UNIT}.service")
    path = Path(well.host.config["env_file"])
    path.write_text(f"# Written by the role from engineering_loop_environment.\n{path.read_text()}")
    steps = only(well)[2].split("; ")
    assert "into engineering_loop_environment of the inventory" in steps[0] and "engineering_loop.apply" in steps[1]
    # The token was mended, and the next cycle goes through.
    well.record(4, "idle")
    assert well.needs() == {}


def test_a_forge_that_is_down(well: Watched) -> None:
    said = refusal_of("http://127.0.0.1:1/api/v3", "t")
    assert "no connection" in said
    well.record(2, "error", "the engine failed", clones=[{"detail": f"{said}"}])
    code, what, do = only(well)
    assert code == "forge" and "no connection" in what and "the timer tries again" in do


def test_a_policy_that_was_edited(well: Watched) -> None:
    with Path(well.host.config["policy_file"]).open("a") as handle:
        handle.write("# changed\n")
    assert well.needs() == {}  # a comment judges nothing
    text = Path(well.host.config["policy_file"]).read_text()
    Path(well.host.config["policy_file"]).write_text(text.replace("max_changed_files: 20", "max_changed_files: 2000"))
    well.record(2, "refused", "the policy is not the one that was deployed")
    code, what, do = only(well)
    assert code == "policy" and "policy.yml was edited on the host" in what and "engineering_loop.apply" in do


def test_code_that_was_edited(well: Watched) -> None:
    runner = Path(well.host.config["lib_dir"]) / "engineering_loop_core/cycle.py"
    runner.write_text("# another\n")
    well.record(2, "refused", "not proven, so not run on the timer: the unit changed")
    code, what, do = only(well)
    assert code == "drifted" and f"{runner} was edited" in what and do.startswith("ansible-playbook")
    runner.unlink()
    assert f"{runner} is gone" in well.needs()["drifted"][0]
    assert well.look()["engine"]["drift"] == [f"{runner} is gone"]


def test_a_drop_in_that_somebody_added(well: Watched, tmp_path: Path) -> None:
    drop_in = tmp_path / f"systemd/{UNIT}.service.d/override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nMemoryMax=1G\n")
    code, what, do = only(well)
    assert code == "drifted" and str(drop_in) in what
    assert f"rm {drop_in} && systemctl daemon-reload" in do and "engineering_loop.canary" in do


def test_a_release_that_is_damaged(well: Watched) -> None:
    release = Path(well.host.config["install_dir"]) / "releases" / SHA
    (release / "configs/loop/model-policy.production.yml").write_text("backends: {default: other}\n")
    code, what, do = only(well)
    assert code == "engine" and "model-policy.production.yml" in what and "engineering_loop.apply" in do


def test_an_engine_that_fails(well: Watched) -> None:
    well.record(2, "error", "the engine ended with 1")
    code, what, do = only(well)
    assert code == "engine" and "the engine ended with 1" in what and "-e what=" in do
    well.record(3, "error", "the engine ended with 2")
    assert "The last 2 cycles that worked ended in an error" in only(well)[1]


def test_nothing_was_proven(well: Watched) -> None:
    shutil.rmtree(well.host.config["receipts_dir"])
    Path(well.host.config["install_dir"], "rollout.json").unlink()
    well.units[f"{UNIT}.timer"].update(ActiveState="inactive", UnitFileState="disabled", NextElapseUSecRealtime="")
    code, what, do = only(well)
    assert code == "unproven" and "no proof is on this host any more" in what and "engineering_loop.canary" in do
    assert well.look()["timer"]["reason"] == what


def test_a_rollout_that_did_not_end(well: Watched) -> None:
    Path(well.host.config["receipts_dir"], receipts.names(well.host.config["receipts_dir"])[0]).unlink()
    ledger = rollout_ledger.read(well.host.config["install_dir"])
    begun = rollout_ledger.UnderWay("2026-01-01T00:00:00Z", UNIT)
    rollout_ledger.save(well.host.config["install_dir"], rollout_ledger.Ledger(begun, ledger.history))
    code, what, do = only(well)
    assert code == "under_way" and "2026-01-01 00:00 UTC" in what
    assert "engineering_loop.canary" in do and "engineering_loop.rollback" in do


def test_a_proof_that_ends_soon(well: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    well.host.config["canary_max_age"] = "30d"
    assert well.needs() == {}
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=29, minutes=90)
    shutil.rmtree(well.host.config["receipts_dir"])
    with monkeypatch.context() as earlier:
        earlier.setattr(receipts, "utc_now", lambda: then)
        prove(well.host)
    code, what, do = only(well)
    assert code == "proof_expires" and " in 22 h " in what and "engineering_loop.canary" in do


def test_a_job_that_failed(well: Watched) -> None:
    well.host.config["state_dir"] = str(well.host.top / "var")
    well.host.config["jobs"] = [
        {"name": "look", "unit": "loop-job-look", "command": ["engine"], "args": [], "options": {}, "may": [],
         "state": "/srv/look", "proof": True, "enabled": True}
    ]  # fmt: skip
    well.units["loop-job-look.timer"] = dict(well.units[f"{UNIT}.timer"])
    assert well.needs() == {} and well.look()["jobs"][0]["outcome"] == ""
    place = well.host.top / "var/jobs/look"
    place.mkdir(parents=True)
    told = {"cycle": "20260101T000000Z-00000000", "started": utc_now(), "outcome": "error", "detail": "it ended with 1"}
    records.write(str(place), told)
    code, what, do = only(well)
    assert code == "job" and "The job look ended as error at" in what and "journalctl -u loop-job-look.service" in do
    records.write(str(place), {**told, "outcome": "held"})
    assert well.needs() == {} and well.look()["jobs"][0]["outcome"] == "held"


def test_a_timer_that_is_off(well: Watched) -> None:
    timer = well.units[f"{UNIT}.timer"]
    timer.update(ActiveState="inactive", NextElapseUSecRealtime="")
    assert only(well) == (
        "timer_off", "Somebody stopped the timer: no cycle starts.", f"on HOST: systemctl start {UNIT}.timer",
    )  # fmt: skip
    timer.update(UnitFileState="disabled")
    assert "engineering_loop.apply" in only(well)[2]
    well.host.config["timer_enabled"] = False
    assert well.needs() == {} and well.look()["timer"]["reason"] == "engineering_loop_timer_enabled is false"


def test_a_pause(well: Watched) -> None:
    Path(pause.path_of(well.host.config)).write_text(
        json.dumps({"why": "the forge moves", "since": "2026-01-01T00:00:00Z", "by": "maria"})
    )
    code, what, do = only(well)
    assert code == "paused" and "by maria: the forge moves" in what and "engineering_loop.resume" in do
    assert well.look()["pause"]["by"] == "maria"


def test_over_budget(well: Watched) -> None:
    for number in range(2):
        budget.take(well.host.config, f"{number}", "timer")
    assert well.needs() == {}  # it was spent on what was published
    for path in Path(well.host.config["cycles_dir"]).iterdir():
        path.unlink()
    well.record(2, "over_budget", "2 of 2 runs were started today")
    code, what, do = only(well)
    assert code == "over_budget" and "(2 of 2 runs)" in what and "engineering_loop_max_runs_per_day" in do


def test_held_issues(well: Watched) -> None:
    config = well.host.config
    for number in range(3):
        attempts.count(
            config,
            attempts.Attempt(cycle=f"c{number}", repo=REPO, number=7, title=HOSTILE, outcome="error", cost_usd=1.5),
        )
    code, what, do = only(well)
    assert code == "held" and f"{REPO}#7" in what and f"release_issue -l HOST -e issue={REPO}#7" in do
    assert what.isprintable() and len(what) < 1000
    assert well.look()["held"][0]["attempts"] == 3


def test_a_run_that_waits_for_a_person(well: Watched) -> None:
    config = well.host.config
    place = Path(config["runs_dir"]) / f"{today().replace('-', '')}T000000Z-1a2b3c4d"
    place.mkdir(mode=0o700)
    manifest = {"outcome": "needs_triage", "kind": "cycle", "detail": "two gates failed", "made": utc_now(),
                "issue": {"repo": REPO, "number": 9, "title": "T"}, "size": 2048}  # fmt: skip
    (place / cells.MANIFEST).write_text(json.dumps(manifest))
    code, what, do = only(well)
    assert code == "triage" and f"{REPO}#9: two gates failed" in what and f"loop enter {place.name}" in do
    (place / cells.SEEN).touch()  # somebody has opened it
    assert well.needs() == {}
    kept = well.look()["quarantine"]
    assert (kept["count"], kept["bytes"], kept["items"][0]["seen"]) == (1, 2048, True)


@pytest.mark.parametrize("of", ["memory", "learning"])
def test_lessons_that_were_not_taken(well: Watched, of: str) -> None:
    def ended(number: int, agents: int = 1, **found: object) -> None:
        other = {"changed": False, "left_out": []}
        memory, learning = (found, other) if of == "memory" else (other, found)
        well.record(number, "published", agents=agents, memory=memory, collected={"learning": learning})

    ended(1, left_out=["a link"])
    assert well.needs() == {}  # which is no lesson
    ended(2, left_out=["a link", "everything after 2000 files"])
    code, what, do = only(well)
    place = well.host.config[f"{of}_dir"]
    assert code == "lessons" and f"{place} is full, so everything after 2000 files was left out" in what
    assert "remove from there what is of no use" in do and "engineering_loop.restore" in do
    ended(3, error="it would be lost; remove some")
    ended(4, agents=0, left_out=[])  # one that had nothing to do says nothing of it
    assert only(well)[1].endswith("or not all of it: it would be lost; remove some.")
    for odd in (None, [], "x"):
        well.record(5, "published", agents=1, memory=odd, collected=odd)
    assert "lessons" in well.needs()
    ended(6, left_out=[])
    assert well.needs() == {}


def test_what_is_no_cell(well: Watched) -> None:
    Path(well.host.config["runs_dir"], "my backup").mkdir()
    code, what, do = only(well)
    assert code == "leftovers" and "my backup" in what and well.host.config["runs_dir"] in do


def test_an_inventory_that_pins_another(well: Watched) -> None:
    (need,) = well.look(pin="1" * 40)["needs"]
    assert need["code"] == "not_applied" and "nobody has applied the pin yet" in need["what"]
    assert well.look(pin=SHA)["well"]


def test_a_cause_stands_for_what_comes_of_it(well: Watched) -> None:
    shutil.rmtree(well.host.config["receipts_dir"])
    well.units[f"{UNIT}.timer"].update(ActiveState="inactive", UnitFileState="disabled", NextElapseUSecRealtime="")
    Path(pause.path_of(well.host.config)).write_text(json.dumps({"why": "w", "since": "", "by": ""}))
    assert list(well.needs()) == ["unproven", "paused"]


def test_nothing_that_others_wrote_can_do_harm(well: Watched) -> None:
    issue, held = {"repo": HOSTILE, "number": 1, "title": HOSTILE}, [{"repo": HOSTILE, "number": 1, "why": HOSTILE}]
    well.record(2, "error", HOSTILE, issue=issue, pr_url="javascript:alert(1)", held=held, asked=1)
    Path(well.host.config["runs_dir"], "x\x1b[2J\n").mkdir()
    told = well.look()

    def texts(value: Any) -> list[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        return [value] if isinstance(value, str) else [text for one in inner for text in texts(one)]

    assert all(text.isprintable() and len(text) < 6000 for text in texts(told))
    assert told["history"][-1]["pr_url"] == ""
