# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status of one or many hosts as text of 100 columns: a row each, and below it what they need, with what to type.

The rows are drawn by rich where that is there, and in plain letters where it is not; both say the same.
"""

from __future__ import annotations

import io
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..base.clock import moment_of
from ..base.sizes import readable, short
from ..base.untrusted import show
from ..release import engine_options
from .needs import HOST

try:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ImportError:  # plain letters do
    Console = None  # type: ignore[assignment,misc]

Status: TypeAlias = Mapping[str, Any]
Fleet: TypeAlias = Mapping[str, Status]

WIDTH = 100
GOOD, BAD, DULL = "green", "bold red", "dim"


class Column(NamedTuple):
    """Two lines of a heading, and how many letters there are."""

    name: str
    below: str
    width: int


COLUMNS = (
    Column("HOST", "", 14), Column("STATUS", "first", 11), Column("ENGINE", "(pin)", 10), Column("POLICY", "files", 9),
    Column("PROOF", "age", 7), Column("TIMER", "next", 9), Column("LAST", "ago", 11), Column("TODAY", "USD", 8),
    Column("HELD", "left", 4), Column("KEPT", "size", 8),
)  # fmt: skip


class Cell(NamedTuple):
    """Two lines of a row, and what they are coloured by: the words say it as well."""

    first: str
    second: str = ""
    style: str = ""


def row(host: str, status: Status) -> list[Cell]:
    """One host in as many cells as there are columns."""
    if len(host) > 2 * COLUMNS[0].width:
        host = f"{host[: 2 * COLUMNS[0].width - 2]}.."
    if status["state"] != "deployed":
        first = status["needs"][0]["code"] if status["needs"] else ""
        told = Cell(status["state"].upper(), first if first != status["state"] else "", BAD)
        version = Cell(f"v{status['version']}" if status["version"] else "-")
        return [Cell(host), told, version, *[Cell("-")] * (len(COLUMNS) - 3)]
    needs, now = status["needs"], moment_of(status["looked_at"]).timestamp()
    more = f" +{len(needs) - 1}" if len(needs) > 1 else ""
    well = Cell("well", "", GOOD) if status["well"] else Cell("NEEDS YOU", f"{needs[0]['code']}{more}", BAD)
    held, quarantine = len(status["held"]), status["quarantine"]
    return [
        Cell(host), well, _engine(status), _files(status), _proof(status), _timer(status, now), _last(status, now),
        _today(status), Cell(str(held), str(status["leftovers"]), BAD if held or status["leftovers"] else ""),
        Cell(str(quarantine["count"]), readable(quarantine["bytes"]) if quarantine["bytes"] else ""),
    ]  # fmt: skip


def _engine(status: Status) -> Cell:
    engine = status["engine"]
    active, pin = engine["active"][:8] or "none", engine["pin"][:8]
    same = engine["pin"] == engine["active"]
    return Cell(active, "(same)" if same else f"({pin})" if pin else "", "" if same or not pin else BAD)


def _files(status: Status) -> Cell:
    drift = len(status["engine"]["drift"])
    bad = drift or not status["policy"]["matches"]
    return Cell(
        "deployed" if status["policy"]["matches"] else "OTHER",
        f"{drift} differ" if drift > 1 else "1 differs" if drift else "no drift",
        BAD if bad else "",
    )


def _proof(status: Status) -> Cell:
    proof = status["proof"]
    return Cell("proven", short(proof["age_seconds"] or 0)) if proof["matches"] else Cell("NONE", "", BAD)


def _timer(status: Status, now: float) -> Cell:
    if status["pause"]:
        return Cell("PAUSED", "", BAD)
    if not status["timer"]["active"]:
        return Cell("off", "", BAD if any(one["code"] == "timer_off" for one in status["needs"]) else DULL)
    if status["running"]:
        return Cell("on", "running")
    return Cell("on", _from_now(status["timer"]["next"], now) or "never")


def _from_now(stamp: str, now: float) -> str:
    """How long until a moment; empty where there is none."""
    try:
        return f"in {short(max(0.0, moment_of(stamp).timestamp() - now))}"
    except ValueError:
        return ""


def _last(status: Status, now: float) -> Cell:
    last = status["last_cycle"]
    if not last:
        return Cell("none yet", "", DULL)
    try:
        ago = short(max(0.0, now - moment_of(last["started"]).timestamp()))
    except ValueError:
        ago = ""
    outcome = {"needs_triage": "triage"}.get(last["outcome"], last["outcome"])
    fine = last["outcome"] in ("published", "idle", "over_budget", "locked", "paused")
    return Cell(show(outcome, 11), ago, "" if fine else BAD)


def _today(status: Status) -> Cell:
    today = status["today"]
    used_up = today["runs"] >= today["max_runs"] or today["cost_usd"] >= today["max_cost_usd"]
    cost = f"{today['cost_usd']:.2f}/{today['max_cost_usd']:g}"
    return Cell(f"{today['runs']}/{today['max_runs']}{' full' if used_up else ''}", cost, BAD if used_up else "")


# --- drawing


def draw(fleet: Fleet, *, colour: bool = False, rich: bool = True) -> str:
    """The whole: a row for each host, and what the hosts need."""
    rows = [row(host, status) for host, status in fleet.items()]
    drawn = _with_rich(rows, colour) if rich and Console is not None else _plain(rows)
    return "\n".join([drawn.rstrip(), "", *_advice(fleet, colour)])


def _plain(rows: Sequence[Sequence[Cell]]) -> str:
    lines = [_line([column.name for column in COLUMNS]), _line([column.below for column in COLUMNS])]
    for cells in rows:
        second = [cell.second for cell in cells]
        second[0] = cells[0].first[COLUMNS[0].width :]  # a long name goes on below
        lines += [_line([cell.first for cell in cells]), _line(second)]
    return "\n".join(lines)


def _line(words: Sequence[str]) -> str:
    fitting = (word[: column.width].ljust(column.width) for word, column in zip(words, COLUMNS, strict=True))
    return " ".join(fitting).rstrip()


def _with_rich(rows: Sequence[Sequence[Cell]], colour: bool) -> str:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, collapse_padding=True, expand=False)
    for column in COLUMNS:
        heading = Text(f"{column.name}\n{column.below}")
        table.add_column(heading, width=column.width, overflow="fold", no_wrap=False)
    for cells in rows:
        texts = []
        for number, cell in enumerate(cells):
            below = "" if number == 0 else cell.second
            texts.append(Text(f"{cell.first}\n{below}" if below else cell.first, style=cell.style))
        table.add_row(*texts)
    out = io.StringIO()
    options: dict[str, Any] = {"color_system": "standard" if colour else None, "force_terminal": colour}
    Console(file=out, width=WIDTH, highlight=False, no_color=not colour, legacy_windows=False, **options).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _advice(fleet: Fleet, colour: bool) -> Iterator[str]:
    """For each host that needs a person, what is wrong and what to do; what else is to be known."""
    bad = [host for host, status in fleet.items() if not status["well"]]
    if not bad:
        yield "All is well." if len(fleet) > 1 else "It is well."
    for host in bad:
        for number, need in enumerate(fleet[host]["needs"], 1):
            head = f"{host}: {need['code']}"
            yield f"\x1b[1;31m{head}\x1b[0m" if colour else head
            yield from _wrapped(need["what"], "  ")
            for step in steps(need["do"]):
                yield from step.lines("    ")
            if number < len(fleet[host]["needs"]):
                yield ""
        yield ""
    for host, status in fleet.items():
        for note in notes(status):
            yield from _wrapped(f"{host}: {note}", "")


def notes(status: Status) -> Iterator[str]:
    """What needs nobody, and explains what a person may wonder at."""
    today, timer, last = status["today"], status["timer"], status["last_cycle"]
    codes = {need["code"] for need in status["needs"]}
    if status["state"] != "deployed":
        return
    if today["runs"] >= today["max_runs"] and "over_budget" not in codes:
        yield (
            f"the {today['max_runs']} runs of today are used up: the next may start after midnight UTC"
            " (engineering_loop_max_runs_per_day)."
        )
    if not timer["active"] and not codes & {"timer_off", "paused", "unproven", "under_way", "drifted", "policy"}:
        yield f"the timer is off, as is wanted ({timer['reason']}): a cycle starts by hand only."
    if last and last["outcome"] == "interrupted" and "engine" not in codes:
        yield f"the last cycle was interrupted: {last['detail']}. Its cell is kept."
    for one in status["waiting"]:
        yield f"{one['repo']}#{one['number']} is approved and waits (nothing to do here): {one['why']}."
    for line in engine_options.sentences(status["engine"]["options"]):
        yield f"{line}."
    for note in status["secrets"]["notes"]:
        yield f"{note}."


# --- what to type


class Step(NamedTuple):
    """One step of what is to be done: words, and what is typed, if anything is."""

    words: str
    command: str

    def lines(self, indent: str) -> list[str]:
        """As it is shown: a command has lines of its own, and can be pasted also where it is cut."""
        told = list(_wrapped(self.words, indent))
        return told + (_continued(self.command, f"{indent}$ ") if self.command else [])


def steps(do: str) -> list[Step]:
    """What is to be done, taken apart at its semicolons."""
    found = []
    for part in do.split("; "):
        match = re.search(rf"ansible-playbook |{re.escape(HOST)}|\bas root: ", part)
        if match is None:
            found.append(Step(f"{part}.".replace("..", "."), ""))
            continue
        place = match.end() if match[0] != "ansible-playbook " else match.start()
        before = part[:place].strip()
        found.append(Step(before if before.endswith(":") or not before else f"{before}:", part[place:]))
    return found


def _wrapped(text: str, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=True, break_on_hyphens=False
    )


def _continued(command: str, indent: str) -> list[str]:
    """A command in lines that a shell takes for one: cut between its words, none of which is cut."""
    lines, room = [""], WIDTH - len(indent) - 4
    for word in re.findall(r"(?:'[^']*'|\"[^\"]*\"|\S)+", command):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > room:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    rest = " " * (len(indent) + 2)
    return [f"{rest if number else indent}{line}" for number, line in enumerate(" \\\n".join(lines).split("\n"))]


def for_host(told: Any, host: str, playbooks: str = "") -> Any:
    """Plain data of a status with the commands in it as they are typed for ``host``.

    ``playbooks`` is how a playbook is begun, such as ``ansible-playbook -i inventory.yml``; empty where nobody knows.
    """
    if isinstance(told, dict):
        return {key: for_host(value, host, playbooks) for key, value in told.items()}
    if isinstance(told, list):
        return [for_host(value, host, playbooks) for value in told]
    if not isinstance(told, str):
        return told
    text = told.replace("ansible-playbook -i INVENTORY ", f"{playbooks} ") if playbooks else told
    if not playbooks:  # on the host itself
        return text.replace(HOST, "as root: ")
    return text.replace(" -l HOST", f" -l {host}").replace(HOST, f"on {host}, as root: ")


def is_dumb() -> bool:
    """Whether colours are not wanted, by the usual signs."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
