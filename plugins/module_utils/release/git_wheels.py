# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's git dependencies as wheels, each built from its commit, shut in, and installed by its digest.

Nobody has proven a dependency while it is built: its build sees the host's programs and its own sources, reaches no
network, and leaves one file. What it is built with is installed before, from wheels, by digests.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from ..base import progress
from ..base.errors import LoopError
from ..base.files import read_bytes, remove_tree, sha256, write_atomic
from ..base.untrusted import opened, read, show
from ..host.users import account
from . import build_tools, git_sources, shut_in, steps
from .git_dependencies import GitDependency, canonical
from .wanted_version import Wanted

Json: TypeAlias = dict[str, Any]

KEPT = ".venv/wheels"  # in the release: what was installed stays to be looked at
MAX_WHEEL = 512 * 1024 * 1024
WHEEL = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl")
LINE = re.compile(r"(?m)^(?P<name>[A-Za-z0-9._-]+) @ git\+(?P<source>\S+)(?P<when>[ \t]*;[^\n\\]*)?$")


@dataclass(frozen=True)
class Built:
    """One wheel: what it was built from and with, where it is, and what it must be to be installed."""

    dependency: GitDependency
    path: str
    digest: str
    version: str
    tools: Sequence[str]

    def record(self) -> Json:
        return {
            **asdict(self.dependency), "version": self.version, "wheel": os.path.basename(self.path),
            "wheel_sha256": self.digest, "built_with": list(self.tools),
        }  # fmt: skip


def build(wanted: Wanted, path: str, dependencies: Sequence[GitDependency]) -> list[Built]:
    """A wheel of each, for the release at ``path``, which has its ``.venv`` already."""
    tools = build_tools.pinned(wanted.build_tools)
    kept = os.path.join(path, KEPT)
    os.mkdir(kept, 0o755)
    return [_build(wanted, path, tools, one) for one in dependencies]


def _build(wanted: Wanted, path: str, tools: dict[str, str], dependency: GitDependency) -> Built:
    mirror = git_sources.fetch(wanted, dependency)
    pyproject = git_sources.file_of(mirror, dependency, "pyproject.toml")
    asked = build_tools.wanted_by(pyproject, dependency.sentence)
    work = tempfile.mkdtemp(prefix=".git-", dir=path)
    try:
        os.chmod(work, 0o755)
        inner = os.path.join(work, "inner")
        os.mkdir(inner, 0o755)
        made = git_sources.check_out(mirror, dependency, os.path.join(inner, "source"))
        used = _install_tools(wanted, work, tools, asked, dependency)
        progress.step(f"building {dependency.sentence}, shut in")
        _shut_in_build(wanted, path, work, dependency, made)
        return _taken(path, os.path.join(inner, "out"), dependency, used)
    finally:
        remove_tree(work)


def _install_tools(
    wanted: Wanted, work: str, tools: dict[str, str], asked: Sequence[str], dependency: GitDependency
) -> list[str]:
    """A virtual environment with what the dependency is built with; the names and versions in it."""
    local = ["--no-index", "--find-links", wanted.wheels] if wanted.wheels else []
    wheels_only = [*local, "--only-binary", ":all:"]
    files = {name: os.path.join(work, f"{name}.txt") for name in ("asked", "pinned", "all", "tools")}
    names = [re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0] for one in asked]
    build_tools.chosen(tools, names, dependency.sentence)
    _write(files["asked"], asked)
    _write(files["pinned"], [line.partition(" --hash")[0] for line in tools.values()])
    steps.run(wanted, [wanted.uv, "venv", "--quiet", "--python", wanted.python, "venv"], work)
    resolve = [wanted.uv, "pip", "compile", "--quiet", "--python", "venv/bin/python", "--no-header", "--no-annotate"]
    steps.run(wanted, [*resolve, *wheels_only, files["asked"], "-c", files["pinned"], "-o", files["all"]], work)
    found = (read_bytes(files["all"]) or b"").decode()
    needed = [line.partition("==")[0].strip() for line in found.splitlines() if "==" in line]
    lines = build_tools.chosen(tools, needed, dependency.sentence)
    if lines:
        _write(files["tools"], lines)
        install = [wanted.uv, "pip", "install", "--quiet", "--python", "venv/bin/python", "--no-deps"]
        try:
            steps.run(wanted, [*install, *wheels_only, "--require-hashes", "-r", files["tools"]], work)
        except LoopError as error:
            raise LoopError(f"{dependency.sentence}: what it is built with cannot be installed: {error}") from error
    return sorted(line.partition(" ")[0] for line in lines)


def _write(path: str, lines: Sequence[str]) -> None:
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode())


def _shut_in_build(wanted: Wanted, path: str, work: str, dependency: GitDependency, made: int) -> None:
    uv = shutil.which(wanted.uv) or wanted.uv
    inner = os.path.join(work, "inner")
    if wanted.user and os.geteuid() == 0:
        _give(inner, wanted.user)
    within = ["prlimit", f"--fsize={MAX_WHEEL}", "--"]  # of each file, and of what it says
    within += shut_in.words(path, ["--bind", inner, "/build", "--ro-bind", os.path.realpath(uv), "/uv"])
    environment = {
        **shut_in.ENVIRONMENT, "SOURCE_DATE_EPOCH": str(made), "UV_CACHE_DIR": "/tmp/uv",  # noqa: S108
        "UV_NO_CONFIG": "1", "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never",
        **({"SETUPTOOLS_SCM_PRETEND_VERSION": dependency.version} if dependency.version else {}),
    }  # fmt: skip
    source = os.path.join("/build/source", dependency.subdirectory)
    command = ["/uv", "build", "--wheel", "--no-build-isolation", "--python", f"{work}/venv/bin/python"]
    try:
        steps.run(wanted, [*command, "--out-dir", "/build/out", source], path, environment, wanted.user, within)
    except LoopError as error:
        raise LoopError(f"{dependency.sentence} cannot be built: {error}") from error


def _give(top: str, user: str) -> None:
    """The innermost first: while the way to something is walked, nobody else can put a link there."""
    entry = account(user)
    for _directory, directories, files, descriptor in os.fwalk(top, topdown=False):
        for name in [*directories, *files]:
            os.chown(name, entry.pw_uid, entry.pw_gid, dir_fd=descriptor, follow_symlinks=False)
    os.chown(top, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


def _taken(path: str, out: str, dependency: GitDependency, tools: Sequence[str]) -> Built:
    """The wheel that a build left, copied to where nobody else writes. LoopError where it is not the locked package."""
    listed: list[str] = []
    with contextlib.suppress(LoopError), opened(out, os.path.dirname(os.path.dirname(out))) as descriptor:
        listed = os.listdir(descriptor)
    names = [name for name in listed if name.endswith(".whl")]
    match = WHEEL.fullmatch(names[0]) if len(names) == 1 else None
    if match is None or not re.fullmatch(r"[A-Za-z0-9._+!-]+", names[0]):
        raise LoopError(f"{dependency.sentence} was built, but left {show(', '.join(names) or 'no wheel')}")
    version = match["version"]
    if canonical(match["name"]) != dependency.name or (dependency.version and version != dependency.version):
        raise LoopError(
            f"the engine's uv.lock has {dependency.name} {dependency.version} at {dependency.commit[:12]} of"
            f" {dependency.url}, but what is built from there is {show(names[0])}: lock it anew"
        )
    content = read(os.path.join(out, names[0]), os.path.dirname(os.path.dirname(out)), MAX_WHEEL)
    if content is None:
        raise LoopError(f"the wheel of {dependency.sentence} went away while it was built")
    kept = os.path.join(path, KEPT, names[0])
    write_atomic(kept, content, mode=0o444)
    return Built(dependency, kept, sha256(content), version, tools)


def in_their_places(requirements: str, built: Sequence[Built]) -> str:
    """What `uv export` gave, with each git dependency as its wheel, by its digest. LoopError if one is left."""
    wheels = {one.dependency.name: one for one in built}

    def wheel(match: re.Match[str]) -> str:
        one = wheels.get(canonical(match["name"]))
        if one is None or one.dependency.commit not in match["source"]:
            raise LoopError(f"`uv export` names {show(match[0])}, which the engine's uv.lock does not have as that")
        return f"{match['name']} @ file://{one.path}{match['when'] or ''} --hash=sha256:{one.digest}"

    text = LINE.sub(wheel, requirements)
    if "git+" in text:
        line = next(line for line in text.splitlines() if "git+" in line)
        raise LoopError(f"`uv export` gives a line that is not understood: {show(line)}")
    return text
