# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way out to the network: what a cycle may reach, who sees to it, and what is told of it afterwards.

With ``engineering_loop_egress`` a cycle has a network namespace with nothing but its own loopback. systemd listens in
there and leads to a squid on the host, which knows the named hosts alone (``egress_squid``). Without it the cycle uses
the host's network, and systemd filters the host's own addresses out of it. Whether that holds is looked at from
inside, before an agent is paid.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import itertools
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

from ..base import untrusted
from ..base.clock import moment_of
from ..base.errors import LoopError
from ..host.settings import Settings
from ..host.systemd import journal, sync_journal, systemctl

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# Where the proxy is found in the cycle's namespace.
PORT = 3128
SQUID_PORT = 31280
# How squid begins a line about what it refused.
TOLD = "refused: "
# Ports of a host that was named without one.
USUAL_PORTS = (80, 443)
MAX_REFUSED = 50
MAX_LINES = 20000
PROXY = re.compile(r"(?i)[a-z]+_proxy")
HOME = ("127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/64")
# Addresses of this host and of no other: this network, loopback, link-local, multicast, broadcast.
NO_OTHER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32")
NO_OTHER_6 = ("::/128", "::1/128", "fe80::/10", "ff00::/8")
# An address of the loopback that nobody listens on: allowing 127.0.0.1 for a port of the host leaves it closed.
NOBODYS = "127.0.0.2"
SECONDS = 60.0  # on a busy host squid takes its time to start


# --- what stands in the settings ----------------------------------------------------------------


class Rule(NamedTuple):
    """One entry of ``engineering_loop_egress``."""

    host: str
    ports: tuple[int, ...]

    @property
    def pattern(self) -> str:
        """A regular expression for the host's name, whole."""
        return f"^.+{re.escape(self.host[1:])}$" if self.host.startswith("*.") else f"^{re.escape(self.host)}$"


def rule(text: str) -> Rule:
    """``example.org``, ``*.example.org``, ``example.org:8443``."""
    host, colon, port = text.partition(":")
    return Rule(plain(host), (int(port),) if colon else USUAL_PORTS)


def plain(host: str) -> str:
    """A host's name as it is compared."""
    return host.lower().removesuffix(".")


def unit(config: Settings) -> str:
    """The units of the way out, without suffix."""
    return f"{config.unit}-egress"


def squid_address(unit: str) -> str:
    """Where on the host the squid of the loop ``unit`` listens, for systemd to lead there: each loop has its own."""
    own = hashlib.sha256(unit.encode()).digest()
    return f"127.{own[0]}.{own[1]}.1"


def sockets(config: Settings) -> list[str]:
    """What listens in the cycle's network: the way to the proxy first, whose network the others join."""
    return [f"{unit(config)}.socket", *(f"{unit(config)}-local@{port}.socket" for port in config.egress_local)]


def environment(config: Settings) -> dict[str, str]:
    """What tells a program of the proxy; nothing where the network is the host's."""
    if not config.egress:
        return {}
    found = {"NODE_USE_ENV_PROXY": "1"}
    values = {"http_proxy": address(), "https_proxy": address(), "no_proxy": "localhost,127.0.0.1,::1"}
    for name, value in values.items():
        found |= {name: value, name.upper(): value}
    return found


def address() -> str:
    """The proxy, as seen by a cycle."""
    return f"http://127.0.0.1:{PORT}"


def over(config: Settings, given: Mapping[str, str]) -> dict[str, str]:
    """``given`` with our proxy in the place of those that it names: they are the proxy's way out, not the cycle's."""
    if not config.egress:
        return dict(given)
    return {**{name: value for name, value in given.items() if not PROXY.fullmatch(name)}, **environment(config)}


def joined(config: Settings) -> list[str]:
    """Options of systemd-run with which a unit is in the same network as a cycle; the rest is in its own settings."""
    if not config.egress:
        return []
    told = [f"{key}={name}" for name in sockets(config) for key in ("Requires", "After")]
    return [word for text in (*told, f"JoinsNamespaceOf={unit(config)}.socket") for word in ("-p", text)]


# --- the proxy that an operator has ---------------------------------------------------------------


class Upstream(NamedTuple):
    """A proxy that ours goes through, and the hosts that it does not."""

    host: str
    port: int
    tls: bool
    login: str
    except_for: str


def upstream(given: Mapping[str, str]) -> Upstream | None:
    """The proxy that an environment names; LoopError where it is none that we can speak to. Never shows a value."""
    names = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    name = next((name for name in names if given.get(name)), "")
    if not name:
        return None
    value = given[name]
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        host, port = None, 0
    if not host or parts.scheme not in ("http", "https"):
        raise LoopError(f"{name} names no proxy that is reached by http:// or https://, such as http://proxy:3128")
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if parts.username else ""
    except_for = given.get("no_proxy") or given.get("NO_PROXY") or ""
    return Upstream(host, port, parts.scheme == "https", login, except_for)


def check_upstream(config: Settings, given: Mapping[str, str]) -> None:
    """Refuse a proxy that could not be used: of a kind we do not speak, or on the host itself, which is closed."""
    if config.get("egress"):
        upstream(given)
        return
    for name, value in sorted(given.items()):
        if PROXY.fullmatch(name) and name.lower() != "no_proxy":
            with contextlib.suppress(ValueError):
                parts = urlsplit(value if "://" in value else f"http://{value}")
                if _on_this_host(parts.hostname or "") and parts.port not in (config.get("egress_local") or []):
                    raise LoopError(
                        f"{name} names a proxy on this host, which is closed to cycles: add its port"
                        f" ({parts.port}) to engineering_loop_egress_local"
                    )


def _on_this_host(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return is_own(ipaddress.ip_address(host))
    return False


# --- whose an address is --------------------------------------------------------------------------


def closed(own: Iterable[str]) -> list[Network]:
    """What leads to the host, given its own addresses, or to no other host anywhere; also in the clothes of IPv6."""
    four = [ipaddress.IPv4Network(one) for one in (*NO_OTHER, *(one for one in own if ":" not in one))]
    dressed = [f"64:ff9b::{one.network_address}/{96 + one.prefixlen}" for one in four]  # NAT64
    dressed += [
        f"{ipaddress.IPv6Address(0x2002 << 112 | int(one.network_address) << 80)}/{16 + one.prefixlen}" for one in four
    ]  # 6to4
    return [
        *four,
        *(ipaddress.IPv6Network(one) for one in (*NO_OTHER_6, *dressed, *(one for one in own if ":" in one))),
    ]


def is_own(found: Address) -> bool:
    """Whether an address leads to this host."""
    plainly = (found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None) or found
    return any(plainly in network for network in closed(own_addresses()))


def own_addresses(proc: str = "/proc/self/net") -> list[str]:
    """The host's own addresses beyond loopback and link-local, as the kernel has them."""
    found: set[Address] = set()
    last = ""
    for line in _lines(f"{proc}/fib_trie"):
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found.add(ipaddress.ip_address(last))
    for line in _lines(f"{proc}/if_inet6"):
        found.add(ipaddress.IPv6Address(bytes.fromhex(line.split()[0])))
    return [str(one) for one in sorted(found, key=str) if not (one.is_loopback or one.is_link_local)]


def nameservers(path: str = "/etc/resolv.conf") -> list[str]:
    """The nameservers that the host asks, as plain addresses."""
    found = []
    for line in _lines(path):
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            with contextlib.suppress(ValueError):
                found.append(str(ipaddress.ip_address(words[1].partition("%")[0])))
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return [line for line in handle if line.strip()]
    except OSError:
        return []


# --- before a cycle, as root ----------------------------------------------------------------------


def shut(config: Settings) -> None:
    """Without a network of the cycle's own: have systemd keep it from the host's own addresses, as they are now.

    Nameservers stay open, and the loopback where a port of it was named: the filter knows addresses, no ports.
    """
    deny = [] if config.egress else [*HOME, *own_addresses()]
    allow = [] if config.egress else [*nameservers(), *(["127.0.0.1", "::1"] if config.egress_local else [])]
    told = [f"IPAddressDeny={' '.join(deny)}", f"IPAddressAllow={' '.join(allow)}"]
    with contextlib.suppress(LoopError):  # then the cycle sees that it is open, and says so
        systemctl("set-property", "--runtime", f"{config.unit}.service", "IPAddressDeny=", "IPAddressAllow=", *told)


def host_namespace() -> int:
    """The host's network namespace, which we are in, for a cycle to see that it is in another one."""
    return os.stat("/proc/self/ns/net").st_ino


# --- inside, before an agent is paid --------------------------------------------------------------


def check(config: Settings, host: int) -> str:
    """Refuse to go on where the named hosts are not all that can be reached (LoopError).

    Without ``engineering_loop_egress``: why the host's own addresses are not closed; empty where they are.
    """
    if config.egress:
        others = sorted(devices() - {"lo"})
        if others or os.stat("/proc/self/ns/net").st_ino == host:
            raise LoopError(
                f"systemd gave the cycle no network of its own (it sees {', '.join(others) or 'the host'}), so it would"
                " reach more than engineering_loop_egress names: let this host make network namespaces"
                " (PrivateNetwork=), or empty engineering_loop_egress"
            )
        ask_proxy(config)
        return ""
    for one in (NOBODYS, *own_addresses()):
        if one not in nameservers() and _reaches(one):
            return f"the host's own addresses are open to the cycle (tried {one}): systemd cannot filter here (BPF)"
    return ""


def devices(path: str = "/proc/self/net/dev") -> set[str]:
    """The network devices that are to be seen."""
    return {line.partition(":")[0].strip() for line in _lines(path) if ":" in line}


def _reaches(own: str) -> bool:
    """Whether a packet from one of the host's addresses to itself goes through; a filter says so at once."""
    family = socket.AF_INET6 if ":" in own else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asked:
        asked.bind((own, 0))
        asked.sendto(b"", asked.getsockname())
        return True
    return False


def ask_proxy(config: Settings, port: int = PORT) -> None:
    """The proxy is started by the first who speaks to it."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.settimeout(SECONDS)
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = connection.recv(64)
    except OSError as error:
        answer = str(error).encode()
    if not answer.startswith(b"HTTP/1."):  # that this is no request, which is all that we asked for
        raise LoopError(
            f"the way out to the network does not answer ({untrusted.show(answer.decode(errors='replace'))}):"
            f" see journalctl -u {unit(config)} -u {unit(config)}-proxy"
        )


# --- afterwards, as root --------------------------------------------------------------------------


def refused(config: Settings, started: str) -> list[str]:
    """The hosts, each with its port, that the proxy has refused since ``started``; the first ones, fit to be shown."""
    if not config.egress:
        return []
    since = moment_of(started).timestamp()
    try:
        invocation = systemctl("show", "--property=InvocationID", "--value", f"{unit(config)}-proxy.service").strip()
        if not invocation:  # nobody has asked it for anything
            return []
        of_it = [f"_SYSTEMD_INVOCATION_ID={invocation}", f"--since=@{since:.0f}", f"--lines=+{MAX_LINES}"]
        with contextlib.suppress(LoopError):  # what is there already counts
            sync_journal()
        said = journal("--output=cat", *of_it)
    except LoopError:
        return []
    return told_refused(said.splitlines())


def told_refused(lines: Iterable[str]) -> list[str]:
    """The hosts in what the proxy has said, each once."""
    told = (line.removeprefix(TOLD).partition(" ")[0] for line in lines if line.startswith(TOLD))
    return [untrusted.show(unquote(name)) for name in itertools.islice(dict.fromkeys(told), MAX_REFUSED)]


def advice(hosts: Sequence[str]) -> str:
    """What to do about them, in a few words; empty where none was refused."""
    if not hosts:
        return ""
    shown, more = ", ".join(hosts[:5]), f" and {len(hosts) - 5} more" if len(hosts) > 5 else ""
    return f"refused on the network: {shown}{more}; what it needs of that, add to engineering_loop_egress"
