# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What root takes from the host's secrets and hands to a cycle: the provider's keys, and which cell it is.

Secrets are looked at by the same code before an apply, before a cycle, and when a host's state is asked for. They go
over once, in one file in the unit's runtime directory: in memory, readable by the loop's user alone, gone as soon as
the cycle has read it. A person who opens a kept cell gets the same as a credential of systemd's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..base import documents, wire
from ..base.errors import LoopError
from ..base.files import inside, read_bytes, write_atomic
from ..base.redact import Redactor
from ..cell import cells
from ..cell.egress import check_upstream
from ..forge import tokens
from ..host import secrets_file
from ..host.renderers import renderers_of
from ..host.settings import Settings
from ..host.users import account, as_user

NAME = "handover.json"
REMEMBERED = "secrets.json"
OWN_POLICY = "configs/loop/model-policy.production.yml"  # of a release
MODEL_POLICY, TRACE = "HYRULE_MODEL_POLICY_FILE", "HYRULE_ENGINEERING_AGENT_CORE_TRACE_PATH"
# Variables whose value is the place of something that is to be read.
PLACES = re.compile(r"(?i)(.*_)?(file|files|path|dir|bundle|certs?|cainfo|capath)")
# What a file for the home calls its secrets, where it is JSON.
SECRET = re.compile(r"(?i).*(key|token|secret|password|refresh|access)")
# Of the host nothing below these is in a cycle, beside what is the cycle's own, nor in the gateway.
NOT_THERE = ("/home", "/root", "/run", "/tmp", "/var/tmp", "/dev/shm")  # noqa: S108


@dataclass(frozen=True)
class Handover:
    """What goes from root to a cycle: why it must not start, or all that it needs."""

    refused: str = ""
    over_budget: str = ""
    paused: str = ""
    cell: str = ""
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    model_policy: str = ""  # its content, where the cycle cannot see its file
    hidden: list[str] = field(default_factory=list)  # files that the cycle must not be able to read
    network: int = 0  # the host's network namespace
    probe: bool = False  # whether the agent's model is asked for a word first

    @property
    def content(self) -> str:
        """As it is written."""
        return json.dumps(asdict(self))


# --- the secrets of the host ------------------------------------------------------------------


def secrets(config: Settings) -> dict[str, str]:
    """The host's secrets, fit for a cycle. LoopError says what is not."""
    environment = secrets_file.load(config.env_file, config.forbidden_environment)
    _check_places(config, environment)
    for path in files(config, environment):
        _check_exposed(config, path)
    return environment


def look(config: Settings, given: Mapping[str, str] | None = None, comes_right: Collection[str] = ()) -> dict[str, Any]:
    """Why every cycle would refuse the secrets (``problem``), what a person should know of them (``notes``), and which
    files others than root can read that no other program renders, so that an apply closes them (``loose``).

    ``given`` are those that the role will write itself. Of ``comes_right`` an apply makes root the owner. Nothing here
    tells a value, but of a path.
    """
    path, notes, loose = config.env_file, [], []
    try:
        if given is not None:
            environment = dict(given)
            secrets_file.check(environment, config.forbidden_environment, "engineering_loop_environment")
        elif path in comes_right:
            environment = secrets_file.read(path)
            secrets_file.check(environment, config.forbidden_environment, path)
        else:
            environment = secrets_file.load(path, config.forbidden_environment)
        _check_places(config, environment)
        check_upstream(config, environment)
        if os.path.isdir(f"{config.install_dir}/current"):
            model_policy(config, environment)
        notes += _access(config, environment, comes_right)
        for each in files(config, environment):
            if each in comes_right or (given is not None and each == path) or not os.path.exists(each):
                continue
            _check_exposed(config, each)
            mode = secrets_file.loose(each)
            writers = " and ".join(map(str, renderers_of(each))) if mode else ""
            if writers:
                notes.append(
                    f"{each} can be read by others than root (mode {mode:04o}), as {writers} writes it. No cycle sees"
                    f" it, but others on this host do: {secrets_file.mend(each)}"
                )
            elif mode:
                notes.append(f"{each} can be read by others than root (mode {mode:04o}), until an apply closes it")
                loose.append(os.path.realpath(each))
    except LoopError as error:
        return {"problem": str(error), "notes": [], "loose": []}
    ours = sorted(set(environment) - set(secrets_file.without_ours(environment)))
    ours += [MODEL_POLICY] * _of_a_release(config, environment.get(MODEL_POLICY, "")) + [TRACE] * (TRACE in environment)
    where = path if given is None else "engineering_loop_environment"
    if said_twice := sorted({*by_variables(config, environment)} & {*environment} - {*ours}):
        notes.append(f"variables of the role go before these of {where}: {', '.join(said_twice)}")
    if ours:
        names = ", ".join(sorted(ours))
        notes.append(f"of {where} these have no effect, since the loop sets them itself: {names}")
    return {"problem": "", "notes": notes, "loose": loose}


def _access(config: Settings, environment: Mapping[str, str], comes_right: Collection[str]) -> list[str]:
    """Refuse where nothing would let the gateway in at the forge; what is worth saying where the spare token would."""
    spare = tokens.break_glass_token(environment)
    try:
        app = tokens.app_of(config.github_app, environment, config.api_url)
        if app is not None:
            key = app.private_key_file
            tokens.check(app, read_bytes(os.path.realpath(key)) if key in comes_right else None)
        elif not spare:
            raise LoopError(
                f"no forge token: put GH_TOKEN into {config.env_file}, or set engineering_loop_github_app_id"
            )
    except LoopError as error:
        if not spare:
            raise
        return [f"the break-glass token would be used, not the GitHub App: {error}"]
    return []


def files(config: Settings, environment: Mapping[str, str]) -> list[str]:
    """The files that hold what lets somebody in at the forge."""
    named = environment.get(f"{tokens.PREFIX}APP_PRIVATE_KEY_FILE", "")
    found = (config.env_file, named, str(config.github_app.get("private_key_file") or ""))
    return [path for path in dict.fromkeys(found) if path]


def _reader(config: Settings, key: str) -> str:
    """The user, or who stands for one that is not made yet."""
    with contextlib.suppress(LoopError):
        return account(config[key]).pw_name
    return "nobody"


def _readable(user: str, path: str) -> bool:
    return os.path.exists(path) and bool(as_user(user, lambda: os.access(path, os.R_OK)))


def _hidden(config: Settings, path: str) -> bool:
    """Whether nothing of what the host has at ``path`` is in a cycle or in the gateway, whoever may read it."""
    real = os.path.realpath(path)
    install = os.path.realpath(config.install_dir)
    shown = [f"{install}/{name}" for name in ("releases", "current", "uv")]
    tops = [*NOT_THERE, install, os.path.realpath(config.config_dir)]
    return any(inside(real, top) for top in tops) and not any(inside(real, one) for one in shown)


def _check_exposed(config: Settings, path: str) -> None:
    """Refuse a secret that generated code could read: now, or when it is rendered again in the middle of a cycle."""
    if not _hidden(config, path) and _readable(_reader(config, "user"), path):
        raise LoopError(
            f"{path} can be read by {config.user}, who runs generated code, and lies where a cycle sees it: have it"
            f" rendered into {config.config_dir}, or {secrets_file.mend(path)}"
        )


def _check_places(config: Settings, environment: Mapping[str, str]) -> None:
    """Refuse a variable that names a file which is not there, or not for who needs it."""
    handed = tokens.without_credentials(secrets_file.without_ours(environment))
    for name, value in sorted(handed.items()):
        if name in (MODEL_POLICY, TRACE) or not PLACES.fullmatch(name):
            continue
        who = ["user", "gate_user"] if secrets_file.network({name: value}) else ["user"]
        for path in value.split(":"):
            if not path.startswith("/"):
                continue
            told = f"{name} among the secrets ({config.env_file}) names {path}"
            if not os.path.exists(path):
                raise LoopError(f"{told}, where nothing is: put it there, or remove the line")
            if _hidden(config, path):
                raise LoopError(
                    f"{told}, which a cycle does not see: put a copy below /etc/ssl or /usr/local/share, or remove the"
                    " line"
                )
            for reader in who:
                if not _readable(_reader(config, reader), path):
                    raise LoopError(f"{told}, which {config[reader]} cannot read: chmod a+r {path}")


def _of_a_release(config: Settings, path: str) -> bool:
    """Whether a path is one in the checkout of old, or in some release: what is meant is the release of today."""
    return path.startswith(f"{config.install_dir}/")


def model_policy(config: Settings, environment: Mapping[str, str]) -> str:
    """The model policy in force: the release's own, or what the secrets name. LoopError where nothing stands there:
    the engine would take its mock for the agent, and publish what that makes."""
    current = os.path.realpath(f"{config.install_dir}/current")
    named = environment.get(MODEL_POLICY, "")
    if not named or _of_a_release(config, named):
        inner = re.sub(r"^(current/|releases/[^/]+/)", "", named.removeprefix(f"{config.install_dir}/"))
        path = f"{current}/{inner or OWN_POLICY}"
    else:
        path = named
    if not os.path.isfile(path):
        raise LoopError(
            f"{MODEL_POLICY} among the secrets ({config.env_file}) names {named}, where nothing is: the engine would"
            " play its mock. Remove the line, since a release brings its own, or name a file outside of"
            f" {config.install_dir}"
            if named else f"the release has no model policy {path}: the engine would play its mock. Name one by"
            f" {MODEL_POLICY} in {config.env_file}"
        )  # fmt: skip
    return path


def by_variables(config: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """What variables of the role say to the engine. How the network is reached the secrets say, if they do."""
    told = {name: str(value) for name, value in (config.get("engine_environment") or {}).items()}
    return {name: value for name, value in told.items() if name not in secrets_file.network(environment)}


def for_cycle(config: Settings, environment: Mapping[str, str]) -> Handover:
    """What of the host's secrets a cycle gets, and which files it must not be able to read."""
    policy = model_policy(config, environment)
    engines = tokens.without_credentials(secrets_file.without_ours(environment))
    content = b"" if _of_a_release(config, policy) else read_bytes(policy) or b""  # elsewhere no cycle sees it
    return Handover(
        environment={**engines, **by_variables(config, engines), MODEL_POLICY: policy},
        model_policy=content.decode("utf-8", "replace"),
        hidden=files(config, environment),
    )


# --- what goes over ---------------------------------------------------------------------------


def place(config: Settings) -> str:
    """The file that goes from root to the cycle."""
    directory = os.environ.get("RUNTIME_DIRECTORY") or f"/run/{config.unit}"
    return f"{directory}/{NAME}"


def give(config: Settings, handed: Handover) -> None:
    """As root: leave it for the cycle."""
    path, user = place(config), account(config.user)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            os.fchown(descriptor, user.pw_uid, user.pw_gid)
            handle.write(handed.content)
    except OSError as error:
        raise LoopError(f"{path} cannot be written: {error.strerror}") from error


def take(config: Settings) -> Handover:
    """As the cycle: what root has left, once."""
    path = place(config)
    content = read_bytes(path)
    if content is None:
        raise LoopError(f"a cycle gets its secrets from its unit: start it with systemctl start {config.unit}")
    os.unlink(path)
    return documents.load(Handover, content)


# --- afterwards -------------------------------------------------------------------------------


def _remembered(config: Settings) -> str:
    """A file in the watch's runtime directory: in memory, root's, and gone with the watch."""
    return f"{os.path.dirname(wire.place(config.unit))}/{REMEMBERED}"


def remember(config: Settings, environment: Mapping[str, str]) -> None:
    """As root, before a cycle: what must not be in its log. When it ends, the secrets may be others already."""
    with contextlib.suppress(LoopError):  # no watch, no directory: such a cycle is refused
        content = json.dumps(secrets_file.confidential(environment)).encode()
        write_atomic(_remembered(config), content, mode=0o600)


def redactor(config: Settings) -> Redactor:
    """What takes the secrets of the cycle that ends out of a text: those of its beginning, and those of now."""
    values: list[str] = []
    with contextlib.suppress(LoopError, ValueError, TypeError):
        values += map(str, json.loads(read_bytes(_remembered(config)) or b"[]"))
    with contextlib.suppress(LoopError, OSError):
        values += secrets_file.confidential(secrets_file.read(config.env_file))
    for wanted in config.home_files:
        with contextlib.suppress(LoopError, ValueError, RecursionError):
            values += _secrets_in(json.loads(cells.home_file(wanted)))
    return Redactor(values)


def forget(config: Settings) -> None:
    """As root, when all of a cycle is kept."""
    with contextlib.suppress(OSError):
        os.unlink(_remembered(config))


def _secrets_in(value: Any, name: str = "") -> list[str]:
    """The texts that a document calls a secret. The name of a variable, which stands for one, is none."""
    if isinstance(value, dict):
        return [one for key, inner in value.items() for one in _secrets_in(inner, str(key))]
    if isinstance(value, list):
        return [one for inner in value for one in _secrets_in(inner, name)]
    is_secret = isinstance(value, str) and SECRET.fullmatch(name) and not re.fullmatch(r"[A-Z][A-Z0-9_]*", value)
    return [value] if is_secret else []
