# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""``loop tell``: one look, its metrics, and what is new; what is wrong with one part keeps no other from its work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import telling
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.targets import Target
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import rollout_ledger
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import outbox, send, tell
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report.send import Answer
from celled import NEEDS_ROOT
from watched import UNIT, Watched

pytestmark = NEEDS_ROOT
URL = "json://example.org/s3cret"


class Sent:
    """What was handed over to be sent; how the child answers is a test's affair."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.network: dict[str, str] = {}
        self.why = ""

    def deliver(
        self, _lib_dir: str, targets: Sequence[Target], messages: Mapping[str, Any], network: Mapping[str, str]
    ) -> dict[str, Answer]:
        self.network = dict(network)
        found = {one.id: messages[one.id] for one in targets if one.id in messages}
        self.messages += [each for one in found.values() for each in one]
        return {name: Answer(0 if self.why else len(one), self.why) for name, one in found.items()}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    found = Sent()
    monkeypatch.setattr(send, "deliver", found.deliver)
    return found


@pytest.fixture
def told(well: Watched, tmp_path: Path) -> Watched:
    """A host that fares well, was looked at once, and has a target."""
    config = well.host.config
    (tmp_path / "prom").mkdir()
    config.update(metrics_dir=str(tmp_path / "prom"), inventory_name="loop1", notify_per_hour=10, notify_file="")
    path = Path(config["config_dir"]) / "notify"
    path.write_text(f"{URL}\n")
    path.chmod(0o600)
    well.host.write_config()
    assert tell.main(str(well.host.config_file)) == 0
    return well


def look(host: Watched) -> int:
    host.host.write_config()
    return tell.main(str(host.host.config_file))


def test_what_ends_badly_is_told_once_with_the_inventorys_name(told: Watched, sent: Sent) -> None:
    assert look(told) == 0 and sent.messages == []
    told.record(7, "error", "the engine crashed")
    assert look(told) == 0 and look(told) == 0
    (message,) = sent.messages
    assert message["title"] == "loop1: a cycle failed" and "the engine crashed" in message["body"]
    prom = (Path(told.host.config["metrics_dir"]) / telling.METRICS).read_text()
    assert 'engineering_loop_last_cycle_outcome{outcome="error"} 1.0' in prom
    assert "engineering_loop_notify_targets 1.0" in prom


def test_a_return_in_the_ledger_is_told(told: Watched, sent: Sent) -> None:
    directory = told.host.config["install_dir"]
    ledger = rollout_ledger.read(directory)
    rollout_ledger.save(directory, ledger.ended(rollout_ledger.RETURNED, "k", "b" * 40, "a" * 40, "no pull request"))
    look(told)
    assert [one["title"] for one in sent.messages] == ["loop1: went back to what was proven"]


def test_what_was_not_taken_waits_and_killed_before_it_is_sent_it_is_sent_later(
    told: Watched, sent: Sent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_arguments: Any) -> dict[str, Answer]:
        raise KeyboardInterrupt

    told.record(7, "error", "the engine crashed")
    with monkeypatch.context() as patch:
        patch.setattr(send, "deliver", killed)
        with pytest.raises(KeyboardInterrupt):
            look(told)
    sent.why = "connection refused by s3cret"
    assert look(told) == 0, "a target that is down is nothing that is wrong with this host"
    assert "json://example.org/*** did not take a notice" in capsys.readouterr().out
    sent.why = ""
    assert look(told) == 0 and len(sent.messages) == 1, "it is not asked again at once"
    memory, _why = outbox.load(told.host.config)
    memory.targets[Target(URL, "").id]["next"] = 0
    outbox.save(told.host.config, memory)
    look(told)
    assert len(sent.messages) == 2 and sent.messages[0] == sent.messages[1]


def test_the_network_of_the_secrets_is_handed_over_and_nothing_else_of_them(told: Watched, sent: Sent) -> None:
    path = Path(told.host.config["env_file"])
    path.parent.mkdir(exist_ok=True)
    path.write_text("GH_TOKEN=s3cret\nHTTPS_PROXY=http://proxy.example:3128\n")
    path.chmod(0o600)
    told.record(7, "error", "x")
    look(told)
    assert sent.network == {"HTTPS_PROXY": "http://proxy.example:3128"}


def test_targets_that_cannot_be_read_keep_no_metrics_from_being_written(
    told: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    prom = Path(told.host.config["metrics_dir"]) / telling.METRICS
    prom.unlink()
    (Path(told.host.config["config_dir"]) / "notify").write_text("s3cret\n")
    assert look(told) == 1
    out = capsys.readouterr().out
    assert "nobody is told" in out and "line 1 is no URL" in out and "s3cret" not in out and prom.exists()


def test_metrics_that_cannot_be_written_keep_nobody_from_being_told(
    told: Watched, sent: Sent, capsys: pytest.CaptureFixture[str]
) -> None:
    prom = Path(told.host.config["metrics_dir"]) / telling.METRICS
    prom.unlink()
    prom.mkdir()
    told.record(7, "error", "x")
    assert look(told) == 1 and len(sent.messages) == 1
    assert "no metrics are written" in capsys.readouterr().out


def test_no_metrics_where_the_directory_is_not_there_or_not_wanted(told: Watched, tmp_path: Path) -> None:
    for directory in ("", str(tmp_path / "gone")):
        told.host.config.update(metrics_dir=directory)
        assert look(told) == 0
    assert not (tmp_path / "gone").exists()


def test_a_host_where_nothing_is_deployed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop.json").write_text(json.dumps({"user": "u"}))
    if not Path("/opt/engineering-loop").exists():
        assert tell.main(str(tmp_path / "loop.json")) == 0
        assert "there is nothing to tell" in capsys.readouterr().out


def test_a_test_notice_says_of_each_target_whether_it_was_taken(told: Watched, sent: Sent) -> None:
    sent.why = "refused"
    config, target = told.host.config, Target(URL, "notify, line 1")
    (one,) = tell.try_out(config, "loop1", [target])
    assert one == {"target": "json://example.org/***", "where": "notify, line 1", "taken": False, "why": "refused"}
    assert sent.messages[0]["title"] == "loop1: test notice"
    assert tell.try_out(config, "loop1", []) == []


def test_what_starts_it_is_switched_on_and_nobody_fails_where_it_cannot_be_asked(
    well: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def systemctl(*words: str) -> str:
        asked.append(words)
        return well.systemctl(*words) if words[0] == "show" else ""

    monkeypatch.setattr(telling.systemd, "systemctl", systemctl)
    names = [f"{UNIT}-tell{kind}" for kind in telling.STARTERS]
    off = {"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "disabled"}
    well.units |= {name: dict(off) for name in names}
    assert telling.bring(UNIT, check=True) and {words[0] for words in asked} == {"show"}
    assert telling.bring(UNIT)
    assert asked[-2:] == [("enable", "--now", *names), ("start", "--no-block", f"{UNIT}-tell.service")]
    well.units.update({name: {**off, "ActiveState": "active", "UnitFileState": "enabled"} for name in names})
    assert not telling.bring(UNIT) and asked[-1][0] == "start"
    well.units.update({name: {"LoadState": "not-found"} for name in names})
    assert not telling.bring(UNIT), "an earlier version has none"
