# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate policy: what is read, refused, composed, called wider, and written."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import document, patterns
from hypothesis import given, settings
from hypothesis import strategies as st

BASE: dict[str, Any] = {
    "version": 1,
    "defaults": {
        "max_changed_files": 20,
        "max_file_bytes": 1048576,
        "denied_path_globs": [".env", "*.key", "secrets/**"],
        "denied_content_patterns": ["-----BEGIN .*PRIVATE KEY-----", "AKIA[0-9A-Z]{16}"],
        "allowed_gate_commands": ["python3", "git"],
        "protected_branch_prefixes": ["main", "prod"],
        "allowed_pr_remotes": ["origin"],
        "allowed_handoff_dirs": ["/tmp", "/var/lib/engineering-loop/runs"],
    },
    "repos": {},
}
RUNS = "/var/lib/engineering-loop/runs"
SCHEMA = json.loads((Path(__file__).resolve().parents[5] / "docs/gate-policy.schema.json").read_text())


def with_default(key: str, value: Any) -> dict[str, Any]:
    policy = copy.deepcopy(BASE)
    policy["defaults"][key] = value
    return policy


def text(policy: dict[str, Any]) -> bytes:
    return yaml.safe_dump(policy).encode()


# --- the handoff that dead-ended every run


def test_repo_policy_allowlists_production_handoff_dir() -> None:
    """The engine's own regression, by its name there: a policy that knew only /tmp, on a host that writes elsewhere."""
    handoff = f"{RUNS}/issue_x/handoff"
    tmp_only = with_default("allowed_handoff_dirs", ["/tmp"])
    assert not document.admits_handoff(tmp_only, handoff)
    policy = document.compose(tmp_only, {}, [RUNS]).policy
    assert document.admits_handoff(policy, handoff)
    assert not document.admits_handoff(policy, "/var/lib/engineering-loop/secrets")


def test_the_literal_that_mended_it_does_not_know_a_moved_runs_directory() -> None:
    """What the engine's fix left: the list is still a literal, so a moved runs directory is the same dead end."""
    handoff = "/srv/loop/runs/issue_x/handoff"
    assert document.admits_handoff(BASE, f"{RUNS}/issue_x/handoff")
    assert not document.admits_handoff(BASE, handoff)
    assert document.admits_handoff(document.compose(BASE, {}, ["/srv/loop/runs"]).policy, handoff)


def test_a_moved_runs_directory_is_admitted_and_the_old_one_is_not() -> None:
    composed = document.compose(BASE, {}, ["/srv/loop/runs/"])
    assert composed.policy["defaults"]["allowed_handoff_dirs"] == ["/srv/loop/runs"]
    assert composed.admitted == ["/srv/loop/runs"]
    assert composed.widened == []
    assert "defaults.allowed_handoff_dirs" in composed.tightened
    assert not document.admits_handoff(composed.policy, f"{RUNS}/x")
    assert not document.admits_handoff(composed.policy, "/tmp/x")


def test_without_facts_the_base_is_kept() -> None:
    assert document.compose(BASE, {}).policy["defaults"] == BASE["defaults"]


def test_a_handoff_directory_of_the_inventory_is_a_widening() -> None:
    overlay = {"defaults": {"allowed_handoff_dirs": ["/srv/else"]}}
    with pytest.raises(LoopError, match=r"defaults\.allowed_handoff_dirs \('/srv/else'\)"):
        document.compose(BASE, overlay, [RUNS])
    composed = document.compose(BASE, overlay, [RUNS], ["allowed_handoff_dirs"])
    assert composed.policy["defaults"]["allowed_handoff_dirs"] == [RUNS, "/srv/else"]
    assert composed.widened == ["defaults.allowed_handoff_dirs"]
    assert composed.admitted == []


def test_a_fact_cannot_be_removed() -> None:
    with pytest.raises(LoopError, match="allowed_handoff_dirs"):
        document.compose(BASE, {"defaults": {"allowed_handoff_dirs": {"remove": [RUNS]}}}, [RUNS])


@pytest.mark.parametrize("directory", ["runs", "/", "//", "/.", "/srv/../etc", "", "~/runs", "/a\0b", 7])
def test_handoff_dirs_are_absolute_and_not_the_root(directory: Any) -> None:
    with pytest.raises(LoopError, match="engineering_loop_runs_dir"):
        document.compose(BASE, {}, [directory])


def test_admission_resolves_both_sides(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "runs/link").symlink_to(tmp_path / "outside")
    (tmp_path / "alias").symlink_to(tmp_path / "runs")
    (tmp_path / "root").symlink_to("/")
    policy = with_default("allowed_handoff_dirs", [str(tmp_path / "alias"), str(tmp_path / "root")])
    assert document.admits_handoff(policy, f"{tmp_path}/runs/new/handoff")
    assert document.admits_handoff(policy, f"{tmp_path}/alias")
    assert not document.admits_handoff(policy, f"{tmp_path}/runs/link/handoff")
    assert not document.admits_handoff(policy, f"{tmp_path}/runs/../outside")
    assert not document.admits_handoff(policy, f"{tmp_path}/runs-2")
    assert not document.admits_handoff(policy, "/etc"), "an allowed link to / does not admit everything"


def test_a_relative_handoff_is_never_admitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    policy = with_default("allowed_handoff_dirs", [str(tmp_path)])
    assert document.admits_handoff(policy, str(tmp_path / "handoff"))
    assert not document.admits_handoff(policy, "handoff")
    assert not document.admits_handoff(policy, "")


# --- reading


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version: 1\nversion: 1\n", r"version \(line 2\): the key is there twice"),
        (
            b"version: 1\ndefaults:\n  max_changed_files: 1\n  max_changed_files: 2\n",
            r"defaults\.max_changed_files \(line 4\)",
        ),
        (b"version: 1\ndefaults: &a {}\nrepos: *a\n", r"defaults \(line 2\): anchors"),
        (b"version: 1\nrepos: *a\n", r"repos \(line 2\): anchors"),
        (b"version: 1\ndefaults:\n  <<: {}\n", r"line 3\): found '<<' \(merge\) as a key"),
        (b"version: !!python/object/apply:os.system ['true']\n", r"version \(line 1\): the tag"),
        (b"version: !!int '1'\n", r"version \(line 1\): the tag"),
        (b"version: 1\n---\nversion: 1\n", "a second document"),
        (b"version: 1\n# \xff\n", "line 2: byte 0xff is not UTF-8"),
        (b"version: 1\n#" + b"x" * 70000, "bytes; a policy may have 65536"),
        (b"[" * 60000, "nested more than"),
        (b"", "found nothing at the top"),
        (b"- version\n", "found a list at the top"),
        (b"version: [\n", "line 2"),
        (b"version: 1\nother: 2\n", r"other \(line 2\): an unknown key, allowed: version, defaults"),
        (b"version: 1\ndefaults:\n  max_files: 3\n", r"defaults\.max_files \(line 3\): an unknown key"),
        (
            b"version: 1\ndefaults:\n  max_changed_files: true\n",
            r"max_changed_files \(line 3\): found true, allowed: a whole",
        ),
        (b"version: 1\ndefaults:\n  max_changed_files: 010\n", "not in plain decimal digits"),
        (b"version: 1\ndefaults:\n  max_changed_files: 1.5\n", r"'1.5' \(float\)"),
        (b"version: 1\ndefaults:\n  denied_path_globs:\n    - .env\n    - no\n", r"globs\[1\] \(line 5\): found false"),
        (b"version: 1\ndefaults:\n  denied_path_globs:\n    - 2020-01-01\n", "timestamp"),
        (b"version: 1\ndefaults:\n", r"defaults \(line 2\): found '' \(null\), allowed: a mapping"),
        (b"version: 1\n? [a]\n: 1\n", "as a key"),
        (b'version: 1\n"a\\n\\e[2Jb": 1\n', r"a\\n\\x1b\[2Jb \(line 2\): an unknown key"),
        (b'version: "\\U00110000"\n', "no YAML: an escape names a character"),
        (b'version: "\\UFFFFFFFF"\n', "no YAML: an escape names a character"),
        (b'version: 1\n"a\\nb": {c: &x 1}\n', r"a\\nb\.c \(line 2\): anchors"),
        (b'version: 1\ndefaults: {denied_content_patterns: ["(?<\\e)"]}\n', r"regular expression.*\\x1b"),
    ],
)
def test_what_is_not_read(content: bytes, reason: str) -> None:
    with pytest.raises(LoopError, match=reason) as caught:
        document.load(content, "policy.yml", complete=False)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_changed_files", 0),
        ("max_changed_files", -1),
        ("max_changed_files", "20"),
        ("max_changed_files", True),
        ("max_file_bytes", 2**40),
        ("denied_path_globs", []),
        ("denied_path_globs", ".env"),
        ("denied_path_globs", ["/etc/*"]),
        ("denied_path_globs", ["secrets/"]),
        ("denied_path_globs", ["a/../b"]),
        ("denied_path_globs", [""]),
        ("denied_path_globs", ["\ud800"]),
        ("denied_path_globs", ["x" * 2000]),
        ("denied_content_patterns", ["("]),
        ("denied_content_patterns", ["a{99999999999999999999}"]),
        ("denied_content_patterns", ["(" * 900]),
        ("denied_content_patterns", ["[[a]b]"]),
        ("allowed_gate_commands", []),
        ("allowed_gate_commands", ["/usr/bin/python3"]),
        ("allowed_gate_commands", ["python3 -c"]),
        ("protected_branch_prefixes", []),
        ("protected_branch_prefixes", ["main/"]),
        ("allowed_handoff_dirs", []),
        ("allowed_handoff_dirs", ["/"]),
        ("allowed_handoff_dirs", ["runs"]),
        ("allowed_handoff_dirs", ["/tmp/.."]),
        ("allowed_pr_remotes", ["--upload-pack=x"]),
        ("unknown", 1),
    ],
)
def test_what_is_not_valid_is_named_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(LoopError, match=rf"policy\.yml: defaults\.{key}"):
        document.load(with_default(key, value), "policy.yml")


@pytest.mark.parametrize("name", ["AS215932/network-operations", "", "a b", ".git"])
def test_a_repo_is_named_as_the_engine_names_it(name: str) -> None:
    with pytest.raises(LoopError, match="the name of a checkout"):
        document.load({**BASE, "repos": {name: {}}}, "x")


@pytest.mark.parametrize("key", sorted(set(document.DEFAULT_KEYS) - set(document.ENGINE_DEFAULTS)))
def test_a_policy_in_force_has_what_the_engine_takes_for_everything_where_missing(key: str) -> None:
    policy = copy.deepcopy(BASE)
    del policy["defaults"][key]
    document.load(policy, "base", complete=False)
    with pytest.raises(LoopError, match=rf"defaults\.{key}: found nothing"):
        document.load(policy, "policy")


def test_a_file_in_force_must_be_there_and_readable(tmp_path: Path) -> None:
    file = tmp_path / "policy.yml"
    with pytest.raises(LoopError, match="there is no policy at"):
        document.load_file(str(file))
    file.write_bytes(text(BASE))
    assert document.load_file(str(file)) == BASE
    link = tmp_path / "link.yml"
    link.symlink_to(file)
    with pytest.raises(LoopError, match="cannot be read"):
        document.load_file(str(link))
    with pytest.raises(LoopError, match="not a regular file"):
        document.load_file(str(tmp_path))
    os.truncate(file, 100_000)
    with pytest.raises(LoopError, match="more than"):
        document.load_file(str(file))


YAML_BITS = st.sampled_from(
    [
        "version: 1\n",
        "defaults:\n",
        "  max_changed_files: ",
        "  denied_path_globs: [",
        "- ",
        "&a ",
        "*a",
        "!!str ",
        "{",
        "}",
        "]",
        "? ",
        ": ",
        "\t",
        "\0",
        "---\n",
        "<<: ",
        "0x1F",
        "~",
        "'",
        '"',
        "|\n",
        "%YAML 9.9\n",
        "\u2028",
        "\ud7ff",
    ]
)


@given(st.lists(st.one_of(YAML_BITS, st.text(max_size=5)), max_size=30).map("".join), st.binary(max_size=3))
@settings(max_examples=400, deadline=1000)
def test_any_bytes_are_a_policy_or_one_clear_line(content: str, tail: bytes) -> None:
    try:
        policy = document.load(content.encode("utf-8", "replace") + tail, "fuzz", complete=False)
    except LoopError as error:
        assert str(error).startswith("fuzz") and "\n" not in str(error)
    else:
        assert policy["version"] == 1


def test_a_key_that_cannot_be_printed_makes_no_long_line() -> None:
    for content in ("\U0002ebe1" * 1000 + ": 1\nversion: 1", "version: 1\n" + '"' + "\x85" * 1000 + '": [&a]'):
        with pytest.raises(LoopError) as caught:
            document.load(content.encode(), "fuzz")
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()


# --- composing and comparing


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
        document.compose(BASE, overlay, [RUNS])
    for name in (key, key.rpartition(".")[2]):
        assert document.compose(BASE, overlay, [RUNS], [name]).widened == [key]
    other = "max_file_bytes" if "max_file_bytes" not in key else "symlinks"
    with pytest.raises(LoopError, match="would let more pass"):
        document.compose(BASE, overlay, [RUNS], [other])


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
    composed = document.compose(BASE, overlay)
    assert (composed.widened, composed.tightened) == ([], [key])


def test_an_unknown_name_in_widen_is_refused() -> None:
    with pytest.raises(LoopError, match=r"widen: found 'max_files'"):
        document.compose(BASE, {}, [], ["max_files"])


def test_a_repo_starts_from_the_composed_defaults() -> None:
    overlay = {
        "defaults": {"denied_path_globs": {"add": ["*.db"]}},
        "repos": {"app": {"denied_path_globs": {"add": ["*.tmp"]}}},
    }
    globs = document.compose(BASE, overlay).policy["repos"]["app"]["denied_path_globs"]
    assert globs == [".env", "*.key", "secrets/**", "*.db", "*.tmp"]


def test_what_the_base_lacks_is_everything_and_must_be_said() -> None:
    base = copy.deepcopy(BASE)
    del base["defaults"]["allowed_gate_commands"]
    with pytest.raises(LoopError, match=r"defaults\.allowed_gate_commands: found nothing"):
        document.compose(base, {}, [RUNS])
    composed = document.compose(base, {"defaults": {"allowed_gate_commands": ["git"]}}, [RUNS])
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
        document.compose(BASE, overlay)


# --- patterns


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", r"\s*\s*\s*$", "(a|a)*$", "(?:.*a){12}$", "(x+x+)+y", r"(?i)(\w+\s?)*:", r"([a-z]+)*\d", "(a|ab|b)*c$"],
)
def test_a_pattern_that_stalls_is_refused_by_its_key(pattern: str) -> None:
    began = time.process_time()
    overlay = {"defaults": {"denied_content_patterns": {"add": [pattern]}}}
    with pytest.raises(LoopError, match=r"defaults\.denied_content_patterns\[2\]: found .* quick"):
        document.compose(BASE, overlay)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?i)(api_key|token|secret)\s*=\s*['\"][^'\"]+['\"]",
        r"^(\w+\.)+com$",
        "gh[pousr]_[A-Za-z0-9]{36}",
        r"(?m)^x+$",
        "",
    ],
)
def test_a_pattern_that_people_use_is_not(pattern: str) -> None:
    document.try_patterns({"defaults": {"denied_content_patterns": [pattern or "x"]}}, "x")


def test_a_busy_host_makes_no_pattern_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(_pattern: str) -> Iterator[str]:
        time.sleep(0.3)  # as long as others have the processor
        yield "x"

    monkeypatch.setattr(patterns, "PATTERN_SECONDS", 0.1)
    monkeypatch.setattr(patterns, "hostile_texts", starved)
    patterns.try_pattern("x", "refused")


# --- rendering and the digest


def policies() -> st.SearchStrategy[dict[str, Any]]:
    word = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)

    def entries(accept: Any, element: st.SearchStrategy[str] = word) -> st.SearchStrategy[list[str]]:
        return st.lists(element.filter(lambda entry: accept(entry) == ""), min_size=1, max_size=3)

    number = st.integers(1, 100_000)
    globs = entries(document.ENTRY["globs"])
    directories = entries(document.ENTRY["directories"], word.map(lambda name: f"/{name}"))
    defaults = st.fixed_dictionaries(
        {
            "max_changed_files": number,
            "max_file_bytes": number,
            "denied_path_globs": globs,
            "denied_content_patterns": entries(document.ENTRY["patterns"]),
            "allowed_gate_commands": entries(document.ENTRY["commands"]),
            "protected_branch_prefixes": entries(document.ENTRY["branches"]),
            "allowed_handoff_dirs": directories,
        },
        optional={"allowed_pr_remotes": entries(document.ENTRY["remotes"])},
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
@settings(max_examples=50, deadline=None)
def test_composing_with_nothing_is_the_base_and_reads_back(policy: dict[str, Any]) -> None:
    composed = document.compose(policy, {})
    assert (composed.widened, composed.tightened) == ([], [])
    assert document.digest(composed.policy) == document.digest(policy)
    assert document.load(composed.text.encode(), "rendered") == composed.policy
    assert yaml.safe_load(composed.text) == composed.policy, "the engine's loader reads the same"
    jsonschema.validate(composed.policy, SCHEMA)


@given(policies(), policies())
@settings(max_examples=100, deadline=None)
def test_more_permissive_one_way_is_stricter_the_other(one: dict[str, Any], other: dict[str, Any]) -> None:
    there = {item.key: item for item in document.compare(one, other)}
    back = {item.key: item for item in document.compare(other, one)}
    assert there.keys() == back.keys()
    for key, item in there.items():
        assert (item.widened, item.tightened) == (back[key].tightened, back[key].widened)


def test_the_digest_is_of_the_meaning() -> None:
    reordered = copy.deepcopy(BASE)
    reordered["defaults"] = dict(reversed(reordered["defaults"].items()))
    reordered["defaults"]["denied_path_globs"].reverse()
    reordered["defaults"]["allowed_handoff_dirs"] = [f"{RUNS}/", "/tmp", "/tmp"]
    reordered["guards"] = {"defaults": {"ci": True}, "repos": {"app": {}}}
    del reordered["defaults"]["max_changed_files"]  # the engine's own default is the same 20
    assert document.digest(reordered) == document.digest(BASE)
    for key, value in (("max_file_bytes", 5), ("denied_path_globs", [".env"]), ("allowed_handoff_dirs", ["/tmp"])):
        assert document.digest(with_default(key, value)) != document.digest(BASE)
    assert document.digest({**BASE, "guards": {"defaults": {"ci": False}}}) != document.digest(BASE)
    said_again = {
        **BASE,
        "repos": {"app": {"max_file_bytes": 1048576, "denied_path_globs": ["*.key", ".env", "secrets/**"]}},
    }
    said_again["guards"] = {"repos": {"app": {"ci": True}}}
    assert document.digest(said_again) == document.digest(BASE)
    for own in ({"max_file_bytes": 1048577}, {"allowed_repo_roots": ["/srv/app"]}):
        assert document.digest({**BASE, "repos": {"app": own}}) != document.digest(BASE)
    roots = [{**BASE, "repos": {"app": {"allowed_repo_roots": [root]}}} for root in ("/srv/app", "/srv//app/")]
    assert document.digest(roots[0]) == document.digest(roots[1])
    assert document.digest({**BASE, "guards": {"repos": {"app": {"ci": ["x"]}}}}) != document.digest(BASE)


def test_each_entry_says_where_it_comes_from() -> None:
    overlay = {
        "defaults": {"max_changed_files": 40, "denied_path_globs": {"add": ["*.db"]}},
        "guards": {"repos": {"app": {"binaries": ["docs/*.png"]}}},
    }
    lines = document.compose(BASE, overlay, [RUNS], ["max_changed_files", "binaries"]).text.splitlines()
    assert "  max_changed_files: 40  # inventory, wider than the base's" in lines
    assert '    - "*.db"  # inventory' in lines
    assert '    - ".env"  # base' in lines
    assert f'    - "{RUNS}"  # deployment' in lines
    assert "    ci: true  # collection" in lines
    assert '        - "docs/*.png"  # inventory' in lines


# --- the published schema


TEXTS = (
    *("x", "", "a/b", "a/", "/a", "./a", "../a", "a/../b", "..", "a..b", ".", "/", "//", "/.", "/./", "/srv", "//srv"),
    *("/srv/", "/srv/../x", "/srv/..", "/..x", "/.a", "a b", " a", "a ", "-x", "x-", "main/", "/main", "a\tb", "a\nb"),
    *("\n", "a\n", "/srv\n", "/s\x85", "a\x85", "a\u2028b", "\0", "a\0", "/a\0", "\u00e9", "/\u00e9", "*", "*.key"),
    *("(?i)x", "(", "~", "~/x", "x" * 1024, "x" * 1025, f"/{'x' * 1023}", f"/{'x' * 1024}"),
)
# No float: to JSON 1.0 is a whole number, to YAML it is not.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 100_000, 100_001, 2**20, 2**20 + 1, 2**30, 2**30 + 1, 10**30, "x", "", {}),
    *({"a": 1}, {"max_file_bytes": 1}, [], [1], [[]], [None], [True], ["x"] * 1000, ["x"] * 1001),
    *([text] for text in TEXTS),
)
CHECKOUTS = ("app", "a/b", "", ".git", "a" * 100, "a" * 101, "a\n", "\u00e9", "A.b-c_1", "-a")
PLACES = (
    *(("version",), ("defaults",), ("repos",), ("guards",), ("other",), ("guards", "defaults"), ("guards", "repos")),
    *(("defaults", key) for key in (*document.DEFAULT_KEYS, "other")),
    *(("repos", "app", key) for key in (*document.REPO_KEYS, "other")),
    *(("guards", "defaults", key) for key in (*document.GUARD_KEYS, "other")),
    *(("guards", "repos", "app", key) for key in document.GUARD_KEYS),
    *((*section, name) for section in (("repos",), ("guards", "repos")) for name in CHECKOUTS),
)


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_the_published_schema_and_the_code_are_of_one_mind(place: tuple[str, ...]) -> None:
    schema = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    minds = set()
    for value in VALUES:
        policy: dict[str, Any] = {"version": 1}
        section = policy
        for key in place[:-1]:
            section = section.setdefault(key, {})
        section[place[-1]] = value
        try:
            document.validate(policy, "x", complete=False)
            valid = True
        except LoopError:
            valid = False
        assert schema.is_valid(policy) == valid, value
        minds.add(valid)
    assert False in minds  # no place takes anything


def test_the_schema_takes_a_policy_that_is_in_force() -> None:
    composed = document.compose(BASE, {"guards": {"repos": {"app": {"binaries": ["docs/*"]}}}}, [RUNS], ["binaries"])
    jsonschema.validate(yaml.safe_load(composed.text), SCHEMA)
