# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an apply has anything to do: what is asked, in which order, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages import look, settled
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages.order import APART, STAGES
from ansible_collections.as215932.engineering_loop.plugins.module_utils.stages.outcome import Done, How, answer, filled

FIT: dict[str, Any] = {
    "packages_missing": [],
    "packages_interrupted": False,
    "python_apt_half": False,
    "takeover": [],
    "accounts": {"missing_users": [], "missing_groups": [], "faults": [], "refused": [], "notes": []},
    "secrets": {"loose": []},
    "uv_version": "1.0.0",
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "loop.json"
    path.write_text("{}", encoding="utf-8")
    return str(path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that were asked; ``changed`` and ``fails`` in their options is what they answer."""
    seen: list[str] = []

    def stage(name: str) -> settled.Bring:
        def bring(given: dict[str, Any], how: How) -> Done:
            assert how.check
            seen.append(name)
            if given["fails"]:
                raise LoopError("no")
            return Done({"changed": given["changed"], "name": name})

        return bring

    options = {"changed": {"type": "bool", "default": False}, "fails": {"type": "bool", "default": False}}
    monkeypatch.setattr(settled, "WORK", {name: (options, stage(name)) for name in STAGES})
    return seen


def test_each_stage_has_its_work_and_comes_after_those_that_it_needs() -> None:
    assert list(STAGES) == list(settled.WORK)
    known: list[str] = []
    for name, stage in STAGES.items():
        assert set(stage.after) <= set(known)
        known.append(name)


def test_what_no_log_may_have_is_never_handed_on_with_the_others() -> None:
    for options, _bring in settled.WORK.values():
        assert {name for name, option in options.items() if option.get("no_log")} <= set(APART)


def test_all_are_asked_and_answered_for_where_none_has_anything_to_do(config: str, asked: list[str]) -> None:
    found = settled.look({name: {} for name in STAGES}, config)
    assert asked == list(STAGES) and [one.result["name"] for one in found.values()] == asked


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("identity", set()),
        ("release", {"identity", "workspace"}),
        ("policy", {"identity", "release", "workspace"}),
        ("workspace", set(STAGES) - {"workspace", "timer"}),
        ("timer", set(STAGES) - {"timer"}),
    ],
)
@pytest.mark.parametrize("why", ["changed", "fails", "frob"])
def test_what_comes_after_one_with_something_to_do_is_not_answered_for(
    config: str, asked: list[str], name: str, left: set[str], why: str
) -> None:
    given = {other: {why: True} if other == name else {} for other in STAGES}
    assert set(settled.look(given, config)) == left


def test_a_host_that_has_nothing_is_not_asked(tmp_path: Path, config: str, asked: list[str]) -> None:
    whole: dict[str, Any] = {name: {} for name in STAGES}
    assert settled.look(whole, f"{tmp_path}/none.json") == {}
    assert settled.look(whole, config, ["packages"]) == {} == settled.look(whole, config, ["takeover"])
    assert asked == []
    assert set(settled.look(whole, config, ["release"])) == {"identity", "workspace"}


def test_what_the_host_was_found_to_be() -> None:
    assert settled.busy(FIT, "1.0.0") == [] == settled.busy(FIT, "")
    assert settled.busy(FIT, "2.0.0") == ["release"]
    for change, stage in (
        ({"packages_missing": ["git"]}, "packages"),
        ({"packages_interrupted": True}, "packages"),
        ({"python_apt_half": True}, "packages"),
        ({"takeover": ["/opt/x"]}, "takeover"),
        ({"accounts": {**FIT["accounts"], "missing_users": ["loop"]}}, "identity"),
        ({"accounts": {**FIT["accounts"], "missing_groups": ["loop"]}}, "identity"),
        ({"accounts": {**FIT["accounts"], "faults": ["sudo"]}}, "identity"),
        ({"secrets": {"loose": ["/etc/env"]}}, "identity"),
    ):
        assert settled.busy({**FIT, **change}, "1.0.0") == [stage]


def test_options_are_filled_as_ansible_would() -> None:
    options: dict[str, Any] = {
        "a": {"type": "str", "required": True},
        "b": {"type": "int", "default": 3},
        "c": {"type": "list", "elements": "dict", "default": [], "options": {"d": {"type": "path", "default": "/d"}}},
        "e": {"type": "dict", "options": {"f": {"type": "float"}}},
        "g": {"type": "raw"},
    }
    assert filled(options, {"a": "x"}) == {"a": "x", "b": 3, "c": [], "e": None, "g": None}
    told = filled(options, {"a": "x", "c": "[{}]", "e": "{'f': 1}", "g": "0640"})
    assert (told["c"], told["e"], told["g"]) == ([{"d": "/d"}], {"f": 1}, "0640")
    for given, why in (
        ({}, "a: missing"),
        ({"a": 1}, "a: found 1, allowed: str"),
        ({"a": "x", "b": "3"}, "b: found '3', allowed: int"),
        ({"a": "x", "c": "[{"}, "c: found '[{', allowed: list"),
        ({"a": "x", "h": 1}, "h: an unknown option"),
    ):
        with pytest.raises(LoopError) as raised:
            filled(options, given)
        assert str(raised.value) == why


def test_a_stage_that_nobody_knows_is_one_line(config: str) -> None:
    with pytest.raises(LoopError, match=r"stages: found 'frob', allowed: identity, release, "):
        look.bring(filled(look.OPTIONS, {"config": config, "stages": {"frob": {}}, "details": False}), How())


def test_what_the_host_answers_has_no_value_that_no_log_may_have(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = 'GH_TOKEN="s3\\cret"\n'
    monkeypatch.setattr(look, "bring", lambda wanted, how: Done({"said": f"x {secret} y"}, [f"of {secret}"]))
    text = look.on_host({"config": config, "secret_files": {"/etc/env": secret, "/etc/none": ""}})
    assert text == '{"result": {"said": "x ******** y"}, "warnings": ["of ********"]}'


def test_what_is_hidden_is_in_texts_alone_and_the_longest_of_it_goes_first() -> None:
    options = {"environment": {"type": "dict", "no_log": True}, "config": {"type": "path"}}
    environment = {"PI_TELEMETRY": "false", "N": "1", "WHO": "me", "A": "open", "B": "opensesame", "C": "null"}
    result = {"changed": False, "none": None, "count": 1, "names": ("false", "me/1"), "opensesame": ["x opensesame y"]}
    text = answer(result, [], options, {"environment": environment, "config": "open"})
    assert json.loads(text)["result"] == {
        "changed": False, "none": None, "count": 1, "names": ["false", "me/1"], "********": ["x ******** y"],
    }  # fmt: skip
