# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in a text: those that are known in the forms that programs write, those of a known shape, and no more."""

from __future__ import annotations

import base64
import json
import time
import urllib.parse

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.redact import Redactor

SECRET = 'sk-"proj" ä/+1234567'


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        json.dumps({"key": SECRET}),
        json.dumps({"key": SECRET}, ensure_ascii=False),
        urllib.parse.quote(SECRET, safe=""),
        base64.b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_known_one_is_hidden_in_every_form(form: str) -> None:
    text = Redactor([SECRET])(f"key={form} and {form}\n")
    assert "***" in text and "1234567" not in text and base64.b64encode(SECRET.encode())[:12].decode() not in text
    assert text.endswith("\n") and " and " in text


def test_the_longer_one_goes_first() -> None:
    redact = Redactor(["abcdefgh", "abcdefghijklmnop", "abcdefgh"])
    assert redact("abcdefghijklmnop abcdefgh") == "*** ***"
    assert redact.longest >= 16 and Redactor().longest == 0


def test_what_is_short_hides_nothing() -> None:
    assert Redactor(["", "1", "true", "short77"])("1 is true, short77") == "1 is true, short77"


TOKEN = "gh" + "s_" + "0123456789abcdef" * 2
KEY = "-----BEGIN {0}-----\nbm90IGEga2V5\n-----END {0}-----".format("OPENSSH PRIVATE " + "KEY")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {TOKEN}!", "token ***!"),
        ("github_" + "pat_" + "A1_" * 20, "***"),
        (f"<{KEY}> after", "<***> after"),
        (KEY.partition("-----END")[0], "***"),  # cut off
        ("https://user:pass@host/x https://tok@host", "https://***@host/x https://***@host"),
        ("https://host/@scope/pkg a@b ghs_short ://", "https://host/@scope/pkg a@b ghs_short ://"),
    ],
)
def test_an_unknown_one_is_known_by_its_shape(text: str, shown: str) -> None:
    assert Redactor()(text) == shown


@pytest.mark.parametrize("piece", ["://:", "-----BEGIN PRIVATE " + "KEY-----", "ghs_", "://" + "a" * 900 + " "])
def test_a_text_made_to_be_slow_is_not(piece: str) -> None:
    began = time.process_time()
    Redactor([SECRET])(piece * (1_000_000 // len(piece)))
    assert time.process_time() - began < 5
