# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table says what was measured, what was missed and what is not there, and takes its place in the documentation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "tests" / "tools" / "benchmarks.py"


def tool(top: Path, *words: str) -> subprocess.CompletedProcess[str]:
    where = {**os.environ, "BENCH_ROOT": str(top)}
    return subprocess.run([sys.executable, TOOL, *words], env=where, capture_output=True, text=True, check=False)


def row(what: str, measured: float, most: float, unit: str = "x") -> dict[str, Any]:
    return {"what": what, "measured": measured, "most": most, "unit": unit, "of": f"of {what}"}


def put(top: Path, name: str, *rows: dict[str, Any], **more: Any) -> None:
    known = {"runs": 5, "load": 0.5, "date": "2026-01-01", "machine": "an abacus", "rows": rows, **more}
    path = top / ".cache" / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known), encoding="utf-8")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    (tmp_path / "docs" / "performance.md").write_text(page, encoding="utf-8")
    (tmp_path / "tests" / "benchmarks").mkdir(parents=True)
    return tmp_path


def test_every_benchmark_has_its_place_in_the_table(top: Path) -> None:
    names = {path.stem for path in (ROOT / "tests" / "benchmarks").glob("*.py")}
    said = tool(top, "--table").stdout
    assert {line.split()[2] for line in said.splitlines() if line.startswith("all of ")} == names


def test_a_figure_on_its_target_meets_it_and_one_above_is_missed(top: Path) -> None:
    put(top, "apply", row("at it", 0.15, 0.15), row("above it", 0.151, 0.15), row("a size", 81.26, 80, "MiB"))
    lines = tool(top, "--table").stdout.splitlines()
    assert lines[1].split() == ["at", "it", "0.15", "0.15", "met", "of", "at", "it"]
    assert lines[2].split() == ["above", "it", "0.15", "0.15", "missed", "of", "above", "it"]
    assert lines[3].split() == ["a", "size", "81.3", "MiB", "80.0", "MiB", "missed", "of", "a", "size"]


def test_what_could_not_be_measured_is_a_failure_and_an_old_figure_does_not_stand_for_it(top: Path) -> None:
    put(top, "apply", row("of yesterday", 1, 2))
    programs = top / "tests" / "benchmarks"
    (programs / "apply.py").write_text("raise SystemExit('bench: no host')\n", encoding="utf-8")
    missed = json.dumps({"rows": [row("a slow thing", 3, 2)]})
    (programs / "cycle.py").write_text(
        f"import pathlib; pathlib.Path('.cache/bench/cycle.json').write_text({missed!r})\n", encoding="utf-8"
    )
    done = tool(top, "cycle", "apply")
    assert done.returncode == 1
    assert "of yesterday" not in done.stdout
    assert "all of apply" in done.stdout and "not measured: apply" in done.stdout
    done = tool(top, "cycle")
    assert done.returncode == 0
    assert "missed" in done.stdout


def test_a_name_that_is_no_benchmark_is_refused(top: Path) -> None:
    done = tool(top, "aply")
    assert done.returncode == 1
    assert "'aply' is none of apply, first" in done.stderr


def test_the_documentation_gets_the_figures_and_keeps_what_people_wrote(top: Path) -> None:
    page = top / "docs" / "performance.md"
    before = page.read_text(encoding="utf-8")
    steps = [["Look at the host", 9.0], ["Say so", 0.1], ["Say it again", 0.2]]
    put(top, "apply", row("an apply", 0.1, 0.15), tasks={"ours": steps})
    put(top, "cycle", row("a cycle", 0.9, 0.8, "s"), date="2026-01-03", load=2.0)
    assert tool(top, "--docs").returncode == 0
    once = page.read_text(encoding="utf-8")
    assert "Taken on 2026-01-01 to 2026-01-03, on an abacus. Medians of 5;" in once
    assert "load was 0.5 to 2.0." in once
    assert "| an apply | 0.10 | 0.15 | met | of an apply |\n" in once
    assert "| a cycle | 0.90 s | 0.80 s | missed | of a cycle |\n" in once
    assert "| all of fleet | not measured |  |  |  |\n" in once
    assert "| apply with nothing to do | 9.30 s |\n| --- | --- |\n| Look at the host | 9.00 s |\n" in once
    assert "| 2 others together | 0.30 s |\n" in once
    mark = "<!-- figures"
    assert once.split(mark)[0] == before.split(mark)[0]
    assert once.split("<!-- end")[1] == before.split("<!-- end")[1]
    assert tool(top, "--docs").returncode == 0
    assert page.read_text(encoding="utf-8") == once


def test_without_figures_or_a_place_for_them_the_documentation_stays(top: Path) -> None:
    page = top / "docs" / "performance.md"
    before = page.read_text(encoding="utf-8")
    assert "nothing was measured" in tool(top, "--docs").stderr
    put(top, "apply", row("an apply", 0.1, 0.15))
    page.write_text("# Nothing\n", encoding="utf-8")
    assert "has no place for the figures" in tool(top, "--docs").stderr
    assert page.read_text(encoding="utf-8") == "# Nothing\n"
    assert "figures" in before
