# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What looks for secrets finds them in what they may be written in, and nothing that is no secret."""

from __future__ import annotations

import base64

import planted
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


def test_the_line_of_a_key_is_in_no_public_key() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    line = base64.b64decode(planted.secret_line(pem))
    assert len(line) == 48
    assert line not in key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert planted.named(pem.encode(), planted.needles({"key": planted.secret_line(pem)})) == ["key"]


@pytest.mark.parametrize("before", ["", "x", "xy", "xyz"])
def test_a_secret_is_found_in_whatever_it_is_written_in(before: str) -> None:
    wanted = planted.needles({"it": 'a "b" icinga0123456789', "other": "ntfy0123456789"})
    text = f'{before}a "b" icinga0123456789 and more'.encode()
    for written in (text, text.hex().encode(), text.hex().upper().encode(), base64.b64encode(text)):
        assert planted.named(written, wanted) == ["it"]
    assert planted.in_chunks([text[:20], text[20:]], wanted) == {"it"}
