# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several loops of one inventory: that each has issues and a place of its own, and in which order they are rolled out.

All of it is judged from what the inventory says, before any host is looked at. Two loops that take the same issue would
both pay for it, push to one branch and see each other's pull requests in their proofs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..base.errors import LoopError, printable

ANY = "*"
SHOWN = 8
# What each loop of one machine needs for itself.
PLACES = (
    "state_dir", "install_dir", "config_dir", "lib_dir", "runs_dir", "memory_dir", "unit", "user", "gate_user",
)  # fmt: skip
SERIAL = 'a number of hosts, a percentage, or a list of these such as [1, "25%", "100%"]'


class Loop(NamedTuple):
    """What an inventory says of one loop, as far as another one may come in its way."""

    host: str
    machine: Sequence[str] = ()  # its address, and the way there; two of one machine have the same
    forge: str = ""
    repos: Sequence[str] = ()
    shared: Collection[str] = ()  # repositories whose sharing its owner answers for
    places: Mapping[str, str] = {}
    by_default: bool = False  # its repositories are the role's default
    unknown: str = ""  # why it cannot be made out what it works on


def repository(written: str) -> str:
    """OWNER/NAME as the forge compares it, of a name or a URL."""
    path = re.sub(r"^(\w+://[^/]*/|[^/@\s]*@[^/:]*:)", "", written.strip())
    return path.strip("/").removesuffix(".git").lower()


def forge(api_url: str) -> str:
    """The address of a forge's API as another spelling of it has it: no capitals, no port that goes without saying."""
    address = api_url.strip().lower().rstrip("/")
    return re.sub(r"^(http://[^/]*):80(?=/|$)", r"\1", re.sub(r"^(https://[^/]*):443(?=/|$)", r"\1", address))


def refused(loops: Sequence[Loop], asked: Collection[str]) -> list[str]:
    """A line for whatever would make two loops meet, where one of the hosts that are ``asked`` for is among them."""
    return [*_unknown(loops), *_shared_issues(loops, asked), *_shared_places(loops, asked)]


def _unknown(loops: Sequence[Loop]) -> Iterator[str]:
    for loop in loops:
        if loop.unknown and len(loops) > 1 and ANY not in loop.shared:
            yield (
                f"{loop.unknown}. So nobody can tell whether {printable(loop.host)} takes the issues of another loop of"
                " this inventory: write it without facts and without what only a run knows, or answer for it there with"
                f" engineering_loop_repos_shared_unsafely: ['{ANY}']"
            )


def _shared_issues(loops: Sequence[Loop], asked: Collection[str]) -> Iterator[str]:
    takers: dict[tuple[str, str], list[Loop]] = {}
    written: dict[tuple[str, str], str] = {}
    for loop in loops:
        for repo in loop.repos:
            key = (forge(loop.forge), repository(repo))
            written.setdefault(key, repo)
            if loop not in takers.setdefault(key, []):
                takers[key].append(loop)
    together: dict[tuple[str, ...], list[str]] = {}
    for key, found in takers.items():
        hosts = tuple(loop.host for loop in found)
        if len(hosts) > 1 and {*hosts} & {*asked} and not all(_answers_for(loop, key[1]) for loop in found):
            together.setdefault(hosts, []).append(written[key])
    defaults = {loop.host for loop in loops if loop.by_default}
    for hosts, repos in together.items():
        without = [host for host in hosts if host in defaults]
        yield (
            f"{_listed(hosts)} would take the same issues, those of {_listed(repos)}: each repository belongs to one"
            " loop. Take it out of engineering_loop_repos of the others, as in host_vars/HOST.yml"
            + (f" ({_listed(without)} has the role's default list, having none of its own)" if without else "")
        )


def _answers_for(loop: Loop, repo: str) -> bool:
    return bool({ANY, repo} & {one if one == ANY else repository(one) for one in loop.shared})


def _shared_places(loops: Sequence[Loop], asked: Collection[str]) -> Iterator[str]:
    for number, one in enumerate(loops):
        for other in loops[:number]:
            if not one.machine or one.machine != other.machine or not {one.host, other.host} & {*asked}:
                continue
            same = [name for name in PLACES if name in one.places and one.places[name] == other.places.get(name)]
            if not same:
                continue
            pair = f"{other.host} and {one.host} are one machine, {printable(one.machine[0])}"
            if same == list(PLACES):
                yield f"{pair}, and one loop under two names: take one of them out of the inventory"
            else:
                named = _listed([f"engineering_loop_{name}" for name in same])
                yield f"{pair}, and must not have the same {named}: give one of them others, or a machine of its own"


def batches(hosts: Sequence[str], first: Collection[str], serial: object) -> list[list[str]]:
    """Which hosts are taken together: those of ``first`` before all others, then as ``serial`` of a play has it.

    A batch never holds both, so that a canary host has passed before another one is begun. A percentage is one of all
    ``hosts``, and the last size holds for whatever is left.
    """
    sizes = _sizes(serial, len(hosts))
    ahead = [host for host in hosts if host in first]
    found = []
    for group in (ahead, [host for host in hosts if host not in first]):
        while group:
            size = sizes[0]
            found.append(group[:size])
            if len(sizes) > 1 and len(group) >= size:
                sizes = sizes[1:]
            group = group[size:]
    return found


def _sizes(serial: object, total: int) -> list[int]:
    parts = serial.split(",") if isinstance(serial, str) else serial if isinstance(serial, (list, tuple)) else [serial]
    sizes = []
    for part in parts:
        text = str(part).strip()
        percentage = re.fullmatch(r"([1-9]\d?|100)%", text)
        if percentage:
            sizes.append(max(1, total * int(percentage[1]) // 100))
        elif re.fullmatch(r"[1-9]\d{0,5}", text) and not isinstance(part, bool):
            sizes.append(int(text))
        else:
            sizes = []
            break
    if not sizes:
        shown = printable(str(serial))[:100]
        raise LoopError(f"engineering_loop_serial is {shown or 'empty'}, but must be {SERIAL}")
    return sizes


def _listed(names: Iterable[str]) -> str:
    every = list(map(printable, names))
    shown = every if len(every) <= SHOWN else [*every[: SHOWN - 1], f"{len(every) - SHOWN + 1} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
