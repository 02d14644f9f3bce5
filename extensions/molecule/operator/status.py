# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the host fares, good and bad: what the status says is typed, and mends it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

from at_work import LOOP, UNIT, cycle, forge, host, must, on_host, play, scratch, stage, typed, widest
from chapters import tell

ETC, OPT = "/etc/engineering-loop", "/opt/engineering-loop"
home = scratch("status-")


def on_the_host() -> tuple[int, dict[str, Any]]:
    """``loop status --json`` there: its exit status and what it told."""
    status, said = on_host(f"{LOOP} status --json")
    found: dict[str, Any] = json.loads(said)
    return status, found


def from_here(**more: str) -> tuple[int, dict[str, Any]]:
    """The playbook's JSON for programs: its exit status and the host's status."""
    out = home / "status.json"
    words = [word for key, value in more.items() for word in ("-e", f"{key}={value}")]
    status, _said = play("status", "-l", host(), "-e", "format=json", "-e", f"out={out}", *words)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))["hosts"][host()]
    return status, found


def needs(found: dict[str, Any]) -> dict[str, str]:
    """What is needed, and what to do, by its code."""
    return {need["code"]: need["do"] for need in found["needs"]}


def mended() -> None:
    status, found = on_the_host()
    assert (status, found["needs"]) == (0, []), found["needs"]


def bad(code: str) -> str:
    """The host says that it needs just this; what to do."""
    status, found = on_the_host()
    assert status == 2 and list(needs(found)) == [code], found["needs"]
    return needs(found)[code]


def commands(do: str) -> list[str]:
    """The commands in what is to be done."""
    return re.findall(r"(?:as root: |ansible-playbook ).*?(?=;|$)", do)


class Page(HTMLParser):
    """Every place that a page names, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.places += [str(value) for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]


def well() -> None:
    """A host that fares well: table, JSON, page."""
    status, said = play("status", "-l", host())
    assert (
        status == 0 and "It is well." in said and widest(said[said.index("HOST ") : said.index("It is well.")]) <= 100
    ), said
    page = home / "page.html"
    status, found = from_here(page=str(page))
    assert status == 0 and found["well"] and found["engine"]["active"] == stage["from"]
    assert found["last_cycle"]["outcome"] == "published" and found["proof"]["matches"] and found["timer"]["active"]
    read = Page(page.read_text(encoding="utf-8"))
    outside = [place for place in read.places if not place.startswith("#")]
    assert set(outside) == {one["pr_url"] for one in found["history"]} - {""} and not {
        "script",
        "link",
        "img",
        "iframe",
    } & {*read.tags}
    assert "url(" not in page.read_text() and "@import" not in page.read_text()
    status, said = on_host(f"{LOOP} status")
    assert status == 0 and "It is well." in said and widest(said) <= 100, said
    assert play("status", "-l", host(), "--check")[0] == 0


def stopped_timer() -> None:
    """Somebody stopped the timer."""
    must(f"systemctl stop {UNIT}.timer")
    (command,) = commands(bad("timer_off"))
    assert typed(command)[0] == 0
    mended()


def full_disk() -> None:
    """The disk is full."""
    must("mount -t tmpfs -o size=64m none /var/lib/engineering-loop/runs")
    assert "findmnt -T /var/lib/engineering-loop/runs; that disk is too small" in bad("disk_full")
    must("umount /var/lib/engineering-loop/runs")
    mended()


def held_lock() -> None:
    """A stranger holds a lock, and a cycle waits."""
    # exec: the process is older than its lock, so that the test need not wait for a minute.
    must(
        f"systemd-run --quiet --unit=stranger bash -c 'sleep 62; exec flock --close {OPT}/.cells.lock sleep 600';"
        f" sleep 64; systemctl start --no-block {UNIT}.service; sleep 2"
    )
    status, found = from_here()
    assert status == 2 and list(needs(found)) == ["wedged"], found["needs"]
    (command,) = commands(needs(found)["wedged"])
    assert re.fullmatch(r"as root: kill \d+", command) and typed(command)[0] == 0
    must(f"while [ $(systemctl show --value -p ActiveState {UNIT}.service) != inactive ]; do sleep 1; done")
    mended()


def paused() -> None:
    """A pause."""
    assert play("pause", "-l", host(), "-e", "why='the forge moves'")[0] == 0
    assert "resume" in bad("paused")
    status, found = from_here()
    assert found["pause"]["why"] == "the forge moves" and found["pause"]["by"], found["pause"]
    status, said = typed(commands(needs(found)["paused"])[0])
    assert status == 0, said
    mended()


def revoked_token() -> None:
    """A token that the forge does not take."""
    env = must(f"""python3 -c 'import json; print(json.load(open("{ETC}/loop.json"))["env_file"])'""")
    must(f"cp -p {env} {env}.good && sed -i 's/^GH_TOKEN=.*/GH_TOKEN=ghp_revoked/' {env}")
    cycle()
    command = commands(bad("credentials"))[-1]
    must(f"mv {env}.good {env}")
    typed(command)
    mended()


def forge_down() -> None:
    """A forge that is down."""
    forge("POST", "faults", {"kind": "down"})
    cycle()
    do = bad("forge")
    forge("DELETE", "faults")
    typed(commands(do)[-1])
    mended()


def edited() -> None:
    """Somebody edited the policy, and the code."""
    must(f"sed -i 's/max_changed_files: .*/max_changed_files: 999/' {ETC}/policy.yml")
    must("echo '# mine' >> /usr/local/lib/engineering-loop/engineering_loop_core/cycle/settle.py")
    status, found = from_here()
    assert status == 2 and list(needs(found)) == ["policy", "drifted"], found["needs"]
    status, said = play("status", "-l", host())
    assert status == 2 and "policy.yml" in said and "settle.py was edited" in said, said
    (command,) = commands(needs(found)["drifted"])
    status, said = typed(command)
    assert status == 0, said
    mended()


def damaged_release() -> None:
    """A release that is damaged."""
    must(f"echo '# mine' >> $(find -L {OPT}/current/src -name cycle.py | head -1)")
    status, found = from_here()
    assert list(needs(found)) == ["engine"], found["needs"]
    status, said = typed(commands(needs(found)["engine"])[0])
    assert status == 0, said
    mended()


def unreadable() -> None:
    """Settings of another version, and a host that is down."""
    must(f'cp -p {ETC}/loop.json {ETC}/loop.good; echo \'{{"collection_version": "0.0.9"}}\' > {ETC}/loop.json')
    status, found = from_here()
    assert (status, found["state"], found["version"], list(needs(found))) == (2, "broken", "0.0.9", ["broken"])
    must(f"mv {ETC}/loop.good {ETC}/loop.json")
    mended()
    status, found = from_here(ansible_port="9")
    assert (status, found["state"], list(needs(found))) == (2, "unreachable", ["unreachable"])


CHAPTERS = (
    well, stopped_timer, full_disk, held_lock, paused, revoked_token, forge_down, edited, damaged_release, unreadable,
)  # fmt: skip
tell(CHAPTERS)
