# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is installed on this host for the loop, as a software bill of materials: CycloneDX 1.6, in JSON.

Read from what is there, not from what was asked for: the active release and uv as their virtual environments have
them, the agent as npm's lockfile and its directory have it, Debian's packages with all that they depend on. The same
host gives the same bytes, so that a change of the file is a change of the host.
"""

from __future__ import annotations

import base64
import binascii
import glob
import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, TypeAlias
from urllib.parse import quote

from ..base.errors import LoopError, playbook, without_passwords
from ..base.files import read_bytes
from ..host import programs
from ..host.settings import Settings
from . import agents, store

Json: TypeAlias = dict[str, Any]

SPEC = "1.6"
NAMESPACE = uuid.UUID("5f0d8a52-5f0e-5c0b-9f54-6d1f0c1f9c5e")  # of our serial numbers, chosen once
SECONDS = 60.0
MAX_LOCK = 64 * 1024 * 1024
MAX_TEXT = 300


def of_host(config: Settings, packages: Sequence[str], made_by: str) -> Json:
    """The bill of this host; ``packages`` are Debian's that the role installs, ``made_by`` our own version."""
    release = store.active(config.install_dir)
    if release is None:
        raise LoopError(f"no engine is installed below {config.install_dir}: run {playbook('apply')} first")
    engine, python = _python(f"{release['path']}/.venv", release)
    _none, tools = _python(f"{config.install_dir}/uv", None)
    found = [*python, *tools, *_npm(config), *_debian(packages)]
    components = {one["bom-ref"]: one for one in found}
    bill: Json = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {
            "timestamp": release["built_at"],
            "tools": {
                "components": [{"type": "application", "name": "as215932.engineering_loop", "version": made_by}],
            },
            "component": engine,
        },
        "components": [components[ref] for ref in sorted(components)],
    }
    told = json.dumps(bill, sort_keys=True)
    return {**bill, "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, told)}"}


def text(bill: Json) -> str:
    """The bill as the text of a file."""
    return json.dumps(bill, indent=2, sort_keys=True) + "\n"


def _component(kind: str, name: str, version: str, purl: str, license_name: str = "") -> Json:
    about: Json = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if license_name.strip():
        about["licenses"] = [{"license": {"name": " ".join(license_name.split())[:MAX_TEXT]}}]
    return about


def _engine(release: Json, name: str, version: str) -> Json:
    address = without_passwords(release["source"])
    about = {
        "type": "application",
        "bom-ref": "engine",
        "name": name or "engine",
        "version": release["sha"],
        "properties": [
            {"name": "as215932:engineering_loop:project_version", "value": version},
            {"name": "as215932:engineering_loop:lock_sha256", "value": release["lock_digest"]},
            {"name": "as215932:engineering_loop:files_sha256", "value": release["files_digest"]},
        ],
    }
    if "://" in address:
        about["externalReferences"] = [{"type": "vcs", "url": address}]
    return about


def _python(environment: str, release: Json | None) -> tuple[Json, list[Json]]:
    """What a virtual environment holds; the project that it was made for is told apart, where there is one."""
    places = glob.glob(f"{glob.escape(environment)}/lib/python*/site-packages")
    engine: Json = {} if release is None else _engine(release, "", "")
    by_commit = {one["name"]: one for one in (release or {}).get("git_dependencies", [])}
    found = []
    for one in metadata.distributions(path=places):
        name = re.sub(r"[-_.]+", "-", str(one.metadata["Name"] or "")).lower()
        if not name:
            continue  # what an interrupted installation left is no package
        if release is not None and _is_project(one, release):
            engine = _engine(release, name, one.version)
            continue
        licensed = next((one.metadata[key] for key in ("License-Expression", "License") if key in one.metadata), "")
        purl = f"pkg:pypi/{quote(name)}@{quote(one.version, safe='')}"
        about = by_commit.get(name, {})
        purl += _of_commit(about) if about else ""
        component = _component("library", name, one.version, purl, str(licensed).partition("\n")[0])
        if about:
            component["externalReferences"] = [{"type": "vcs", "url": about["url"], "comment": about["commit"]}]
            component["hashes"] = [{"alg": "SHA-256", "content": about["wheel_sha256"]}]
        found.append(component)
    return engine, found


def _of_commit(dependency: Json) -> str:
    """What a package's address says of the commit that it was built from."""
    below = f"#{quote(dependency['subdirectory'])}" if dependency["subdirectory"] else ""
    return f"?vcs_url={quote('git+' + dependency['url'] + '@' + dependency['commit'], safe='')}{below}"


def _is_project(one: metadata.Distribution, release: Json) -> bool:
    """Whether it is the release itself, which is installed from its own directory."""
    try:
        return str(json.loads(one.read_text("direct_url.json") or "{}").get("url")) == f"file://{release['path']}"
    except ValueError:
        return False


def _npm(config: Settings) -> Iterator[Json]:
    """The agent and all that it needs, where root installed it from npm: what the lockfile names and is there."""
    agent = config.agent
    if not agent.get("package"):
        return
    place = agents.place(config.install_dir, agent)
    try:
        locked = json.loads(read_bytes(f"{place}/{agents.LOCKFILE}", MAX_LOCK) or b"")["packages"]
    except (ValueError, KeyError, TypeError) as error:
        raise LoopError(f"the agent's {place}/{agents.LOCKFILE} cannot be read: run {playbook('apply')}") from error
    for path, entry in sorted(locked.items()):
        if path and os.path.isdir(f"{place}/{path}"):  # those of other systems are locked as well
            yield _package(str(entry.get("name") or path.rpartition("node_modules/")[2]), entry)


def _package(name: str, entry: Mapping[str, Any]) -> Json:
    version = str(entry.get("version", ""))
    purl = f"pkg:npm/{quote(name, safe='/')}@{quote(version, safe='')}"
    about = _component("library", name, version, purl, str(entry.get("license") or ""))
    hashes = []
    for one in str(entry.get("integrity", "")).split():
        algorithm, _dash, digest = one.partition("-")
        names = {"sha1": "SHA-1", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}
        try:
            hashes.append({"alg": names[algorithm], "content": base64.b64decode(digest, validate=True).hex()})
        except (KeyError, binascii.Error):
            continue
    return {**about, "hashes": hashes} if hashes else about


def _debian(wanted: Iterable[str]) -> list[Json]:
    """Debian's packages as they are installed, with what they depend on."""
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\t${Provides}\t${Pre-Depends}, ${Depends}\n"
    try:
        done = programs.run(["dpkg-query", "--show", f"--showformat={form}"], SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoopError(f"dpkg-query cannot be run on this host ({error}): the loop needs Debian") from error
    there: dict[str, list[str]] = {}
    provided: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        fields = line.split("\t")
        if len(fields) == 6 and fields[0].startswith("ii"):
            there[fields[1]] = fields
            for virtual in _names(fields[4]):
                provided.setdefault(virtual, []).append(fields[1])
    reached: dict[str, None] = {}
    open_ends = [name.partition(":")[0] for name in wanted]
    while open_ends:
        name = open_ends.pop()
        if name in there and name not in reached:
            reached[name] = None
            open_ends += _names(there[name][5])
        elif name not in there:
            open_ends += [real for real in provided.get(name, []) if real not in reached]
    return [_deb(*there[name][1:4]) for name in reached]


def _names(relations: str) -> list[str]:
    """Every package that a relation field names, alternatives as well: what is not installed is not looked at."""
    return re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", relations)


def _deb(name: str, version: str, architecture: str) -> Json:
    purl = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?arch={architecture}"
    return _component("library", name, version, purl)
