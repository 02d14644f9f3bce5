# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written of a quarantined thing: ``<quarantine>/<id>/manifest.json``, and the listing of all for people."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..base.clock import stamp
from ..base.errors import Denied, LoopError
from ..base.files import write_atomic
from ..base.untrusted import parse, read, shown
from ..git.repository import OBJECT
from .whole_moves import move

ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}-\d+")
# What is acted on; all else in a manifest is for people.
READ = ("path", "repo", "admin", "branch", "tip", "head", "size", "restored_to", "restored_as", "restored")


def new_id(number: int = 0) -> str:
    """A name that sorts by time and that no other pass uses."""
    return f"{stamp()}-{secrets.token_hex(4)}-{number}"


@dataclass(frozen=True)
class Restored:
    """How a thing was put back, and the inode that stands there since."""

    branch: str
    head: str
    registered: bool
    inode: int


@dataclass(frozen=True)
class Manifest:
    """What a manifest says. It is input: whoever could write to the quarantine may have said anything in it.

    Every field is of its kind; one that is not given is empty. Where the file cannot be believed, ``damaged`` says why.
    """

    id: str  # the directory's name, whatever the file says
    directory: str
    content: Mapping[str, Any] = field(default_factory=dict)  # all of it
    path: str = ""
    repo: str = ""
    admin: str = ""
    branch: str = ""
    tip: str = ""
    head: str = ""
    tree: bool = False
    size: int | None = None
    restored_to: str = ""
    restored_as: str = ""
    restored: Restored | None = None
    damaged: str = ""

    @classmethod
    def read(cls, directory: str) -> Manifest:
        """The manifest in ``directory``; nothing is raised for what stands there."""
        name = os.path.basename(directory)
        try:
            found = _content(directory)
        except LoopError as error:
            return cls(name, directory, damaged=str(error))
        given = {key: found[key] for key in READ if key in found}
        if given.get("restored"):
            given["restored"] = Restored(**given["restored"])
        return cls(name, directory, found, tree=bool(found.get("tree")), **given)

    @property
    def tree_path(self) -> str:
        """Where its directory or file is kept, if it had one."""
        return os.path.join(self.directory, "tree")

    @property
    def described(self) -> bool:
        """Does it say what the thing is?"""
        return "what" in self.content

    @property
    def origin(self) -> str:
        """Where the thing stood, or which branch it was."""
        return str(self.content.get("from", ""))

    def told(self) -> dict[str, Any]:
        """For people: what the file says, with ``id`` and ``to``."""
        unknown = {"what": "damaged", "from": "", "why": self.damaged or "it has no manifest"}
        known = self.content if self.described else unknown
        return dict(shown({**known, "id": self.id, "to": self.directory}))


def _content(directory: str) -> dict[str, Any]:
    """What the file says, empty where there is none; LoopError where a known field is not of its kind."""
    content = read(os.path.join(directory, "manifest.json"), os.path.dirname(directory))
    if content is None:
        return {}
    found = parse(content, "the manifest")
    wrong = next((key for key, good in KINDS.items() if key in found and not good(found[key])), "")
    if wrong:
        raise LoopError(f"the manifest has a wrong {wrong}")
    return found


def write_manifest(directory: str, fields: Mapping[str, Any]) -> None:
    """Describe the quarantined thing in ``directory``; what an earlier, cut-off pass knew stays known.

    Raises Denied where another user's ownership forbids it, LoopError for everything else.
    """
    path = os.path.join(directory, "manifest.json")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        earlier = Manifest.read(directory)
        if earlier.damaged and os.path.isdir(path) and not os.path.islink(path):
            move(path, f"{path}.{secrets.token_hex(4)}")
        known = earlier.content
        whole = {**known, **{key: value for key, value in fields.items() if value or key not in known}}
        write_atomic(path, json.dumps(whole, indent=1).encode(), mode=0o600)
    except PermissionError as error:
        raise Denied(directory, "") from error
    except OSError as error:
        raise LoopError(f"the quarantine {directory} cannot be written: {error.strerror}") from error
    except LoopError as error:
        if isinstance(error.__cause__, PermissionError):
            raise Denied(directory, "") from error
        raise LoopError(f"the quarantine {directory} cannot be written: {error}") from error


def manifests(quarantine: str) -> list[Manifest]:
    """The manifest of every quarantined thing below ``quarantine``, oldest first."""
    try:
        names = sorted(name for name in os.listdir(quarantine) if ID.fullmatch(name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoopError(f"the quarantine {quarantine} cannot be read: {error.strerror}") from error
    return [Manifest.read(os.path.join(quarantine, name)) for name in names]


def listing(quarantine: str) -> list[dict[str, Any]]:
    """Every quarantined thing below ``quarantine``, oldest first, for people: its manifest with ``id`` and ``to``.

    One whose manifest is missing or cannot be believed is ``damaged``, and ``why`` says what is wrong with it.
    """
    return [one.told() for one in manifests(quarantine)]


# --- kinds of fields --------------------------------------------------------------------------


def _text(value: object) -> bool:
    """A text that can be a part of a path: whole bytes, and none of them 0."""
    if not isinstance(value, str) or "\0" in value:
        return False
    with contextlib.suppress(UnicodeEncodeError):
        return len(os.fsencode(value)) < 4096
    return False


def _path(value: object) -> bool:
    return value == "" or (
        isinstance(value, str) and _text(value) and value[0] == "/" and os.path.normpath(value) == value
    )


def _name(value: object) -> bool:
    return value == "" or (isinstance(value, str) and _text(value) and not {"", ".", ".."} & set(value.split("/")))


def _object(value: object) -> bool:
    return value == "" or (isinstance(value, str) and OBJECT.fullmatch(value) is not None)


def _number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _restored(value: object) -> bool:
    known = {"branch": _name, "head": _object, "registered": lambda each: isinstance(each, bool), "inode": _number}
    return isinstance(value, dict) and set(value) == set(known) and all(known[key](value[key]) for key in known)


KINDS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("id", "what", "why", "when", "from", "change_id", "restore"), _text),
    **dict.fromkeys(("path", "repo", "restored_to"), _path),
    **dict.fromkeys(("branch", "restored_as"), _name),
    **dict.fromkeys(("tip", "head"), _object),
    "admin": lambda value: _name(value) and "/" not in str(value),
    "restored": _restored,
    "size": lambda value: value is None or _number(value),
}
