# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is worth telling an operator, derived from a host's status: a pure function, no event is sent by anybody.

Everything follows from what stands in records, holds, pause and ledger, so nothing is lost where a cycle or an apply is
killed, and what was told already (``Memory``) is not told again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..base.clock import stamp
from ..base.errors import playbook
from ..base.files import sha256
from ..base.untrusted import show

Json: TypeAlias = Mapping[str, Any]

FAILURE, WARNING, SUCCESS, INFO = "failure", "warning", "success", "info"
URGENCY = (FAILURE, WARNING, SUCCESS, INFO)
MINUTE, HOUR, DAY = 60, 3600, 86400
MAX_TITLE, MAX_WHAT, MAX_DO = 120, 700, 500
KEPT = 500  # notices that are remembered
BAD = ("needs_triage", "error", "refused", "refused_ci", "interrupted")

# Needs that follow from something else that is told: a cycle's end, a hold, a pause; and a budget that is used up is
# what it is for.
ELSEWHERE = ("held", "paused", "over_budget")
# Those whose cause a failed cycle names as well: told by themselves only where no cycle was told within a day.
OF_A_CYCLE = ("triage", "forge", "credentials", "engine")
# How long something must last before it is told: an apply passes through states that nobody needs to hear of.
LASTS = {
    "disk_full": 0, "secrets": 0, "proof_expires": 0, "secrets_expire": 0, "under_way": HOUR, "leftovers": DAY,
    **dict.fromkeys(OF_A_CYCLE, 30 * MINUTE),
}  # fmt: skip
USUAL = 15 * MINUTE
CALM = ("proof_expires", "secrets_expire", "secrets", "leftovers", "timer_off", "unproven", "under_way")


@dataclass(frozen=True)
class Notice:
    """One thing to say: what it is told apart by, how grave it is, what happened, and what to type."""

    key: str
    kind: str
    title: str
    what: str
    do: str = ""

    @property
    def body(self) -> str:
        """The text below the title."""
        return f"{self.what}\nTo do: {self.do}" if self.do else self.what


@dataclass
class Memory:
    """What was seen and told before, as it stands in ``told.json``; times are seconds since 1970."""

    begun: bool = False
    cycle: str = ""  # the newest cycle that was looked at
    rolled_back: str = ""  # when the newest return was that was looked at
    paused: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)  # key -> when
    needs: dict[str, Any] = field(default_factory=dict)  # code -> {"since", "told", "gone"}
    queue: list[Any] = field(default_factory=list)
    targets: dict[str, Any] = field(default_factory=dict)


def harmless(text: object, limit: int) -> str:
    """Text of somebody else's that no chat takes for a mention, a link or markup; on one line, of so many letters."""
    plain = show(" ".join(str(text)[: 2 * limit].split()), limit)
    for letter, other in (("<", "("), (">", ")"), ("[", "("), ("]", ")"), ("`", "'"), ("@", "(at)"), ("&", "+")):
        plain = plain.replace(letter, other)
    plain = re.sub(r"(?<=\w)://", ": //", plain)  # no address of a stranger's is made a link
    return re.sub(r"(?i)\b(www)\.", r"\1 .", plain)[: limit + 60]


def ours(text: object, limit: int = MAX_DO) -> str:
    """A sentence of the collection's with a command in it, in which somebody's name may stand."""
    plain = show(" ".join(str(text).split()), limit)
    return re.sub(r"@(?=everyone|here|channel)|<(?=[!@#])", "(at)", plain, flags=re.IGNORECASE)


def address(url: object) -> str:
    """The URL of a pull request; nothing where it is no plain one."""
    return str(url) if re.fullmatch(r"https?://[\w.:/-]{1,300}", str(url or ""), re.ASCII) else ""


def derive(status: Json, memory: Memory, rollbacks: Sequence[Json], host: str, now: float) -> list[Notice]:
    """What is to be told now; ``memory`` knows then that it was seen.

    ``rollbacks`` are ``{at, why, left, sha, reason}``.

    The first look at a host takes what happened before it as known: only what is so now is told.
    """
    first, memory.begun = not memory.begun, True
    found = [
        *_cycles(status, memory, first, now),
        *_held(status),
        *_paused(status, memory),
        *_rolled_back(memory, rollbacks, first),
        *_needs(status, memory, now),
    ]
    new = []
    for notice in found:
        age = now - _number(memory.told.get(notice.key))  # below zero where the clock ran ahead then
        if notice.key not in memory.told or age >= _repeats(notice.key) or age < -MINUTE:
            memory.told[notice.key] = int(now)
            new.append(_named(notice, host))
    _forget(memory, {notice.key for notice in found}, now)
    return sorted(new, key=lambda notice: URGENCY.index(notice.kind))


def _named(notice: Notice, host: str) -> Notice:
    name = harmless(host, 60)
    do = re.sub(r"\bHOST\b", lambda _found: name, notice.do)  # the core does not know how the host is reached
    return Notice(notice.key, notice.kind, f"{name}: {notice.title}"[:MAX_TITLE], notice.what, do)


def _repeats(key: str) -> float:
    """After how many seconds the same is told again."""
    return DAY if key.startswith(("cycle:", "need:")) else float("inf")


def _forget(memory: Memory, standing: set[str], now: float) -> None:
    """Of what was told the newest stays; what stands still stays in any case."""
    aged = {key: _number(at) for key, at in memory.told.items() if key in standing or now - _number(at) < 30 * DAY}
    keep = sorted(aged, key=lambda key: (key in standing, aged[key]))[-KEPT:]
    memory.told = {key: int(aged[key]) for key in keep}


# --- cycles ------------------------------------------------------------------------------------------


def _cycles(status: Json, memory: Memory, first: bool, now: float) -> Iterator[Notice]:
    newest = stamp(now + MINUTE)
    if memory.cycle > newest:  # the clock ran ahead then; what was told within a day is known by name
        memory.cycle = stamp(now - DAY)
    history = [one for one in _dicts(status.get("history")) if isinstance(one.get("cycle"), str)]
    ended = [one for one in history if one.get("outcome") != "running"]
    last = status.get("last_cycle") or {}
    for place, one in enumerate(ended):
        if one["cycle"] <= memory.cycle or first:
            continue
        whole = {**one, **last} if last.get("cycle") == one["cycle"] else one
        failed = _in_a_row(ended[:place])
        if one.get("outcome") in BAD:
            yield _failed(whole, failed + 1, status)
        elif one.get("outcome") == "published" and failed:
            times = "failed cycle" if failed == 1 else f"{failed} failed cycles"
            url = address(one.get("pr_url"))
            yield Notice(
                f"recovered:{one['cycle']}", SUCCESS, f"published again after {times}", url or "It works again."
            )
    memory.cycle = max([memory.cycle, *(one["cycle"] for one in ended if one["cycle"] <= newest)])


def _in_a_row(history: Sequence[Json]) -> int:
    """How many of the latest cycles failed one after the other; those with nothing to do do not count."""
    count = 0
    for one in reversed(history):
        if one.get("outcome") in BAD:
            count += 1
        elif one.get("outcome") == "published":
            break
    return count


def _failed(cycle: Json, in_a_row: int, status: Json) -> Notice:
    outcome, detail, issue = str(cycle["outcome"]), str(cycle.get("detail") or ""), _issue(cycle.get("issue"))
    words = {"needs_triage": "a cycle needs a person", "refused_ci": "a cycle was refused"}
    title = words.get(outcome, f"a cycle was {outcome}" if outcome != "error" else "a cycle failed")
    said = [f"{issue}:" if issue else "", harmless(detail or f"cycle {cycle['cycle']}", MAX_WHAT)]
    if in_a_row > 1:
        said.append(f"({in_a_row} cycles in a row did not end well)")
    return Notice(
        # The same refusal every hour is one notice, whatever times and numbers stand in it.
        f"cycle:{outcome}:{_digest(issue + re.sub(r'[0-9a-f]*[0-9][0-9a-f]*', '#', detail))}",
        WARNING if outcome == "needs_triage" else FAILURE,
        f"{title}{f' ({issue})' if issue else ''}",
        " ".join(filter(None, said)),
        _advice(status) or _look_at(outcome, str(cycle["cycle"])),
    )


def _advice(status: Json) -> str:
    """What to type for what made a cycle fail, where the status knows it."""
    for need in _dicts(status.get("needs")):
        if need.get("code") in (*OF_A_CYCLE, "disk_full", "secrets", "policy", "drifted", "unproven"):
            return ours(need.get("do"))
    return ""


def _look_at(outcome: str, cycle: str) -> str:
    if outcome in ("refused", "refused_ci"):
        return playbook("status")
    return f"{playbook('restore')} -e what={show(cycle, 60)}"


def _issue(issue: object) -> str:
    if not isinstance(issue, Mapping):
        return harmless(issue, 100) if issue else ""
    title = f" {harmless(issue['title'], 80)}" if issue.get("title") else ""
    return f"{harmless(issue.get('repo'), 100)}#{harmless(issue.get('number'), 12)}{title}"


# --- what stands --------------------------------------------------------------------------------------


def _held(status: Json) -> Iterator[Notice]:
    for one in _dicts(status.get("held")):
        repo, number = harmless(one.get("repo"), 100), harmless(one.get("number"), 12)
        what = f"{_issue(one)} is not worked on any more: {harmless(one.get('why'), MAX_WHAT)}"
        spent = f" It was tried {_count(one, 'attempts')} times for {_number(one.get('cost_usd')):.2f} USD."
        release = f"change its text or labels, or {playbook('release_issue')} -e issue={repo}#{number}"
        key = f"held:{repo}#{number}:{harmless(one.get('since'), 30)}"
        yield Notice(key, WARNING, f"issue {repo}#{number} is held", what + spent, release)


def _paused(status: Json, memory: Memory) -> Iterator[Notice]:
    pause, before = status.get("pause"), memory.paused
    if isinstance(pause, Mapping):
        since, by = harmless(pause.get("since"), 30), harmless(pause.get("by"), 60)
        why = harmless(pause.get("why") or "nobody said why", MAX_WHAT)
        said = f"No cycle starts since {since or 'some time'}{f' (by {by})' if by else ''}: {why}"
        yield Notice(f"paused:{since}", INFO, "paused", said, playbook("resume"))
        memory.paused = {"since": since}
    elif before and status.get("state") == "deployed":
        yield Notice(f"resumed:{harmless(before.get('since'), 30)}", INFO, "resumed", "Cycles may start again.")
        memory.paused = {}


def _rolled_back(memory: Memory, rollbacks: Sequence[Json], first: bool) -> Iterator[Notice]:
    for one in rollbacks:
        at = show(one.get("at"), 30)
        if at > memory.rolled_back and not first:
            left, to = (show(one.get(key), 60)[:12] for key in ("left", "sha"))
            why = harmless(one.get("reason") or one.get("why"), MAX_WHAT)
            what = f"Engine {left or 'unknown'} was left for {to}, which was proven before: {why}"
            yield Notice(f"rolled_back:{at}", WARNING, "went back to what was proven", what, playbook("status"))
    memory.rolled_back = max([memory.rolled_back, *(show(one.get("at"), 30) for one in rollbacks)])


def _needs(status: Json, memory: Memory, now: float) -> Iterator[Notice]:
    """What needs somebody for some time, once a day; and that it is over, where it was told."""
    standing = {str(one.get("code")): one for one in reversed(_dicts(status.get("needs")))}
    lately = any(key.startswith("cycle:") and now - _number(at) < DAY for key, at in memory.told.items())
    for code, need in standing.items():
        seen = memory.needs.setdefault(code, {"since": int(now)})
        seen.pop("gone", None)
        if code in ELSEWHERE or (code in OF_A_CYCLE and lately and not seen.get("told")):
            continue
        if now - _number(seen.get("since"), now) >= LASTS.get(code, USUAL):
            seen["told"] = True
            kind = WARNING if code in CALM else FAILURE
            title = harmless(code.replace("_", " "), 40)
            yield Notice(f"need:{code}", kind, title, harmless(need.get("what"), MAX_WHAT), ours(need.get("do")))
    for code, seen in list(memory.needs.items()):
        if code in standing:
            continue
        gone = seen.setdefault("gone", int(now)) if seen.get("told") else 0
        if now - _number(gone) >= 2 * USUAL:  # what comes and goes is not told each time
            del memory.needs[code]
            if gone:
                memory.told.pop(f"need:{code}", None)
                title = f"over: {harmless(code.replace('_', ' '), 40)}"
                yield Notice(
                    f"over:{code}:{int(now)}", SUCCESS, title, "What was told of before needs nobody any more."
                )


# --- small things -------------------------------------------------------------------------------------


def _dicts(value: object) -> list[Json]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, (list, tuple)) else []


def _number(value: object, otherwise: float = 0.0) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e15 else otherwise


def _count(one: Json, key: str) -> int:
    return int(_number(one.get(key)))


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "replace"))[:12]
