# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an operator wants to be told: URLs of notification targets, as the library Apprise reads them.

Such a URL is a secret: a token, a password, or a topic that whoever knows it may write to. It is never shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..base.errors import LoopError, printable
from ..base.files import sha256
from . import secrets_file
from .settings import Settings

WRITTEN, VARIABLE = "notify", "engineering_loop_notify"
MAX_TARGETS, MAX_LETTERS = 20, 2000
# What Apprise 1.9, as Debian 13 has it, knows on a host without a desktop.
SCHEMES = frozenset(
    """
    apprise apprises aprs atalk azure bark barks bluesky bsky bulksms bulkvs burstsms chanify clicksend d7sms dapnet
    dingtalk discord emby embys enigma2 enigma2s fcm feishu flock form forms freemobile gchat gotify gotifys guilded
    hassio hassios httpsms ifttt join json jsons kavenegar kodi kodis kumulos lametric lametrics line lsea lseas
    lunasea lunaseas mailgun mailto mailtos mastodon mastodons matrix matrixs misskey misskeys mmost mmosts msg91
    msgbird msteams ncloud nclouds nctalk nctalks nexmo notica noticas notifiarr notifico ntfy ntfys o365 onesignal
    opsgenie pagerduty pagertree parsep parseps pbul pjet pjets plivo popcorn pover prowl psafer psafers push pushdeer
    pushdeers pushed pushme pushy reddit resend revolt rocket rockets rsyslog ryver schan sendgrid ses seven sfr
    signal signals sinch slack smseagle smseagles smsmanager smsmgr smtp2go sns sparkpost splunk spush strmlabs
    synology synologys syslog tgram threema toot toots tweet twilio twist twitter victorops voipms vonage webex
    wecombot whatsapp workflow workflows wxpusher wxteams x xbmc xbmcs xml xmls zulip
    """.split()  # noqa: SIM905 - a table
)
# Those whose host is one, and no part of the secret.
HOSTED = re.compile(r"(json|xml|form|ntfy|matrix|mmost|rocket|gotify|mailto|apprise)s?")
# Services whose own addresses are taken as they give them out.
NATIVE = re.compile(
    r"hooks\.slack\.com|discord(app)?\.com|ntfy\.sh|[\w-]+\.webhook\.office\.com|chat\.googleapis\.com"
    r"|webhooks\.t2bot\.io|webexapis\.com|maker\.ifttt\.com|(media\.)?guilded\.gg|alert\.victorops\.com"
)
EXAMPLES = "such as jsons://HOST/PATH (a webhook), ntfys://HOST/TOPIC, mailtos://USER:PASSWORD@HOST?to=ADDRESS"


class Target(NamedTuple):
    """One target, and where it was written down."""

    url: str
    where: str

    @property
    def id(self) -> str:
        """A name that tells nothing of the URL."""
        return sha256(self.url.encode())[:12]

    @property
    def shown(self) -> str:
        """The URL without whatever lets somebody write to it."""
        return shown(self.url)


def shown(url: str) -> str:
    """The scheme, and the host where that is no part of the secret."""
    scheme, found, rest = url.partition("://")
    if not found or not re.fullmatch(r"[A-Za-z0-9]{1,20}", scheme):
        return "***"
    host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    is_host = re.fullmatch(r"([\w-]+\.)+[A-Za-z0-9-]+(:\d+)?|localhost(:\d+)?|\[[0-9a-f:]+\](:\d+)?", host, re.ASCII)
    named = HOSTED.fullmatch(scheme.lower()) or (scheme.lower() in ("http", "https"))
    return f"{scheme}://{host}/***" if named and is_host else f"{scheme}://***"


def check(url: object, where: str) -> None:
    """LoopError where this is nothing that Apprise could take for a target; what it says shows no secret."""
    if not isinstance(url, str) or not 1 <= len(url) <= MAX_LETTERS or not url.isprintable() or " " in url:
        raise LoopError(f"{where} is no URL in one line without blanks, {EXAMPLES}")
    scheme, found, rest = url.partition("://")
    if not found or not rest:
        raise LoopError(f"{where} is no URL: it has no scheme and host, {EXAMPLES}")
    scheme = scheme.lower()
    if scheme in ("http", "https"):
        host = re.split(r"[/?#:]", rest.rpartition("@")[2] if "@" in rest.split("/")[0] else rest, maxsplit=1)[0]
        if not NATIVE.fullmatch(host.lower()):
            raise LoopError(
                f"{where} begins with {scheme}://, which does not say what is spoken there: a webhook that takes JSON"
                f" is json{scheme[4:]}://HOST/PATH, ntfy is ntfy{scheme[4:]}://HOST/TOPIC"
            )
    elif scheme not in SCHEMES:
        told = printable(scheme[:20]) if re.fullmatch(r"[\w+.-]+", scheme) else "something else"
        raise LoopError(f"{where} begins with {told}://, which Apprise does not know: it can be {EXAMPLES}")


def check_all(urls: Sequence[object], variable: str = VARIABLE) -> None:
    """LoopError where one of these is no target, where one is there twice, or where there are too many."""
    if len(urls) > MAX_TARGETS:
        raise LoopError(f"{variable} has {len(urls)} targets, and may have {MAX_TARGETS}")
    for number, url in enumerate(urls):
        check(url, f"{variable}[{number}]")
        if url in urls[:number]:
            raise LoopError(f"{variable}[{number}] is there twice")


def lines(text: str, path: str) -> list[Target]:
    """One target a line; empty lines and those that begin with # are passed over."""
    found: dict[str, Target] = {}
    for number, line in enumerate(text.splitlines(), 1):
        url, where = line.strip(), f"{path}, line {number}"
        if url and not url.startswith("#"):
            check(url, where)
            found.setdefault(url, Target(url, where))
    if len(found) > MAX_TARGETS:
        raise LoopError(f"{path} has {len(found)} targets, and may have {MAX_TARGETS}")
    return list(found.values())


def written(config: Settings) -> str:
    """The file that the role writes."""
    return f"{config.config_dir}/{WRITTEN}"


def read(config: Settings) -> list[Target]:
    """The targets of this host: those that the role wrote, and those that somebody renders beside them."""
    paths = dict.fromkeys(path for path in (written(config), str(config.get("notify_file", ""))) if path)
    found: dict[str, Target] = {}
    for path in paths:
        try:
            text = (secrets_file.secret(path, "the file of notification targets ") or b"").decode()
        except UnicodeDecodeError as error:
            raise LoopError(f"{path} is no text in UTF-8") from error
        for target in lines(text, path):
            found.setdefault(target.url, target)
    return list(found.values())[:MAX_TARGETS]


def refused(targets: Sequence[Target]) -> list[str]:
    """A line for each that Apprise cannot make a target of; nothing where it is not installed (yet)."""
    try:
        import apprise
    except ImportError:
        return []
    lines = []
    for target in targets:
        made = None
        try:
            made = apprise.Apprise.instantiate(target.url, suppress_exceptions=True)
        except Exception:  # noqa: BLE001 - a library's plugin at what nobody has tried: it is refused
            made = None
        if made is None:
            lines.append(
                f"{target.where} ({target.shown}) lacks something that Apprise needs: what a target of that kind is"
                " made of is told at https://github.com/caronc/apprise/wiki"
            )
    return lines


def problem(urls: Sequence[str], path: str) -> str:
    """Why an apply would leave nobody told: of what it will write, and of the file that somebody renders; or empty."""
    found = [Target(url, f"{VARIABLE}[{number}]") for number, url in enumerate(urls)]
    try:
        check_all(urls)
        content = secrets_file.secret(path, "engineering_loop_notify_file ") if path else b""
        if content is None:
            return (
                f"engineering_loop_notify_file {path} is missing: what renders it must have done so before, or leave"
                " the variable empty"
            )
        found += lines(content.decode("utf-8", "replace"), path)
    except LoopError as error:
        return str(error)
    return "; ".join(refused(found))
