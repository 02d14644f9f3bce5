# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the loop's users may do on a host: real accounts, in an /etc that only the test sees."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import privileges, processes, systemd
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.privileges import look, quiet, repair
from disks import with_mounts_of_its_own

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes accounts, of a copy of /etc")
USERS = {"loop-test": "loop-test", "gate-test": "gate-test"}
NOLOGIN = "/usr/sbin/nologin"
UID = 61000 + os.getpid() % 4000 // 2 * 2  # two of them, which no other run has


def sh(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def own_etc(tmp_path: Path) -> Callable[[Callable[[], None]], None]:
    """Runs a test in a child with accounts of its own: /etc is a copy, and so are the places of cron and logind."""

    def run(work: Callable[[], None]) -> None:
        def among_them() -> None:
            sh("mount", "-t", "tmpfs", "tmpfs", str(tmp_path))
            sh("cp", "-a", "/etc", f"{tmp_path}/etc")
            sh("mount", "--bind", f"{tmp_path}/etc", "/etc")
            for name in ("LINGER", "CRONTABS", "AT_JOBS"):
                (tmp_path / name).mkdir()
                setattr(privileges, name, str(tmp_path / name))
            setattr(systemd, "RUNNING_SYSTEMD", f"{tmp_path}/none")  # noqa: B010 - no logind here
            for name, uid in zip(USERS, (UID, UID + 1), strict=True):
                sh("groupadd", "-g", str(uid), name)
                sh("useradd", "-u", str(uid), "-g", name, "-M", "-d", privileges.NOWHERE, "-s", NOLOGIN, name)
            work()

        with_mounts_of_its_own(among_them)

    return run


Own = Callable[[Callable[[], None]], None]


def clean() -> None:
    found = look(USERS)
    assert (found.missing_users, found.missing_groups, found.refused, found.faults, found.notes) == ([], [], [], [], [])


def test_a_user_that_may_do_its_work_only_is_left_alone(own_etc: Own) -> None:
    def work() -> None:
        clean()
        assert repair(USERS) == []

    own_etc(work)


def test_users_and_groups_that_are_missing_are_named(own_etc: Own) -> None:
    def work() -> None:
        found = look({"loop-test": "no-such-group", "no-such-user": "loop-test"})
        assert (found.missing_users, found.missing_groups) == (["no-such-user"], ["no-such-group"])
        assert repair({"no-such-user": "no-such-group"}) == []
        assert quiet("no-such-user") == []

    own_etc(work)


def test_a_group_that_is_not_the_users_own_alone_is_refused(own_etc: Own) -> None:
    def work() -> None:
        sh("groupadd", "-f", "docker")
        for group in ("disk", "sudo", "users", "docker"):
            (line,) = look({"no-such-user": group}).refused
            assert f"the group {group} has rights of its own on this host: name one" in line
        sh("groupadd", "--non-unique", "-g", str(UID), "other-test")
        (line,) = look(USERS).refused
        assert "the group loop-test has the number of other-test" in line and "groupdel -f loop-test, and" in line
        with pytest.raises(LoopError, match="has the number of other-test"):
            repair(USERS)

    own_etc(work)


@pytest.mark.parametrize("group", ["adm", "disk", "docker", "lxd", "sudo", "systemd-journal"])
def test_a_group_that_may_more_is_told_with_the_command(own_etc: Own, group: str) -> None:
    def work() -> None:
        sh("groupadd", "-f", group)
        sh("gpasswd", "-a", "loop-test", group)
        lines = look(USERS).refused
        assert f"the user loop-test is in the group {group} and may do what that may: gpasswd -d" in lines[0]
        subprocess.run(lines[0].rsplit(": ", 1)[1].split(), check=True, capture_output=True)  # as it is told
        clean()

    own_etc(work)


def test_home_shell_password_group_and_lingering_are_taken_away(own_etc: Own, tmp_path: Path) -> None:
    def work() -> None:
        home = tmp_path / "home"
        (home / ".ssh").mkdir(parents=True)
        (home / ".ssh/authorized_keys").touch()
        sh("usermod", "-d", str(home), "-s", "/bin/bash", "-g", "nogroup", "-p", "$y$j9T$x", "loop-test")
        Path(privileges.LINGER, "loop-test").touch()
        told = repair(USERS, check=True)
        assert Path(privileges.LINGER, "loop-test").exists()
        assert repair(USERS) == told
        for line, words in zip(told, (str(home), "/bin/bash", "nogroup", "password", "lingering"), strict=True):
            assert words in line
        assert f"{home}/.ssh/authorized_keys lets nobody in any more" in told[0]
        clean()
        assert sh("getent", "passwd", "loop-test").split(":")[5:] == ["/nonexistent", "/usr/sbin/nologin\n"]
        assert home.exists()
        sh("passwd", "-d", "loop-test")  # none at all lets everybody in
        assert "password" in repair(USERS)[0]
        clean()

    own_etc(work)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gpasswd -a loop-test disk", r"in the group disk and may do what that may: gpasswd -d loop-test disk"),
        ("usermod -o -u 1 loop-test", r"has the number of daemon, whose .*: userdel -f loop-test"),
        ("usermod -o -u 0 loop-test", r"has the number of root: userdel -f loop-test"),
        ("gpasswd -a gate-test loop-test", r"the user gate-test is in the group loop-test"),
    ],
)
def test_what_a_person_gave_is_refused_with_the_command_that_takes_it(own_etc: Own, given: str, said: str) -> None:
    def work() -> None:
        sh(*given.split())
        sh("usermod", "-s", "/bin/bash", "loop-test") if "-u" not in given else None
        with pytest.raises(LoopError, match=said) as error:
            repair(USERS)
        assert "\n" not in str(error.value)
        assert "-u" in given or "/bin/bash" in sh("getent", "passwd", "loop-test")  # nothing was changed
        sh(*str(error.value).rsplit(": ", maxsplit=1)[-1].split(", and")[0].split())
        assert look(USERS).refused == []

    own_etc(work)


def test_rights_by_sudo_are_refused(own_etc: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        sudo = tmp_path / "bin/sudo"
        sudo.parent.mkdir()
        sudo.write_text('#!/bin/sh\n[ "$4" = gate-test ] || echo "User $4 may run the following commands on host:"\n')
        sudo.chmod(0o755)
        os.environ["PATH"] = f"{sudo.parent}:{os.environ['PATH']}"
        os.makedirs("/etc/sudoers.d", exist_ok=True)
        Path("/etc/sudoers.d/README").write_text("# nothing\n")
        Path("/etc/sudoers.d/agents").write_text("loop-test ALL=(ALL) NOPASSWD: ALL\n")
        # What sudo passes over, what is no file, and who has a name with this one in it.
        os.makedirs("/etc/sudoers.d/0-old")
        for name in ("zz.dpkg-old", "zz~"):
            Path("/etc/sudoers.d", name).write_text("loop-test ALL=(ALL) NOPASSWD: ALL\n")
        Path("/etc/sudoers.d/zz").write_text("loop-tester ALL=(ALL) ALL\nthe-loop-test ALL=(ALL) ALL\n")
        how = "take them away with visudo -f /etc/sudoers.d/agents"
        assert [line.split(": ")[-1] for line in look(USERS).refused] == [how]
        Path("/etc/sudoers.d/zz").write_text("User_Alias AGENTS=a,loop-test\n")
        assert look(USERS).refused[0].endswith(f"{how} or visudo -f /etc/sudoers.d/zz")

    own_etc(work)


def test_whoever_applies_does_not_lock_itself_out(own_etc: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", str(UID))

    def work() -> None:
        (line,) = look(USERS).refused
        assert "this play is logged in as loop-test" in line
        del os.environ["SUDO_UID"]
        clean()
        Path("/proc/self/loginuid").write_text(str(UID))  # as who came by ssh and became root by su
        assert look(USERS).refused == [line]

    own_etc(work)


def test_a_home_for_all_who_have_none_is_refused(own_etc: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        monkeypatch.setattr(privileges, "NOWHERE", str(tmp_path / "nowhere"))
        assert look(USERS).refused == []
        (tmp_path / "nowhere").mkdir()
        (line,) = set(look(USERS).refused)
        assert line.endswith(f": mv {tmp_path}/nowhere {tmp_path}/nowhere.found")

    own_etc(work)


def test_what_has_no_name_is_told_by_its_number(own_etc: Own) -> None:
    def work() -> None:
        sh("usermod", "-g", "gate-test", "loop-test")
        sh("sed", "-i", "/^gate-test:/d", "/etc/group")
        assert f"had the group {UID + 1} as its own: it has loop-test now" in look({"loop-test": "loop-test"}).faults[0]

    own_etc(work)


def test_a_user_that_shadow_does_not_know_has_no_password(own_etc: Own) -> None:
    def work() -> None:
        sh("sed", "-i", "/^loop-test:/d", "/etc/shadow")
        clean()
        os.setresuid(UID + 1, UID + 1, UID + 1)
        clean()  # and who may not read it believes it

    own_etc(work)


def test_what_runs_at_its_own_times_is_told_and_left(own_etc: Own) -> None:
    def work() -> None:
        Path(privileges.CRONTABS, "loop-test").touch()
        job = Path(privileges.AT_JOBS, "a0001")
        job.touch()
        os.chown(job, UID, UID)
        notes = look(USERS).notes
        assert "crontab -u loop-test -r" in notes[0]
        assert str(job) in notes[1]
        assert repair(USERS) == []

    own_etc(work)


def as_loop(code: str) -> subprocess.Popen[str]:
    """A process of the loop's user that has said that it runs."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"{code}; echo up; sleep 60; true"],
        user=UID, group=UID, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "up\n"
    return process


def test_sessions_end_also_those_that_do_not_want_to(own_etc: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "PATIENCE", 2.0)

    def work() -> None:
        sh("usermod", "-s", "/bin/bash", "-d", "/tmp", "loop-test")
        for code in ("true", "trap '' TERM"):
            process = as_loop(code)
            assert any(f"process {process.pid} (/bin/sh)" in line for line in look(USERS).faults)
            assert repair(USERS)
            clean()
            process.wait()

    own_etc(work)


def test_what_does_not_end_is_told_with_the_command(own_etc: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "PATIENCE", 0.0)

    def work() -> None:
        process = as_loop("trap '' TERM")
        with pytest.raises(LoopError, match=rf"of the user loop-test does not end: kill -9 {process.pid}"):
            quiet("loop-test")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    own_etc(work)


def test_sessions_end_where_systemd_does_not_answer(own_etc: Own, tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / "none").mkdir()  # as if it ran this host
        os.environ["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        for name in ("loginctl", "systemctl"):
            (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/asked\nexit 1\n')
            (tmp_path / name).chmod(0o755)
        Path(privileges.LINGER, "loop-test").touch()
        process = as_loop("true")
        assert repair(USERS)
        clean()
        process.wait()
        asked = ["loginctl disable-linger loop-test", f"systemctl stop user@{UID}.service"]
        assert (tmp_path / "asked").read_text().splitlines() == [*asked, "loginctl terminate-user loop-test"]

    own_etc(work)


def test_a_user_with_a_process_keeps_its_home_and_is_told_why(own_etc: Own) -> None:
    def work() -> None:
        process = as_loop("true")
        with pytest.raises(LoopError, match=rf"loop-test cannot be changed: usermod: .* process {process.pid}"):
            privileges.give_back("loop-test", "/srv", "/bin/sh")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        privileges.give_back("loop-test", "/srv", "/bin/sh")
        assert sh("getent", "passwd", "loop-test").split(":")[5:] == ["/srv", "/bin/sh\n"]

    own_etc(work)


def test_nobody_is_at_work_as_root_or_as_a_user_that_is_missing() -> None:
    assert [privileges.at_work(name, ["/"]) for name in ("root", "no-such-user")] == ["", ""]
    assert quiet("root") == quiet("no-such-user") == []


def test_a_process_of_a_service_is_not_ended_but_waited_for(own_etc: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        process = as_loop("true")
        assert privileges.at_work("loop-test") == ""
        assert f"process {process.pid} of loop-test: /bin/sh -c" in privileges.at_work("loop-test", ["/bin/"])
        monkeypatch.setattr(processes, "service_of", lambda pid: "other.service")
        assert privileges.at_work("loop-test") == f"process {process.pid} of loop-test in other.service"
        assert quiet("loop-test") == []
        assert process.poll() is None
        for spawner in ("cron.service", ""):
            monkeypatch.setattr(processes, "service_of", lambda pid, spawner=spawner: spawner)
            assert privileges.at_work("loop-test") == ""
            assert look(USERS).faults
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    own_etc(work)


def test_it_takes_no_time(own_etc: Own) -> None:
    def work() -> None:
        began = time.monotonic()
        clean()
        assert time.monotonic() - began < 5

    own_etc(work)
