# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A push of the cycle: real git, a real gateway and a real forge; which refs pass, and what the forge says."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import audit, receive
from celled import NEEDS_ROOT, box, git
from gated import OTHER, REPO, Cycle, Door, Running, commit_files, door, emptied, gateway_of

pytestmark = NEEDS_ROOT
NOTHING = "0" * 40


# --- what is let through


def test_good_work_passes_and_is_told(ours: Cycle) -> None:
    sha = ours.commit()
    done = ours.push()
    assert done.returncode == 0, done.stderr
    assert ours.door.branches()[ours.branch] == sha
    (told,) = ours.entries("push")
    assert told["allowed"] and told["new"] == sha and told["old"] == "" and told["seconds"] < 30
    assert (told["repo"], told["branch"], told["reason"]) == (REPO, ours.branch, "")
    assert ours.entries("forward")[0]["new"] == sha  # before it was sent
    assert git(ours.checkout, "rev-parse", f"refs/remotes/origin/{ours.branch}") == sha
    more = ours.commit("docs/c.md")
    assert ours.push().returncode == 0
    assert ours.door.branches()[ours.branch] == more and ours.entries("push")[-1]["old"] == sha
    assert emptied(ours)


def test_what_was_merged_meanwhile_is_not_ours(ours: Cycle) -> None:
    ours.commit()
    store = ours.door.forge.store
    commit_files(store.directory(REPO), "main", {"src/theirs.py": "x\n"}, "Merged", int(time.time()))
    fetched = ours.git("fetch", "origin", "main")
    assert fetched == "" and ours.git("cat-file", "-t", "FETCH_HEAD:src/theirs.py") == "blob"
    ours.git("merge", "-q", "--no-edit", "FETCH_HEAD")
    done = ours.push()
    assert done.returncode == 0, done.stderr


def test_a_repository_with_sha256(forge: Running) -> None:
    """Another hash than most: received, judged and forwarded all the same."""
    forge.store.add_repo("AS215932/long")
    at_forge = forge.store.directory("AS215932/long")
    with box() as host:
        host.deploy()
        bare = host.repository("app", sha="sha256")
        shutil.rmtree(at_forge)
        shutil.copytree(bare, at_forge)
        git(at_forge, "config", "http.receivepack", "true")
        host.config.update(
            unit=f"{host.config['unit']}-sha256", api_url=forge.api_url, git_url=forge.url,
            workspace_repositories=[{"repo": "AS215932/long", "dest": "app", "version": "main"}],
        )  # fmt: skip
        (host.top / "etc/env").write_text(f"GH_TOKEN={forge.token}\n")
        with gateway_of(host) as pid, Door(host, forge, pid).cycle(bound=False) as ours:
            new = ours.commit()
            assert len(new) == 64 and ours.push().returncode == 0
            ours.commit("src/x.py")
            assert "src/x.py: outside of what may be changed" in ours.push().stderr.replace("\nremote: ", "")
            assert git(at_forge, "rev-parse", ours.branch) == new


# --- which ref


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("HEAD:refs/heads/main", "main is not the loop's own, allowed: below hyrule-feature, hyrule-loop"),
        ("HEAD:refs/heads/hyrule-feature", "hyrule-feature is not the loop's own"),
        ("HEAD:refs/heads/hyrule-features/x", "hyrule-features/x is not the loop's own"),
        ("HEAD:refs/heads/hyrule-feature/ISSUE_APP_99999/app", "is not of the issue that this cycle took, allowed: "),
        ("HEAD:refs/heads/hyrule-feature/x", "is not of the issue that this cycle took"),
        ("HEAD:refs/tags/v1", "refs/tags/v1 is no branch"),
        ("HEAD:refs/pull/1/head", "refs/pull/1/head is no branch"),
        ("HEAD:refs/replace/1", "refs/replace/1 is no branch"),
        (":refs/heads/main", "refs/heads/main would be deleted"),
    ],
)
def test_only_a_branch_of_its_own_issue(ours: Cycle, ref: str, reason: str) -> None:
    ours.commit()
    assert reason in ours.refused(ref)


def test_one_ref_at_a_time(ours: Cycle) -> None:
    ours.commit()
    told = ours.refused("HEAD", f"HEAD:{ours.branch}", "HEAD:refs/tags/v1")
    assert "one branch is published at a time, not 3 refs" in told


def test_a_branch_of_each_prefix_is_an_issues_own_and_there_is_one(ours: Cycle) -> None:
    ours.commit()
    assert ours.push(f"HEAD:refs/heads/hyrule-loop/ISSUE_APP_{ours.number}/app").returncode == 0
    reason = ours.refused()
    assert f"has published hyrule-loop/ISSUE_APP_{ours.number}/app already, and publishes one branch" in reason


def test_without_an_issue_there_is_nothing_to_publish(gate: Door) -> None:
    with gate.cycle() as idle:
        idle.number = gate.issue()
        idle.listed()  # it was offered, and not taken
        idle.commit()
        assert "this cycle has taken no issue, so it has nothing to publish" in idle.refused()


def test_a_person_in_a_kept_cell_is_bound_to_no_issue(gate: Door) -> None:
    with gate.cycle(bound=False) as person:
        person.number = gate.issue()
        person.commit()
        assert person.push().returncode == 0
        assert person.open().returncode == 0


def test_another_repository_of_the_workspace_takes_no_branch_of_this_one(ours: Cycle) -> None:
    before = ours.door.branches(OTHER)
    done = ours.run(
        "git", "push", "origin", f"HEAD:refs/heads/hyrule-feature/x/{ours.number}", where=f"{ours.workspace}/other"
    )
    assert done.returncode and ours.door.branches(OTHER) == before


def test_what_this_cycle_published_stays(ours: Cycle) -> None:
    ours.commit()
    assert ours.push().returncode == 0
    ours.git("commit", "-q", "--amend", "-m", "Other")
    assert "which this cycle published and which would be lost" in ours.refused()


def test_the_issue_that_it_took_stands_while_its_work_is_judged(
    forge: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one issue's branch would be published, and the record say that the cycle had worked on another."""
    judge = receive.judge

    def slowly(config: dict[str, Any], *more: Any) -> Any:
        view = {"what": "view", "repo": REPO, "number": other, "body": True}
        audit.append(config, audit.cycles(config)[-1], view)
        return judge(config, *more)

    with monkeypatch.context() as patched:
        patched.setattr(receive, "judge", slowly)
        other = 4711
        with door(forge) as gate, gate.cycle(gate.issue()) as ours:
            ours.commit()
            assert "is not of the issue that this cycle took, allowed: " in ours.refused()
            gate.close_all()


# --- the forge


def test_the_forge_refuses_in_its_own_words(ours: Cycle) -> None:
    ours.commit()
    store = ours.door.forge.store
    with store.lock:
        store.state["repos"][REPO]["protected"].append(ours.branch)
        store.save()
    reason = ours.refused()
    assert "the forge refuses it: " in reason and "GH006: Protected branch update failed" in reason


def test_the_forge_moved_meanwhile(ours: Cycle) -> None:
    """Somebody pushed to the branch after we had looked: their work is not lost."""
    new = ours.commit()
    there = commit_files(ours.door.directory(), ours.branch, {"docs/theirs.md": "x\n"}, "Theirs", int(time.time()))
    assert "the forge refuses it: " in ours.refused() and new != there
    assert ours.door.branches()[ours.branch] == there


def test_a_forge_of_another_kind(forge: Running) -> None:
    """Said before anything is received, in words that git shows."""
    with box() as host:
        host.deploy()
        bare = host.repository("app")
        (host.top / "etc/env").write_text(f"GH_TOKEN={forge.token}\n")
        host.config["unit"] += "-file"
        with gateway_of(host) as pid, Door(host, forge, pid).cycle(bound=False) as ours:
            ours.commit()
            told = ours.run("git", "push", f"git://gateway/{bare.name}", "HEAD:refs/heads/hyrule-feature/x").stderr
            assert "is no https address, and the gateway publishes to no other" in told
            assert git(bare, "for-each-ref", "refs/heads/hyrule-feature") == ""


def test_a_disk_that_is_nearly_full(forge: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "MAX_INPUT", 1 << 60)
    with door(forge) as gate, gate.cycle(gate.issue()) as ours:
        ours.commit()
        done = ours.push()
        assert done.returncode and f"less than {1 << 41} MiB are free in {gate.config.gate_dir}" in done.stderr
        assert "nothing is received" in done.stderr and not ours.entries("receive")
        gate.close_all()


def test_the_forge_is_down(ours: Cycle) -> None:
    ours.commit()
    ours.door.fault("down", r"\.git/")
    reason = ours.refused()
    assert "the forge refuses it: fatal: " in reason and "503" in reason
    ours.door.forge.store.state["faults"] = []
    assert ours.push().returncode == 0


def test_a_token_that_the_forge_does_not_take(ours: Cycle) -> None:
    ours.commit()
    with ours.door.forge.store.lock:
        ours.door.forge.store.limit_tokens("hyrule-loop[bot]", 0)
    reason = ours.refused()
    assert "the forge refuses it: " in reason and ours.door.forge.token not in reason


def test_a_branch_with_an_open_pull_request_is_left_alone(ours: Cycle) -> None:
    ours.commit()
    assert ours.push().returncode == 0 and ours.open().returncode == 0
    with ours.door.cycle(bound=False) as other:
        other.number = ours.number
        other.commit("docs/c.md")
        assert "has the open pull request " in other.refused()


def test_the_token_is_in_no_answer_and_in_no_record(ours: Cycle) -> None:
    ours.commit()
    told = ours.push()
    assert ours.door.forge.token not in told.stderr + told.stdout + json.dumps(ours.entries())
