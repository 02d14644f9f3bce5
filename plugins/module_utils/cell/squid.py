# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of the proxy between a cycle and the network: a squid of its own, which reaches the named hosts only.

They are written at each start, for they depend on what may be different by then: the host's own addresses, and the
proxy that the host itself goes through. That one's password is in them, so they are in memory and for squid alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import quote

from ..base.errors import LoopError
from ..base.files import write_atomic
from ..base.journal import say
from ..host import secrets_file, settings
from ..host.settings import Settings
from . import egress

# Names of NO_PROXY that a request can be for: those of hosts.
NAME = re.compile(r"\.?([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?")

# "no" as in: nothing on disk, nothing kept, nothing said of who asked, nothing done but what is asked for.
SETTINGS = """\
http_port {address}:{port}
visible_hostname engineering-loop.invalid
pid_filename none
coredump_dir none
netdb_filename none
pinger_enable off
cache deny all
cache_mem 8 MB
memory_pools off
memory_cache_shared off
max_filedescriptors 4096
shutdown_lifetime 0 seconds
connect_timeout 20 seconds
dns_timeout 10 seconds
# A model may think for long before it says a word.
read_timeout 60 minutes
via off
forwarded_for delete
httpd_suppress_version_string on

# What was refused is told, and nothing else.
cache_log /dev/null
debug_options ALL,0
acl refused note why
logformat refused {told}%>rd:%>rP %'{{why}}note
access_log syslog:daemon.info logformat=refused refused
reply_header_add Refused "%>rd:%>rP %'{{why}}note" refused
acl unnamed annotate_transaction why="is not named in engineering_loop_egress"
acl leads_here annotate_transaction why="leads to this host itself"

acl plain proto HTTP
http_access deny manager
http_access deny !CONNECT !plain

# The named hosts. By name alone: where an address leads back to is for its owner to say.
{named}
http_access deny !named unnamed

# They must not lead to this host.
{own}
{way}
http_access allow all
"""


def prepare(config_path: str = settings.DEFAULT_PATH) -> int:
    """As root: leave the settings in the proxy's runtime directory, to be read by the proxy alone."""
    directory = os.environ["RUNTIME_DIRECTORY"]
    try:
        config = settings.load(config_path)
        upstream = egress.upstream({**os.environ, **secrets_file.load(config.env_file, config.forbidden_environment)})
        content = squid_conf(config, upstream, egress.closed(egress.own_addresses()))
        owner = os.stat(directory)
        write_atomic(f"{directory}/squid.conf", content.encode(), mode=0o400, uid=owner.st_uid, gid=owner.st_gid)
    except LoopError as error:
        say(f"there is no way out: {error}\n")
        return 1
    return 0


def squid_conf(config: Settings, upstream: egress.Upstream | None, closed: Iterable[egress.Network]) -> str:
    """What may be reached, and by which way, as squid reads it."""
    named: list[str] = []
    for number, rule in enumerate(map(egress.rule, config.egress)):
        named += [
            f"acl host{number} dstdom_regex -n -i {rule.pattern}",
            f"acl port{number} port {' '.join(map(str, rule.ports))}",
            f"acl named all-of host{number} port{number}",
        ]
    return SETTINGS.format(
        address=egress.squid_address(config.unit),
        port=egress.SQUID_PORT,
        told=egress.TOLD,
        named="\n".join(named),
        own="\n".join(f"acl own dst {network}" for network in closed),
        way="\n".join(_through(upstream) if upstream else ["http_access deny own leads_here"]),
    )


def _through(upstream: egress.Upstream) -> list[str]:
    """By way of another proxy. That one resolves the names, so that only those which go round it are looked at here."""
    options = ["parent", str(upstream.port), "0", "default", "no-query", "no-digest", "no-netdb-exchange"]
    options += [f"login={quote(upstream.login, safe=':')}"] if upstream.login else []
    # Debian's squid takes the session tickets of TLS 1.3 from a peer for the end of the connection: 502.
    options += ["tls", "tls-options=NORMAL:-VERS-TLS1.3"] if upstream.tls else []
    peer = f"cache_peer {upstream.host} {' '.join(options)}"
    words = [word.strip() for word in upstream.except_for.split(",")]
    if "*" in words:
        return ["http_access deny own leads_here"]
    names = [found[1] for word in words if (found := NAME.fullmatch(word))]
    if not names:
        return [peer, "never_direct allow all"]
    return [
        peer,
        *(f"acl direct dstdom_regex -n -i ^(.+\\.)?{re.escape(name)}$" for name in names),
        "http_access deny direct own leads_here",
        "always_direct allow direct",
        "never_direct allow all",
    ]
