# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a proof is of: engine, dependency lock, policy, unit and agent, by digest, as they are installed now."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from ..base.errors import LoopError
from ..base.files import read_bytes, sha256
from ..host import systemd
from ..host.settings import Settings
from ..release import agents, store

Json: TypeAlias = dict[str, Any]

# What a proof is bound to, in the operator's words. The collection's version is told in the
# receipt but binds nothing: the code of it that runs on the host is in the unit digest.
BOUND = {
    "engine_sha": "engine",
    "lock_digest": "engine's dependency lock",
    "policy_digest": "policy",
    "unit_digest": "unit",
    "agent_digest": "agent",
}
# In loop.json, but without a say in what a cycle does (or with a digest of its own).
VOLATILE_KEYS = frozenset({
    "agent", "agent_probe", "applied_by", "canary_max_age", "canary_mode", "canary_required", "cell_max_files",
    "cell_max_size", "collection_version", "cycles_keep", "inventory_name", "jobs", "max_attempts_per_issue",
    "max_runs_per_day", "metrics_dir", "min_free", "notify_file", "notify_per_hour", "policy_sha256",
    "quarantine_keep", "timer_enabled",
})  # fmt: skip
# But for these, which go with what was proven: those of them that are in force hold whatever is gone back to.
OF_A_SET = frozenset({"agent", "agent_probe", "collection_version", "policy_sha256"})
CAPS = {"--max-runs-per-day", "--max-cost-usd-per-day"}
# The units of a cycle: its own, the watch beside it, the gateway; and where the hosts that it may reach are named:
UNITS = (".service", "-watch.service", "-gate.service", "-gate.socket")
WAY_OUT = (
    "-egress.service", "-egress.socket", "-egress-proxy.service", "-egress-local@.service", "-egress-local@.socket",
)  # fmt: skip


@dataclass(frozen=True)
class Installed:
    """What runs on a host, or ran when something was proven; a digest is SHA-256, empty where there was none then."""

    engine_sha: str
    lock_digest: str = ""
    policy_digest: str = ""
    unit_digest: str = ""
    agent_digest: str = ""
    collection_version: str = ""

    @property
    def key(self) -> str:
        """A name for all that a proof is bound to: the engine, and a digest of the rest."""
        known = asdict(self)
        rest = json.dumps([known[part] for part in sorted(BOUND) if known[part]])
        return f"{self.engine_sha}-{sha256(rest.encode())[:12]}"

    def changed(self, then: Installed) -> list[str]:
        """The parts that a proof is bound to and that were others ``then``, by their names here."""
        return [part for part in BOUND if getattr(self, part) != getattr(then, part)]


def now(config: Settings) -> Installed:
    """What is on the host. LoopError names a part of it that is not there yet."""
    release = store.require_active(config.install_dir)
    return of(config, release["sha"], release["lock_digest"])


def of(config: Settings, engine_sha: str, lock_digest: str, root: str = "") -> Installed:
    """What a host of these settings runs with that release; ``root`` is where a copy of its other files stands."""
    from ..policy import schema  # here: it needs PyYAML, which a fresh host lacks

    return Installed(
        engine_sha=engine_sha,
        lock_digest=lock_digest,
        policy_digest=schema.digest(schema.load_file(root + config.policy_file)),
        unit_digest=unit_digest(config, root),
        agent_digest=agents.digest(config),
        collection_version=str(config.get("collection_version", "")),
    )


def unit_digest(config: Settings, root: str = "") -> str:
    """SHA-256 over all that decides how a cycle runs: service, drop-ins, loop.json and our code on the host.

    The timer is left out: when a cycle runs changes nothing in what was proven. ``root`` is where
    a copy of the host's files stands.
    """
    paths = unit_files(config, root)
    digest = hashlib.sha256()
    bound = _without_caps({key: value for key, value in config.items() if key not in VOLATILE_KEYS})
    _feed(digest, "loop.json", json.dumps(bound, sort_keys=True).encode())
    for path in paths:
        _feed(digest, path, content(root + path))
    return digest.hexdigest()


def bound_settings(config: Mapping[str, Any]) -> Json:
    """What of the settings a proof is bound to, policy and agent included, which have digests of their own."""
    apart = ("agent", "policy_sha256")
    return _without_caps({key: value for key, value in config.items() if key not in VOLATILE_KEYS or key in apart})


def under(rules: Mapping[str, Any], kept: Mapping[str, Any]) -> Json:
    """The settings ``kept`` of a set as they are in force under these ``rules``, the settings that the host has now.

    Guards, limits and retention are the inventory's, whatever runs under them.
    """
    keys = (VOLATILE_KEYS - OF_A_SET) & rules.keys()
    whole = {**kept, **{key: rules[key] for key in keys}}
    if "daemon_args" in kept and "daemon_args" in rules:
        whole["daemon_args"] = [*_words(rules, caps=True), *_words(kept, caps=False)]
    return whole


def _without_caps(bound: Json) -> Json:
    """How much may be spent on a day has no say in what a cycle does: who raises that has proven nothing less."""
    return {**bound, "daemon_args": _words(bound, caps=False)}


def _words(config: Mapping[str, Any], *, caps: bool) -> list[str]:
    """The engine's arguments: those that cap what a day may cost, or the others."""
    words = [str(word) for word in config.get("daemon_args", [])]
    pairs = zip(["", *words], words, strict=False)
    return [word for before, word in pairs if caps == (before in CAPS or word.partition("=")[0] in CAPS)]


def files(config_file: str, config: Settings, root: str = "") -> list[str]:
    """The files that a proof covers, as they stand below ``root``: settings, policy and the unit's."""
    return [config_file, config.policy_file, *unit_files(config, root)]


def covers(path: str, config_file: str, config: Settings) -> bool:
    """Whether ``path`` is, or would be, one of the files that a proof covers."""
    units = _paths(config, UNITS + WAY_OUT)
    above = (*(f"{unit}.d/" for unit in units), f"{config.lib_dir}/")
    return path in (config_file, config.policy_file, *units) or path.startswith(above)


def unit_files(config: Settings, root: str = "") -> list[str]:
    """The files of the unit, as they stand below ``root``: service, drop-ins, our code."""
    units = _paths(config, UNITS)
    missing = [path for path in units if not os.path.exists(root + path)]
    units += [path for path in _paths(config, WAY_OUT) if os.path.exists(root + path)]
    if missing:
        raise LoopError(f"the unit {root}{missing[0]} is not installed yet")
    places = [f"{path}.d" for unit in units for path in (unit, unit.replace(systemd.UNIT_DIR, systemd.CONTROL_DIR, 1))]
    drop_ins = [path for place in places for path in _tree(root, place)]
    shared = [path for place in _shared_places(config) for path in _tree(root, place) if path.endswith(".conf")]
    return [*units, *drop_ins, *_tree(root, config.lib_dir, leave=("uv", "__pycache__")), *shared]


def shared(path: str, config: Settings) -> bool:
    """Whether this is a drop-in that other units have as well, or that came with a package: not ours to change."""
    return path.startswith(tuple(f"{place}/" for place in _shared_places(config)))


def _shared_places(config: Settings) -> list[str]:
    """Where drop-ins may stand that systemd reads for a cycle's units, and that are not of these units alone.

    Those of every unit of a kind, and of all whose names begin alike up to a dash (systemd.unit(5)). What is in /run
    until the host's next start, and in /usr/lib as its packages are, is no more part of a proof than the kernel is.
    """
    names, own = set(), set()
    for unit in UNITS + WAY_OUT:
        name, kind = f"{config.unit}{unit}".rsplit(".", 1)
        words = name.split("-")
        names |= {f"{kind}.d", *(f"{'-'.join(words[:end])}-.{kind}.d" for end in range(1, len(words)))}
        own.add(f"{name}.{kind}.d")
    lasting = [f"{top}/{name}" for top in (systemd.UNIT_DIR, systemd.CONTROL_DIR) for name in sorted(names)]
    return lasting + [f"{systemd.LOCAL_DIR}/{name}" for name in sorted(names | own)]


def _paths(config: Settings, kinds: Iterable[str]) -> list[str]:
    return [os.path.join(systemd.UNIT_DIR, f"{config.unit}{kind}") for kind in kinds]


def _feed(digest: Any, name: str, content: bytes) -> None:
    # Length before content, so that two files can never be read as two others.
    digest.update(f"{name}\0{len(content)}\0".encode())
    digest.update(content)


def _tree(root: str, top: str, leave: Iterable[str] = ()) -> list[str]:
    """Every file below ``top``, also one that a link leads to, in order, without the directories named in ``leave``."""
    found: list[str] = []
    for directory, subdirectories, names in os.walk(root + top):
        subdirectories[:] = sorted(name for name in subdirectories if name not in leave)
        found += [os.path.join(directory, name) for name in sorted(names)]
    return [path.removeprefix(root) for path in found if os.path.isfile(path)]


def content(path: str) -> bytes:
    """What is read there; as systemd does, links are followed."""
    return read_bytes(os.path.realpath(path)) or b""
