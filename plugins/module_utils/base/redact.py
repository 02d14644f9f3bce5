# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets out of a text that somebody else wrote, before it is kept or shown.

What is known is found as it is, and as JSON, a URL or base64 would write it; of what is not known, what is a token of
the forge, a private key or a password in a URL by its shape. That stops what is printed by accident. Who spells a
secret backwards gets it past this.

A text is written anew with ``***``. What must keep its length (a file in its place, whatever it holds) is asked for
``spans``, which hold no quote and no tag, so that what is JSON stays JSON.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterable
from typing import Any

HIDDEN = "***"
SHORTEST = 8  # letters of a value; what is shorter stands in any text by chance
# As the forge makes them: personal, of an App's installation, of a user, to refresh; and the fine-grained ones.
_TOKEN = re.compile(r"\bgh[opsur]_[A-Za-z0-9]{20,255}|\bgithub_pat_[A-Za-z0-9_]{20,255}")
_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:(?!-----BEGIN ).){0,12000}?"
    r"(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
# Without a / in it, so that what is looked at ends soon whatever the text is.
_LOGIN = re.compile(r"://[^\s/@]{1,1000}@")
# The same in bytes. Each begins with what is found fast, and looks no further than LOOKS_AHEAD.
_TOKEN_BYTES = re.compile(rb"(?:gh[opsur]|github_pat)_[A-Za-z0-9_]{20,255}")
_KEY_BYTES = re.compile(
    rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"
    rb"(?:[A-Za-z0-9+/=\s\\:,]|-(?!-)){0,12000}(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?"
)
_LOGIN_BYTES = re.compile(rb"://[^\s/@:\"'\\<>]{0,200}:(?P<secret>[^\s/@\"'\\<>]{1,1000})@")
LOOKS_AHEAD = 16 * 1024


class Redactor:
    """Puts ``***`` in the place of secrets."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        found = {form for value in secrets if len(value) >= SHORTEST for form in _forms(value)}
        self._forms = sorted(found, key=lambda form: (-len(form), form))  # one may be part of another
        self._bytes = [form.encode("utf-8", "surrogateescape") for form in self._forms]
        self.reach = max(LOOKS_AHEAD, *map(len, self._bytes), 0)  # bytes that any secret has at most

    @property
    def longest(self) -> int:
        """Letters of the longest secret that is looked for: so much at a cut may be a part of one."""
        return max(map(len, self._forms), default=0)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        return _LOGIN.sub(f"://{HIDDEN}@", _KEY.sub(HIDDEN, _TOKEN.sub(HIDDEN, text)))

    def spans(self, content: bytes) -> list[tuple[int, int]]:
        """Where secrets stand in it, from and to. Of a URL it is the password alone."""
        found = []
        for form in self._bytes:
            at = content.find(form)
            while at >= 0:
                found.append((at, at + len(form)))
                at = content.find(form, at + len(form))
        found += [match.span() for match in _TOKEN_BYTES.finditer(content) if not _in_a_word(content, match.start())]
        found += [match.span() for match in _KEY_BYTES.finditer(content)]
        return found + [match.span("secret") for match in _LOGIN_BYTES.finditer(content)]

    def everywhere(self, value: Any) -> Any:
        """Plain data with every text in it without secrets."""
        if isinstance(value, dict):
            return {self.everywhere(key): self.everywhere(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.everywhere(inner) for inner in value]
        return self(value) if isinstance(value, str) else value


def _in_a_word(content: bytes, at: int) -> bool:
    before = content[at - 1 : at] if at else b""
    return before.isalnum() or before == b"_"


def _forms(value: str) -> set[str]:
    raw = value.encode("utf-8", "surrogateescape")
    return {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        urllib.parse.quote(raw, safe=""),
        base64.b64encode(raw).decode().rstrip("="),
    }
