# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kept sets: which do not count, which go, and the agents that belong to them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import rolled
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import (
    rollback_sets,
    rollout,
    timer_hold,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import agents, build, releases, store
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted
from deployed import SHA, Host
from rolled import (
    Systemd,
    everything,
    ledger,
    new_everything,
    new_policy,
    previous,
    prove,
    undo,
)

# pytest finds fixtures by their names in this module.
host, systemd = rolled.host, rolled.systemd


def no_receipt(host: Host, key: str) -> None:
    shutil.rmtree(host.config["receipts_dir"])


def edited_receipt(host: Host, key: str) -> None:
    for path in Path(host.config["receipts_dir"]).glob("*.json"):
        path.write_text(path.read_text().replace('"ops"', '"me"'))


def edited_set(host: Host, key: str) -> None:
    path = Path(f"{host.top}/opt/proven/{key}/files{host.config['policy_file']}")
    path.write_text(path.read_text().replace("main, master", "main"))


def half_a_set(host: Host, key: str) -> None:
    Path(f"{host.top}/opt/proven/{key}/files{host.config_file}").unlink()


def no_release(host: Host, key: str) -> None:
    (host.top / "opt" / "releases" / SHA / build.RECORD).unlink()


def failed_release(host: Host, key: str) -> None:
    store.record_verdict(host.config["install_dir"], SHA, "failed")


def garbage(host: Host, key: str) -> None:
    Path(f"{host.top}/opt/proven/{key}/set.json").write_text("[]")


@pytest.mark.parametrize(
    "spoil", [no_receipt, edited_receipt, edited_set, half_a_set, no_release, failed_release, garbage]
)
def test_what_does_not_count_is_not_gone_back_to(
    host: Host, systemd: Systemd, spoil: Callable[[Host, str], None]
) -> None:
    prove(host, systemd)
    new_everything(host)
    before = everything(host)
    spoil(host, ledger(host)["open"]["from"])
    told = undo(host)
    assert not told["returned"] and told["reason"] == rollout.NOTHING_PROVEN
    assert everything(host) == before and not systemd.on
    with pytest.raises(LoopError, match="there is no other proven release to go back to"):
        previous(host)


def test_sets_that_nobody_can_use_any_more_go(host: Host, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback_sets, "KEPT", 2)
    for number in (20, 19, 18, 17):
        new_policy(host, number)
        path = Path(host.config["policy_file"])
        path.write_text(path.read_text().replace(f"max_changed_files: {number}", "max_changed_files: 20"))
        host.config["daemon_args"] = [str(number)]
        host.write_config()
        prove(host, systemd)
    assert len(os.listdir(host.top / "opt" / "proven")) == 2
    assert releases.absent(Wanted(install_dir=host.config["install_dir"]))["changed"]
    assert not (host.top / "opt" / "proven").exists() and not (host.top / "opt" / "rollout.json").exists()


def test_what_was_proven_where_cycles_had_no_cells_is_not_gone_back_to(host: Host, systemd: Systemd) -> None:
    """Its cycles would work in directories that became a kept cell."""
    gate_user = host.config["gate_user"]
    del host.config["gate_user"]
    host.write_config()
    prove(host, systemd)
    assert rollback_sets.load(host.config["install_dir"], rollback_sets.keys(host.config["install_dir"])[0]) is None
    host.config["gate_user"] = gate_user
    new_everything(host)
    assert rollout.back(host.config) is None
    told = undo(host, failed=True)
    assert not told["returned"]
    assert told["reason"].startswith(rollout.NOTHING_PROVEN)
    assert f"{SHA} ran where cycles had no cells" in told["reason"]
    with pytest.raises(LoopError, match=rf"{SHA} ran where cycles had no cells, .*: pin it and apply"):
        previous(host)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_where_the_older_layout_still_stands_it_is_gone_back_to(host: Host, systemd: Systemd) -> None:
    del host.config["gate_user"]
    host.write_config()
    os.chown(host.config["runs_dir"], 65534, -1)
    prove(host, systemd)
    new_everything(host)
    assert undo(host, failed=True)["to"]["sha"] == SHA


# --- the agent that a proof was of


def new_agent(host: Host, number: int) -> Path:
    """Another version of the agent, installed and in force."""
    wanted = {"package": "p", "version": f"{number}.0.0", "integrity": "i", "program": "pi", "lock": ""}
    place = Path(agents.place(host.config["install_dir"], wanted))
    (place / "node_modules/.bin").mkdir(parents=True)
    (place / agents.LOCKFILE).write_text(f"{number}")
    rollout.begin(str(host.config_file))
    host.config["agent"] = wanted
    host.write_config()
    return place


def test_another_agent_needs_a_proof_and_is_gone_back_from(host: Host, systemd: Systemd) -> None:
    first = new_agent(host, 1)
    prove(host, systemd)
    before = everything(host)
    new_agent(host, 2)
    assert timer_hold.matching(host.config).reason.startswith("the agent changed after the proof of ")
    assert not systemd.on
    assert undo(host)["returned"] and everything(host) == before
    assert json.loads(host.config_file.read_text())["agent"]["version"] == "1.0.0" and systemd.on
    assert rollback_sets.agents_in_use(host.config["install_dir"]) == [str(first)]


def test_a_set_whose_agent_is_gone_does_not_count(host: Host, systemd: Systemd) -> None:
    first = new_agent(host, 1)
    prove(host, systemd)
    new_agent(host, 2)
    shutil.rmtree(first)
    back = undo(host)
    assert not back["returned"] and back["reason"] == rollout.NOTHING_PROVEN and not systemd.on


def test_an_agent_that_was_changed_in_its_place_is_not_the_proven_one(host: Host, systemd: Systemd) -> None:
    first = new_agent(host, 1)
    prove(host, systemd)
    (first / agents.LOCKFILE).write_text("something else")
    assert timer_hold.matching(host.config).receipt is None
