# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Before a cycle: what is refused before an agent is paid, the room that is made, and what is handed over."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import wire
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.clock import stamp
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import (
    attempts,
    budget,
    cells,
    kept_time,
    records,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.cells import Cell
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import handover, prepare, watch
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import audit, sessions
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import owner, systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import installed, pause, receipts
from celled import GATE, LOOP, NAME, NEEDS_ROOT, SHA, TODAY, Box, box, gid, give, uid, write
from disks import fill, with_a_host_on_a_small_disk
from gated import gateway_of

pytestmark = NEEDS_ROOT
REFUSED = "must be a regular file that only root can write; run ansible-playbook"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with box() as found:
        found.deploy()
        found.enter_unit(monkeypatch)
        monkeypatch.setattr(wire, "place", lambda _config: f"{found.top}/run/socket")
        monkeypatch.setattr(prepare, "REFRESH_SECONDS", 2.0)  # where no gateway is started
        yield found


def refusal(host: Box) -> str:
    with pytest.raises(LoopError) as caught:
        prepare.check_host(host.config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def handed(host: Box) -> handover.Handover:
    host.write_config()
    assert prepare.main(host.config_file) == 0
    return handover.take(host.config)


def last(host: Box) -> dict[str, Any]:
    return records.read(host.config["cycles_dir"])[-1]


# --- looking


def test_a_host_as_the_role_leaves_it_is_fine(host: Box) -> None:
    prepare.check_host(host.config)


def test_no_cycle_in_the_state_of_another_host(host: Box) -> None:
    Path(owner.path_of(host.config["state_dir"])).write_text(f"{'0' * 32} loop7\n", encoding="utf-8")
    told = handed(host).refused
    assert f"{host.config['state_dir']} holds the state of the loop on another host, loop7: two hosts cannot" in told
    assert last(host)["outcome"] == "refused" and not list(Path(host.config["runs_dir"]).glob("2*")), last(host)


def test_it_never_runs_in_ci(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert "never runs on a CI runner" in refusal(host)


def test_a_missing_policy_would_allow_everything(host: Box) -> None:
    Path(host.config["policy_file"]).unlink()
    assert "is missing (the engine would allow everything); run ansible-playbook" in refusal(host)
    host.config["policy_file"] = f"{host.config_file}/policy.yml"
    assert "cannot be looked at: Not a directory; run ansible-playbook" in refusal(host)


def test_a_policy_is_a_file_that_only_root_can_write(host: Box) -> None:
    policy = Path(host.config["policy_file"])
    for mode in (0o664, 0o646, 0o666):
        policy.chmod(mode)
        assert REFUSED in refusal(host)
    policy.chmod(0o644)
    real = policy.rename(policy.with_name("real"))
    policy.symlink_to(real)
    assert REFUSED in refusal(host)
    policy.unlink()
    os.mkfifo(policy)
    assert REFUSED in refusal(host)
    policy.unlink()
    policy.mkdir()
    assert REFUSED in refusal(host)
    policy.rmdir()
    shutil.copy(real, policy)
    os.chown(policy, uid(LOOP), -1)
    assert REFUSED in refusal(host)


@pytest.mark.parametrize(("group", "mode"), [(GATE, 0o640), (LOOP, 0o604), (LOOP, 0o600)])
def test_a_policy_that_the_loops_user_cannot_read(host: Box, group: str, mode: int) -> None:
    os.chown(host.config["policy_file"], 0, gid(group))
    os.chmod(host.config["policy_file"], mode)
    assert f"cannot be read by {LOOP}; run ansible-playbook" in refusal(host)


def test_a_policy_is_the_one_that_was_deployed(host: Box) -> None:
    policy = Path(host.config["policy_file"])
    policy.write_text(policy.read_text().replace("max_changed_files: 20", "max_changed_files: 21"))
    assert "is not the one that was deployed; run ansible-playbook" in refusal(host)
    policy.write_text("defaults: [")
    assert str(policy) in refusal(host)


def test_a_policy_whose_digest_nobody_noted_is_not_the_one_that_was_deployed(host: Box) -> None:
    host.config["policy_sha256"] = ""
    assert "is not the one that was deployed" in refusal(host)


def test_a_directory_of_the_policy_where_others_can_put_another(host: Box) -> None:
    folder = Path(host.config["policy_file"]).parent
    for mode in (0o775, 0o757):
        folder.chmod(mode)
        assert "must be one that only root can write; run ansible-playbook" in refusal(host)
    folder.chmod(0o755)
    real = folder.rename(folder.with_name("real"))
    folder.symlink_to(real)
    assert "must be one that only root can write; run ansible-playbook" in refusal(host)


def test_a_policy_that_refuses_every_branch_of_the_engine(host: Box) -> None:
    host.config["branch_prefixes"] = ["small", "master/x"]
    why = refusal(host)
    assert "refuses every branch below master/x, which engineering_loop_branch_prefixes names" in why, why
    assert why.endswith("it is protected by master")


def test_an_engine_without_the_program_that_is_asked_for(host: Box) -> None:
    host.config["program"] = "another"
    assert "has no program another, which engineering_loop_program says is started; it has hyrule-" in refusal(host)


def test_a_policy_has_to_admit_the_handoffs(host: Box) -> None:
    elsewhere = host.top / "elsewhere"
    elsewhere.mkdir()
    host.config["runs_dir"] = str(elsewhere)
    assert f"does not admit handoffs under {elsewhere}; run ansible-playbook" in refusal(host)


def test_a_place_for_cells_that_is_not_roots(host: Box) -> None:
    host.runs.chmod(0o777)
    assert "must be a directory of root's that nobody else can write" in handed(host).refused


def test_a_file_for_the_home_or_a_cache_that_is_missing(host: Box) -> None:
    host.config["home_files"] = [{"src": f"{host.top}/etc/none", "dest": "x"}]
    assert "none is missing: put it there" in refusal(host)
    host.config["home_files"] = []
    seed = host.top / "seed"
    host.config["caches"] = [{"src": str(seed), "dest": ".cache/uv"}]
    missing = (
        f"the cache {seed} must be a directory that only its owner can write: make it so, or take it out of"
        " engineering_loop_caches"
    )
    assert refusal(host) == missing
    seed.mkdir(mode=0o755)
    prepare.check_host(host.config)
    os.chown(seed, uid(LOOP), -1)  # whoever is to write there owns it: in a cycle all of it is read-only
    prepare.check_host(host.config)
    seed.chmod(0o775)
    assert refusal(host) == missing
    seed.rmdir()
    seed.symlink_to(host.top)
    os.lchown(seed, uid(LOOP), -1)
    assert refusal(host) == missing


def test_an_engine_is_the_release_that_was_recorded(host: Box) -> None:
    release = host.release
    release.chmod(0o777)
    assert f"the engine {release} must belong to root, and nobody else may write it" in refusal(host)
    release.rename(release.with_name("0" * 40))
    (host.top / "opt/current").unlink()
    (host.top / "opt/current").symlink_to(release.with_name("0" * 40))
    assert f"which says that it is {SHA}" in refusal(host)
    (host.top / "opt/current").unlink()
    assert "no engine is installed" in refusal(host)


def test_the_timer_starts_only_what_was_proven(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "UNIT_DIR", str(host.top / "systemd"))
    host.config["canary_required"] = True
    for kind in (".service", "-watch.service", "-gate.service", "-gate.socket"):
        write(host.top / "systemd", {f"{host.config['unit']}{kind}": "[Service]\n"})
    write(host.top / "lib", {"engineering_loop_core/cycle.py": "# the runner\n"})
    host.write_config()
    prepare.check_proven(host.config, "manual")
    with pytest.raises(LoopError, match="not proven, so not run on the timer: nothing was proven on this host yet"):
        prepare.check_proven(host.config, "timer")
    prepare.check_proven(Settings(host.config, canary_required=False), "timer")
    how = {"cycle": "20260101T000000Z-00000000"}
    receipts.write(host.config, "docs", installed.now(host.config), how, applied_by="ops", overrides=[])
    prepare.check_proven(host.config, "timer")
    (host.top / f"systemd/{host.config['unit']}-watch.service").write_text("[Service]\nNice=1\n")
    with pytest.raises(LoopError, match="not proven"):  # the watch is part of what was proven
        prepare.check_proven(host.config, "timer")


# --- room


def test_room_is_made_of_what_was_kept_long_enough(host: Box) -> None:
    assert prepare.make_room(host.config) == []
    old = host.kept("20200101T000000Z-00000000")
    young = host.kept(NAME)
    host.config["min_free"] = "900T"
    with pytest.raises(
        LoopError, match=r"only \d+ MiB are free in .*, less than 900T: make room; ansible-playbook -i INVENTORY"
    ):
        prepare.make_room(host.config)
    assert not os.path.exists(old.path) and os.path.isdir(young.path)


def test_no_more_goes_than_there_are_inodes_missing(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(1, 6):
        host.kept(f"2020010{day}T000000Z-00000000")
    real = os.statvfs(host.runs)

    def few(path: str) -> Any:
        free = 5 if len(os.listdir(host.runs)) < 4 else 4
        return SimpleNamespace(f_bavail=real.f_bavail, f_frsize=real.f_frsize, f_files=10, f_favail=free)

    monkeypatch.setattr(prepare, "MIN_INODES", 5)
    monkeypatch.setattr(os, "statvfs", few)
    gone = [one["id"][:8] for one in prepare.make_room(host.config)]
    assert gone == ["20200101", "20200102"] and len(os.listdir(host.runs)) == 3


@pytest.fixture
def small_disk(host: Box) -> Iterator[Box]:
    """A host whose cells have a disk of 64 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64M,mode=0711", "tmpfs", host.runs], check=True)
    try:
        yield host
    finally:
        subprocess.run(["umount", "--lazy", host.runs], check=True)


def of_size(host: Box, day: int, size: int, known: int) -> Cell:
    """A cell of 2020 that has so many MiB; what its manifest knows of that."""
    cell = host.kept(f"202001{day:02}T000000Z-00000000", size=known)
    with open(f"{cell.part('runs')}/large", "wb") as large:
        os.posix_fallocate(large.fileno(), 0, size << 20)
    return cell


def test_what_somebody_has_open_is_in_nobodys_way(small_disk: Box) -> None:
    opened = of_size(small_disk, 1, 30, known=30 << 20)
    others = [of_size(small_disk, day, 8, known=8 << 20) for day in (2, 3, 4)]
    small_disk.config["min_free"] = "16M"  # about 10 are free
    with cells.used(opened):
        assert [one["id"] for one in prepare.make_room(small_disk.config)] == [others[0].id]
        small_disk.config["min_free"] = "60M"
        with pytest.raises(LoopError, match="make room"):
            prepare.make_room(small_disk.config)
    assert os.listdir(small_disk.runs) == [opened.id]


@pytest.mark.parametrize("known", [-1, 0, 1, 1 << 40, None])
def test_no_more_goes_than_is_missing_whatever_manifests_say(small_disk: Box, known: int | None) -> None:
    made = [of_size(small_disk, day, 8, known=known or 0) for day in range(1, 7)]
    for cell in made if known is None else []:
        Path(cell.path, cells.MANIFEST).write_text("{")
    small_disk.config["min_free"] = "20M"  # about 16 are free
    (gone,) = prepare.make_room(small_disk.config)
    assert (gone["id"], gone["why"], gone["stuck"]) == (made[0].id, "a cycle has no room to start", "")
    assert sorted(os.listdir(small_disk.runs)) == [cell.id for cell in made[1:]]
    assert prepare.make_room(small_disk.config) == []


def test_a_leap_of_the_clock_makes_nothing_old_enough_to_go(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = host.kept(f"{stamp(time.time() - 3600)}-00000000")
    kept_time.note(host.config)
    ahead = time.time() + 30 * 86400
    monkeypatch.setattr(time, "time", lambda: ahead)
    host.config["min_free"] = "900T"
    with pytest.raises(LoopError, match="are free in"):
        prepare.make_room(host.config)
    assert os.path.isdir(cell.path)


def test_too_few_inodes(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.statvfs(host.runs).f_files:
        pytest.skip("this file system does not count inodes")
    monkeypatch.setattr(prepare, "MIN_INODES", 10**15)
    host.kept("20200101T000000Z-00000000")
    with pytest.raises(LoopError, match=r"only \d+ inodes are free"):
        prepare.make_room(host.config)
    assert os.listdir(host.runs) == []


# --- a disk without a byte left


def large(cell: cells.Cell) -> cells.Cell:
    """The same with 8 MiB of work in it."""
    Path(cell.part("runs"), "large").write_bytes(b"x" * (8 << 20))
    size, files = cells.measure(cell.path)
    cells.update(cell, size=size, files=files)
    return cell


def on_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[Box], None], after: Callable[[Box], None]
) -> None:
    """What a cycle does where ``before`` has left its things on a disk that is full then."""

    def work(host: Box) -> None:
        host.enter_unit(monkeypatch)
        monkeypatch.setattr(wire, "place", lambda _config: f"{host.top}/run/socket")
        monkeypatch.setattr(prepare, "REFRESH_SECONDS", 0.2)
        host.config["min_free"] = "4M"
        host.write_config()
        with cells.alone(host.config):
            before(host)
        fill(host.top)
        after(host)

    with_a_host_on_a_small_disk(work)


def test_what_may_go_makes_the_room_for_the_first_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def before(host: Box) -> None:
        large(host.kept("20200101T000000Z-00000000"))
        host.kept("20200102T000000Z-00000000")
        host.kept(NAME)

    def after(host: Box) -> None:
        assert prepare.main(host.config_file) == 0
        assert "the gateway to the forge does not answer" in last(host)["detail"]  # nothing before that
        assert [one["id"][:8] for one in last(host)["purged"]] == ["20200101"]
        assert sorted(os.listdir(host.runs)) == ["20200102T000000Z-00000000", NAME]

    on_a_full_disk(monkeypatch, before, after)


def test_what_was_half_gone_makes_the_room_for_the_first_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def before(host: Box) -> None:
        os.rename(large(host.kept(NAME)).path, f"{host.runs}/.gone-{NAME}")
        host.kept("20200101T000000Z-00000000")

    def after(host: Box) -> None:
        assert prepare.main(host.config_file) == 0
        assert os.listdir(host.runs) == ["20200101T000000Z-00000000"] and last(host)["purged"] == []

    on_a_full_disk(monkeypatch, before, after)


@pytest.mark.parametrize("why", ["young", "leapt", "paused", "another host"])
def test_what_may_not_go_stays_where_not_a_byte_is_left(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], why: str
) -> None:
    kept = NAME if why == "young" else f"{stamp(time.time() - 30 * 86400)}-00000000"

    def before(host: Box) -> None:
        large(host.kept(kept))
        if why == "leapt":  # a month in no time: an hour before it nothing was old
            then = {"seen": time.time() - 30 * 86400 + 3600, "leaps": []}
            Path(kept_time.path_of(host.config)).write_text(json.dumps(then))
        elif why == "paused":
            pause.put(host.config, "the forge moves", "ann")
        elif why == "another host":
            Path(owner.path_of(host.config["state_dir"])).write_text(f"{'0' * 32} loop7\n", encoding="utf-8")

    def after(host: Box) -> None:
        assert prepare.main(host.config_file) == 4
        assert os.listdir(host.runs) == [kept] and os.listdir(host.config["cycles_dir"]) == []

    on_a_full_disk(monkeypatch, before, after)
    (line,) = capfd.readouterr().out.splitlines()
    told = {"paused": "paused since ", "another host": "holds the state of the loop on another host, loop7"}
    assert told.get(why, "only 0 MiB are free in ") in line and line.startswith("cycle refused: ")
    assert why in told or "make room; ansible-playbook -i INVENTORY as215932.engineering_loop.restore -l HOST" in line


def test_records_on_a_full_disk_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def before(host: Box) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", str(host.runs)], check=True)
        host.kept("20200101T000000Z-00000000")

    def after(host: Box) -> None:
        assert prepare.main(host.config_file) == 4
        assert os.listdir(host.runs) == ["20200101T000000Z-00000000"]  # it would make no room
        subprocess.run(["umount", str(host.runs)], check=True)

    on_a_full_disk(monkeypatch, before, after)
    (line,) = capfd.readouterr().out.splitlines()
    assert "No space left on device" in line and ": make room there; df -h /tmp/loop-disk-" in line


# --- the whole


def test_what_a_cycle_gets(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    text = "GH_TOKEN=t\nENGINEERING_LOOP_GITHUB_TOKEN=u\nOPENAI_API_KEY=k\nENGINEERING_LOOP_GITHUB_APP_API_URL=x\n"
    (host.top / "etc/env").write_text(text)
    host.repository("app")
    host.config["workspace_repositories"].append({"repo": f"{host.top}/remotes/none.git", "dest": "none"})
    with gateway_of(host):
        assert prepare.main(host.config_file) == 0
        assert sessions.session_of(host.config, f"{host.config['unit']}.service")["bound"] is True
    file = Path(handover.place(host.config))
    assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_uid) == (0o400, uid(LOOP))
    found = handover.take(host.config)
    policy = f"{host.release}/{handover.OWN_POLICY}"
    assert found.environment == {"OPENAI_API_KEY": "k", "HYRULE_MODEL_POLICY_FILE": policy}
    assert (found.refused, found.model_policy) == ("", "") and "token" not in asdict(found)
    assert audit.read(host.config, last(host)["cycle"])[0]["what"] == "refresh"
    record = last(host)
    assert (record["outcome"], record["cell"], record["trigger"]) == ("running", found.cell, "manual")
    assert (record["engine"], record["token"]["kind"]) == ({"sha": SHA}, "break-glass")
    assert [(one["dest"], one["status"]) for one in record["clones"]] == [("app", "cloned"), ("none", "failed")]
    assert "clone none failed: " in capfd.readouterr().out
    cell = cells.Cell(found.cell)
    manifest = cells.manifest_of(cell)
    assert json.loads(Path(cell.path, cells.MANIFEST).read_text())["engine"] == SHA
    assert (manifest.agents, manifest.trigger) == (0, "manual")
    assert manifest.invocation == os.environ["INVOCATION_ID"]
    assert watch.current(host.config) == cell
    (ledger,) = Path(cell.part("state")).iterdir()
    assert json.loads(ledger.read_text()) == {"runs": 0, "cost_usd": 0, "wall_clock_seconds": 0}
    assert ledger.stat().st_uid == uid(LOOP)
    assert "u" not in json.dumps(record["token"]) and budget.today(host.config)["started"] == 1


def test_the_ledger_is_roots_count(host: Box) -> None:
    budget.take(host.config, "a", "timer")
    for number, (cost, agents) in enumerate([(1.5, 2), (0.25, 0)]):
        record = {"cycle": f"{NAME[:9]}00000{number}Z-0000000a", "started": prepare.utc_now(), "outcome": "published"}
        numbers = {"cost_usd": cost, "seconds": 60.0}
        records.write(host.config["cycles_dir"], {**record, "agents": agents, "numbers": numbers})
    cell = host.cell()
    prepare.write_ledger(host.config, cell)
    (ledger,) = Path(cell.part("state")).iterdir()
    assert json.loads(ledger.read_text()) == {"runs": 1, "cost_usd": 1.75, "wall_clock_seconds": 60.0}


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        (None, 0o600, "is missing: it must hold the secrets"),
        ("GH_TOKEN\n", 0o600, "line 1: no KEY=value"),
        ("GH_TOKEN=hunter2\n", 0o620, "can be written by others than root"),
        (
            "GH_TOKEN=hunter2\nHYRULE_MODEL_POLICY_FILE=/none.yml\n",
            0o600,
            "/none.yml, where nothing is: the engine would",
        ),
        ("GH_TOKEN=hunter2\nGITHUB_ACTIONS=hunter2\n", 0o600, "GITHUB_ACTIONS, with which the engine takes the host"),
        ("GH_TOKEN=hunter2\nVAULT_TOKEN=hunter2\n", 0o600, "holds VAULT_TOKEN, which must not be where generated code"),
    ],
)
def test_secrets_that_are_not_fit_are_a_refusal_and_no_run(host: Box, text: str | None, mode: int, reason: str) -> None:
    file = host.top / "etc/env"
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
        file.chmod(mode)
    found = handed(host)
    assert reason in found.refused and (found.environment, found.cell) == ({}, "")
    assert "hunter2" not in json.dumps([asdict(found), last(host)])
    assert (last(host)["outcome"], budget.today(host.config)["runs"], os.listdir(host.runs)) == ("refused", [], [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("OTHER=1\n", "the gateway to the forge says: no forge token: put GH_TOKEN into"),
        ("ENGINEERING_LOOP_GITHUB_APP_ID=1\n", "the GitHub App lacks its installation_id"),
    ],
)
def test_a_gateway_that_the_forge_would_not_let_in(host: Box, text: str, reason: str) -> None:
    (host.top / "etc/env").write_text(text)
    with gateway_of(host):
        found = handed(host)
    assert reason in found.refused and found.cell == "" and last(host)["outcome"] == "refused"
    assert sessions.listing(host.config) == [] and budget.today(host.config)["runs"] == []


def test_without_a_gateway_there_is_no_cycle(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "REFRESH_SECONDS", 0.2)
    found = handed(host)
    assert "the gateway to the forge does not answer" in found.refused and os.listdir(host.runs) == []


def test_secrets_in_a_directory_of_anothers_could_be_anothers(host: Box) -> None:
    (host.top / "etc").chmod(0o777)
    assert "may be written by others: root does not work below it" in handed(host).refused


def test_the_day_is_used_up(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    for invocation in ("a", "b"):
        budget.take(host.config, invocation, "manual")
    found = handed(host)
    assert found.over_budget.startswith("2 of 2 runs were started today") and found.environment == {}
    assert last(host)["outcome"] == "over_budget" and os.listdir(host.runs) == []
    assert capfd.readouterr().out.startswith("cycle over_budget after 0 s: 2 of 2 runs were started today")


def test_a_pause_is_looked_for_first(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    made, _changed = pause.put(host.config, "the forge moves", "ann")
    Path(host.config["policy_file"]).unlink()  # which would be refused
    cell = host.cell(f"{TODAY}T000000Z-0000000a")
    found = handed(host)
    assert found.paused == made.sentence and found.refused == found.over_budget == found.cell == ""
    record = last(host)
    assert (record["outcome"], record["detail"]) == ("paused", made.sentence)
    assert capfd.readouterr().out == f"cycle paused after 0 s: {made.sentence}\n"
    assert os.listdir(host.runs) == [cell.id] and cells.manifest_of(cell).outcome == "running"
    assert budget.today(host.config)["started"] == 0
    pause.lift(host.config)
    assert "policy" in handed(host).refused and cells.manifest_of(cell).outcome == "interrupted"


def test_what_was_cut_off_counts_once_at_its_issue(host: Box) -> None:
    cell = host.cell(f"{TODAY}T000000Z-0000000a", agents=1)
    records.write(host.config["cycles_dir"], {"cycle": cell.id, "outcome": "running"})

    def write_down() -> None:
        os.makedirs(f"{host.config['gate_dir']}/records", exist_ok=True)
        offered = [{"number": 7, "title": "t", "digest": "d" * 64}]
        audit.append(host.config, cell.id, {"what": "list", "repo": "o/r", "offered": offered, "held": []})
        audit.append(host.config, cell.id, {"what": "view", "repo": "o/r", "number": 7, "body": True})

    as_user(GATE, write_down)
    for _unused in range(2):
        prepare.close_what_was_cut_off(host.config, "the next")
        known = attempts.counts(host.config)["o/r#7"]
        assert (known.attempts, known.outcome, known.digest, known.cycle) == (1, "interrupted", "d" * 64, cell.id)
    assert records.read(host.config["cycles_dir"])[0]["attempt"] == {"n": 1, "max": 3, "held": False}


@pytest.mark.parametrize("spoil", ["policy", "proof", "room", "count", "attempts", "home"])
def test_every_refusal_is_a_record_and_one_line(
    host: Box, spoil: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if spoil == "policy":
        Path(host.config["policy_file"]).unlink()
    elif spoil == "proof":
        host.config["canary_required"] = True
        monkeypatch.setenv("TRIGGER_UNIT", "u.timer")
    elif spoil == "room":
        host.config["min_free"] = "900T"
    elif spoil == "count":
        Path(budget.path_of(host.config)).write_text("{")
    elif spoil == "attempts":
        Path(attempts.path_of(host.config)).write_text("{")
    else:
        host.config["home_files"] = [{"src": "/none", "dest": "x"}]
    found = handed(host)
    record = last(host)
    assert found.refused == record["detail"] != "" and record["outcome"] == "refused"
    assert record["trigger"] == ("timer" if spoil == "proof" else "manual")
    assert capfd.readouterr().out.count("\n") == 1 and os.listdir(host.runs) == []


def test_a_crash_of_our_own_is_a_refusal(
    host: Box, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    host.config["home_files"] = [5]  # settings that no role would write
    found = handed(host)
    assert found.refused == "the cycle could not be prepared (TypeError), see the journal" == last(host)["detail"]
    assert "Traceback" in capfd.readouterr().err and os.listdir(host.runs) == []


def test_what_was_cut_off_is_closed_first(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    cell = host.cell("20260131T120000Z-0000000a")
    records.write(host.config["cycles_dir"], {"cycle": cell.id, "outcome": "running"})
    write(host.top / "etc", {"env": "GH_TOKEN=t\nOPENAI_API_KEY=sk-0123456789\n"})
    write(Path(cell.part("runs")), {"issue_r_7/handoff/transcript.txt": "sk-0123456789"})
    give(cell.part("runs"), LOOP)
    handed(host)
    assert Path(cell.part("runs"), "issue_r_7/handoff/transcript.txt").read_text() == "*************"
    assert cells.manifest_of(cell).outcome == "interrupted"
    assert os.lstat(cell.path).st_mode & 0o777 == 0o700
    first = records.read(host.config["cycles_dir"])[0]
    assert (first["outcome"], first["detail"]) == ("interrupted", "the cycle was killed before it could end")
    assert f"cell {cell.id} of a cycle that was cut off is kept" in capfd.readouterr().out


def test_outside_of_its_unit_it_does_nothing(
    host: Box, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("INVOCATION_ID")
    assert prepare.main(host.config_file) == 4
    assert capfd.readouterr().out == "a cycle is prepared by its unit: start it with systemctl\n"
    assert records.read(host.config["cycles_dir"]) == []


def test_a_host_without_settings_or_a_place_for_records_is_one_line(
    host: Box, capfd: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(f"{host.top}/none.json") == 4
    shutil.rmtree(host.config["cycles_dir"])
    assert prepare.main(host.config_file) == 4
    assert [line[:15] for line in capfd.readouterr().out.splitlines()] == ["cycle refused: "] * 2
