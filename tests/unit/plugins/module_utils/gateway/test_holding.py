# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Issues that were tried too often: not offered by the gateway as long as they are what they were, and told so once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import wire
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import attempts
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.attempts import Attempt, Count
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import attempted
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import audit, sessions
from celled import NEEDS_ROOT, TODAY
from gated import APPROVED, OTHER, REPO, Cycle, Door

pytestmark = NEEDS_ROOT
NAMES = iter(range(100, 1000))


@pytest.fixture
def gate(gate: Door) -> Iterator[Door]:
    yield gate
    attempts.clear(gate.config, dict.fromkeys(attempts.counts(gate.config), ""))


def tried(gate: Door, number: int, times: int = 3, repo: str = REPO) -> Count:
    """So many cycles took the issue as it is now, and none opened a pull request."""
    for _unused in range(times):
        name = f"{TODAY}T{next(NAMES):06}Z-0123abcd"
        with gate.cycle() as ours:
            assert number in ours.listed(repo)
            digest = audit.story(ours.entries()).digests[f"{repo}#{number}"]
        known = attempts.count(gate.config, Attempt(name, repo, number, "error", "A page is missing", digest))
    return known


def settle(gate: Door, ours: Cycle, outcome: str = "error") -> dict[str, Any]:
    """What is made of a cycle by the gateway's record."""
    story = audit.story(audit.read(gate.config, ours.name))
    return attempted.account(gate.config, story, {"cycle": ours.name, "outcome": outcome, "cost_usd": 0.5})


def change(gate: Door, number: int, **changed: Any) -> None:
    """A person edits the issue on the forge."""
    store = gate.forge.store
    with store.lock:
        for label in changed.get("labels", []):
            if label not in store.state["repos"][REPO]["labels"]:
                store.add_label(store.state["repos"][REPO], label, "ededed", None)
        store.state["repos"][REPO]["issues"][str(number)].update(changed)
        store.save()


def comments(gate: Door, number: int) -> list[str]:
    found = gate.forge.store.state["repos"][REPO]["issues"][str(number)]["comments"]
    return [str(one["body"]) for one in found]


# --- held


def test_the_next_one_gets_its_turn(gate: Door) -> None:
    bad, good = gate.issue("Poison"), gate.issue()
    known = tried(gate, bad)
    with gate.cycle() as ours:
        assert ours.listed() == [good]
        (told,) = ours.entries("list")
        assert told["held"] == [{"number": bad, "why": known.why}] and told["released"] == []
        done = ours.gh("issue", "view", str(bad), "-R", REPO, "--json", "body")
        assert done.returncode == 1 and "was not offered to this cycle" in done.stderr
    assert settle(gate, ours) == {} and attempts.counts(gate.config)[known.issue] == known


def test_what_was_tried_less_often_is_offered(gate: Door) -> None:
    number = gate.issue()
    tried(gate, number, 2)
    with gate.cycle(number) as ours:
        pass
    assert settle(gate, ours) == settle(gate, ours) == {"n": 3, "max": 3, "held": True}  # who is killed settles twice
    assert [one["number"] for one in attempts.held(gate.config)] == [number]


def test_a_person_in_a_kept_cell_sees_it(gate: Door) -> None:
    number = gate.issue()
    tried(gate, number)
    name = f"{TODAY}T000000Z-0000abcd"
    sessions.open_session(gate.config, "person.service", name, bound=False)
    try:
        ours = Cycle(gate, name, "person.service", gate.host.top)
        words = ["issue", "view", str(number), "-R", REPO, "--json", "title"]
        assert ours.run("gh", *words, where=str(gate.host.top)).returncode == 0
    finally:
        sessions.close_session(gate.config, "person.service")


# --- released


@pytest.mark.parametrize(
    "changed",
    [{"title": "Another"}, {"body": "Write it there."}, {"body": ""}, {"labels": [APPROVED, "bug"]}],
    ids=["title", "body", "no body", "labels"],
)
def test_an_issue_that_was_changed_is_tried_again(gate: Door, changed: dict[str, Any], capfd: Any) -> None:
    number = gate.issue()
    tried(gate, number)
    change(gate, number, **changed)
    with gate.cycle(number) as ours:
        assert [one["number"] for one in ours.entries("list")[0]["released"]] == [number]
    assert settle(gate, ours) == {"n": 1, "max": 3, "held": False} == settle(gate, ours)
    assert attempts.counts(gate.config)[f"{REPO}#{number}"].attempts == 1
    assert f"{REPO}#{number} is not held any more" in capfd.readouterr().out


@pytest.mark.parametrize("changed", [{"labels": []}, {"state": "closed"}], ids=["label", "closed"])
def test_one_that_is_not_approved_any_more_begins_anew(gate: Door, changed: dict[str, Any]) -> None:
    number, other = gate.issue(), gate.issue(repo=OTHER)
    tried(gate, number)
    tried(gate, other, repo=OTHER)
    before = gate.forge.store.state["repos"][REPO]["issues"][str(number)]
    was = {key: before[key] for key in changed}
    change(gate, number, **changed)
    with gate.cycle() as ours:
        assert ours.listed() == []
    assert settle(gate, ours, "idle") == {}
    assert [one["repo"] for one in attempts.held(gate.config)] == [OTHER]  # which this cycle did not list
    change(gate, number, **was)
    with gate.cycle() as ours:
        assert ours.listed() == [number]


def test_a_pull_request_ends_the_count(gate: Door) -> None:
    number = gate.issue()
    tried(gate, number, 2)
    with gate.cycle(number) as ours:
        ours.commit()
        assert ours.push().returncode == 0 and ours.open().returncode == 0
    assert settle(gate, ours, "published") == {} == attempts.counts(gate.config)


def test_a_push_that_was_cut_off_counts_until_its_pull_request_is_opened(gate: Door) -> None:
    number = gate.issue()
    with gate.cycle(number) as ours:
        ours.commit()
        assert ours.push().returncode == 0
    assert settle(gate, ours, "interrupted")["n"] == 1
    with gate.cycle() as later:
        assert later.listed() == []
    assert settle(gate, later, "idle") == {} == attempts.counts(gate.config)


@pytest.mark.parametrize("outcome", ["idle", "locked", "over_budget", "refused", "refused_ci", "paused"])
def test_where_nothing_was_tried_nothing_counts(gate: Door, outcome: str) -> None:
    with gate.cycle(gate.issue()) as ours:
        pass
    assert settle(gate, ours, outcome) == {} == attempts.counts(gate.config)


def test_what_a_person_stopped_does_not_count(gate: Door) -> None:
    with gate.cycle(gate.issue()) as ours:
        pass
    tried = {"cycle": ours.name, "outcome": "interrupted", "cost_usd": 0.0}
    story = audit.story(audit.read(gate.config, ours.name))
    assert attempted.account(gate.config, story, tried, stopped=True) == {} == attempts.counts(gate.config)
    assert attempted.account(gate.config, story, tried) == {"n": 1, "max": 3, "held": False}


# --- told


def test_it_is_told_once_on_the_forge(gate: Door, capfd: pytest.CaptureFixture[str]) -> None:
    number = gate.issue()
    known = tried(gate, number)
    attempted.tell(gate.config)
    (text,) = comments(gate, number)
    assert known.why in text and known.marker in text and f"release_issue -l HOST -e issue={REPO}#{number}\n" in text
    assert f"that {REPO}#{number} is held is told there: http" in capfd.readouterr().out
    attempted.tell(gate.config)
    assert len(comments(gate, number)) == 1 and capfd.readouterr().out == ""
    assert [one["what"] for one in audit.read(gate.config, known.cycle)] == ["commenting", "comment"]
    with gate.cycle() as ours:  # a comment is no change of the issue
        assert ours.listed() == []


def test_whoever_was_killed_before_it_knew_does_not_tell_it_twice(gate: Door) -> None:
    number = gate.issue()
    known = tried(gate, number)
    attempted._commented(gate.config, known)  # and nobody noted it
    assert attempts.untold(gate.config) == [known]
    attempted.tell(gate.config)
    assert len(comments(gate, number)) == 1 and attempts.untold(gate.config) == []


def test_the_next_hold_is_told_again(gate: Door) -> None:
    number = gate.issue()
    tried(gate, number)
    attempted.tell(gate.config)
    attempts.clear(gate.config, {f"{REPO}#{number}": ""})
    tried(gate, number, 2)
    attempted.tell(gate.config)
    assert len(comments(gate, number)) == 1
    tried(gate, number, 1)
    attempted.tell(gate.config)
    assert len(set(comments(gate, number))) == 2


@pytest.mark.parametrize("status", [403, 404, 410, 422])
def test_without_the_right_it_is_said_once_and_held_all_the_same(
    gate: Door, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    number = gate.issue()
    known = tried(gate, number)
    gate.fault("down", f"/repos/{REPO}/issues/{number}/comments", methods=["POST"], status=status)
    attempted.tell(gate.config)
    told = capfd.readouterr().out
    assert "cannot be told on the forge, it is held all the same: POST " in told and f"HTTP {status}" in told
    attempted.tell(gate.config)
    assert capfd.readouterr().out == "" and comments(gate, number) == []
    assert f"HTTP {status}" in attempts.counts(gate.config)[known.issue].untold
    with gate.cycle() as ours:
        assert ours.listed() == []


def test_a_forge_that_is_down_is_told_later(gate: Door, capfd: pytest.CaptureFixture[str]) -> None:
    number = gate.issue()
    known = tried(gate, number)
    gate.fault("down", f"/repos/{REPO}/issues/{number}/comments", methods=["POST"], status=502)
    attempted.tell(gate.config)
    assert "could not be told on the forge, which is tried again after the next cycle" in capfd.readouterr().out
    assert attempts.untold(gate.config) == [known]
    with gate.forge.store.lock:
        gate.forge.store.state["faults"] = []
    attempted.tell(gate.config)
    assert len(comments(gate, number)) == 1


def test_an_issue_of_a_repository_that_is_none_of_ours_any_more_is_left_alone(gate: Door) -> None:
    for cycle in ("a", "b", "c"):
        known = attempts.count(gate.config, Attempt(cycle, "AS215932/elsewhere", 1, "error"))
    attempted.tell(gate.config)
    assert attempts.untold(gate.config) == [known]
    with pytest.raises(LoopError, match="AS215932/elsewhere is not one that the loop works on"):
        attempted._commented(gate.config, known)


def test_nobody_but_root_has_a_comment_written(gate: Door) -> None:
    number = gate.issue()
    with gate.cycle(number) as ours:
        for words in (["issue", "comment", str(number), "--body", "x"], ["issue", "edit", str(number)]):
            done = ours.gh(*words, "-R", REPO)
            assert done.returncode == 1 and "the gateway does not know this of gh" in done.stderr
        script = (
            "import json, os, socket; s = socket.socket(socket.AF_UNIX);"
            " s.connect(os.environ['ENGINEERING_LOOP_GATEWAY']);"
            " s.sendall(json.dumps({'what': 'comment', 'repo': 'AS215932/app', 'number': 1}).encode() + b'\\n');"
            " print(s.recv(999))"
        )
        done = ours.run("python3", "-c", script)
        assert "nothing that the gateway does" in done.stdout
    assert comments(gate, number) == []
    with pytest.raises(LoopError, match="nothing that root asks"):
        wire.ask(sessions.socket_of(gate.config), {"what": "else"}, "the gateway", 10)
