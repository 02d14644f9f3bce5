# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A job that an older layout ran is ours from now on, and reads on what it had written down."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import job_state
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.layout import Layout
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.older_layout import plan
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.put_back import put_back
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle.takeover import take
from older_host import OTHER, ROOT, content, killed_at, put, top_of


@pytest.fixture
def governed(layout: Layout) -> Layout:
    """A host whose governor has written something down, below what the engine calls its state."""
    top = top_of(layout)
    put(top / "systemd/governor.service", f"[Service]\nExecStart={top}/lib/run-reliability-governor\n")
    put(top / "systemd/governor.timer", "[Timer]\nOnCalendar=hourly\n")
    flags = f"--state-dir-path {top}/var/state/gov --limit 20"
    script = f"#!/bin/sh\nexec {layout.install_dir}/.venv/bin/engine govern \\\n  {flags}\n"
    put(top / "lib/run-reliability-governor", script, 0o750)
    put(top / "var/state/gov/decisions/7.json", '{"decided": true}\n')
    if ROOT:
        subprocess.run(["chown", "-R", f"{OTHER}", str(top / "var/state/gov")], check=True)
    return replace(layout, job_states={"governor": f"{top}/var/governor"})


def ours(layout: Layout) -> Path:
    return Path(layout.job_states["governor"])


def test_its_state_is_copied_and_its_units_are_put_aside(governed: Layout) -> None:
    before = content(top_of(governed))
    asked = take(governed, check=True)
    assert content(top_of(governed)) == before
    done = take(governed)
    assert (ours(governed) / "decisions/7.json").read_text() == '{"decided": true}\n'
    assert ours(governed).stat().st_uid == os.geteuid() and ours(governed).stat().st_mode & 0o777 == 0o770
    (cell,) = Path(governed.runs_dir).iterdir()
    assert (cell / "state/gov/decisions/7.json").exists()
    told = f"the state of governor in {top_of(governed)}/var/state/gov is copied to {ours(governed)}"
    assert told in asked["lines"] and told in done["lines"]
    assert {"governor.service", "governor.timer"} <= set(os.listdir(f"{done['aside']}/units"))
    assert not any("goes with it" in line for line in done["lines"] if "governor.timer WAS ON" in line)
    # What a run of ours writes there later is no older layout's work.
    put(ours(governed) / "more.json", "{}\n")
    assert (plan(governed), take(governed)["changed"]) == ([], False)


def test_state_that_stands_where_ours_will_be_stays(governed: Layout) -> None:
    here = replace(governed, job_states={"governor": f"{top_of(governed)}/var/gov"})
    os.rename(f"{top_of(governed)}/var/state/gov", ours(here))
    put(
        top_of(here) / "systemd/governor.service",
        f"[Service]\nExecStart={here.install_dir}/.venv/bin/engine govern --state-dir-path={ours(here)}\n",
    )
    done = take(here)
    assert f"the state of governor in {ours(here)} stays and is read on" in done["lines"]
    assert (ours(here) / "decisions/7.json").exists() and ours(here).stat().st_uid == os.geteuid()
    assert plan(here) == []


def test_what_ours_has_already_is_not_written_over(governed: Layout) -> None:
    put(ours(governed) / "mine.json", "{}\n")
    done = take(governed)
    assert os.listdir(ours(governed)) == ["mine.json"]
    assert not any("is copied" in line for line in done["lines"])


def test_without_ours_it_goes_with_the_rest_and_the_variable_is_named(governed: Layout) -> None:
    unit = "hyrule-reliability-governor"
    for kind in ("service", "timer"):
        os.rename(f"{governed.unit_dir}/governor.{kind}", f"{governed.unit_dir}/{unit}.{kind}")
    put(Path(governed.unit_dir, f"{unit}.timer"), f"[Timer]\nUnit={unit}.service\n")
    done = take(replace(governed, job_states={}))
    (line,) = [line for line in done["lines"] if f"{unit}.timer WAS ON" in line]
    assert line.endswith("unless you set engineering_loop_governor_timer_enabled: true")
    assert not ours(governed).exists()


def test_killed_on_the_way_the_next_one_brings_it(governed: Layout) -> None:
    where = 0
    while killed_at(where, lambda: take(governed)):
        where += 7
    take(governed)
    assert (ours(governed) / "decisions/7.json").read_text() == '{"decided": true}\n'
    assert not Path(f"{ours(governed)}.new").exists()


def test_put_back_the_old_one_finds_its_own(governed: Layout) -> None:
    take(governed)
    put_back(governed)
    assert Path(f"{top_of(governed)}/var/state/gov/decisions/7.json").exists()
    assert Path(f"{governed.unit_dir}/governor.timer").exists()
    assert (ours(governed) / "decisions/7.json").exists()


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("--state-dir-path /var/a", "/var/a"),
        ("--state-dir-path=/var/a/../b", "/var/b"),
        ('--state-dir-path \\\n  "/var/a"', "/var/a"),
        ("--state-dir-path $HOME/a", None),
        ("--limit 20", None),
    ],
)
def test_where_its_command_line_says(layout: Layout, words: str, place: str | None) -> None:
    put(Path(layout.unit_dir, "j.service"), f"[Service]\nExecStart=/opt/x govern {words}\n")
    found = job_state.theirs(replace(layout, job_states={"j": "/srv/j"}), [])
    assert found == ({"j": place} if place else {})


def test_a_unit_of_ours_is_not_asked(layout: Layout) -> None:
    ours_already = "# Written by the role as215932.engineering_loop.engineering_loop\n"
    put(Path(layout.unit_dir, "j.service"), f"{ours_already}[Service]\nExecStart=/opt/x --state-dir-path /var/a\n")
    assert job_state.theirs(replace(layout, job_states={"j": "/srv/j"}), []) == {}
