# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often each issue was tried without a pull request, and which are held for it: not offered to the engine.

The count is root's, beside the releases, and comes from what root and the gateway saw. Only ``cost_usd`` is what the
engine claims that its runs cost. An issue's count begins anew when its title, text or labels change, when a pull
request is opened for it, when it is not approved any more, and when an operator or a canary says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeAlias

from ..base import documents
from ..base.clock import moment_of, utc_now, written
from ..base.errors import LoopError, playbook
from ..base.files import flocked, read_bytes, sha256, write_atomic
from ..base.untrusted import show
from ..host.settings import Settings

Json: TypeAlias = dict[str, Any]

# The newest issues that are known, and the newest cycles that were counted.
KEEP, KEEP_CYCLES = 1000, 300
MAX_TITLE = 200
# A forge's clock and the host's may differ by so much.
SKEW = timedelta(days=1)


@dataclass(frozen=True)
class Attempt:
    """One cycle's work on an issue, which ended without a pull request."""

    cycle: str
    repo: str
    number: int
    outcome: str
    title: str = ""
    digest: str = ""  # of the issue, as it was when the cycle took it
    cost_usd: float = 0.0  # as the engine claims

    @property
    def issue(self) -> str:
        return name_of(self.repo, self.number)


@dataclass(frozen=True)
class Count:
    """What is known of one issue since its count began."""

    repo: str
    number: int
    attempts: int = 0
    cost_usd: float = 0.0
    since: str = ""  # when the first was counted
    last: str = ""  # and the last one
    cycle: str = ""  # which that was
    outcome: str = ""
    title: str = ""
    digest: str = ""
    told: str = ""  # the last cycle of the hold that the forge was told of
    untold: str = ""  # why the forge could not be told of that hold

    @property
    def issue(self) -> str:
        return name_of(self.repo, self.number)

    @property
    def why(self) -> str:
        """Why it is held, in one line."""
        tries = f"{self.attempts} attempt{'s' * (self.attempts != 1)} without a pull request"
        return f"{tries} since {self.since}, the last ended as {self.outcome}"

    @property
    def comment(self) -> str:
        """What is written under the issue, in Markdown: root's own words, nothing of the engine's."""
        return (
            f"The engineering loop holds this issue: it is not worked on any more.\n\n{self.why}. What was done is kept"
            " on the loop's host.\n\nIt is tried again when its title, its text or its labels change, or when an"
            f" operator runs\n\n    {release_command(self.issue)}\n"
        )

    @property
    def marker(self) -> str:
        """What tells the comment about this very hold from any other; a forge does not show it."""
        return f"<!-- engineering-loop held {self.issue} {self.cycle} -->"

    @property
    def written_after(self) -> str:
        """No comment about this hold is older, by whoever's clock."""
        return written(moment_of(self.last) - SKEW)


@dataclass(frozen=True)
class Book:
    """The whole file."""

    issues: dict[str, Count] = field(default_factory=dict)
    cycles: tuple[str, ...] = ()  # that were counted, so that none is counted twice


def path_of(config: Settings) -> str:
    """Where the counts live: root's, and not below what the loop's user owns."""
    return f"{config.install_dir}/attempts.json"


def name_of(repo: str, number: int) -> str:
    """An issue as a person writes it."""
    return f"{repo}#{number}"


def release_command(issue: str) -> str:
    """What an operator types."""
    return f"{playbook('release_issue')} -e issue={issue}"


def digest_of(issue: Mapping[str, Any]) -> str:
    """SHA-256 over title, text and labels of an issue, as the forge tells of it."""
    labels = sorted(str(one["name"]) for one in issue.get("labels") or [])
    return sha256(json.dumps([issue.get("title") or "", issue.get("body") or "", labels]).encode())


# --- counting -----------------------------------------------------------------------------------


def count(config: Settings, attempt: Attempt) -> Count:
    """Count it, once however often that is asked for; what is known of its issue then."""
    with _open(config) as book:
        known = book.issues.get(attempt.issue, Count(attempt.repo, attempt.number))
        if attempt.cycle in book.cycles:
            return known
        if known.digest not in ("", attempt.digest):
            known = Count(attempt.repo, attempt.number)  # what was tried before was another issue
        now = utc_now()
        known = replace(
            known, attempts=known.attempts + 1, cost_usd=round(known.cost_usd + attempt.cost_usd, 6),
            since=known.since or now, last=now, cycle=attempt.cycle, outcome=attempt.outcome,
            title=show(attempt.title, MAX_TITLE), digest=attempt.digest,
        )  # fmt: skip
        _write(config, Book({**book.issues, attempt.issue: known}, (*book.cycles, attempt.cycle)))
        return known


def clear(config: Settings, issues: Mapping[str, str]) -> list[Count]:
    """Forget these issues (by name, as ``OWNER/NAME#7``), as far as they are still what they were; what was known.

    The value is the digest that an issue had, empty for any: who clears late must not clear what came since.
    """
    if not issues:
        return []
    with _open(config) as book:
        gone = [
            known
            for name, digest in issues.items()
            if (known := book.issues.get(name)) and digest in ("", known.digest)
        ]
        if gone:
            names = {known.issue for known in gone}
            left = {name: known for name, known in book.issues.items() if name not in names}
            _write(config, replace(book, issues=left))
        return gone


def note_told(config: Settings, known: Count, problem: str = "") -> None:
    """The forge was told of this hold, or cannot be, and why."""
    with _open(config) as book:
        if (now := book.issues.get(known.issue)) and now.cycle == known.cycle:
            changed = replace(now, told=known.cycle, untold=show(problem, 500))
            _write(config, replace(book, issues={**book.issues, known.issue: changed}))


# --- what follows from it -----------------------------------------------------------------------


def counts(config: Settings) -> dict[str, Count]:
    """What is known, by the issue's name."""
    return _read(config).issues


def most(config: Settings) -> int:
    """After how many attempts an issue is held; 0 for never."""
    return int(config.max_attempts_per_issue)


def is_held(config: Settings, known: Count) -> bool:
    """Whether so many attempts are enough."""
    return 0 < most(config) <= known.attempts


def why_held(config: Settings, repo: str, issue: Mapping[str, Any]) -> str:
    """Why this issue, as the forge has it now, is held; empty where it is not."""
    known = counts(config).get(name_of(repo, int(issue["number"])))
    return known.why if known and is_held(config, known) and known.digest == digest_of(issue) else ""


def held(config: Settings) -> list[Json]:
    """The issues that are held, the longest first: ``repo number title attempts cost_usd since why``."""
    found = sorted((one for one in counts(config).values() if is_held(config, one)), key=lambda one: one.last)
    keys = ("repo", "number", "title", "attempts", "cost_usd", "since", "why")
    return [{key: getattr(one, key) for key in keys} for one in found]


def for_gateway(config: Settings) -> dict[str, Json]:
    """What the gateway must know, by the issue's name: its ``digest``, and why it is ``held`` (empty where not)."""
    return {
        name: {"digest": one.digest, "held": one.why if is_held(config, one) else ""}
        for name, one in counts(config).items()
    }


def untold(config: Settings) -> list[Count]:
    """The holds that the forge has not been told of."""
    return [one for one in counts(config).values() if is_held(config, one) and one.told != one.cycle]


# --- the file -----------------------------------------------------------------------------------


@contextmanager
def _open(config: Settings) -> Iterator[Book]:
    """What stands there, ours alone for as long as the block lasts."""
    with flocked(f"{config.install_dir}/.attempts.lock"):
        yield _read(config)


def _read(config: Settings) -> Book:
    path = path_of(config)
    content = read_bytes(path)
    if content is None:
        return Book()
    try:
        document = json.loads(content)
        issues = {str(name): documents.parse(Count, one) for name, one in document["issues"].items()}
        return Book(issues, tuple(map(str, document["cycles"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, LoopError) as error:
        raise LoopError(
            f"{path} cannot be read as the count of attempts per issue: move it aside, then every count begins anew"
        ) from error


def _write(config: Settings, book: Book) -> None:
    newest = sorted(book.issues.values(), key=lambda one: one.last)[-KEEP:]
    document = {"issues": {one.issue: asdict(one) for one in newest}, "cycles": list(book.cycles[-KEEP_CYCLES:])}
    write_atomic(path_of(config), (json.dumps(document, indent=1, sort_keys=True) + "\n").encode(), mode=0o644)
