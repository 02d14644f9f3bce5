# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happened in each cycle, for a person: a list of them, one in full, and what they cost. Reads only.

What others wrote is in the records and logs already cleaned; a title or a reason is shown as it stands there.
"""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..base.errors import LoopError, playbook
from ..base.sizes import readable, spoken
from ..base.untrusted import show, shown
from ..cell import archive, cells, records
from ..host import settings
from ..host.settings import Settings

Json: TypeAlias = dict[str, Any]

# Of the host's settings so much is needed, so that what an earlier version deployed can be looked at as well.
KEYS = ("state_dir", "cycles_dir", "runs_dir", "lib_dir", "unit")
OUTCOMES = (*records.EXIT_STATUS, records.RUNNING)
ISSUE = re.compile(r"(?:(?:(?P<owner>[\w.-]+)/)?(?P<name>[\w.-]+))?#?(?P<number>\d{1,12})", re.ASCII)
NEWEST = "last"
LOG_LINES = 40
WIDTH = 100
COSTS = ("host", "cycle", "date", "engine", "repo", "issue", "outcome", "seconds", "cost_usd", "agents", "pr_url")


# --- which ----------------------------------------------------------------------------------------


def select(config: Settings, last: int = 20, outcome: str = "", issue: str = "") -> list[Json]:
    """The newest ``last`` cycles that fit, newest first; all of them with 0. LoopError where a filter is none."""
    outcomes = _outcomes(outcome)
    wanted = _issue(issue)
    if last < 0:
        raise LoopError(f"last={last}: it must be how many cycles to show, or 0 for all of them")
    many = last if last and not outcomes and not wanted else records.MOST
    found = [row(record) for record in reversed(records.read(config.cycles_dir, many))]
    fitting = [one for one in found if (not outcomes or one["outcome"] in outcomes) and _is(one, wanted)]
    return fitting[:last] if last else fitting


def _outcomes(text: str) -> set[str]:
    wanted = {word.strip() for word in text.split(",") if word.strip()}
    unknown = sorted(wanted - set(OUTCOMES))
    if unknown:
        raise LoopError(f"outcome={show(unknown[0])}: there is no such outcome; there are {', '.join(OUTCOMES)}")
    return wanted


def _issue(text: str) -> dict[str, str]:
    """The parts of an issue's name that were given; none where none was asked for."""
    text = text.strip()
    found = ISSUE.fullmatch(text)
    if text and (not found or ("#" not in text and found["name"])):
        raise LoopError(f"issue={show(text)}: it must be a number such as 7, REPO#7 or OWNER/REPO#7")
    return {key: value for key, value in found.groupdict().items() if value} if found else {}


def _is(one: Json, wanted: Mapping[str, str]) -> bool:
    owner, _slash, name = str(one["repo"]).lower().partition("/")
    parts = {"owner": owner, "name": name, "number": str(one["issue"])}
    return all(parts[key] == value.lower() for key, value in wanted.items())


def find(config: Settings, what: str) -> str:
    """The id of the cycle that is called so, or of the one whose id has ``what`` in it; ``last`` is the newest."""
    ids = [name.removesuffix(".json") for name in records.names(config.cycles_dir)]
    if not ids:
        raise LoopError(f"cycle={show(what)}: there was no cycle on this host yet, or none is kept")
    if what == NEWEST:
        return ids[-1]
    fitting = [known for known in ids if known == what] or [known for known in ids if what and what in known]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise LoopError(f"cycle={show(what)}: no cycle is called so; {playbook('cycles')} lists them")
    few = ", ".join(fitting[-3:])
    raise LoopError(f"cycle={show(what)}: {len(fitting)} cycles fit, such as {few}; give more of the one you mean")


# --- what -----------------------------------------------------------------------------------------


def row(record: Mapping[str, Any]) -> Json:
    """One cycle in the words of a table."""
    issue, numbers, engine = (_dict(record, key) for key in ("issue", "numbers", "engine"))
    return {
        "cycle": str(record.get("cycle", "")),
        "started": str(record.get("started", "")),
        "outcome": str(record.get("outcome", "")),
        "seconds": _number(record.get("seconds")),
        "cost_usd": _number(numbers.get("cost_usd")),
        "agents": int(_number(record.get("agents"))),
        "engine": str(engine.get("sha", "")),
        "repo": str(issue.get("repo", "")),
        "issue": issue.get("number") if isinstance(issue.get("number"), int) else None,
        "title": str(issue.get("title", "")),
        "pr_url": str(record.get("pr_url") or ""),
        "why": str(record.get("detail") or ""),
    }


def _dict(record: Mapping[str, Any], key: str) -> Json:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    return value if isinstance(value, list) else []


def _dicts(record: Mapping[str, Any], key: str) -> list[Json]:
    return [one for one in _list(record, key) if isinstance(one, dict)]


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e15 else 0.0


def whole(config: Settings, cycle: str) -> Json:
    """All that is kept of one cycle. ``log`` is None, and ``problem`` says so, where there is none."""
    record = records.one(config.cycles_dir, cycle)
    if record is None:
        raise LoopError(f"{config.cycles_dir}/{cycle}.json cannot be read as the record of a cycle")
    problems, log = [], None
    files: dict[str, bytes] = {}
    try:
        log = archive.log_of(config, cycle)
        files = archive.files_of(config, cycle)
    except LoopError as error:
        problems.append(str(error))
    cell = f"{config.runs_dir}/{cycle}"
    return {
        "record": record,
        "log": log,
        "files": files,
        "problems": problems,
        "cell": cell if os.path.isdir(cell) else "",
        "enter": cells.enter_command(config, cycle),
        "journal": f"journalctl INVOCATION_ID={record.get('invocation_id')} + _SYSTEMD_INVOCATION_ID="
        f"{record.get('invocation_id')}",
    }


def outline(one: Mapping[str, Any]) -> Json:
    """The same without what is long: of the log its last lines, of the files their sizes."""
    lines = (one["log"] or "").splitlines()
    return {
        **{key: one[key] for key in ("record", "problems", "cell", "enter", "journal")},
        "files": [{"name": name, "size": len(content)} for name, content in sorted(one["files"].items())],
        "log": {"kept": one["log"] is not None, "lines": len(lines), "end": lines[-LOG_LINES:]},
    }


# --- in words ---------------------------------------------------------------------------------------


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cycles as lines, not longer than ``WIDTH`` but for a link, which must stay whole."""
    if not rows:
        return ["No cycle fits."]
    cells = [("WHEN (UTC)", "CYCLE", "OUTCOME", "TOOK", "USD", "ISSUE", "PULL REQUEST, OR WHY")]
    for one in rows:
        when = one["started"].replace("T", " ")[:16]
        number = f"{one['repo'].rpartition('/')[2]}#{one['issue']}" if one["issue"] is not None else "-"
        why = " ".join(one["why"].split())
        took = spoken(one["seconds"]) if one["outcome"] != records.RUNNING else "-"
        ident = one["cycle"].rpartition("-")[2]
        cells.append((when, ident, one["outcome"], took, f"{one['cost_usd']:.2f}", number, one["pr_url"] or why))
    widths = [min(30, max(len(line[column]) for line in cells)) for column in range(6)]
    lines = []
    for line in cells:
        start = "  ".join(part[:width].ljust(width) for part, width in zip(line, widths, strict=False))
        end = line[6]
        room = max(20, WIDTH - len(start) - 2)
        fits = len(end) <= room or end.startswith(("http://", "https://"))
        lines.append(f"{start}  {end if fits else end[: room - 3] + '...'}".rstrip())
    return lines


def words(one: Mapping[str, Any], *, restore: str = "", cycles: str = "") -> list[str]:
    """What ``outline`` says of one cycle, as lines; ``restore`` and ``cycles`` are the playbooks as they are typed."""
    record = one["record"]
    told = row(record)
    restore, cycles = restore or playbook("restore"), cycles or playbook("cycles")
    ident = told["cycle"]
    issue = f"{told['repo']}#{told['issue']}: {told['title']}" if told["issue"] is not None else "none was taken"
    run = {"runs_today": "?", "max_runs": "?", **_dict(record, "budget")}
    agents = ", ".join(map(str, _list(record, "programs"))) or "none was started"
    lines = [
        f"Cycle {ident}: {told['outcome']}",
        _said("began", f"{told['started']}, took {spoken(told['seconds'])}, started by {record.get('trigger', '?')}"),
        _said("detail", told["why"]) if told["why"] else "",
        _said("issue", issue),
        _said("pull request", told["pr_url"]) if told["pr_url"] else "",
        _said("engine", f"{told['engine']}, backend {record.get('backend') or 'not named'}"),
        _said("agent", f"{agents}, started {told['agents']} times" if told["agents"] else agents),
        _said("cost", f"{told['cost_usd']:.4f} USD, as the engine counts it"),
        _said("runs", f"{run['runs_today']} of {run['max_runs']} that day"),
        *_pushes(record),
        *_others(record),
    ]
    lines += _kept(one, ident, restore)
    return [show(line, 1000) for line in lines if line] + _log_end(one, ident, cycles)


def _said(what: str, text: str) -> str:
    return f"  {what:<13}{' '.join(text.split())}"


def _pushes(record: Mapping[str, Any]) -> list[str]:
    """What came to the gateway, and how its gate judged it."""
    lines = []
    for push in _dicts(record, "pushes"):
        what = f"{push.get('repo')} {push.get('branch')} {str(push.get('new', ''))[:12]}"
        judged = "let through" if push.get("allowed") else f"refused: {push.get('reason')}"
        kept = f"; the gateway keeps it as {push['kept']}" if push.get("kept") else ""
        lines.append(_said("push", f"{what}, {judged} ({push.get('seconds', '?')} s){kept}"))
    more = int(_number(record.get("pushed"))) - len(lines)
    return lines + ([_said("push", f"and {more} more, refused")] if more > 0 else [])


def _others(record: Mapping[str, Any]) -> list[str]:
    """What else the gateway, the network and the memory had to do with it."""
    network, collected = _dict(record, "network"), _dict(record, "collected")
    lines = [_said("not offered", f"{one.get('repo')}#{one.get('number')}: {one.get('why')}")
             for one in _dicts(record, "held")]  # fmt: skip
    lines += [_said("refused", str(one)) for one in _list(record, "refusals")]
    lines += [_said("network", f"{one} was refused") for one in _list(network, "refused")]
    for what, found in (("memory", _dict(record, "memory")), ("learned", _dict(collected, "learning"))):
        if found.get("changed"):
            lines.append(_said(what, f"{found.get('files')} files, {readable(_number(found.get('bytes')))}"))
        if found.get("error"):
            lines.append(_said(what, f"as it was before: {found['error']}"))
        lines += [_said(what, f"not taken: {one}") for one in _list(found, "left_out")]
    return lines


def _kept(one: Mapping[str, Any], ident: str, restore: str) -> list[str]:
    """What is left of it, and how to get at it."""
    lines = [_said("problem", problem) for problem in one["problems"]]
    for file in one["files"]:
        kind = "transcript" if "transcript" in file["name"] else "written"
        lines.append(_said(kind, f"{file['name']} ({readable(file['size'])})"))
    if not one["cell"]:
        return [*lines, _said("cell", "gone: nothing was in it, or it was kept long enough")]
    return [
        *lines,
        _said("cell", one["cell"]),
        _said("", f"a shell in it, on the host: sudo {one['enter']}"),
        _said("", f"its work as a branch: {restore} -e what={ident} -e to=BRANCH"),
    ]


def _log_end(one: Mapping[str, Any], ident: str, cycles: str) -> list[str]:
    log = one["log"]
    if not log["kept"]:
        missing = "none was kept: the cycle is not over, or was cut off, or the disk was full when it ended"
        return [_said("log", f"{missing}. What the journal still has: {one['journal']}")]
    fetch = f"all of it: {cycles} -e cycle={ident} -e fetch=DIR"
    lines = len(log["end"])
    told = f"the last {lines} of {log['lines']} lines" if lines < log["lines"] else f"{lines} lines"
    return [_said("log", f"{told}; {fetch}"), *(f"    {line}" for line in log["end"])]


# --- costs ------------------------------------------------------------------------------------------


def costs(rows: Sequence[Mapping[str, Any]], host: str) -> list[str]:
    """A line of CSV for each cycle, in the columns ``COSTS``, oldest first. No cell is a formula to a spreadsheet."""
    return [
        comma_separated([
            host, one["cycle"], one["started"], one["engine"], one["repo"],
            "" if one["issue"] is None else one["issue"],
            one["outcome"], f"{one['seconds']:.1f}", f"{one['cost_usd']:.6f}", one["agents"], one["pr_url"],
        ])
        for one in reversed(rows)
    ]  # fmt: skip


def comma_separated(values: Sequence[object]) -> str:
    """One line. What a spreadsheet would take for a formula is text: with an apostrophe before it."""
    line = io.StringIO()
    texts = [str(value) for value in values]
    plain = ["'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text for text in texts]
    csv.writer(line, lineterminator="").writerow(plain)
    return line.getvalue()


# --- on the host itself ---------------------------------------------------------------------------------


def main(config_path: str = settings.DEFAULT_PATH, what: str = "") -> int:
    """``loop cycles``: the last ones, or one in full."""
    try:
        if os.geteuid() != 0:
            raise LoopError(f"logs of cycles are root's: sudo {sys.argv[0]} cycles")
        config = settings.load(config_path, keys=KEYS)
        one = shown(outline(whole(config, find(config, what)))) if what else None
        lines = words(one) if one else table(shown(select(config)))
        sys.stdout.write("\n".join(lines) + "\n")
    except BrokenPipeError:  # as by head
        return 0
    except LoopError as error:
        sys.stderr.write(f"loop: {error}\n")
        return 1
    return 0
