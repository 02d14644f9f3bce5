# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary's module: what an operator sees of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.files import flocked
from ansible_collections.as215932.engineering_loop.plugins.module_utils.forge.client import Forge
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import apply_run, systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import (
    installed,
    pause,
    receipts,
)
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_canary
from deployed import BOT, ISSUE, REPO, Host, published
from forge_store import branches


@pytest.fixture
def host(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Its systemctl and journalctl are the test's."""
    monkeypatch.setattr(systemd, "systemctl", partial(host.systemd, "systemctl"))
    monkeypatch.setattr(systemd, "_journalctl", partial(host.systemd, "journalctl"))
    return host


@pytest.fixture
def run(host: Host, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(**options: Any) -> dict[str, Any]:
        given = {"config": str(host.config_file), "repo": REPO, "issue": ISSUE, **options}
        args = {key: value for key, value in given.items() if value is not None}
        with patch_module_args(args), pytest.raises(SystemExit):
            loop_canary.main()
        out = capsys.readouterr().out
        assert host.forge.token not in out
        answer: dict[str, Any] = json.loads(out)
        return answer

    return run


def test_it_proves_once(run: Any, host: Host) -> None:
    first = run(applied_by="ops", overrides=["x"], _ansible_diff=True)
    assert first["changed"] and first["passed"] and Path(first["receipt"]).exists()
    assert first["diff"]["before"].startswith("not proven: nothing was proven")
    second = run()
    assert not second["changed"] and second["passed"] and second["reason"].startswith("proven by the docs canary")
    assert len(host.started) == 1


def test_what_is_left_is_told_and_tidied_up_later(run: Any, host: Host) -> None:
    first = run()
    url = f"{host.forge.url}/{REPO}"
    (pull,) = (pull["url"] for pull in first["evidence"]["pulls"])
    assert first["cleanup"] == [] and first["left"][0] == f"close {pull}" and len(first["left"]) == 3
    assert first["left"][2] == f"take loop:approved off {url}/issues/{ISSUE}"
    told = run(cleanup=True, _ansible_check_mode=True)
    assert told["changed"] and told["left"] == first["left"] and told["passed"]
    done = run(cleanup=True)
    assert done["changed"] and done["passed"] and done["left"] == [] and done["cleanup"][0] == f"closed {pull}"
    forge = Forge(host.config["api_url"], host.forge.token)
    assert forge.pulls(REPO, state="open") == [] and forge.approved_issues(REPO, "loop:approved") == []
    assert list(forge.branches(REPO)) == ["main"]
    again = run(cleanup=True)
    assert not again["changed"] and again["cleanup"] == again["left"] == [] and len(host.started) == 1


def test_what_cannot_be_tidied_up_is_left_and_said(run: Any, host: Host) -> None:
    run()
    host.side("faults", {"kind": "down", "status": 403, "methods": ["PATCH"], "path": "/pulls/", "times": 9})
    done = run(cleanup=True)
    assert done["changed"] and len(done["cleanup"]) == 2 and "which failed" in done["left"][0], done


def test_force_proves_again(run: Any, host: Host) -> None:
    assert run(cleanup=True)["passed"]
    host.side("issues", {"repo": REPO, "title": "Second canary", "labels": ["loop:approved"], "number": 300})
    refused = run(force=True)
    assert refused["failed"] and "does not have the label loop:approved" in refused["msg"]


def test_a_failed_canary_is_one_line_with_its_evidence(run: Any, host: Host) -> None:
    def cycle(host: Host) -> dict[str, Any]:
        host.push({"docs/canary.md": "# Canary\n"})
        host.handoff()
        return host.report(host.pull(draft=False))

    host.cycle = cycle
    result = run()
    assert result["failed"] and result["changed"]
    assert result["msg"] == "the docs canary failed at draft: expected open draft; seen: open and ready for review"
    assert result["evidence"]["pulls"][0]["draft"] is False
    assert result["receipt"] is None


def test_check_mode_starts_nothing(run: Any, host: Host) -> None:
    told = run(_ansible_check_mode=True)
    assert told["changed"] and told["reason"].startswith("the docs canary would run: nothing was proven")
    assert host.started == []
    host.config_file.unlink()
    told = run(_ansible_check_mode=True)
    assert told["changed"] and told["reason"] == "the docs canary would run: this host is not deployed yet"
    assert "was not deployed yet" in run()["msg"]


def test_docs_needs_its_issue(run: Any) -> None:
    assert "mode is docs but all of the following are missing: issue" in run(issue=None)["msg"]


def test_without_a_token_it_says_where_to_put_it(run: Any, host: Host) -> None:
    Path(host.config["env_file"]).write_text("OTHER=1\n", encoding="utf-8")
    assert f"no forge token: put GH_TOKEN into {host.config['env_file']}" in run()["msg"]


def test_an_app_token_needs_its_name(run: Any, host: Host) -> None:
    token = host.side("tokens", {"login": "hyrule-loop[bot]", "kind": "installation"})["token"]
    Path(host.config["env_file"]).write_text(f"GH_TOKEN={token}\n", encoding="utf-8")
    assert "HTTP 403" in run()["msg"]
    host.cycle = published
    assert run(identity="hyrule-loop[bot]")["passed"]


# --- bad input: one line, nothing started, nothing changed


def closed(host: Host) -> None:
    host.post(f"/repos/{REPO}/issues/{ISSUE}", {"state": "closed"}, method="PATCH")


def unlabelled(host: Host) -> None:
    Forge(host.config["api_url"], host.forge.token).remove_label(REPO, ISSUE, "loop:approved")


def has_pull(host: Host) -> None:
    host.push({"docs/x.md": "x\n"}, "hyrule-loop/ISSUE_NETWORK_OPERATIONS_235/again")
    host.pull("hyrule-loop/ISSUE_NETWORK_OPERATIONS_235/again")


def may_not_push(host: Host) -> None:
    host.side("tokens", {"login": BOT, "role": "read"})


def expired(host: Host) -> None:
    host.side("faults", {"kind": "expire_token"})


def limited(host: Host) -> None:
    host.side("faults", {"kind": "rate_limit", "retry_after": 3000})


def nothing(host: Host) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (closed, {}, f"issue {REPO}#{ISSUE} is closed: open it again"),
        (unlabelled, {}, f"issue {REPO}#{ISSUE} does not have the label loop:approved"),
        (has_pull, {}, f"{REPO}#{ISSUE} already has the pull request "),
        (may_not_push, {}, f"the token may not push to {REPO}: give it write access to contents and pull requests"),
        (expired, {}, "HTTP 401 (Bad credentials); the token is wrong or has expired"),
        (limited, {}, "the rate limit is used up: try again after "),
        (nothing, {"repo": "AS215932/elsewhere"}, f"AS215932/elsewhere is not in the loop's scope: {REPO}, "),
        (nothing, {"issue": 999}, f"there is no issue {REPO}#999, or the token may not see it"),
        (nothing, {"issue": -1}, "the docs canary needs the number of its issue"),
        (nothing, {"identity": "mallory"}, f"the token acts as {BOT}, not as mallory"),
        (nothing, {"max_age": "soon"}, "'soon' is not a time"),
        (nothing, {"timeout": 0}, "timeout must be at least one second"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    run: Any, host: Host, spoil: Callable[[Host], None], options: dict[str, Any], words: str
) -> None:
    spoil(host)
    forge = host.forge.store
    before = json.dumps([forge.state["repos"], branches(forge.directory(REPO))])
    result = run(**options)
    assert result["failed"] and not result.get("changed")
    assert words in result["msg"] and "\n" not in result["msg"] and "Traceback" not in json.dumps(result)
    assert host.started == [] and not Path(host.config["receipts_dir"]).exists()
    assert json.dumps([forge.state["repos"], branches(forge.directory(REPO))]) == before


def test_the_forge_is_reached_as_the_cycle_reaches_it(run: Any, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "")
    monkeypatch.setenv("no_proxy", "")
    env = Path(host.config["env_file"])
    env.write_text(f'{env.read_text(encoding="utf-8")}http_proxy="http://127.0.0.1:9"\n', encoding="utf-8")
    monkeypatch.setattr(Forge, "__init__", partialmethod(Forge.__init__, patience=0.0))
    assert "the proxy (HTTPS_PROXY) does not answer or refuses" in run()["msg"]


def test_what_happens_is_written_to_a_file_of_its_own(run: Any, host: Host, tmp_path: Path) -> None:
    progress = tmp_path / "progress.log"
    host.journal = [f"engine: {host.forge.token}", "\x1b[2Jcleared?"]
    assert run(progress=str(progress))["passed"]
    assert progress.stat().st_mode & 0o777 == 0o600
    lines = progress.read_text(encoding="utf-8").splitlines()
    assert lines[1:3] == ["engine: ***", "\\x1b[2Jcleared?"]
    assert f"{progress} is there already" in run(force=True, progress=str(progress))["msg"]


def test_one_that_goes_on_without_its_playbook_is_waited_for(run: Any, host: Host, tmp_path: Path) -> None:
    progress = tmp_path / "progress.log"
    held = flocked(f"{host.config['install_dir']}/.canary.lock")
    held.__enter__()

    def end() -> None:
        while not progress.exists() or "waiting for its end" not in progress.read_text(encoding="utf-8"):
            time.sleep(0.01)
        receipts.write(host.config, "docs", installed.now(host.config), {}, applied_by="ops", overrides=[])
        held.__exit__(None, None, None)

    other = threading.Thread(target=end)
    other.start()
    result = run(progress=str(progress))
    other.join()
    assert result["passed"] and not result["changed"] and host.started == []


def test_who_has_waited_asks_again_whether_it_is_wanted(run: Any, host: Host, tmp_path: Path) -> None:
    """Another apply began meanwhile, and wrote settings of its own."""
    progress, file = tmp_path / "progress.log", tmp_path / "applies"
    mine, later = ({"id": name, "by": name, "file": str(file)} for name in ("ann", "bob"))
    held = flocked(f"{host.config['install_dir']}/.canary.lock")
    held.__enter__()

    def end() -> None:
        while not progress.exists() or "waiting for its end" not in progress.read_text(encoding="utf-8"):
            time.sleep(0.01)
        apply_run.still_wanted(later)
        held.__exit__(None, None, None)

    other = threading.Thread(target=end)
    other.start()
    result = run(progress=str(progress), run=mine)
    other.join()
    assert result["msg"].startswith("another apply, by bob, began at ") and host.started == []


def test_a_pause_holds_for_a_canary(run: Any, host: Host) -> None:
    made, _changed = pause.put(host.config, "the forge moves", "ann")
    for options in ({}, {"_ansible_check_mode": True}, {"_ansible_check_mode": True, "foreseen": "unproven"}):
        assert run(**options)["msg"] == f"no canary is run on a host that is {made.sentence}"
    assert host.started == []
    pause.lift(host.config)
    assert run()["passed"]
    pause.put(host.config, "", "ann")
    assert run()["passed"]  # nothing is to be run


def test_what_never_came_to_the_proof_judges_nothing(run: Any, host: Host) -> None:
    refused = {"outcome": "refused", "detail": "the model's provider does not answer (HTTP 529)"}
    host.cycle = lambda host: {**refused, "programs": [], "backend": ""}
    told = run()
    assert "expected published; seen: refused" in told["msg"] and not told["judged"] and told["expectations"]

    def gone(host: Host) -> dict[str, Any]:
        report = published(host)
        host.side("faults", {"kind": "down", "status": 503, "methods": ["GET"], "path": "/", "times": 500})
        return report

    host.cycle = gone
    told = run()
    assert "failed at forge" in told["msg"] and not told["judged"]


def test_a_bad_engine_is_judged(run: Any, host: Host) -> None:
    host.cycle = lambda host: {"outcome": "error", "detail": "it broke", "programs": [], "backend": ""}
    assert run()["judged"]


def test_a_proof_that_could_not_be_written_is_not_begun(run: Any, host: Host) -> None:
    key = Path(host.config["receipts_dir"], ".key")
    key.parent.mkdir(parents=True)
    key.write_bytes(b"x" * 32)
    key.chmod(0o640)
    assert f"If its mode alone was changed: chmod 0600 {key};" in run()["msg"] and host.started == []
    key.chmod(0o600)
    assert run()["passed"]
