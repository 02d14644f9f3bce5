# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said where a program did not take a server's certificate, in the words of each."""

from __future__ import annotations

import os

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import certificate, holds_password

GIT = "fatal: unable to access 'https://me:s3cret@h.test:8443/x.git/': "
UV = "error: Failed to fetch: `https://h.test:8443/simple/x/`\n  Caused by: invalid peer certificate: "
PIP = "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "


@pytest.mark.parametrize(
    "told",
    [
        f"{GIT}server verification failed: certificate signer not trusted. (CAfile: none CRLfile: none)",
        f"{GIT}server certificate verification failed. CAfile: none CRLfile: none",
        f"{GIT}server verification failed: certificate has expired. (CAfile: /x.pem CRLfile: none)",
        f"{GIT}server verification failed: certificate error, no details available. (CAfile: /x.pem CRLfile: none)",
        f"{GIT}SSL certificate problem: unable to get local issuer certificate",
        f"{UV}UnknownIssuer",
        f"{UV}certificate expired: verification time 1795687728 (UNIX), but certificate is not valid after 1795514910",
        f"{UV}certificate not valid yet: verification time 1 (UNIX), but certificate is not valid before 1796119710",
        f"{PIP}self-signed certificate (_ssl.c:1029)')) https://h.test:8443",
        f"{PIP}certificate is not yet valid (_ssl.c:1029)')) https://h.test:8443",
        "request to https://h.test:8443/pi failed, reason: self-signed certificate",
    ],
)
def test_what_to_do_is_said_and_for_which_server(told: str) -> None:
    said = certificate(told)
    assert said.startswith(f"the certificate of h.test:8443 is not accepted on {os.uname().nodename}: if it is of a CA")
    assert "run update-ca-certificates" in said
    assert "clock is right, which says 20" in said


@pytest.mark.parametrize(
    "told",
    [
        f"{GIT}Could not resolve host: h.test",
        f"{GIT}SSL: certificate subject name (other) does not match target hostname 'h.test'",
        f'{UV}certificate not valid for name "h.test"; certificate is only valid for DnsName("other")',
        f"{PIP}IP address mismatch, certificate is not valid for '127.0.0.1'. (_ssl.c:1029)'))",
        "error: the package certificates has no wheel",
    ],
)
def test_nothing_is_said_of_what_that_would_not_mend(told: str) -> None:
    assert certificate(told) == ""


@pytest.mark.parametrize(
    ("url", "password", "or_name"),
    [
        ("https://me:s3cret@h/x", True, True), ("ssh://me:s3cret@h/x", True, True),
        ("https://me:s3c/ret@h/x", True, True),
        ("https://s3cret@h/x", False, True), ("ssh://git@h/x", False, False), ("git@h:o/x", False, False),
        ("https://h/x", False, False), ("https://h:8443/x", False, False), ("/srv/x@y", False, False),
    ],
)  # fmt: skip
def test_a_password_in_a_url(url: str, password: bool, or_name: bool) -> None:
    assert (holds_password(url), holds_password(url, or_name=True)) == (password, or_name)
