# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cycles reach: run on the host as root.

``way.py named`` with named hosts, ``way.py open`` after they were taken away, ``way.py left`` when the host was given
back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

UNIT = "hyrule-engineering-loop"
STATE = Path("/var/lib/engineering-loop")
ENV, SETTINGS = Path("/opt/engineering-loop/.env"), Path("/etc/engineering-loop/loop.json")
LOOP = "/usr/local/lib/engineering-loop/loop"
REPO = "AS215932/network-operations"
API = json.loads(Path("/etc/loop-world.json").read_text(encoding="utf-8"))["api_url"]
FORGE = API.removesuffix("/api/v3")
RATING = 2.0
LOOK = "/usr/local/lib/loop-world/look.py"


class Wrong(Exception):
    """Something is not as it must be."""


def must(holds: object, what: object) -> None:
    if not holds:
        raise Wrong(what)


def sh(*command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def ask(method: str, url: str, body: dict[str, Any]) -> Any:
    login = requests.post(f"{FORGE}/_forge/tokens", json={"login": "operator", "role": "admin"}, timeout=30).json()
    answer = requests.request(method, url, json=body, headers={"Authorization": f"Bearer {login['token']}"}, timeout=30)
    answer.raise_for_status()
    return answer.json()


def cycle(title: str, *orders: str) -> dict[str, Any]:
    """The record of one cycle whose agent is told these orders."""
    body = "\n".join(["Explain.", "", *(f"<!-- pi: {order} -->" for order in orders)])
    asked = {"repo": REPO, "title": title, "body": body, "labels": ["loop:approved"]}
    number = ask("POST", f"{FORGE}/_forge/issues", asked)["number"]
    known = set((STATE / "cycles").glob("*.json"))
    sh("systemctl", "start", UNIT)
    sh("systemctl", "reset-failed", UNIT)
    ask("PATCH", f"{API}/repos/{REPO}/issues/{number}", {"state": "closed"})
    (made,) = set((STATE / "cycles").glob("*.json")) - known
    found: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
    return found


def journal_of(*which: str) -> str:
    sh("journalctl", "--sync")  # the last words may still be on their way
    return sh("journalctl", "-o", "cat", *which).stdout


def journal(record: dict[str, Any]) -> str:
    return journal_of(f"_SYSTEMD_INVOCATION_ID={record['invocation_id']}")


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """Something of the host's on all of its addresses; its port."""
    with socket.create_server(("127.0.0.1", 7711)), socket.create_server(("", 0)) as four:
        port = four.getsockname()[1]
        with socket.create_server(("::1", port), family=socket.AF_INET6):
            yield port


def looked(title: str, port: int, *more: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A cycle whose agent looks around; its record and what was seen."""
    record = cycle(title, f"run python3 {LOOK} {port} > $HOME/seen.json", *more)
    seen: dict[str, Any] = json.loads((Path(record["cell"]) / "home/seen.json").read_text(encoding="utf-8"))
    return record, seen


def gone() -> None:
    """With the cycle its network ends, and who served it."""
    end = time.monotonic() + 60
    units = [f"{UNIT}-egress*", f"{UNIT}-egress*.socket"]
    while "active" in (state := sh("systemctl", "is-active", *units).stdout.split()):
        must(time.monotonic() < end, state)
        time.sleep(0.1)


@contextlib.contextmanager
def drop_in(text: str, unit: str = UNIT) -> Iterator[None]:
    directory = Path(f"/run/systemd/system/{unit}.service.d")
    directory.mkdir(parents=True)
    (directory / "test.conf").write_text(f"[Service]\n{text}\n", encoding="utf-8")
    sh("systemctl", "daemon-reload")
    try:
        yield
    finally:
        (directory / "test.conf").unlink()
        directory.rmdir()
        sh("systemctl", "daemon-reload")


# --- with named hosts -----------------------------------------------------------------------------


def the_units_are_shut() -> None:
    way = [f"{UNIT}-egress.service", f"{UNIT}-egress-proxy.service", f"{UNIT}-egress-local@7711.service"]
    for unit in (f"{UNIT}.service", *way):
        told = sh("systemd-analyze", "--no-pager", "security", unit).stdout
        rating = float(re.findall(r"Overall exposure level .*: ([0-9.]+)", told)[0])
        must(rating <= RATING, told)
        print(f"  {unit} is rated {rating}")
    judged = sh("systemd-analyze", "verify", f"{UNIT}.service", f"{UNIT}-egress.socket", *way)
    must((judged.returncode, judged.stderr) == (0, ""), judged.stderr)
    debians = (
        sh("systemctl", "is-enabled", "squid.service").stdout + sh("systemctl", "is-active", "squid.service").stdout
    )
    must(debians.split() == ["masked", "inactive"], debians)


def what_the_engine_has_is_its_own() -> None:
    """Temporary directories and IPC of the cycle itself; the agent has its own in there once more."""
    of_the_host = Path("/tmp/of-the-host")
    of_the_host.touch()
    look = "touch /tmp/a /var/tmp/b /dev/shm/c && ls -A /tmp /var/tmp && readlink /proc/self/ns/ipc"
    try:
        with drop_in(f"ExecStartPre=/bin/sh -c '{look}'"):  # in the unit's sandbox, as the engine
            record = cycle("Describe temporary files")
            entered = sh(LOOP, "enter", Path(record["cell"]).name, "--", "/bin/sh", "-c", look)
    finally:
        of_the_host.unlink()
    must(record["outcome"] == "published", record)
    for said in (journal(record), entered.stdout + entered.stderr):
        must("Read-only" not in said and of_the_host.name not in said, said)
        must("/var/tmp:\nb\n" in said and "ipc:[" in said and os.readlink("/proc/self/ns/ipc") not in said, said)


def an_agent_reaches_the_named_hosts_and_nothing_else() -> None:
    with listening() as port:
        record, seen = looked("Look around", port, "crash")
    pages, reason = seen["pages"], "is not named in engineering_loop_egress"
    must(pages["http://allowed.example.test:8080/page"] == "far away", pages)
    must(pages["https://www.secure.example.test:8443/page"] == "far away", pages)
    for url, words in {
        "http://refused.example.test:8080/page": f"403: Forbidden (refused.example.test:8080 {reason})",
        "https://refused.example.test:8443/page": "403 Forbidden",
        "http://198.51.100.2:8080/page": f"403: Forbidden (198.51.100.2:8080 {reason})",
        "http://mine.example.test/": "mine.example.test:80 leads to this host itself",
        "https://loopback.example.test/": "403 Forbidden",
        "http://link.example.test/": "link.example.test:80 leads to this host itself",
        "http://mapped.example.test/": "mapped.example.test:80 leads to this host itself",
        "https://six.example.test/": "403 Forbidden",
    }.items():
        must(words in pages[url], pages[url])
    must([place for place, reached in seen["direct"].items() if reached] == ["127.0.0.1:7711"], seen)
    must(seen["devices"] == ["lo"], seen)
    refused = record["network"]["refused"]
    must(sorted(refused) == sorted([
        "refused.example.test:8080", "refused.example.test:8443", "198.51.100.2:8080", "mine.example.test:80",
        "loopback.example.test:443", "link.example.test:80", "mapped.example.test:80", "six.example.test:443",
    ]), refused)  # fmt: skip
    must(record["outcome"] == "needs_triage", record)
    told = journal(record)
    must("refused on the network: " in told and "add to engineering_loop_egress" in told, told)
    gone()


def the_next_cycle_begins_with_nothing_of_it() -> None:
    record = cycle("Only a page")
    must((record["outcome"], record["network"]) == ("published", {"open": "", "refused": []}), record)
    gone()


def a_gate_command_installs_a_package() -> None:
    cell = max((STATE / "runs").iterdir(), key=lambda path: path.name).name
    install = "-m pip --isolated --disable-pip-version-check install --quiet --target lib far-package"
    index = "--index-url http://{}.example.test:8080/simple --trusted-host {}.example.test --retries 0"
    script = f"cd $(mktemp -d) && python3 -m venv v && v/bin/python {install} {index} && PYTHONPATH=lib v/bin/python -c"
    for name, works in (("packages", True), ("refused", False)):
        gate = f"{script.replace('{}', name)} 'import far_package; print(far_package.FAR)'"
        # By the name that the engine starts a gate command with.
        done = sh(LOOP, "enter", cell, "--", "python3", "-c", f"import os; os.execv('/bin/sh', ['sh', '-c', {gate!r}])")
        must((done.returncode == 0, "yes" in done.stdout) == (works, works), done.stdout + done.stderr)
    said = journal_of("-u", f"{UNIT}-egress-proxy")
    must("refused: refused.example.test:8080 is not named in engineering_loop_egress" in said, said)
    gone()


def the_operator_s_own_proxy_stands_behind_ours() -> None:
    before = ENV.read_text(encoding="utf-8")
    ENV.write_text(f"{before}HTTPS_PROXY=http://u:hunter2@198.51.100.2:8888\n", encoding="utf-8")
    try:
        record, seen = looked("Through another proxy", 1)
    finally:
        ENV.write_text(before, encoding="utf-8")
    must(record["outcome"] == "published", record)
    must(seen["pages"]["https://www.secure.example.test:8443/page"] == "far away", seen)
    must(seen["pages"]["http://allowed.example.test:8080/page"] == "far away", seen)
    must("not named" in seen["pages"]["http://refused.example.test:8080/page"], seen)
    must("hunter2" not in str(seen["told"]) and "127.0.0.1:3128" in str(seen["told"]), seen["told"])
    passed = journal_of("-u", "far")
    must("through the proxy www.secure.example.test 8443 let in" in passed and "proxy refused" not in passed, passed)
    gone()


def without_a_network_of_its_own_no_agent_is_paid() -> None:
    with drop_in("PrivateNetwork=no"):
        record = cycle("Never begun")
    must((record["outcome"], record["agents"]) == ("refused", 0), record)
    must("systemd gave the cycle no network of its own" in record["detail"], record)
    with drop_in("ExecStartPre=/bin/false", f"{UNIT}-egress-proxy"):
        record = cycle("Without a proxy")
    must((record["outcome"], record["agents"]) == ("refused", 0), record)
    must("the way out to the network does not answer" in record["detail"], record)
    sh("systemctl", "reset-failed", f"{UNIT}-egress*")
    # What the socket started in vain counts against it for two seconds (TriggerLimitIntervalSec=), in the next one too.
    time.sleep(3)


def named() -> None:
    ask("PATCH", f"{API}/repos/{REPO}/issues/235", {"state": "closed"})  # the canary's
    the_units_are_shut()
    what_the_engine_has_is_its_own()
    an_agent_reaches_the_named_hosts_and_nothing_else()
    the_next_cycle_begins_with_nothing_of_it()
    a_gate_command_installs_a_package()
    the_operator_s_own_proxy_stands_behind_ours()
    without_a_network_of_its_own_no_agent_is_paid()
    the_next_cycle_begins_with_nothing_of_it()


# --- with the host's network ----------------------------------------------------------------------


def the_host_s_own_addresses_are_closed() -> None:
    with listening() as port:
        record, seen = looked("Look around again", port)
        opened = {place for place, reached in seen["direct"].items() if reached}
        must(opened == {"198.51.100.2:8080"}, seen)
        must(seen["pages"]["http://refused.example.test:8080/page"] == "far away" and not seen["told"], seen)
        must((record["outcome"], record["network"]) == ("published", {"open": "", "refused": []}), record)
        cell = Path(record["cell"]).name
        entered = json.loads(sh(LOOP, "enter", cell, "--", "/usr/bin/python3", LOOK, str(port)).stdout)
        must(entered["direct"] == seen["direct"], entered)


def where_they_are_not_it_is_said() -> None:
    clear = f"nsenter --target=1 --mount systemctl set-property --runtime {UNIT}.service IPAddressDeny="
    with drop_in(f"ExecStartPre=+{clear}"):
        record = cycle("In a container that may not filter")
    must(record["outcome"] == "published", record)
    must("the host's own addresses are open to the cycle (tried 127.0.0.2)" in record["network"]["open"], record)
    must(record["network"]["open"] in journal(record), journal(record))


def open_() -> None:
    must(not list(Path("/etc/systemd/system").glob(f"{UNIT}-egress*")), "units of the way out are left")
    must("could not be found" in sh("systemctl", "status", f"{UNIT}-egress.socket").stderr, "systemd knows them")
    the_host_s_own_addresses_are_closed()
    where_they_are_not_it_is_said()
    the_host_s_own_addresses_are_closed()


def left() -> None:
    places = ("/etc/systemd/system", "/run/systemd/system.control", "/run", "/run/private")
    found = [str(path) for place in places for path in Path(place).glob(f"{UNIT}*")]
    found = [path for path in found if path not in (f"/run/{UNIT}-enter", f"/run/{UNIT}-gate")]  # empty until a reboot
    must(not found, found)
    must("could not be found" in sh("systemctl", "status", f"{UNIT}-egress.socket").stderr, "systemd knows them")


if __name__ == "__main__":
    {"named": named, "open": open_, "left": left}[sys.argv[1]]()
    print("all as it must be")
    sys.stdout.flush()
