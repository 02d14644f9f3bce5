# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What squid is told. That it does so is looked at on a booted host, where there is one."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible.plugins.filter.core import get_hash
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import egress, squid
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from celled import NEEDS_ROOT, box

TEMPLATES = Path(__file__).resolve().parents[5] / "roles/engineering_loop/templates"
ON = Settings({"unit": "u", "egress": ["Example.org", "*.files.example.org:8443"], "egress_local": []})


def told(upstream: egress.Upstream | None = None, **more: Any) -> list[str]:
    return squid.squid_conf(Settings(ON, **more), upstream, egress.closed(["192.0.2.7"])).splitlines()


def through(except_for: str, *, login: str = "", tls: bool = False) -> list[str]:
    return told(egress.Upstream("p.example", 3128, tls, login, except_for))


def access(lines: list[str]) -> list[str]:
    return [line.removeprefix("http_access ") for line in lines if line.startswith("http_access ")]


def test_named_hosts_each_with_its_ports() -> None:
    lines = told()
    for line in (
        r"acl host0 dstdom_regex -n -i ^example\.org$",
        "acl port0 port 80 443",
        "acl named all-of host0 port0",
        r"acl host1 dstdom_regex -n -i ^.+\.files\.example\.org$",
        "acl port1 port 8443",
        "acl named all-of host1 port1",
        "acl own dst 192.0.2.7/32",
        "acl own dst 127.0.0.0/8",
    ):
        assert line in lines
    assert access(lines) == [
        "deny manager", "deny !CONNECT !plain", "deny !named unnamed", "deny own leads_here", "allow all",
    ]  # fmt: skip


def test_it_listens_for_systemd_alone_and_keeps_nothing() -> None:
    lines = told()
    assert [line for line in lines if line.startswith(("http_port", "https_port"))] == [
        f"http_port {egress.squid_address('u')}:31280"
    ]
    assert {"cache deny all", "via off", "forwarded_for delete", "pid_filename none"} <= {*lines}
    assert not any(line.startswith(("cache_dir", "cache_peer", "never_direct")) for line in lines)


@pytest.mark.parametrize("unit", ["engineering-loop", "u", "another-loop"])
def test_each_loop_of_a_machine_has_a_squid_of_its_own_and_is_led_there(unit: str) -> None:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=False)  # noqa: S701
    environment.filters["hash"] = get_hash  # Ansible's
    text = environment.get_template("egress.service.j2").render(engineering_loop_unit=unit)
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert line.split()[-1] == f"{egress.squid_address(unit)}:{egress.SQUID_PORT}"
    others = {egress.squid_address(f"{unit}-{number}") for number in range(20)}
    assert len(others) == 20 and egress.squid_address(unit) not in others
    assert all(ipaddress.ip_address(one).is_loopback for one in others)


def test_through_the_operator_s_proxy() -> None:
    """It resolves the names, so they are not looked up here."""
    lines = through("", login="u@x:s:p %", tls=True)
    options = "parent 3128 0 default no-query no-digest no-netdb-exchange"
    assert f"cache_peer p.example {options} login=u%40x:s:p%20%25 tls tls-options=NORMAL:-VERS-TLS1.3" in lines
    assert "never_direct allow all" in lines
    assert access(lines)[2:] == ["deny !named unnamed", "allow all"]


def test_round_the_operator_s_proxy() -> None:
    lines = through("localhost, .corp.example,10.0.0.0/8,[::1],odd name")
    assert r"acl direct dstdom_regex -n -i ^(.+\.)?corp\.example$" in lines
    assert sum(line.startswith("acl direct") for line in lines) == 2
    assert lines.index("always_direct allow direct") < lines.index("never_direct allow all")
    assert "deny direct own leads_here" in access(lines)
    assert through("a.example,*") == told()


@NEEDS_ROOT
def test_what_root_leaves_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with box() as host:
        host.config["egress"] = ["ok.example"]
        host.write_config()
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
        os.chown(tmp_path, 1234, 1234)
        (host.top / "etc/env").write_text("GH_TOKEN=t\nOPENAI_API_KEY=k\nHTTPS_PROXY=http://u:s@p:3128\nNO_PROXY=x\n")
        (host.top / "etc/env").chmod(0o600)
        assert squid.prepare(str(host.config_file)) == 0
        left = tmp_path / "squid.conf"
        content, status = left.read_text(), left.stat()
        assert r"^ok\.example$" in content and "login=u:s\n" in content and "GH_TOKEN" not in content
        assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o400, 1234, 1234)
        (host.top / "etc/env").unlink()
        assert squid.prepare(str(host.config_file)) == 1
        assert "there is no way out: " in capsys.readouterr().out
