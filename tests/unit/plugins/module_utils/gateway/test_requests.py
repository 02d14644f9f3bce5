# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cycle may ask in the words of gh: the issues of its scope, the one it takes, one draft pull request."""

from __future__ import annotations

import fcntl
import json
import re
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import pristine
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import requests, sessions
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import GATE, NEEDS_ROOT, git
from gated import APPROVED, OTHER, REPO, Cycle, Door, Running, commit_files, door

pytestmark = NEEDS_ROOT
KEY = "-----BEGIN OPENSSH PRIVATE " + "KEY-----"


@pytest.fixture
def published(ours: Cycle) -> Cycle:
    """One that has pushed its work."""
    ours.commit()
    assert ours.push().returncode == 0
    return ours


# --- issues


def test_what_is_approved_is_offered_and_nothing_else(gate: Door) -> None:
    mine, plain, theirs = gate.issue(), gate.issue(labels=["bug"]), gate.issue(repo=OTHER)
    hidden = gate.issue(labels=[], repo=OTHER)
    with gate.cycle() as ours:
        words = ["issue", "list", "--repo", REPO, "--label", APPROVED, "--state", "open"]
        done = ours.gh(*words, "--json", "number,title,body,labels,url,updatedAt")
        (one,) = json.loads(done.stdout)
        assert (one["number"], one["title"], one["body"]) == (mine, "A page is missing", "Write it.")
        assert [label["name"] for label in one["labels"]] == [APPROVED]
        assert one["url"].endswith(f"/{REPO}/issues/{mine}") and one["updatedAt"].endswith("Z")
        assert ours.listed(OTHER) == [theirs]
        for number, repo in ((plain, REPO), (hidden, OTHER), (99_999, REPO)):
            done = ours.gh("issue", "view", str(number), "--repo", repo, "--json", "body")
            assert done.returncode == 1 and done.stderr == f"{repo}#{number} was not offered to this cycle\n"
        done = ours.gh("issue", "view", str(mine), "--repo", REPO, "--json", "body")
        assert json.loads(done.stdout) == {"body": "Write it."}
        assert [one["number"] for one in ours.entries("view")] == [mine]
        (told,) = ours.entries("list")[0]["offered"]
        assert (told["number"], told["title"], len(told["digest"])) == (mine, "A page is missing", 64)


def test_the_label_that_approves_is_the_inventorys(forge: Running) -> None:
    with door(forge, label="bug") as gate:
        gate.issue()
        mine = gate.issue(labels=["bug"])
        with gate.cycle() as ours:
            words = ["issue", "list", "--repo", REPO, "--json", "number", "--label"]
            assert [one["number"] for one in json.loads(ours.gh(*words, "bug").stdout)] == [mine]
            done = ours.gh(*words, APPROVED)
            assert done.returncode == 1 and "lists open issues with the label bug and no others" in done.stderr
        gate.close_all()


def test_the_list_is_as_long_as_it_is_asked_to_be_and_only_that_is_offered(gate: Door) -> None:
    first, second = gate.issue(), gate.issue()
    with gate.cycle() as ours:
        words = ["issue", "list", "-R", REPO, "-l", APPROVED, "--json", "number", "--limit", "1"]
        assert json.loads(ours.gh(*words).stdout) == [{"number": second}]
        assert ours.gh("issue", "view", str(first), "-R", REPO, "--json", "body").returncode == 1


def test_an_issue_with_an_open_pull_request_of_ours_is_held(gate: Door) -> None:
    number, other = gate.issue(), gate.issue()
    with gate.cycle(number) as first:
        first.commit()
        assert first.push().returncode == 0
        url = first.open().stdout.strip()
    with gate.cycle() as second:
        assert second.listed() == [other]
        assert second.entries("list")[0]["held"] == [{"number": number, "why": f"its pull request {url} is open"}]
        assert second.gh("issue", "view", str(number), "-R", REPO, "--json", "body").returncode == 1


def test_a_pair_that_is_half_made_is_finished(gate: Door) -> None:
    """The cycle was killed between its push and its pull request: the work was paid for."""
    number = gate.issue()
    with gate.cycle(number) as first:
        sha = first.commit()
        assert first.push().returncode == 0
    with gate.cycle() as second:
        assert second.listed() == []
        (pull,) = gate.pulls(first.branch)
        assert pull["pull"]["draft"] and pull["pull"]["base"] == "main" and pull["pull"]["head_sha"] == sha
        assert pull["title"] == "A page is missing" and first.name in pull["body"]
        assert f"Work on #{number}." in pull["body"]
        (told,) = second.entries("open")
        assert (
            told["finished"] == first.name
            and "was cut off before it could" in second.entries("list")[0]["held"][0]["why"]
        )
        assert second.listed() == [] and len(gate.pulls(first.branch)) == 1  # once


def test_a_pair_that_can_never_be_finished_holds_its_own_issue_alone(gate: Door) -> None:
    number = gate.issue()
    with gate.cycle(number) as first:  # killed between its push and its pull request
        commit = first.commit()
        assert first.push().returncode == 0
    before = git(gate.directory(), "rev-parse", "refs/heads/main").strip()
    git(gate.directory(), "update-ref", "refs/heads/main", commit)  # a person merges it by hand, no more
    try:
        other = gate.issue("Another")
        with gate.cycle() as later:
            assert later.listed() == [other]
            (held,) = [one["why"] for one in later.entries("list")[0]["held"] if one["number"] == number]
            assert f"the cycle {first.name} published its branch" in held and "delete the branch" in held
    finally:
        git(gate.directory(), "update-ref", "refs/heads/main", before)


def test_a_push_that_was_on_its_way_when_its_cycle_was_killed_is_finished_too(gate: Door) -> None:
    number = gate.issue()
    with gate.cycle(number) as first:
        first.commit()
        assert first.push().returncode == 0
        file = Path(gate.config["gate_dir"], "records", f"{first.name}.jsonl")
        lines = [line for line in file.read_text().splitlines() if '"what": "push"' not in line]
        file.write_text("\n".join(lines) + "\n")  # it never wrote that the forge took it
    with gate.cycle() as second:
        assert second.listed() == [] and len(gate.pulls(first.branch)) == 1


def test_a_branch_that_somebody_else_pushed_is_not_ours_to_finish(gate: Door) -> None:
    number = gate.issue()
    branch = f"hyrule-feature/ISSUE_APP_{number}/app"
    commit_files(gate.directory(), branch, {"docs/theirs.md": "x\n"}, "Theirs", 1767225600)
    with gate.cycle() as ours:
        assert ours.listed() == [number] and gate.pulls(branch) == []


@pytest.mark.parametrize("name", ["a\u2028b", "a\x85b", "b/c.d"])
def test_a_branch_of_any_name_holds_up_nobody(gate: Door, name: str) -> None:
    number = gate.issue()
    branch = f"hyrule-feature/ISSUE_APP_{number}/{name}"
    commit_files(gate.directory(), branch, {"docs/theirs.md": "x\n"}, "Theirs", 1767225600)
    with gate.cycle() as ours:
        assert ours.listed() == [number]
        app = next(one for one in pristine.clones(gate.config) if one.dest == "app")
        found = as_user(GATE, lambda: requests.branches_of(gate.config, app, REPO, number))
        assert [one[0] for one in found] == [branch]


def test_a_branch_whose_pull_request_was_closed_is_offered_again(gate: Door) -> None:
    number = gate.issue()
    with gate.cycle(number) as first:
        first.commit()
        assert first.push().returncode == 0 and first.open().returncode == 0
    gate.pulls(first.branch)[0]["state"] = "closed"
    with gate.cycle() as second:
        assert second.listed() == [number] and len(gate.pulls(first.branch)) == 1


def test_an_issue_that_was_offered_and_is_gone(gate: Door) -> None:
    number = gate.issue()
    with gate.cycle() as ours:
        ours.listed()
        gate.fault("down", f"/issues/{number}$", status=404)
        done = ours.gh("issue", "view", str(number), "-R", REPO, "--json", "body")
        assert done.returncode == 1 and done.stderr.startswith("GraphQL: Could not resolve to an issue or pull request")
        assert ours.entries("view") == []


def test_a_person_may_look_at_what_they_like(gate: Door) -> None:
    number = gate.issue(labels=[])
    with gate.cycle(bound=False) as person:
        assert person.gh("issue", "view", str(number), "-R", REPO, "--json", "title").returncode == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["issue", "list", "--repo", "AS215932/elsewhere", "--label", APPROVED, "--json", "number"],
         "AS215932/elsewhere is not one that the loop works on, allowed: AS215932/app, AS215932/other"),
        (["issue", "list", "--label", APPROVED, "--json", "number"], "no --repo is not one that the loop works on"),
        (["issue", "list", "--repo", REPO, "--json", "number"], "lists open issues with the label loop:approved"),
        (["issue", "list", "--repo", REPO, "--label", APPROVED, "--state", "all", "--json", "number"], "lists open"),
        (["issue", "list", "--repo", REPO, "--label", f"{APPROVED},bug", "--json", "number"], "lists open"),
        (["issue", "list", "--repo", REPO, "--label", APPROVED, "--json", "number,secret"],
         'Unknown JSON field: "secret"'),
        (["issue", "list", "--repo", REPO, "--label", APPROVED, "--json", "number,comments"], "lists no comments"),
        (["issue", "list", "--repo", REPO, "--label", APPROVED], "does not know this of gh: "),
        (["issue", "view", "x", "--repo", REPO, "--json", "body"], "x is not the number of an issue"),
        (["issue", "view", "9" * 40, "--repo", REPO, "--json", "body"], "is not the number of an issue"),
        (["issue", "close", "1", "--repo", REPO], "does not know this of gh: "),
        (["issue", "comment", "1", "--repo", REPO, "--body", "x"], "does not know this of gh: "),
        (["pr", "merge", "1"], "does not know this of gh: "),
        (["api", "/user"], "does not know this of gh: "),
        (["auth", "token"], "does not know this of gh: "),
        (["--help"], "does not know this of gh: "),
        ([], "does not know this of gh: "),
        (["issue", "list", "--rep", REPO, "--label", APPROVED, "--json", "number"], "does not know this of gh: "),
        (["\x1b[2J", "\n"], "does not know this of gh: "),
    ],
)  # fmt: skip
def test_what_is_not_on_the_list_does_not_exist(gate: Door, words: list[str], reason: str) -> None:
    gate.issue()
    asked = len(gate.requests())
    with gate.cycle() as ours:
        done = ours.gh(*words)
        assert done.returncode == 1 and done.stdout == "" and reason in done.stderr
        (told,) = ours.entries("refused")
        assert "\x1b" not in json.dumps(told) and told["why"]
    assert all(one["method"] == "GET" or "git-upload-pack" in one["path"] for one in gate.requests()[asked:])


# --- the pull request


def test_the_pull_request(published: Cycle) -> None:
    done = published.open(title="Docs: a page", body="What\n\nand why.")
    assert done.returncode == 0, done.stderr
    (pull,) = published.door.pulls(published.branch)
    assert done.stdout.strip().endswith(f"/{REPO}/pull/{pull['number']}")
    assert (pull["title"], pull["body"], pull["pull"]["draft"]) == ("Docs: a page", "What\n\nand why.", True)
    assert pull["pull"]["base"] == "main" and pull["user"] == "hyrule-loop[bot]"
    (told,) = published.entries("open")
    assert told["url"] == done.stdout.strip() and "finished" not in told
    again = published.open()
    assert again.returncode == 1
    assert again.stderr == f"this cycle has opened its pull request already: {told['url']}\n"
    assert len(published.door.pulls(published.branch)) == 1


def test_labels_and_reviewers_are_a_persons_to_say(published: Cycle) -> None:
    words = ("--draft", "--label", "loop:candidate", "--reviewer", "AS215932")
    done = published.open(*words)
    assert done.returncode == 1 and "has no label and no reviewer" in done.stderr
    with published.door.cycle(bound=False) as person:
        person.number = published.door.issue()
        person.commit()
        assert person.push().returncode == 0
        done = person.open(*words)
        assert done.returncode == 0, done.stderr
        (pull,) = person.door.pulls(person.branch)
    assert pull["labels"] == ["loop:candidate"] and pull["pull"]["reviewers"] == ["AS215932"]


def test_whose_cycle_ended_while_it_waited_opens_nothing(published: Cycle) -> None:
    """The request waits for its turn, which a push has; meanwhile root closes the session."""
    config, waiting = published.door.config, []
    with open(f"{config['gate_dir']}/.turn", "rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: waiting.append(published.open("--draft")))
        thread.start()
        time.sleep(1)
        sessions.close_session(config, published.unit)
    thread.join(60)
    assert waiting[0].returncode == 1 and "no cycle is running" in waiting[0].stderr
    assert published.door.pulls(published.branch) == []


def test_a_body_in_a_file(published: Cycle) -> None:
    file = published.workspace / "body.md"
    file.write_text("From a file.\n")
    asked = ["pr", "create", "--repo", REPO, "--draft", "--title", "Docs", "--head", published.branch]
    assert published.gh(*asked, "--body-file", f"{published.workspace}/none").returncode == 1
    done = published.gh(*asked, "--body-file", str(file))
    assert done.returncode == 0, done.stderr
    assert published.door.pulls(published.branch)[0]["body"] == "From a file.\n"


def test_a_body_on_stdin(published: Cycle) -> None:
    asked = ["pr", "create", "-R", REPO, "-d", "-t", "Docs", "-H", published.branch, "-B", "main", "-F", "-"]
    assert published.gh(*asked, stdin="Said.\n").returncode == 0
    assert published.door.pulls(published.branch)[0]["body"] == "Said.\n"


@pytest.mark.parametrize("left_out", ["--title", "--body", "--head"])
def test_what_gh_would_ask_a_person_for_is_said_at_once(published: Cycle, left_out: str) -> None:
    given = {"--title": "Docs", "--body": "Why.", "--head": published.branch}
    del given[left_out]
    done = published.gh("pr", "create", "--draft", "--repo", REPO, *sum(given.items(), ()))
    assert done.returncode == 1
    assert re.search(rf"does not know this of gh: .* are required: -\w/{left_out}\n", done.stderr), done.stderr
    assert published.door.pulls(published.branch) == []


@pytest.mark.parametrize(
    ("more", "title", "body", "reason"),
    [
        ((), "Docs", "Why.", "the gateway opens drafts only: --draft is missing"),
        (
            ("--draft", "--base", "production"),
            "Docs",
            "Why.",
            "the work starts from main, so its pull request goes there",
        ),
        (("--draft", "--head", "main"), "Docs", "Why.", "main was not published by this cycle"),
        (("--draft", "--head", "someone:branch"), "Docs", "Why.", "was not published by this cycle"),
        (("--draft", "--repo", OTHER), "Docs", "Why.", f"was published to {REPO}, not to {OTHER}"),
        (("--draft",), f"Docs {KEY}", "Why.", "the pull request: adds text denied"),
        (("--draft",), "Docs", f"x\n{KEY}\n", "the pull request: adds text denied"),
        (("--draft",), "Docs\x1b[2J", "Why.", "its title has control characters"),
        (("--draft",), "Docs\nmore", "Why.", "its title has control characters"),
        (("--draft",), "x" * 257, "Why.", "title or body is longer than 256 or 65536 characters"),
        (("--draft",), "Docs", "x" * 65_537, "title or body is longer than"),
        (("--draft", "--web"), "Docs", "Why.", "does not know this of gh: "),
    ],
)
def test_a_pull_request_that_is_refused(
    published: Cycle, more: tuple[str, ...], title: str, body: str, reason: str
) -> None:
    words = {"--head": published.branch, "--repo": REPO, "--base": "main"}
    flags = list(more)
    for key in list(words):
        if key in flags:
            words[key] = flags[flags.index(key) + 1]
            del flags[flags.index(key) : flags.index(key) + 2]
    done = published.gh("pr", "create", "--title", title, "--body", body, *flags, *sum(words.items(), ()))
    assert done.returncode == 1 and reason in done.stderr, done.stderr
    assert published.door.pulls(published.branch) == [] and published.entries("open") == []


def test_before_a_push_there_is_nothing_to_open(ours: Cycle) -> None:
    done = ours.open()
    assert done.returncode == 1 and "was not published by this cycle, so there is nothing to open" in done.stderr


def test_an_answer_that_was_lost(published: Cycle) -> None:
    """The forge has opened it, and nobody heard: asked again, it says that there is one, and that one is ours."""
    store = published.door.forge.store
    with store.lock:
        tip = published.door.branches()[published.branch]
        pull = {
            "head": published.branch,
            "head_sha": tip,
            "base": "main",
            "base_sha": tip,
            "draft": True,
            "reviewers": [],
        }
        there = store.add_issue(REPO, "hyrule-loop[bot]", title="Docs", body="Why.", pull=pull)
        store.save()
    done = published.open()
    assert done.returncode == 0 and done.stdout.endswith(f"/pull/{there['number']}\n"), done.stderr
    assert len(published.door.pulls(published.branch)) == 1


def test_the_forge_does_not_open_it(published: Cycle) -> None:
    published.door.fault("down", "/pulls$", status=500, methods=["POST"])
    done = published.open()
    assert done.returncode == 1 and done.stderr.startswith("pull request create failed: POST ") and "500" in done.stderr
    published.door.forge.store.state["faults"] = []
    assert published.open().returncode == 0


def test_who_asks_without_end_is_answered_no_more(ours: Cycle) -> None:
    file = Path(ours.door.config["gate_dir"], "records", f"{ours.name}.jsonl")
    text = file.read_text()
    file.write_text(text + '{"what": "view"}\n' * 5001)
    done = ours.gh("issue", "view", str(ours.number), "-R", REPO, "--json", "body")
    assert done.returncode == 1 and "this cycle has asked for too much: it is answered no more" in done.stderr
    file.write_text(text)
