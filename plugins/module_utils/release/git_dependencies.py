# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dependencies of an engine that are no packages of an index but commits of repositories, as its uv.lock has them.

A lock is written by whoever wrote the engine: what is in it is judged before anything is done with it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from ..base.errors import LoopError, without_passwords
from ..base.untrusted import show
from ..git.command import LOOPBACK

Json: TypeAlias = Mapping[str, Any]

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,99}")
_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~+-]+")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[::1\](:\d{1,5})?")
_ELSEWHERE = {"registry", "git", "url"}
_KNOWN = {"rev", "branch", "tag", "subdirectory"}


@dataclass(frozen=True)
class GitDependency:
    """One package, and the commit that it is built from."""

    name: str  # as package indexes compare it
    version: str  # empty where the lock does not say
    url: str  # of the repository, without the words that uv adds
    commit: str
    subdirectory: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.name} at {self.commit[:12]} of {self.url}"


def in_lock(lock: bytes) -> list[GitDependency]:
    """Those that an engine with this uv.lock is installed with. LoopError names one that pins no commit, and why."""
    if not lock:
        return []
    try:
        packages = tomllib.loads(lock.decode())["package"]
        found = [one for one in _installed(packages) if "git" in one.get("source", {})]
        needed = [_dependency(one) for one in found]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoopError(f"the engine's uv.lock cannot be understood ({show(error)}): make it with `uv lock`") from error
    names = [one.name for one in needed]
    if again := sorted({name for name in names if names.count(name) > 1}):
        raise LoopError(f"the engine's uv.lock has {', '.join(again)} from more than one commit: lock it to one")
    return sorted(needed, key=lambda one: one.name)


def _installed(packages: Sequence[Json]) -> Iterator[Json]:
    """The packages that the project itself leads to, on whatever system; what its developers alone need is left out."""
    by_name: dict[str, list[Json]] = {}
    for one in packages:
        by_name.setdefault(canonical(one["name"]), []).append(one)
    # Whatever is not brought from elsewhere is the project's own.
    roots = [canonical(one["name"]) for one in packages if not _ELSEWHERE & {*one.get("source", {})}]
    reached: set[tuple[str, str]] = set()
    given: set[str] = set()
    open_ends = [(name, "") for name in roots]
    while open_ends:
        name, extra = end = open_ends.pop()
        if end in reached:
            continue
        reached.add(end)
        for one in by_name.get(name, []):
            asked = one.get("optional-dependencies", {}).get(extra, []) if extra else one.get("dependencies", [])
            for needed in asked:
                called = canonical(needed["name"])
                open_ends += [(called, ""), *((called, each) for each in needed.get("extra", []))]
        if name not in given:
            given.add(name)
            yield from by_name.get(name, [])


def _dependency(package: Json) -> GitDependency:
    name, version, source = str(package["name"]), str(package.get("version", "")), str(package["source"]["git"])
    shown = f"the engine's dependency {show(name)} comes from {show(without_passwords(source))}"
    if not NAME.fullmatch(name):
        raise LoopError(f"{shown}: that is no name of a package")
    if version and not VERSION.fullmatch(version):
        raise LoopError(f"{shown}, in the version {show(version)}, which is none")
    try:
        parts = urlsplit(source)
        words = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise LoopError(f"{shown}, which is no address") from error
    if why := address_refused(f"{parts.scheme}://{parts.netloc}{parts.path}"):
        raise LoopError(f"{shown}: {why}")
    if strange := sorted({*words} - _KNOWN):
        raise LoopError(f"{shown}: `{show(strange[0])}` is not supported; lock it by commit, and without it")
    if not re.fullmatch(r"[0-9a-f]{40}", parts.fragment):
        raise LoopError(
            f"{shown}: that pins no commit, which is 40 hexadecimal digits behind #; lock it with `uv lock`"
        )
    below = words.get("subdirectory", [""])[-1]
    if below and not all(map(_SEGMENT.fullmatch, below.split("/"))):
        raise LoopError(f"{shown}: its subdirectory {show(below)} must be a path inside the repository, without ..")
    return GitDependency(
        canonical(name), version, f"{parts.scheme}://{parts.netloc}{parts.path}", parts.fragment, below
    )


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def address_refused(url: str) -> str:
    """Why nothing is fetched from an address, or from what begins so; empty where it may be."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        return "an address with a user or password in it; the token that the engine is fetched with is used"
    if parts.scheme != "https" and not (parts.scheme == "http" and _hostname(parts.netloc) in LOOPBACK):
        return "only https:// is fetched from"
    if not _HOST.fullmatch(parts.netloc) or parts.query or parts.fragment:
        return "that is no address such as https://HOST/OWNER/NAME"
    if not all(map(_SEGMENT.fullmatch, parts.path.removeprefix("/").split("/"))):
        return "its path must be names between /, without .., such as https://HOST/OWNER/NAME"
    return ""


def _hostname(netloc: str) -> str:
    return re.sub(r":\d+$", "", netloc).strip("[]").lower()
