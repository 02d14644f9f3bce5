# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way out: whose an address is, what a cycle is told, what it refuses to go on without, what is told afterwards."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import egress, records, sandbox
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from hypothesis import given
from hypothesis import strategies as st

OFF = Settings({"unit": "u", "egress": [], "egress_local": []})
ON = Settings({"unit": "u", "egress": ["example.org"], "egress_local": []})
HERE = os.stat("/proc/self/ns/net").st_ino


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "host", "port", "admitted"),
    [
        ("example.org", "example.org", 443, True),
        ("example.org", "example.org", 80, True),
        ("example.org", "example.org", 22, False),
        ("example.org:8443", "example.org", 8443, True),
        ("example.org:8443", "example.org", 443, False),
        ("example.org", "www.example.org", 443, False),
        ("example.org", "example.org.evil.net", 443, False),
        ("*.example.org", "a.example.org", 443, True),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "evilexample.org", 443, False),
        ("Example.ORG.", "example.org", 443, True),
    ],
)
def test_what_an_entry_admits(entry: str, host: str, port: int, admitted: bool) -> None:
    rule = egress.rule(entry)
    assert (bool(re.search(rule.pattern, egress.plain(host))) and port in rule.ports) is admitted


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3",  # noqa: S104 - none is listened on
        "169.254.169.254", "224.0.0.1", "255.255.255.255",
        "::1", "::", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.1.1", "64:ff9b::7f00:1", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_addresses_that_are_no_other_host(own: str) -> None:
    assert egress.is_own(ipaddress.ip_address(own))


def test_the_host_s_own_addresses() -> None:
    """Found in the kernel's tables; the kernel's routes say the same."""
    for own in egress.own_addresses():
        assert egress.is_own(ipaddress.ip_address(own))
        with socket.socket(socket.AF_INET6 if ":" in own else socket.AF_INET, socket.SOCK_DGRAM) as asked:
            asked.connect((own, 9))
            assert asked.getsockname()[0] == own


def test_own_addresses_are_closed_in_the_clothes_of_ipv6() -> None:
    found = [str(network) for network in egress.closed(["192.0.2.1", "2001:db8::7"])]
    for network in ("192.0.2.1/32", "64:ff9b::c000:201/128", "2002:c000:201::/48", "2001:db8::7/128", "2002:7f00::/24"):
        assert network in found


@given(st.ip_addresses())
def test_any_address(address: Any) -> None:
    """Nobody else's address is taken for ours, and none makes it fail."""
    known = {ipaddress.ip_address(one) for one in egress.own_addresses()}
    special = any((address.is_loopback, address.is_link_local, address.is_multicast, address.is_unspecified))
    if egress.is_own(address) and not special and address not in known:
        embedded = address.version == 6 and (address.ipv4_mapped or address.sixtofour or str(address).startswith("64:"))
        low = address.version == 6 and address in ipaddress.ip_network("fe80::/10")
        assert embedded or low or str(address).startswith("0.") or str(address) == "255.255.255.255"


@pytest.mark.parametrize("other", ["192.0.2.200", "10.1.2.3", "93.184.216.34", "2001:db8::7", "64:ff9b::5db8:d822"])
def test_addresses_of_others(other: str) -> None:
    assert not egress.is_own(ipaddress.ip_address(other))


def test_the_kernel_s_tables(tmp_path: Path) -> None:
    trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 127.0.0.1\n"
    trie += "        /32 host LOCAL\n     |-- 192.0.2.7\n        /32 host LOCAL\n     |-- 192.0.2.255\n"
    (tmp_path / "fib_trie").write_text(
        f"{trie}        /32 link BROADCAST\nLocal:\n     |-- 192.0.2.7\n        /32 host LOCAL\n"
    )
    six = ["0" * 31 + "1 01 80 10 80 lo", f"fe80{'0' * 27}1 02 40 20 80 eth0", f"20010db8{'0' * 23}7 02 40 00 80 eth0"]
    (tmp_path / "if_inet6").write_text("\n".join(six) + "\n")
    (tmp_path / "dev").write_text("Inter-| Receive\n face |bytes\n    lo: 1 2\n  eth0:3 4\n")
    assert egress.own_addresses(str(tmp_path)) == ["192.0.2.7", "2001:db8::7"]
    assert egress.own_addresses(str(tmp_path / "none")) == []
    assert egress.devices(str(tmp_path / "dev")) >= {"lo", "eth0"}


def test_nameservers(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# nameserver 1.1.1.1\nsearch x\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver odd\n")
    assert egress.nameservers(str(file)) == ["127.0.0.53", "fe80::1"]


# --- what programs are told -----------------------------------------------------------------------


def test_without_it_nothing_is_told() -> None:
    given_ = {"https_proxy": "http://mine:1", "PATH": "/bin"}
    assert (egress.environment(OFF), egress.over(OFF, given_), egress.joined(OFF)) == ({}, given_, [])


def test_with_it_ours_stands_in_the_place_of_the_operator_s() -> None:
    told = egress.over(ON, {"https_proxy": "http://u:secret@mine:1", "ALL_PROXY": "x", "PATH": "/bin"})
    assert "secret" not in str(told) and "ALL_PROXY" not in told
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        assert told[name] == "http://127.0.0.1:3128"
    assert (told["NO_PROXY"], told["NODE_USE_ENV_PROXY"], told["PATH"]) == ("localhost,127.0.0.1,::1", "1", "/bin")


def test_gate_commands_are_told_as_well() -> None:
    told = egress.environment(ON)
    assert sandbox.gate_environment({**told, "OPENAI_API_KEY": "k"}) == {**told, "CI": "true"}


def test_a_person_is_in_the_same_network() -> None:
    assert egress.joined(ON)[1::2] == [f"{key}=u-egress.socket" for key in ("Requires", "After", "JoinsNamespaceOf")]
    with_model = egress.joined(Settings(ON, egress_local=[11434]))
    assert "Requires=u-egress-local@11434.socket" in with_model and "After=u-egress-local@11434.socket" in with_model
    assert with_model[-1] == "JoinsNamespaceOf=u-egress.socket"


# --- the operator's own proxy ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "found"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": "http://p:3128"}, ("p", 3128, False, "", "")),
        ({"http_proxy": "p:3128", "NO_PROXY": "a,.b"}, ("p", 3128, False, "", "a,.b")),
        ({"https_proxy": "https://u%40x:s%3a@p", "http_proxy": "http://q"}, ("p", 443, True, "u@x:s:", "")),
    ],
)
def test_the_operator_s_proxy(given_: dict[str, str], found: tuple[Any, ...] | None) -> None:
    assert egress.upstream(given_) == found


@pytest.mark.parametrize("value", ["socks5://u:hunter2@p:1", "http://", "http://hunter2:x", "http://[hunter2"])
def test_a_proxy_that_is_none_of_ours(value: str) -> None:
    with pytest.raises(LoopError, match="HTTPS_PROXY names no proxy that is reached by") as raised:
        egress.check_upstream(ON, {"HTTPS_PROXY": value})
    assert "hunter2" not in str(raised.value)


def test_a_proxy_on_the_host_itself_is_closed() -> None:
    for value in ("http://127.0.0.1:8888", "localhost:8888", "http://[::1]:8888"):
        with pytest.raises(LoopError, match=r"https_proxy names a proxy on this host.*\(8888\)"):
            egress.check_upstream(OFF, {"https_proxy": value, "no_proxy": "localhost"})
        egress.check_upstream(Settings(OFF, egress_local=[8888]), {"https_proxy": value})
        egress.check_upstream(ON, {"https_proxy": value})
    egress.check_upstream(OFF, {"https_proxy": "http://proxy.example.org:8888", "http_proxy": "http://[odd"})


# --- inside ---------------------------------------------------------------------------------------


def test_no_network_of_its_own_is_a_refusal() -> None:
    """Here the host's network is to be seen, as where systemd could not make another one."""
    with pytest.raises(LoopError, match="systemd gave the cycle no network of its own"):
        egress.check(ON, HERE)


def test_what_the_host_s_addresses_are_open_to_is_said() -> None:
    """Nothing filters this process."""
    assert egress.check(OFF, HERE).startswith("the host's own addresses are open to the cycle (tried 127.0.0.2)")


def test_a_way_out_that_does_not_answer_is_a_refusal() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        with pytest.raises(
            LoopError, match=r"the way out to the network does not answer \(.*refused\): see journalctl"
        ):
            egress.ask_proxy(ON, taken.getsockname()[1])


# --- afterwards -----------------------------------------------------------------------------------


def test_what_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal's side of it is looked at on a booted host."""
    monkeypatch.setattr(egress, "systemctl", lambda *_words: "5eed\n")
    monkeypatch.setenv("PATH", str(tmp_path))  # without a journal
    assert egress.refused(OFF, "2026-01-31T12:00:00Z") == egress.refused(ON, "2026-01-31T12:00:00Z") == []
    asked = tmp_path / "journalctl"
    asked.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\necho "refused: a.example:443 is not named"\n')
    asked.chmod(0o755)
    assert egress.refused(ON, "2026-01-31T12:00:00Z") == ["a.example:443"]
    options = (tmp_path / "asked").read_text().splitlines()
    assert options[0] == "--sync"
    assert options[1].endswith("_SYSTEMD_INVOCATION_ID=5eed --since=@1769860800 --lines=+20000")
    monkeypatch.setattr(egress, "systemctl", lambda *_words: "\n")
    assert egress.refused(ON, "2026-01-31T12:00:00Z") == []


def test_of_what_squid_says_the_hosts() -> None:
    said = [
        "Starting Squid",
        "refused: a.example:443 is not",
        "refused: %5B::1%5D:443 is not",
        "refused: a.example:443 x",
    ]
    said += ["refused: evil%1B[2J:443 is not", "not refused: b.example:1", "refused:", "x refused: c.example:1"]
    assert egress.told_refused(said) == ["a.example:443", "[::1]:443", "evil\\x1b[2J:443"]
    assert len(egress.told_refused(f"refused: h{number}:1 x" for number in range(60))) == egress.MAX_REFUSED


def test_a_cycle_that_did_not_end_well_says_which_hosts() -> None:
    network = {"refused": [f"h{number}.example:443" for number in range(7)]}
    told = records.sentence(ON, {"outcome": "needs_triage", "network": network, "detail": "pip failed"})
    assert "pip failed (refused on the network: h0.example:443" in told and "h4.example:443 and 2 more; what" in told
    assert "add to engineering_loop_egress" in told
    for outcome in ("published", "idle"):
        assert "engineering_loop_egress" not in records.sentence(ON, {"outcome": outcome, "network": network})
    assert "network" not in records.sentence(ON, {"outcome": "error", "network": {"refused": []}})
