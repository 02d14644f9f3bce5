# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What waits to be sent, to whom, and what was: bounded, rate-limited, kept in ``told.json``, which is root's alone.

A notice is queued before it is sent and leaves the queue when its targets took it, so a killed look sends it once more
rather than never. A target that does not answer is asked less and less often; what waits for it becomes one digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from ..base import documents
from ..base.errors import LoopError
from ..base.files import read_bytes, write_atomic
from ..base.untrusted import show
from ..host import telling
from ..host.settings import Settings
from ..host.targets import Target
from .notices import DAY, HOUR, INFO, URGENCY, Memory, Notice
from .send import UNKNOWN, Answer

Json: TypeAlias = dict[str, Any]

PER_HOUR = 10  # messages to a target, where the settings say nothing else
QUEUE = 50  # messages that wait
KEEP = DAY  # how long one waits for a target
APART = 3  # so many messages go one by one; more of them are one digest
FIRST_WAIT, LONGEST_WAIT = 15 * 60, 6 * HOUR  # between two tries of a target that did not take one
MAX_DIGEST = 1500
TEXTS = ("id", "kind", "title", "what", "do")  # of a message that waits


def path_of(config: Settings) -> str:
    """Where it stands: beside the releases, where only root writes."""
    return f"{config.install_dir}/{telling.TOLD}"


def load(config: Settings) -> tuple[Memory, str]:
    """What was told, and why that begins anew where the file cannot be read: nobody is to mend that."""
    path = path_of(config)
    try:
        content = read_bytes(path)
        return (documents.load(Memory, content), "") if content is not None else (Memory(), "")
    except LoopError as error:
        return Memory(), f"{path} cannot be understood ({error}): what was told before is not known"


def save(config: Settings, memory: Memory) -> None:
    """Write it whole or not at all."""
    write_atomic(path_of(config), (json.dumps(asdict(memory), indent=1) + "\n").encode(), mode=0o600)


def enqueue(memory: Memory, notices: Sequence[Notice], targets: Sequence[Target], now: float) -> None:
    """Queue what is new for every target; of too many the oldest go, and each target hears how many."""
    _tidy(memory, targets, now)
    ids = [target.id for target in targets]
    for number, notice in enumerate(notices if ids else ()):
        kept = {key: value for key, value in asdict(notice).items() if key != "key"}
        memory.queue.append({"id": f"{int(now)}-{number}", "at": int(now), **kept, "to": list(ids)})
    for lost in memory.queue[:-QUEUE]:
        _lose(memory, lost["to"])
    memory.queue = memory.queue[-QUEUE:]


def _tidy(memory: Memory, targets: Sequence[Target], now: float) -> None:
    """Nothing is kept for a target that is gone, nor longer than a target is waited for."""
    known = {target.id: target.shown for target in targets}
    memory.targets = {name: {**_target(memory, name), "shown": shown} for name, shown in known.items()}
    queue = []
    for one in memory.queue:
        if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in TEXTS):
            continue
        one["to"] = [name for name in one.get("to", ()) if name in known]
        if now - float(one.get("at", 0)) > KEEP:
            _lose(memory, one["to"])
        elif one["to"]:
            queue.append(one)
    memory.queue = queue


def _target(memory: Memory, name: str) -> Json:
    """What is known of a target; of none, that nothing was sent to it yet."""
    known = memory.targets.get(name)
    known = known if isinstance(known, dict) else {}
    usual: Json = {"failures": 0, "next": 0, "why": "", "taken": 0, "lost": 0, "sent": []}
    return {key: known[key] if isinstance(known.get(key), type(value)) else value for key, value in usual.items()}


def _lose(memory: Memory, names: Sequence[str]) -> None:
    for name in names:
        if name in memory.targets:
            memory.targets[name]["lost"] += 1


def due(memory: Memory, now: float, per_hour: int = PER_HOUR) -> dict[str, list[Json]]:
    """Target -> messages that it is to get now: as many as the hour allows, the rest as one.

    A message is ``{kind, title, body, ids}``, the last of what waits in the queue.
    """
    found: dict[str, list[Json]] = {}
    for name, target in memory.targets.items():
        waiting = [one for one in memory.queue if name in one["to"]]
        lately = [at for at in target["sent"] if isinstance(at, (int, float)) and 0 <= now - at < HOUR]
        target["sent"] = lately[-1000:]
        room = per_hour - len(lately)
        if not waiting or now < target["next"] <= now + LONGEST_WAIT or room <= 0:
            continue
        alone = len(waiting) if len(waiting) <= min(room, APART) else 0
        messages = [_message(one) for one in waiting[:alone]] or [_digest(waiting)]
        if target["lost"]:
            messages[-1]["body"] += f"\n({target['lost']} earlier notices could not be delivered here.)"
        found[name] = messages
    return found


def _message(one: Mapping[str, Any]) -> Json:
    notice = Notice("", one["kind"], one["title"], one["what"], one["do"])
    return {"kind": notice.kind, "title": notice.title, "body": notice.body, "ids": [one["id"]]}


def _digest(waiting: Sequence[Mapping[str, Any]]) -> Json:
    """Several notices in one message, the gravest first."""
    ordered = sorted(waiting, key=lambda one: URGENCY.index(one["kind"]) if one["kind"] in URGENCY else len(URGENCY))
    lines: list[str] = []
    length = 0
    for one in ordered:
        line = f"- {one['title']}: {show(one['what'], 150)}" + (f" To do: {one['do']}" if one["do"] else "")
        length += len(line) + 1
        if length > MAX_DIGEST:
            lines.append(f"- and {len(ordered) - len(lines)} more")
            break
        lines.append(line)
    host = ordered[0]["title"].split(":")[0]
    return {
        "kind": ordered[0]["kind"] if ordered[0]["kind"] in URGENCY else INFO,
        "title": f"{host}: {len(ordered)} notices",
        "body": "\n".join(lines),
        "ids": [one["id"] for one in waiting],
    }


def settle(memory: Memory, sent: Mapping[str, Sequence[Json]], answers: Mapping[str, Answer], now: float) -> list[str]:
    """Take in what came of ``sent``: what was taken leaves the queue, the rest comes later. Lines for the journal."""
    said = []
    for name, messages in sent.items():
        target, answer = memory.targets[name], answers.get(name, UNKNOWN)
        gone = {each for message in messages[: answer.taken] for each in message["ids"]}
        for one in memory.queue:
            if one["id"] in gone:
                one["to"] = [each for each in one["to"] if each != name]
        target["sent"] += [int(now)] * answer.taken
        if answer.taken:
            target.update(taken=int(now), lost=0 if answer.taken == len(messages) else target["lost"])
        if answer.why:
            target["failures"] += 1
            wait = min(FIRST_WAIT * 2 ** min(target["failures"] - 1, 10), LONGEST_WAIT)
            # A little less, so that the look of that time is not just too early.
            target.update(next=int(now + wait - 60), why=show(answer.why, 200))
            said.append(f"{target['shown']} did not take a notice ({target['why']}), next try in {wait // 60} minutes")
        else:
            said += [f"{target['shown']} takes notices again"] if target["failures"] else []
            target.update(failures=0, next=0, why="")
    memory.queue = [one for one in memory.queue if one["to"]]
    return said


def figures(memory: Memory) -> Json:
    """How the targets fare, for status and metrics: no URL is in it."""
    targets = [one for one in memory.targets.values() if isinstance(one, dict)]
    failing = [one for one in targets if one.get("failures")]
    return {
        "targets": len(targets),
        "failing": [{"target": show(one.get("shown", "")), "why": show(one.get("why", ""))} for one in failing],
        "waiting": len(memory.queue),
    }


def of_host(config: Settings) -> Json:
    """The same as it stands on this host; none where nothing was told yet."""
    return figures(load(config)[0])
