# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Base, overlay and the deployment's facts: what is admitted, what widens, and what is written."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
import yaml
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.compose import (
    compare,
    compose,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.rules import (
    admits_handoff,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.schema import (
    ENTRY,
    digest,
    load,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import BASE, RUNS, SCHEMA, with_default


def test_repo_policy_allowlists_production_handoff_dir() -> None:
    """The engine's own regression, by its name there: a policy that knew only /tmp, on a host that writes elsewhere."""
    handoff = f"{RUNS}/issue_x/handoff"
    tmp_only = with_default("allowed_handoff_dirs", ["/tmp"])
    assert not admits_handoff(tmp_only, handoff)
    policy = compose(tmp_only, {}, [RUNS]).policy
    assert admits_handoff(policy, handoff)
    assert not admits_handoff(policy, "/var/lib/engineering-loop/secrets")


def test_the_literal_that_mended_it_does_not_know_a_moved_runs_directory() -> None:
    """What the engine's fix left: the list is still a literal, so a moved runs directory is the same dead end."""
    handoff = "/srv/loop/runs/issue_x/handoff"
    assert admits_handoff(BASE, f"{RUNS}/issue_x/handoff")
    assert not admits_handoff(BASE, handoff)
    assert admits_handoff(compose(BASE, {}, ["/srv/loop/runs"]).policy, handoff)


def test_a_moved_runs_directory_is_admitted_and_the_old_one_is_not() -> None:
    composed = compose(BASE, {}, ["/srv/loop/runs/"])
    assert composed.policy["defaults"]["allowed_handoff_dirs"] == ["/srv/loop/runs"]
    assert composed.admitted == ["/srv/loop/runs"]
    assert composed.widened == []
    assert "defaults.allowed_handoff_dirs" in composed.tightened
    assert not admits_handoff(composed.policy, f"{RUNS}/x")
    assert not admits_handoff(composed.policy, "/tmp/x")


def test_without_facts_the_base_is_kept() -> None:
    assert compose(BASE, {}).policy["defaults"] == BASE["defaults"]


def test_a_handoff_directory_of_the_inventory_is_a_widening() -> None:
    overlay = {"defaults": {"allowed_handoff_dirs": ["/srv/else"]}}
    with pytest.raises(LoopError, match=r"defaults\.allowed_handoff_dirs \('/srv/else'\)"):
        compose(BASE, overlay, [RUNS])
    composed = compose(BASE, overlay, [RUNS], ["allowed_handoff_dirs"])
    assert composed.policy["defaults"]["allowed_handoff_dirs"] == [RUNS, "/srv/else"]
    assert composed.widened == ["defaults.allowed_handoff_dirs"]
    assert composed.admitted == []


def test_a_fact_cannot_be_removed() -> None:
    with pytest.raises(LoopError, match="allowed_handoff_dirs"):
        compose(BASE, {"defaults": {"allowed_handoff_dirs": {"remove": [RUNS]}}}, [RUNS])


@pytest.mark.parametrize("directory", ["runs", "/", "//", "/.", "/srv/../etc", "", "~/runs", "/a\0b", 7])
def test_handoff_dirs_are_absolute_and_not_the_root(directory: Any) -> None:
    with pytest.raises(LoopError, match="engineering_loop_runs_dir"):
        compose(BASE, {}, [directory])


@pytest.mark.parametrize(
    ("overlay", "key"),
    [
        ({"defaults": {"max_changed_files": 21}}, "defaults.max_changed_files"),
        ({"defaults": {"max_file_bytes": 1048577}}, "defaults.max_file_bytes"),
        ({"defaults": {"denied_path_globs": [".env"]}}, "defaults.denied_path_globs"),
        (
            {"defaults": {"denied_content_patterns": {"remove": ["AKIA[0-9A-Z]{16}"]}}},
            "defaults.denied_content_patterns",
        ),
        ({"defaults": {"allowed_gate_commands": {"add": ["bash"]}}}, "defaults.allowed_gate_commands"),
        ({"defaults": {"protected_branch_prefixes": ["main"]}}, "defaults.protected_branch_prefixes"),
        ({"defaults": {"allowed_pr_remotes": ["origin", "fork"]}}, "defaults.allowed_pr_remotes"),
        ({"repos": {"app": {"denied_path_globs": ["*.tmp"]}}}, "repos.app.denied_path_globs"),
        ({"repos": {"app": {"max_file_bytes": 9999999}}}, "repos.app.max_file_bytes"),
        ({"guards": {"defaults": {"binaries": False}}}, "guards.defaults.binaries"),
        ({"guards": {"repos": {"app": {"ci": ["x"]}}}}, "guards.repos.app.ci"),
        ({"guards": {"defaults": {"max_patch_bytes": 2**24}}}, "guards.defaults.max_patch_bytes"),
    ],
)
def test_what_widens_must_be_named(overlay: dict[str, Any], key: str) -> None:
    with pytest.raises(LoopError, match=rf"would let more pass than its base: {key} "):
        compose(BASE, overlay, [RUNS])
    for name in (key, key.rpartition(".")[2]):
        assert compose(BASE, overlay, [RUNS], [name]).widened == [key]
    other = "max_file_bytes" if "max_file_bytes" not in key else "symlinks"
    with pytest.raises(LoopError, match="would let more pass"):
        compose(BASE, overlay, [RUNS], [other])


@pytest.mark.parametrize(
    ("overlay", "key"),
    [
        ({"defaults": {"max_changed_files": 3}}, "defaults.max_changed_files"),
        ({"defaults": {"denied_path_globs": {"add": ["*.db"]}}}, "defaults.denied_path_globs"),
        ({"defaults": {"allowed_pr_remotes": []}}, "defaults.allowed_pr_remotes"),
        ({"defaults": {"allowed_gate_commands": ["git"]}}, "defaults.allowed_gate_commands"),
        ({"repos": {"app": {"allowed_repo_roots": ["/srv/app"]}}}, "repos.app.allowed_repo_roots"),
        ({"repos": {"app": {"denied_path_globs": {"add": ["*.db"]}}}}, "repos.app.denied_path_globs"),
    ],
)
def test_what_tightens_is_only_told(overlay: dict[str, Any], key: str) -> None:
    composed = compose(BASE, overlay)
    assert (composed.widened, composed.tightened) == ([], [key])


def test_an_unknown_name_in_widen_is_refused() -> None:
    with pytest.raises(LoopError, match=r"widen: found 'max_files'"):
        compose(BASE, {}, [], ["max_files"])


def test_a_repo_starts_from_the_composed_defaults() -> None:
    overlay = {
        "defaults": {"denied_path_globs": {"add": ["*.db"]}},
        "repos": {"app": {"denied_path_globs": {"add": ["*.tmp"]}}},
    }
    globs = compose(BASE, overlay).policy["repos"]["app"]["denied_path_globs"]
    assert globs == [".env", "*.key", "secrets/**", "*.db", "*.tmp"]


def test_what_the_base_lacks_is_everything_and_must_be_said() -> None:
    base = copy.deepcopy(BASE)
    del base["defaults"]["allowed_gate_commands"]
    with pytest.raises(LoopError, match=r"defaults\.allowed_gate_commands: found nothing"):
        compose(base, {}, [RUNS])
    composed = compose(base, {"defaults": {"allowed_gate_commands": ["git"]}}, [RUNS])
    assert "defaults.allowed_gate_commands" in composed.tightened


@pytest.mark.parametrize(
    "overlay",
    [
        {"default": {}},
        {"defaults": {"max_files": 1}},
        {"defaults": {"denied_path_globs": {"plus": ["x"]}}},
        {"defaults": {"denied_path_globs": {"add": "x"}}},
        {"defaults": {"max_changed_files": {"add": [1]}}},
        {"defaults": None},
        {"repos": []},
        {"repos": {"app": []}},
        {"guards": {"app": {}}},
        {"version": 2},
        {"defaults": {"denied_path_globs": {"remove": [".env", "*.key", "secrets/**"]}}},
        {1: {}},
    ],
)
def test_an_overlay_that_is_not_one(overlay: Any) -> None:
    with pytest.raises(LoopError, match="overlay: "):
        compose(BASE, overlay)


def policies() -> st.SearchStrategy[dict[str, Any]]:
    word = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)

    def entries(accept: Any, element: st.SearchStrategy[str] = word) -> st.SearchStrategy[list[str]]:
        return st.lists(element.filter(lambda entry: accept(entry) == ""), min_size=1, max_size=3)

    number = st.integers(1, 100_000)
    globs = entries(ENTRY["globs"])
    directories = entries(ENTRY["directories"], word.map(lambda name: f"/{name}"))
    defaults = st.fixed_dictionaries(
        {
            "max_changed_files": number,
            "max_file_bytes": number,
            "denied_path_globs": globs,
            "denied_content_patterns": entries(ENTRY["patterns"]),
            "allowed_gate_commands": entries(ENTRY["commands"]),
            "protected_branch_prefixes": entries(ENTRY["branches"]),
            "allowed_handoff_dirs": directories,
        },
        optional={"allowed_pr_remotes": entries(ENTRY["remotes"])},
    )
    repo = st.fixed_dictionaries({}, optional={"denied_path_globs": globs, "allowed_repo_roots": directories})
    guard = st.fixed_dictionaries({}, optional={"binaries": st.one_of(st.booleans(), globs), "max_patch_bytes": number})
    names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True)
    guards = st.fixed_dictionaries({}, optional={"defaults": guard, "repos": st.dictionaries(names, guard, max_size=2)})
    return st.fixed_dictionaries(
        {"version": st.just(1), "defaults": defaults},
        optional={"repos": st.dictionaries(names, repo, max_size=2), "guards": guards},
    )


@given(policies())
@settings(max_examples=50)
def test_composing_with_nothing_is_the_base_and_reads_back(policy: dict[str, Any]) -> None:
    composed = compose(policy, {})
    assert (composed.widened, composed.tightened) == ([], [])
    assert digest(composed.policy) == digest(policy)
    assert load(composed.text.encode(), "rendered") == composed.policy
    assert yaml.safe_load(composed.text) == composed.policy, "the engine's loader reads the same"
    jsonschema.validate(composed.policy, SCHEMA)


@given(policies(), policies())
@settings(max_examples=100)
def test_more_permissive_one_way_is_stricter_the_other(one: dict[str, Any], other: dict[str, Any]) -> None:
    there = {item.key: item for item in compare(one, other)}
    back = {item.key: item for item in compare(other, one)}
    assert there.keys() == back.keys()
    for key, item in there.items():
        assert (item.widened, item.tightened) == (back[key].tightened, back[key].widened)


def test_each_entry_says_where_it_comes_from() -> None:
    overlay = {
        "defaults": {"max_changed_files": 40, "denied_path_globs": {"add": ["*.db"]}},
        "guards": {"repos": {"app": {"binaries": ["docs/*.png"]}}},
    }
    lines = compose(BASE, overlay, [RUNS], ["max_changed_files", "binaries"]).text.splitlines()
    assert "  max_changed_files: 40  # inventory, wider than the base's" in lines
    assert '    - "*.db"  # inventory' in lines
    assert '    - ".env"  # base' in lines
    assert f'    - "{RUNS}"  # deployment' in lines
    assert "    ci: true  # collection" in lines
    assert '        - "docs/*.png"  # inventory' in lines
    assert "  denied_path_globs:" in lines
    assert "      binaries:  # wider than the collection's" in lines
