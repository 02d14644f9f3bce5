# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a refusal of the forge means, and what to do about it. GitHub tells apart by words what has the same status."""

from __future__ import annotations

import datetime
import email.utils
import re
import time
from typing import Any

from ..base.clock import written
from ..base.untrusted import show

UNNAMED_LIMIT = 60.0  # seconds that GitHub asks to wait where it names no time
CLOCK_SKEW = 30  # seconds; below that it is not the clocks
# Pages of GitHub that a person goes to.
APP_PAGE = "the App's own page (Settings > Developer settings > GitHub Apps)"
INSTALLATION_PAGE = "its page (the organization's Settings > GitHub Apps > Configure)"

# How a failure reads in a record, as this collection's requests and git itself word it.
_NOT_LET_IN = re.compile(
    r"HTTP 401|HTTP 403(?!.*rate limit)|no forge token|/app/installations/\d+/access_tokens: HTTP 404|JSON web token"
    r"|Authentication failed for|could not read (Username|Password)|returned error: (401|403)"
    r"|terminal prompts disabled",
    re.IGNORECASE,
)
_NOT_REACHED = re.compile(
    r"no connection: is |no answer in time: |the proxy \(HTTPS_PROXY\)|HTTP (429|5\d\d)|rate limit is used up"
    r"|Could not resolve host|Failed to connect to|Connection (refused|timed out|reset)|returned error: 5\d\d"
    r"|Couldn't connect to server|Operation timed out|the certificate of ",
    re.IGNORECASE,
)
CREDENTIALS, FORGE = "credentials", "forge"


def kind_of(told: str) -> str:
    """Whether a failure that was told in these words is one of what lets us in (``credentials``), or of the ``forge``
    that is down or cannot be reached; empty where it is another.
    """
    if _NOT_LET_IN.search(told):
        return CREDENTIALS
    return FORGE if _NOT_REACHED.search(told) else ""


def advice_on(answer: Any, said: str) -> str:
    """What to do about ``answer``, in whose own words the forge has ``said`` why it refuses."""
    status = answer.status_code
    wait = limited_for(answer)
    if wait is not None:
        until = datetime.datetime.fromtimestamp(time.time() + wait, datetime.UTC)
        return f"the rate limit is used up: try again after {written(until)}"
    for part, advice in (
        ("claim ('exp')", _clock_advice(answer)),
        ("claim ('iat')", _clock_advice(answer)),
        (
            "JSON web token could not be decoded",
            "the private key is not one of the App with the id engineering_loop_github_app_id: correct the id, or make "
            f"a new key on {APP_PAGE} and put it into engineering_loop_github_app_private_key_file",
        ),
        ("Integration not found", f"no App has the id engineering_loop_github_app_id: copy it from {APP_PAGE}"),
        ("claim ('iss')", f"engineering_loop_github_app_id is not the id of an App: copy it from {APP_PAGE}"),
        (
            "installation has been suspended",
            f"the App's installation is suspended: its owner can lift that on {INSTALLATION_PAGE}",
        ),
        ("Resource not accessible by integration", _permission_advice(answer)),
        ("Resource not accessible by personal access token", _permission_advice(answer)),
        ("SAML", "the organization wants single sign-on: authorize the token for it on the page of your tokens"),
    ):
        if part in said:
            return advice
    if status == 404 and "/app/installations/" in answer.url:
        return (
            "the App has no installation of this number: engineering_loop_github_app_installation_id is the number at "
            f"the end of the address of {INSTALLATION_PAGE}"
        )
    if status == 401:
        return "the token is wrong or has expired: put a valid one into the env file"
    if status == 403:
        return "the token may not do this: give it the permission"
    if status == 404:
        return "it does not exist, or the token may not see it"
    if status >= 500:
        return "the forge has a problem of its own: try again later"
    if 300 <= status < 400:
        return f"it has moved to {show(answer.headers.get('Location', 'another address'))}: write that one"
    return "the forge refuses the request"


def _clock_advice(answer: Any) -> str:
    """By how much this host's clock and the forge's differ: an App's signature holds for minutes only."""
    try:
        theirs = email.utils.parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return "the clock of this host is wrong, or the forge's: see timedatectl"
    off = round(time.time() - theirs.timestamp())
    if abs(off) < CLOCK_SKEW:
        return "the forge does not accept the time in the App's signature, though the clocks agree: try again"
    way = "ahead of" if off > 0 else "behind"
    return f"the clock of this host is {abs(off)} s {way} the forge's: set it right with timedatectl set-ntp true"


def _permission_advice(answer: Any) -> str:
    """Which permission is missing; GitHub names it in a header."""
    needed = show(answer.headers.get("X-Accepted-GitHub-Permissions", ""))
    return (
        f"the token may not do this: give it the permission{f' {needed}' if needed else ''} (to an App on {APP_PAGE}, "
        f"under Permissions; then it waits to be accepted on {INSTALLATION_PAGE})"
    )


def limited_for(answer: Any) -> float | None:
    """Seconds until a rate limit passes; None where the answer is no rate limit."""
    if answer.status_code not in (403, 429):
        return None
    headers = answer.headers
    try:
        if "Retry-After" in headers:
            return max(0.0, float(headers["Retry-After"]))
        if headers.get("x-ratelimit-remaining") == "0":
            return max(0.0, float(headers["x-ratelimit-reset"]) - time.time())
    except (KeyError, ValueError):
        return UNNAMED_LIMIT
    return UNNAMED_LIMIT if answer.status_code == 429 or b"secondary rate limit" in answer.content else None
