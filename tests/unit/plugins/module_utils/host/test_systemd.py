# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd would throw away of a unit, asked of the real one; the timer, through a program that plays systemctl."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.systemd import Timer

SERVICE = """\
[Unit]
# loop_on_failure: the whole name of a unit
OnFailure={on_failure}

[Service]
Type=oneshot
ExecStart=/nowhere/still/to/come
# loop_memory_max: 4G, 80% or empty
MemoryMax={memory}
CPUQuota={cpu}
"""
TIMER = (
    "[Timer]\n# loop_on_calendar: hourly and the like\nOnCalendar={0}\nRandomizedDelaySec={1}\nUnit=t-loop.service\n"
)
INSTANCE = "[Socket]\nListenStream=127.0.0.1:%i\n{0}\n"


def refused(memory: str = "2G", cpu: str = "150%", on_failure: str = "notify@%n.service", **others: str) -> list[str]:
    service = SERVICE.format(memory=memory, cpu=cpu, on_failure=on_failure)
    return systemd.refused({"t-loop.service": service, "t-none.service": "", **others})


def test_what_systemd_takes_is_taken() -> None:
    assert systemd.refused({}) == []
    for memory, cpu, calendar in (("2G", "150%", "hourly"), ("80%", "5%", "*:0/30"), ("infinity", "200%", "Mon 9:00")):
        more = {"t-loop.timer": TIMER.format(calendar, 300), "t-x@.socket": INSTANCE.format("")}
        more["t-x@.service"] = "[Service]\nExecStart=/bin/true %i\n"
        assert refused(memory, cpu, "", **more) == []


@pytest.mark.parametrize("memory", ["2GB", "lots", "0", "-1", "110%", "2G 3G"])
def test_a_limit_that_would_be_none(memory: str) -> None:
    (line,) = refused(memory)
    assert line.startswith(f"loop_memory_max: systemd does not take MemoryMax={memory} in t-loop.service (")
    assert line.endswith("; it may be 4G, 80% or empty")


@pytest.mark.parametrize(
    ("line", "least"),
    [
        ("MemoryMax=1", "128M"), ("MemoryMax=100M", "128M"), ("MemoryMax=1024B", "128M"), ("MemoryMax= 1K 5B", "128M"),
        ("MemoryMax=0.01%", "128M"), ("TasksMax=8", "16"), ("CPUQuota=1%", "5%"), ("TimeoutStartSec=0", "60"),
        ("TimeoutStartSec=59", "60"),
    ],
)  # fmt: skip
def test_a_limit_that_no_cycle_could_work_with(line: str, least: str) -> None:
    text = f"[Service]\nExecStart=/bin/true\nType=oneshot\n# loop_limit: more\n{line}\n"
    name = line.partition("=")[0]
    told = f"loop_limit: no loop can live with {line} in t-loop.service (the least is {least}); it may be more"
    assert systemd.refused({"t-loop.service": text}) == [told]
    assert systemd.refused({"t-loop.service": text.replace(line, f"{name}={least}")}) == []


@pytest.mark.parametrize("never", ["2020-01-01", "*-02-30", "Mon 2020-01-01 09:00:00"])
def test_a_time_that_never_comes(never: str) -> None:
    (line,) = refused(**{"t-loop.timer": TIMER.format(never, 300)})
    assert line == (
        f"loop_on_calendar: no loop can live with OnCalendar={never} in t-loop.timer (that time never comes); it may be"
        " hourly and the like"
    )
    assert refused(**{"t-loop.timer": TIMER.format("*-02-29", 300)}) == []


def test_every_line_is_told_once() -> None:
    told = refused("many", "1%", "tell me", **{"t-loop.timer": TIMER.format("5 minutes", "soon")})
    assert sorted(line.split(" (")[0] for line in told) == [
        "loop_memory_max: systemd does not take MemoryMax=many in t-loop.service",
        "loop_on_calendar: systemd does not take OnCalendar=5 minutes in t-loop.timer",
        "loop_on_failure: systemd does not take OnFailure=tell me in t-loop.service",
        "no loop can live with CPUQuota=1% in t-loop.service",
        "systemd does not take RandomizedDelaySec=soon in t-loop.timer",
    ]


def test_a_line_of_a_template_and_one_that_systemd_does_not_know() -> None:
    more = {"t-x@.socket": INSTANCE.format("Backlg=1"), "t-x@.service": "[Service]\nExecStart=/bin/true\n"}
    (line,) = refused(**more)
    assert line.startswith("systemd does not take Backlg=1 in t-x@.socket (")


def test_a_unit_that_does_nothing_is_refused_as_a_whole() -> None:
    (line, *_more) = systemd.refused({"t-loop.timer": "[Timer]\nPersistent=yes\n"})
    assert line.startswith("t-loop.timer: ")


def test_what_root_asks_of_systemds_log_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LEVEL", "emerg"), ("TARGET", "null"), ("COLOR", "1"), ("LOCATION", "1"), ("TIME", "1")):
        monkeypatch.setenv(f"SYSTEMD_LOG_{name}", value)
    (line,) = refused("lots")
    assert "MemoryMax=lots" in line


def test_a_host_without_systemd_reads_no_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert refused("lots") == []


# --- the timer ----------------------------------------------------------------------------

SYSTEMCTL = """\
#!/bin/sh
cd "${0%/*}" || exit 1
echo "$*" >> asked
case "$1" in
  enable) touch on ;;
  disable) rm -f on ;;
  show)
    [ "$3" = loop.timer ] || { echo LoadState=not-found; exit 0; }
    echo LoadState=loaded
    if [ -e on ]; then printf '%s\\n' ActiveState=active UnitFileState=enabled \\
      "NextElapseUSecRealtime=Thu 2026-01-01 00:00:00 $TZ"; fi ;;
  *) echo "Failed to $1: no" >&2; exit 5 ;;
esac
"""


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(systemd, "RUNNING_SYSTEMD", str(tmp_path))
    return tmp_path


def test_it_is_put_on_and_off_once(played: Path) -> None:
    assert systemd.timer_of("loop") == Timer(True, False, False, "") and not systemd.timer_of("loop").runs
    assert systemd.set_timer("loop", True) == Timer(True, True, True, "2026-01-01T00:00:00Z")
    assert systemd.set_timer("loop", True).runs
    assert not systemd.set_timer("loop", False).runs
    asked = (played / "asked").read_text().splitlines()
    assert [line for line in asked if not line.startswith("show")] == [
        "enable --now loop.timer",
        "disable --now loop.timer",
    ]


def test_one_that_is_not_there(played: Path) -> None:
    assert systemd.timer_of("other") == systemd.set_timer("other", False) == Timer()
    with pytest.raises(LoopError, match=r"other\.timer is not known to systemd on this host"):
        systemd.set_timer("other", True)


def test_what_systemd_refuses_is_one_line(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoopError, match=r"systemctl stop loop\.service: Failed to stop: no"):
        systemd.systemctl("stop", "loop.service")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LoopError, match="systemctl cannot be run on this host"):
        systemd.timer_of("loop")


def test_without_systemd_there_is_no_timer(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "RUNNING_SYSTEMD", str(played / "nothing"))
    assert systemd.timer_of("loop") == Timer()
    assert not (played / "asked").exists()


def test_the_wait_for_rest_starts_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    running, asked = {"a.timer"}, []

    def systemctl(*words: str) -> str:
        asked.append(words)
        (running.discard if words[0] == "stop" else running.add)(words[1])
        return ""

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    monkeypatch.setattr(systemd, "active", lambda unit: unit in running)
    assert systemd.rest(lambda: "", ["a.timer", "b.timer"], 0, "nothing") == ["a.timer"]
    assert asked == [("stop", "a.timer")]


def test_why_the_journal_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoopError, match="journalctl cannot be run on this host"):
        systemd.sync_journal()
    program = tmp_path / "journalctl"
    for said, told in (("first\nlast", "last"), ("", "no message")):
        program.write_text(f"#!/bin/sh\n[ '{said}' ] && echo '{said}' >&2\nexit 3\n")
        program.chmod(0o755)
        with pytest.raises(LoopError, match=f"^journalctl --quiet --no-pager ended with 3: {told}$"):
            systemd.journal("--unit=x")
