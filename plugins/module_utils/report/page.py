# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet as one page of HTML that needs nothing else: on a phone, in the dark, by ear, without a network.

Drawn on the controller alone, by Jinja, which escapes every text. A link leads to http or https or it is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from ..base.clock import utc_now
from ..base.errors import LoopError
from ..base.sizes import readable, short, spoken
from ..base.untrusted import shown
from . import charts, table
from .page_template import STYLE, TEMPLATE

try:
    import jinja2
except ImportError:  # a loop host, where no page is drawn
    jinja2 = None  # type: ignore[assignment]

Json: TypeAlias = dict[str, Any]
Status: TypeAlias = Mapping[str, Any]

TEXT = 300  # letters of what others wrote
LISTED = 100  # rows of one list


def draw(fleet: table.Fleet, made: str = "") -> str:
    """The page; ``made`` is the moment that it tells of."""
    if jinja2 is None:
        raise LoopError("a page is drawn with the Python library jinja2, which comes with Ansible")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(short=short, spoken=spoken, readable=readable, when=charts.when, link=link)
    hosts = [_host(name, shown(status, TEXT)) for name, status in fleet.items()]
    well = sum(host["status"]["well"] for host in hosts)
    return environment.from_string(TEMPLATE).render(
        hosts=hosts, well=well, made=made or utc_now(), style=STYLE, chart=charts, steps=table.steps
    )


def link(url: str) -> str:
    """A target that a browser may go to; empty for any other, such as javascript:."""
    return url if url.startswith(("https://", "http://")) else ""


def _host(name: str, status: Json) -> Json:
    history = status["history"]
    told: Json = {
        "name": name, "id": f"host-{''.join(letter if letter.isalnum() else '-' for letter in name)}",
        "status": status, "cells": list(_cells(name, status)), "notes": list(table.notes(status)),
        "restore": status["quarantine"].get("restore", ""),
        "pulls": _pulls(history), "recent": list(reversed(history))[:LISTED],
    }  # fmt: skip
    if history:
        told["outcomes"] = charts.outcomes(history)
        told["costs"] = charts.costs(history, status["today"]["max_cost_usd"], status["looked_at"])
        told["durations"] = charts.durations(history)
    return told


def _cells(name: str, status: Json) -> Iterator[Json]:
    """The row of the table of text, for the columns after the host."""
    for column, cell in list(zip(table.COLUMNS, table.row(name, status), strict=True))[1:]:
        kind = {table.GOOD: "good", table.BAD: "bad"}.get(cell.style, "")
        yield {"name": column.name.capitalize(), "below": column.below, "first": cell.first, "second": cell.second,
               "kind": kind}  # fmt: skip


def _pulls(history: list[Json]) -> list[Json]:
    """The pull requests that were opened, the newest first, each once."""
    found: dict[str, Json] = {}
    for one in reversed(history):
        if link(one["pr_url"]):
            found.setdefault(one["pr_url"], one)
    return list(found.values())[:LISTED]
