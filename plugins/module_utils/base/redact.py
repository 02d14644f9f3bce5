# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets out of a text that somebody else wrote, before it is kept or shown.

What is known is found as it is, and as JSON, a URL or base64 would write it; of what is not known, what is a token of
the forge, a private key or a password in a URL by its shape. That stops what is printed by accident. Who spells a
secret backwards gets it past this.
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


class Redactor:
    """Puts ``***`` in the place of secrets."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        found = {form for value in secrets if len(value) >= SHORTEST for form in _forms(value)}
        self._forms = sorted(found, key=lambda form: (-len(form), form))  # one may be part of another

    @property
    def longest(self) -> int:
        """Letters of the longest secret that is looked for: so much at a cut may be a part of one."""
        return max(map(len, self._forms), default=0)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        return _LOGIN.sub(f"://{HIDDEN}@", _KEY.sub(HIDDEN, _TOKEN.sub(HIDDEN, text)))

    def everywhere(self, value: Any) -> Any:
        """Plain data with every text in it without secrets."""
        if isinstance(value, dict):
            return {self.everywhere(key): self.everywhere(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.everywhere(inner) for inner in value]
        return self(value) if isinstance(value, str) else value


def _forms(value: str) -> set[str]:
    raw = value.encode("utf-8", "surrogateescape")
    return {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        urllib.parse.quote(raw, safe=""),
        base64.b64encode(raw).decode().rstrip("="),
    }
