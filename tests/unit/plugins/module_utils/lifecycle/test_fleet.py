# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Loops that would meet are refused by name, and a rollout takes its hosts in the order that was asked for."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import fleet
from hypothesis import given
from hypothesis import strategies as st

API = "https://api.github.com"


def loop(host: str, *repos: str, **more: Any) -> fleet.Loop:
    return fleet.Loop(host, **{"forge": API, "repos": repos, **more})


def test_loops_with_repositories_of_their_own_are_let_be() -> None:
    assert fleet.refused([loop("a", "o/x", "o/y"), loop("b", "o/z"), loop("c")], ["a", "b", "c"]) == []


def test_a_repository_of_two_is_named_with_both_and_with_what_to_change() -> None:
    (line,) = fleet.refused([loop("a", "o/x", "o/y"), loop("b", "o/z", "o/y", "o/x")], ["b"])
    assert line.startswith("a and b would take the same issues, those of o/x and o/y: ")
    assert "Take it out of engineering_loop_repos of the others, as in host_vars/HOST.yml" in line


def test_those_who_share_the_same_are_told_once() -> None:
    lines = fleet.refused([loop(name, "o/x", *more) for name, more in (("a", []), ("b", ["o/y"]), ("c", ["o/y"]))], "a")
    assert len(lines) == 1 and "a, b and c" in lines[0]
    lines = fleet.refused([loop(name, "o/x", *more) for name, more in (("a", []), ("b", ["o/y"]), ("c", ["o/y"]))], "b")
    assert [line.split(" would")[0] for line in lines] == ["a, b and c", "b and c"]


def test_only_what_concerns_the_hosts_of_the_run_is_refused() -> None:
    loops = [loop("a", "o/x"), loop("b", "o/y"), loop("c", "o/y")]
    assert fleet.refused(loops, ["a"]) == []
    assert len(fleet.refused(loops, ["a", "c"])) == 1


@pytest.mark.parametrize(
    "other",
    [
        "O/X", "o/x.git", "https://github.com/o/x", "https://github.com/O/x.git/", "git@github.com:o/x.git", " o/x",
        "ssh://git@github.com:22/o/x",
    ],
)  # fmt: skip
def test_one_repository_has_many_spellings(other: str) -> None:
    assert len(fleet.refused([loop("a", "o/x"), loop("b", other)], ["a"])) == 1


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("https://API.github.com/", True),
        ("https://api.github.com:443", True),
        ("https://ghe.example.org/api/v3", False),
        ("http://api.github.com", False),
        ("https://api.github.com:8443", False),
    ],
)
def test_what_another_forge_has_by_the_same_name_is_something_else(other: str, same: bool) -> None:
    assert bool(fleet.refused([loop("a", "o/x"), loop("b", "o/x", forge=other)], ["a"])) == same


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (["o/x"], ["o/x"], False),
        (["*"], ["O/X.git"], False),
        (["*"], ["*"], False),
        (["o/x"], [], True),
        (["o/y"], ["*"], True),
    ],
)
def test_sharing_takes_the_word_of_each(first: list[str], second: list[str], refused: bool) -> None:
    loops = [loop("a", "o/x", shared=first), loop("b", "o/x", shared=second)]
    assert bool(fleet.refused(loops, ["a"])) == refused


def test_who_has_the_default_only_is_told_so() -> None:
    (line,) = fleet.refused([loop("a", "o/x"), loop("b", "o/x", by_default=True)], ["a"])
    assert "(b has the role's default list, having none of its own)" in line


def test_what_cannot_be_made_out_is_refused_unless_somebody_answers_for_it() -> None:
    one = loop("a", "o/x")
    (line,) = fleet.refused(
        [one, fleet.Loop("b", unknown="engineering_loop_repos of b cannot be made out: why")], ["a"]
    )
    assert line.startswith("engineering_loop_repos of b cannot be made out: why. So nobody can tell whether b takes")
    assert fleet.refused([one, fleet.Loop("b", unknown="why", shared=["*"])], ["a"]) == []
    assert fleet.refused([fleet.Loop("b", unknown="why")], ["b"]) == []


def places(**other: str) -> dict[str, str]:
    return {**{name: f"/{name}" for name in fleet.PLACES}, **other}


def test_one_machine_carries_two_loops_only_where_each_has_its_place() -> None:
    def told(mine: dict[str, str], *machine: str) -> list[str]:
        one = loop("a", "o/x", machine=("10.0.0.1", "2222"), places=places())
        return fleet.refused([one, loop("b", "o/y", machine=machine or ("10.0.0.1", "2222"), places=mine)], ["a"])

    (line,) = told(places())
    assert (
        line == "a and b are one machine, 10.0.0.1, and one loop under two names: take one of them out of the inventory"
    )
    (line,) = told({name: f"/other/{name}" for name in fleet.PLACES} | {"state_dir": "/state_dir", "unit": "/unit"})
    assert "must not have the same engineering_loop_state_dir and engineering_loop_unit" in line
    assert told({name: f"/other/{name}" for name in fleet.PLACES}) == []
    assert told(places(), "10.0.0.2", "2222") == [] and told(places(), "10.0.0.1", "") == []
    nowhere = fleet.Loop("c", places=places())
    assert fleet.refused([nowhere, nowhere._replace(host="d")], ["c"]) == []


def test_no_line_carries_what_a_terminal_obeys() -> None:
    lines = fleet.refused([loop("a", "o/\x1b[2Jx"), loop("b", "O/\x1b[2Jx")], ["a"])
    assert lines and all(line.isprintable() for line in lines)
    many = [f"o/{number}" for number in range(500)]
    (line,) = fleet.refused([loop("a", *many), loop("b", *many)], ["a"])
    assert "and 493 more" in line and len(line) < 600


TEN = [f"h{number}" for number in range(10)]


@pytest.mark.parametrize(
    ("first", "serial", "sizes"),
    [
        ([], 1, [1] * 10),
        ([], "3", [3, 3, 3, 1]),
        ([], [1, "25%", "100%"], [1, 2, 7]),
        ([], "1,25%,100%", [1, 2, 7]),
        (["h4"], [1, "25%", "100%"], [1, 2, 7]),
        (["h4", "h5"], [1, "100%"], [1, 1, 8]),
        (["h4"], "100%", [1, 9]),
        (["h4"], [4], [1, 4, 4, 1]),
        (["h4", "h5", "h6"], [2, "50%"], [2, 1, 5, 2]),
        ([], "1%", [1] * 10),
        (["elsewhere"], 5, [5, 5]),
    ],
)
def test_batches(first: list[str], serial: object, sizes: list[int]) -> None:
    found = fleet.batches(TEN, first, serial)
    assert [len(batch) for batch in found] == sizes
    ahead = [host for host in TEN if host in first]
    assert list(chain.from_iterable(found)) == ahead + [host for host in TEN if host not in ahead]


@given(
    st.integers(0, 40),
    st.sets(st.integers(0, 40)),
    st.lists(st.one_of(st.integers(1, 50), st.integers(1, 100).map("{}%".format)), min_size=1, max_size=5),
)
def test_each_host_comes_once_and_none_beside_one_that_comes_first(
    number: int, first: set[int], serial: list[Any]
) -> None:
    hosts = [f"h{one}" for one in range(number)]
    ahead = {f"h{one}" for one in first} & {*hosts}
    found = fleet.batches(hosts, ahead, serial)
    assert sorted(chain.from_iterable(found)) == sorted(hosts) and all(found)
    mixed = [set(batch) <= ahead for batch in found]
    assert all(set(batch) <= ahead or not set(batch) & ahead for batch in found)
    assert not any(not before and after for before, after in pairwise(mixed))


@pytest.mark.parametrize("serial", [0, -1, True, "", "0%", "101%", "many", [], [1, None], {"a": 1}, 1.5, "\x1b[2J"])
def test_no_other_sizes(serial: object) -> None:
    with pytest.raises(LoopError, match=r"engineering_loop_serial is .*, but must be a number of hosts") as told:
        fleet.batches(TEN, [], serial)
    assert str(told.value).isprintable()
