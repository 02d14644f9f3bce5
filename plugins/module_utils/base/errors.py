# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors that the core raises on purpose."""

from __future__ import annotations

import os
import re
import sys
import time

MAX_MESSAGE = 10_000  # letters of one message, whatever somebody else's text is in it


def printable(text: str) -> str:
    """Text that somebody else may have written, with everything escaped that a terminal obeys or does not show."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    byte = ord(char) - 0xDC00  # a byte that was no text
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else repr(char)[1:-1]


def without_passwords(text: str) -> str:
    """``text`` without the user and password of any URL in it."""
    return re.sub(r"://([^\s/@:]*:[^\s@]*|[^\s/@]*)@", "://***@", text)  # a password may have a / in it


def holds_password(url: str, or_name: bool = False) -> bool:
    """Whether a password stands before the host of a URL, or with ``or_name`` a name on the web: it may be a token."""
    return re.match(rf"\w+://[^/@]*:[^@]*@{'|https?://[^/]*@' if or_name else ''}", url) is not None


# As git (GnuTLS, OpenSSL), pip and requests (OpenSSL), uv (rustls) and npm (node) say it. Where the name is another,
# what is said here would not help.
_CERTIFICATE = re.compile(
    r"certificate (verif|signer|error|problem|has expired|expired|is not yet|not valid yet)|peer certificate"
    r"|self.signed certificate|local issuer certificate|CERT_\w+|ssl certificate",
    re.IGNORECASE,
)
_OTHER_NAME = re.compile(r"mismatch|not match|not valid for", re.IGNORECASE)


def certificate(told: str) -> str:
    """What to do where some program did not take a server's certificate, in whatever words; empty where it did.

    Of a clock that is years off some say no more than that it is wrong.
    """
    if not _CERTIFICATE.search(told) or _OTHER_NAME.search(told):
        return ""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    address = re.search(r"https://(?:[^\s/@]*@)?([^\s/@'\")]+)", told)
    return (
        f"the certificate of {address[1] if address else 'the server'} is not accepted on {os.uname().nodename}: if it"
        " is of a CA of your own, copy that to /usr/local/share/ca-certificates/NAME.crt there and run"
        f" update-ca-certificates; and see that the clock is right, which says {today}"
    )


def playbook(name: str, host: str = "HOST") -> str:
    """The command of one of our playbooks: by its full name it works wherever the collection is installed."""
    return f"ansible-playbook -i INVENTORY as215932.engineering_loop.{name} -l {host}"


APPLY = f"run {playbook('apply')}"


class LoopError(Exception):
    """Something a person must decide about.

    The text is one line in the operator's words: what is wrong, where, and what
    to do or what is allowed instead. Modules hand it to ``fail_json`` unchanged;
    commands on the host print it and exit with 1. Whoever's words are in it, it can be printed.
    """

    def __init__(self, message: str) -> None:
        text = printable(" ".join(message[: 2 * MAX_MESSAGE].split()))
        super().__init__(text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}...")


class MissingLibrary(LoopError):
    """A library that the host is to have: Debian's package of it is for Debian's own Python, which may be another."""

    def __init__(self, name: str, package: str) -> None:
        super().__init__(
            f"the Python library {name} is missing for {sys.executable}; Debian's package {package} is for"
            " /usr/bin/python3: install it, and let ansible_python_interpreter be that one"
        )


class TimedOut(LoopError):
    """A program on this host did not end in its time. Of a repository it means: damaged, put it aside."""


class Denied(Exception):
    """This user may not move ``source``: a step for root, who runs no git."""

    def __init__(self, source: str, target: str) -> None:
        super().__init__(source)
        self.source, self.target = source, target
