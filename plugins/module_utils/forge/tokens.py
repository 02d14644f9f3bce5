# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forge token: minted for a GitHub App's installation, or the break-glass one of the file with the secrets.

Run by root, who alone can read the App's private key. A minted token lives for an hour, and only in
memory. PyJWT makes the JSON web token by which an App says who it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..base.errors import LoopError, MissingLibrary
from ..base.files import read_bytes
from ..base.later import later
from ..git.command import origin_of
from ..host import renderers, secrets_file
from ..host.settings import Settings
from .client import Forge

if TYPE_CHECKING:
    import jwt
else:
    jwt = later("jwt")  # None on a fresh host, before the role's packages are there

TOKEN_KEYS = ("GH_TOKEN", "ENGINEERING_LOOP_GITHUB_TOKEN")
# What today's hosts have in their file with the secrets; ours are settings.
PREFIX = "ENGINEERING_LOOP_GITHUB_"
GITHUB = "https://api.github.com"
KEY_LIMIT = 1 << 16
SECONDS = 540  # that a signature holds: GitHub takes no longer than ten minutes, and its clock may be another

# The option of a module that talks to the forge.
OPTION = {
    "type": "dict",
    "options": {
        "id": {"type": "str"},
        "installation_id": {"type": "str"},
        "private_key_file": {"type": "path", "no_log": False},
        "api_url": {"type": "str", "default": GITHUB},
    },
}


@dataclass(frozen=True)
class App:
    """An installed GitHub App, and where its key is."""

    id: str
    installation_id: str
    private_key_file: str
    api_url: str


@dataclass(frozen=True)
class Token:
    """A token for the forge, where it comes from and what a person should be told about that."""

    token: str = field(repr=False)
    kind: str  # app | break-glass
    note: str = ""
    expires_at: str = ""


def app_of(settings: Mapping[str, Any], environment: Mapping[str, str], api_url: str) -> App | None:
    """The App that the settings or, second, the file with the secrets name; None where neither does."""
    values = {
        key: str(settings.get(key) or "") or environment.get(f"{PREFIX}APP_{key.upper()}", "")
        for key in ("id", "installation_id")
    }
    named = environment.get(f"{PREFIX}APP_PRIVATE_KEY_FILE", "") or str(settings.get("private_key_file") or "")
    mode = environment.get(f"{PREFIX}AUTH_MODE", "")
    if mode not in ("", "app", "token"):
        raise LoopError(f"{PREFIX}AUTH_MODE among the secrets must be app or token")
    if (mode == "token" and not settings.get("id")) or (not mode and not any(values.values())):
        return None
    for key, value in values.items():
        if not value:
            raise LoopError(f"the GitHub App lacks its {key}: set engineering_loop_github_app_{key}")
    if not values["installation_id"].isdecimal():
        raise LoopError("engineering_loop_github_app_installation_id must be a number")
    if not os.path.isabs(named):
        raise LoopError("engineering_loop_github_app_private_key_file must be the absolute path of a file on the host")
    url = environment.get(f"{PREFIX}APP_API_URL") or environment.get(f"{PREFIX}API_URL") or api_url
    return App(values["id"], values["installation_id"], named, url)


def forge_token(settings: Mapping[str, Any], environment: Mapping[str, str], api_url: str, path: str) -> Token:
    """A token for the forge: the App's, else the break-glass one of the file at ``path``, with a note that says so."""
    return choose(lambda: app_of(settings, environment, api_url), mint, break_glass_token(environment), path)


def break_glass_token(environment: Mapping[str, str]) -> str:
    """The break-glass token of the file with the secrets; empty where it has none."""
    return next((environment[key] for key in TOKEN_KEYS if environment.get(key)), "")


def choose(find: Callable[[], App | None], ask: Callable[[App], Token], spare: str, path: str) -> Token:
    """The token that ``ask`` gets for the App of ``find``; else the break-glass one, ``spare``.

    LoopError where there is neither; ``path`` is the file that should have the break-glass one.
    """
    try:
        app = find()
        if app is not None:
            return ask(app)
    except LoopError as error:
        if not spare:
            raise
        return Token(spare, "break-glass", f"BREAK-GLASS TOKEN USED, the GitHub App gave none: {error}")
    if not spare:
        raise LoopError(f"no forge token: put GH_TOKEN into {path}, or set engineering_loop_github_app_id")
    return Token(spare, "break-glass")


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The secrets without what lets somebody in at the forge: the token goes its own way."""
    return {key: value for key, value in environment.items() if key not in TOKEN_KEYS and not key.startswith(PREFIX)}


def token_for(path: str | None, settings: Mapping[str, Any] | None) -> str:
    """For a module, as root: the token by its options; empty where they name none, or the file is not there yet.

    File and key may still be as an older layout had them: whether they may stay so is not asked here.
    """
    environment = secrets_file.read(path) if path and os.path.lexists(path) else {}
    given = settings or {}
    api_url = str(given.get("api_url") or GITHUB)
    if app_of(given, environment, api_url) is None and not break_glass_token(environment):
        return ""

    def ask(app: App) -> Token:
        return mint(app, read_bytes(os.path.realpath(app.private_key_file), KEY_LIMIT))

    return choose(lambda: app_of(given, environment, api_url), ask, break_glass_token(environment), str(path)).token


def acting(config: Settings, path: str) -> tuple[str, str]:
    """For root on a deployed host: the token, and the login that it acts as where it cannot be asked."""
    environment = secrets_file.load(path, config.forbidden_environment)
    token = forge_token(config.github_app, environment, config.api_url, path)
    app = app_of(config.github_app, environment, config.api_url) if token.kind == "app" else None
    if app and origin_of(app.api_url) != origin_of(config.api_url):
        raise LoopError(
            f"{path} says that the GitHub App is one of {app.api_url}, and engineering_loop_github_api_url that the "
            f"forge is {config.api_url}: let both name the same, an App's token is for its own forge only"
        )
    return token.token, identity(app) if app else ""


def mint(app: App, key: bytes | None = None) -> Token:
    """An installation token, for an hour. ``key`` is the App's, where it was brought to us."""
    answer = Forge(app.api_url, signed(app, key)).installation_token(int(app.installation_id))
    return Token(str(answer["token"]), "app", expires_at=str(answer.get("expires_at", "")))


def identity(app: App) -> str:
    """The login that the App's tokens act as, which they themselves cannot ask for."""
    return f"{Forge(app.api_url, signed(app)).app()['slug']}[bot]"


def signed(app: App, key: bytes | None = None) -> str:
    """The JSON web token that says who the App is, signed with its key."""
    if jwt is None:
        raise MissingLibrary("PyJWT", "python3-jwt")
    now = int(time.time())
    claims = {"iat": now - 60, "exp": now + SECONDS, "iss": app.id}
    try:
        return jwt.encode(claims, key or key_of(app), algorithm="RS256")
    except (jwt.PyJWTError, ValueError, TypeError, NotImplementedError):
        # Not the library's words: they could show what the file holds.
        raise LoopError(
            f"{app.private_key_file} is not an RSA private key in PEM without a passphrase, or python3-cryptography "
            "is missing"
        ) from None


def check(app: App, key: bytes | None = None) -> None:
    """Refuse a key that is missing, could be another's or is none. On a fresh host nothing here can read it yet."""
    key = key or key_of(app)
    if jwt is not None:
        signed(app, key)


def key_of(app: App) -> bytes:
    """The key, where nobody but root can have written it."""
    path = app.private_key_file
    key = secrets_file.secret(path, "the private key of the GitHub App, ", KEY_LIMIT)
    if key is None:
        raise LoopError(
            f"the private key of the GitHub App, {path}, is missing (engineering_loop_github_app_private_key_file names"
            f" it). On the host, {renderers.awaited(path)}; then run this again"
        )
    return key
