# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status of a fleet as text and as a page: it fits, it says all, and what others wrote stays text."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import charts, page, status, table
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report.needs import Need
from hypothesis import given, settings
from hypothesis import strategies as st

HOSTILE = st.text(max_size=80) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        "\"'><img src=x>",
        "\u202egnp.exe",
        "x" * 65536,
        "\x1b[2J",
        "a; rm -rf /",
        "{{ 7*7 }}",
    ]
)
OUTCOMES = ["published", "idle", "over_budget", "locked", "needs_triage", "refused", "error", "interrupted", "other"]


def told(number: int = 40, found: list[Need] | None = None, **more: Any) -> dict[str, Any]:
    """A status as a host gives it, with a history."""
    history = [
        {
            "cycle": f"20260101T{n // 60:02d}{n % 60:02d}00Z-{n:08x}",
            "started": f"2026-01-01T{n // 60:02d}:{n % 60:02d}:00Z",
            "outcome": OUTCOMES[n % len(OUTCOMES)], "seconds": 60.0 * n, "cost_usd": 0.5, "issue": f"a/b#{n}",
            "pr_url": f"https://forge.example/pull/{n}" if n % len(OUTCOMES) == 0 else "",
        }
        for n in range(number)
    ]  # fmt: skip
    last = {**history[-1], "detail": "x"} if history else None
    given = {
        "state": "deployed", "version": "0.2.0", "unit": "u", "history": history, "last_cycle": last,
        "engine": {"pin": "a" * 40, "active": "a" * 40, "drift": [], "back": None, "options": status.NO_OPTIONS},
        "policy": {"sha256": "b", "matches": True},
        "timer": {"active": True, "next": "2026-01-01T12:00:00Z", "reason": ""},
        "proof": {"matches": True, "reason": "", "proved_at": "", "age_seconds": 90000, "expires_at": ""},
        "today": {"runs": 1, "max_runs": 2, "cost_usd": 0.5, "max_cost_usd": 10.0}, "looked_at": "2026-01-01T01:00:00Z",
    }  # fmt: skip
    return status.finished({**status.silent(""), **given, **more}, found or [])


class Read(HTMLParser):
    """What a browser finds in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.places: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _value in attrs if name.startswith("on")]
        self.places += [str(value) for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        self.ids += [str(value) for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.words += data


def drawings() -> list[Callable[[table.Fleet], str]]:
    return [lambda fleet: table.draw(fleet, rich=True), lambda fleet: table.draw(fleet, rich=False)]


@pytest.mark.parametrize("draw", drawings())
def test_a_fleet(draw: Callable[[table.Fleet], str]) -> None:
    paused = Need("paused", "Paused by maria: why not. No cycle starts.", "ansible-playbook -i x.yml a.b.resume -l two")
    fleet = {
        "one": told(),
        "two": told(found=[paused], pause={"why": "", "since": "", "by": "maria"}),
        "three": status.unreachable("No route to host"),
    }
    text = draw(fleet)
    assert all(len(line) <= table.WIDTH for line in text.splitlines())
    assert re.search(r"one +well +aaaaaaaa +deployed +proven +on ", text)
    assert re.search(r"two +NEEDS YOU +aaaaaaaa +deployed +proven +PAUSED", text)
    assert re.search(r"three +UNREACHABLE +- ", text) and "It cannot be reached: No route to host." in text
    assert "    $ ansible-playbook -i x.yml a.b.resume -l two\n" in text


def test_rich_and_plain_say_the_same() -> None:
    fleet = {"one": told(), "a-host-with-a-very-long-name.example.net": told(0)}
    words = [re.sub(r"[─\s]+", " ", draw(fleet)).split() for draw in drawings()]
    assert sorted(words[0]) == sorted(words[1])


def test_colour_is_never_the_only_sign() -> None:
    fleet = {"one": told(found=[Need("held", "w", "d")])}
    coloured = table.draw(fleet, colour=True)
    assert "\x1b[" in coloured
    plain = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert [line.rstrip() for line in plain.splitlines()] == table.draw(fleet).splitlines()


@settings(max_examples=40)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_hostile_words_fit_and_do_nothing(what: str, why: str, title: str) -> None:
    held = [{"repo": why, "number": 1, "title": title, "attempts": 3, "cost_usd": 1.0, "since": "", "why": why}]
    kept = {"id": "i", "what": what, "title": title, "outcome": "error", "detail": why, "made": "", "size": 1}
    bad = told(
        3, [Need("held", what, f"{why}; ansible-playbook -i INVENTORY x.y -l HOST")], held=held,
        quarantine={"count": 1, "bytes": 1, "items": [{**kept, "kind": "cycle", "seen": False}], "restore": "r"},
        waiting=[{"repo": why, "number": 2, "why": title}],
    )  # fmt: skip
    bad["history"][0]["pr_url"] = f"javascript:{title}"
    for draw in drawings():
        text = draw({"one": bad})
        assert all(len(line) <= table.WIDTH for line in text.splitlines())
        assert all(letter.isprintable() or letter == "\n" for letter in text)
    drawn = page.draw({"one": bad}, "2026-01-01T00:00:00Z")
    read = Read(drawn)
    assert not {"script", "img", "link", "iframe", "object"} & {*read.tags}
    assert all(place.startswith(("#", "https://forge.example/")) for place in read.places)
    assert "\u202e" not in drawn and len(drawn) < 200_000


def test_a_page_needs_nothing_else_and_can_be_heard() -> None:
    drawn = page.draw({"one": told(), "two": status.unreachable("x"), "one two": told(200)})
    read = Read(drawn)
    assert "url(" not in drawn and "@import" not in drawn and "prefers-color-scheme: dark" in drawn
    assert read.tags.count("svg") == 6 == drawn.count('role="img" aria-label="')
    assert len(set(read.ids)) == len(read.ids)
    assert {place[1:] for place in read.places if place.startswith("#")} <= {*read.ids}
    assert "Outcome of the last 40 cycles: 5 published" in read.words and "The last 100 cycles as a table" in read.words
    assert drawn.count('scope="col"') == drawn.count('role="columnheader"') > 10


@pytest.mark.parametrize("name", ["2026-01-01T00:00:00Z", "", "yesterday"])
def test_charts_of_no_and_of_odd_histories(name: str) -> None:
    assert charts.outcomes([])["marks"] == [] and charts.durations([])["bars"] == []
    odd = [{**told(1)["history"][0], "started": name, "seconds": 1e14, "cost_usd": 1e14, "outcome": ""}]
    for chart in (charts.costs(odd, 0.0, name), charts.outcomes(odd), charts.durations(odd)):
        for mark in [*chart.get("bars", []), *chart.get("marks", [])]:
            assert 0 <= mark["x"] <= charts.WIDTH and 0 <= mark["y"] <= charts.TOP + charts.HEIGHT


def test_commands_are_written_for_whoever_types_them() -> None:
    do = "look: on HOST: loop enter X; or ansible-playbook -i INVENTORY a.b.canary -l HOST"
    assert table.for_host({"do": [do]}, "one", "ansible-playbook -i 'my hosts.yml'") == {
        "do": ["look: on one, as root: loop enter X; or ansible-playbook -i 'my hosts.yml' a.b.canary -l one"]
    }
    there = table.for_host(do, "one")
    assert table.steps(there) == [
        ("look: as root:", "loop enter X"), ("or:", "ansible-playbook -i INVENTORY a.b.canary -l HOST")
    ]  # fmt: skip
    long = table.Step("", f"ansible-playbook {'-e x=yyyyyyyyyyyyyyyyy ' * 12}".strip()).lines("  ")
    assert all(line.endswith(" \\") and len(line) <= table.WIDTH for line in long[:-1]) and len(long) > 2
    command = f"ansible-playbook -i '{'my hosts ' * 10}.yml' {'-e x=1 ' * 9}".strip()
    typed = "\n".join(table.Step("", command).lines("")).removeprefix("$ ")
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {typed}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == shlex.split(command)


def test_what_needs_nobody_is_a_note() -> None:
    full = told(today={"runs": 2, "max_runs": 2, "cost_usd": 0.5, "max_cost_usd": 10.0})
    assert "the 2 runs of today are used up" in table.draw({"one": full})
    off = told(timer={"active": False, "next": "", "reason": ""})
    assert "the timer is off, as is wanted (engineering_loop_timer_enabled is false)" in " ".join(
        table.draw({"one": off}).split()
    )
    waits = told(waiting=[{"repo": "a/b", "number": 7, "why": "its pull request x is open"}])
    assert "a/b#7 is approved and waits (nothing to do here): its pull request x is open." in table.draw({"one": waits})
