# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the users of the loop may do on a host beside their work: nothing. Looked at, told, and taken from them.

A user of ours has no home, no shell, no password, no lingering service manager and no session. What a
person gave it on purpose (a group, sudo, another's number) is not taken away: it is refused in one line
with the command that mends it, since whoever gave it may have a use for it.
"""

from __future__ import annotations

import contextlib
import glob
import grp
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base import progress
from ..base.errors import LoopError
from ..base.files import read_bytes
from ..base.untrusted import show
from . import processes, programs, systemd
from .users import entry_of

Json = dict[str, Any]

NOWHERE = "/nonexistent"
NO_SHELLS = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")
SHADOW = "/etc/shadow"
LINGER = "/var/lib/systemd/linger"
SUDOERS = "/etc/sudoers"
CRONTABS = "/var/spool/cron/crontabs"
AT_JOBS = "/var/spool/cron/atjobs"
# Services that start whatever a user asks for. What runs in any other service is that service's own.
SPAWNERS = ("cron.service", "atd.service", "ssh.service", "sshd.service")
# Groups that Debian numbers once and for all, such as root, disk, sudo and users, and some that come with programs.
LAST_OF_DEBIAN = 100
POWERFUL = ("docker", "incus", "incus-admin", "kvm", "libvirt", "lxd", "podman", "systemd-journal", "wheel")
PATIENCE = 10.0  # seconds for a process that was told to end


@dataclass
class Look:
    """What was found about the users; ``faults`` are what ``repair`` mends."""

    missing_users: list[str] = field(default_factory=list)
    missing_groups: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def look(users: Mapping[str, str]) -> Look:
    """What there is to say about these users, each with the group that is its own. Changes nothing."""
    found = Look()
    for group in dict.fromkeys(users.values()):
        if not _group_exists(group):
            found.missing_groups.append(group)
        found.refused += _refused_group(group)
    for name, group in users.items():
        entry = entry_of(name)
        if entry is None:
            found.missing_users.append(name)
            continue
        found.refused += _refused(entry, group)
        found.faults += [words for words, _options in _faults(entry, group)]
        found.notes += _notes(entry)
    return found


def repair(users: Mapping[str, str], *, check: bool = False) -> list[str]:
    """Take from the users what they must not have; what was found, a line each. No cycle may run meanwhile."""
    found = look(users)
    if found.refused:
        raise LoopError("; ".join(found.refused))
    if check or not found.faults:
        return found.faults
    for name, group in users.items():
        entry = entry_of(name)
        faults = _faults(entry, group) if entry else []
        if faults:
            quiet(name)
        if options := [option for _words, options in faults for option in options]:
            _change(name, options)
    return found.faults


def quiet(name: str) -> list[str]:
    """End whatever runs for this user outside of a service: sessions, its service manager, what cron started.

    Returns what was ended. LoopError where a process does not end.
    """
    entry = entry_of(name)
    if entry is None or entry.pw_uid in (0, os.geteuid()):
        return []
    ended = [words for _pid, words in _strays(entry.pw_uid)]
    if _lingers(name):
        if shutil.which("loginctl") and systemd.running():
            _run("loginctl", "disable-linger", name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{LINGER}/{name}")
    if ended and systemd.running():
        with contextlib.suppress(LoopError):
            systemd.systemctl("stop", f"user@{entry.pw_uid}.service")
        _run("loginctl", "terminate-user", name)
    progress.step(f"ending the processes of the user {name}")
    deadline, number = time.monotonic() + PATIENCE, signal.SIGTERM
    while strays := _strays(entry.pw_uid):
        for pid, _words in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if time.monotonic() > deadline:
            raise LoopError(f"{strays[0][1]} of the user {name} does not end: kill -9 {strays[0][0]}")
        time.sleep(0.1)
        if time.monotonic() > deadline - PATIENCE / 2:
            number = signal.SIGKILL
    return ended


def at_work(name: str, programs: Sequence[str] = ()) -> str:
    """A process of this user that must not be ended: one of a service, or of one of ``programs`` (paths, or the
    directories that they are in). In words; empty where there is none."""
    entry = entry_of(name)
    if entry is None or entry.pw_uid in (0, os.geteuid()):
        return ""
    for pid in processes.of_user(entry.pw_uid):
        service = processes.service_of(pid)
        command = processes.command_of(pid)
        if service and service not in SPAWNERS:
            return f"process {pid} of {name} in {service}"
        if any(program in command for program in programs):
            return f"process {pid} of {name}: {show(' '.join(command.split(chr(0))[:3]))}"
    return ""


# --- what is refused ----------------------------------------------------------------------


def _refused(entry: pwd.struct_passwd, group: str) -> list[str]:
    name, told = entry.pw_name, []
    if entry.pw_uid == 0:
        how = "name another one" if name == "root" else f"userdel -f {name}, and the apply makes it anew"
        return [f"the user {name} has the number of root: {how}"]
    others = {other.pw_name for other in pwd.getpwall() if other.pw_uid == entry.pw_uid}
    if others - {name}:
        shared = ", ".join(sorted(others - {name}))
        told.append(
            f"the user {name} has the number of {shared}, whose files are its own: userdel -f {name}, and the apply"
            " makes it anew"
        )
    if _logged_in_as(entry.pw_uid):
        told.append(f"this play is logged in as {name}, which must have no login: connect as another user")
    own = {entry.pw_gid, *([grp.getgrnam(group).gr_gid] if _group_exists(group) else [])}
    for gid in os.getgrouplist(name, entry.pw_gid):
        if gid not in own:
            where = _group_name(gid)
            told.append(f"the user {name} is in the group {where} and may do what that may: gpasswd -d {name} {where}")
    told += _sudo(name)
    if os.path.lexists(NOWHERE):
        told.append(f"{NOWHERE} exists, and is what users without a home have as theirs: mv {NOWHERE} {NOWHERE}.found")
    return told


def _refused_group(group: str) -> list[str]:
    """Whether the group that is to be a user's own is the host's, or has the number of another."""
    if not _group_exists(group):
        return []
    gid = grp.getgrnam(group).gr_gid
    if gid <= LAST_OF_DEBIAN or group in POWERFUL:
        return [
            f"the group {group} has rights of its own on this host: name one that is the loop's alone, such as loop"
        ]
    also = sorted({one.gr_name for one in grp.getgrall() if one.gr_gid == gid} - {group})
    how = f"groupdel -f {group}, and the apply makes it anew"
    return [f"the group {group} has the number of {', '.join(also)}, and may do what that may: {how}"] if also else []


def _sudo(name: str) -> list[str]:
    """Whether sudo lets this user be somebody else; asked of sudo itself, which only root may."""
    if os.geteuid() != 0 or not shutil.which("sudo"):
        return []
    if "may run the following" not in _run("sudo", "-n", "-l", "-U", name):
        return []
    named, places = re.compile(rb"(?<![\w.-])%s(?![\w.-])" % re.escape(name.encode())), list[str]()
    passed_over = re.compile(r".*\..*|.*~")  # by sudo
    for place in (SUDOERS, *sorted(glob.glob(f"{SUDOERS}.d/*"))):
        with contextlib.suppress(LoopError):
            if not passed_over.fullmatch(os.path.basename(place)) and named.search(read_bytes(place) or b""):
                places.append(place)
    how = " or ".join(f"visudo -f {place}" for place in places or [SUDOERS])
    return [f"the user {name} has rights by sudo (sudo -l -U {name} shows them): take them away with {how}"]


def _logged_in_as(uid: int) -> bool:
    """Whether whoever runs this came to the host as that user."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/loginuid", encoding="ascii") as handle:
        if int(handle.read()) == uid:
            return True
    return os.environ.get("SUDO_UID") == str(uid)


# --- what is mended -----------------------------------------------------------------------


def _faults(entry: pwd.struct_passwd, group: str) -> list[tuple[str, list[str]]]:
    """What the user must not have, in words, with usermod's options against it; ``quiet`` ends what needs none."""
    name, told = entry.pw_name, list[tuple[str, list[str]]]()
    if entry.pw_dir != NOWHERE:
        keys = f"{entry.pw_dir}/.ssh/authorized_keys"
        more = f"; {keys} lets nobody in any more" if os.path.lexists(keys) else ""
        told.append((f"the user {name} had the home {entry.pw_dir}: it has none any more{more}", ["--home", NOWHERE]))
    if entry.pw_shell not in NO_SHELLS:
        words = f"the user {name} had the shell {entry.pw_shell or '/bin/sh'}: nobody logs in as it any more"
        told.append((words, ["--shell", NO_SHELLS[0]]))
    if _group_exists(group) and entry.pw_gid != grp.getgrnam(group).gr_gid:
        words = f"the user {name} had the group {_group_name(entry.pw_gid)} as its own: it has {group} now"
        told.append((words, ["--gid", group]))
    if not _locked(name):
        told.append((f"the user {name} had a password: it is locked", ["--lock"]))
    if _lingers(name):
        told.append((f"services of the user {name} were started with the host (lingering): no more", []))
    for _pid, words in _strays(entry.pw_uid)[:1]:
        told.append(
            (f"{words} of the user {name} ran outside of a cycle: it was ended, with all else of that kind", [])
        )
    return told


def give_back(name: str, home: str, shell: str) -> None:
    """Let the user have the home and the shell that it had before it was ours."""
    _change(name, ["--home", home, "--shell", shell])


def _change(name: str, options: Sequence[str]) -> None:
    done = subprocess.run(["usermod", *options, name], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        who = at_work(name)
        raise LoopError(f"the user {name} cannot be changed: {last}{f' ({who})' if who else ''}")


def _locked(name: str) -> bool:
    """Whether no password lets anybody in; a host whose shadow cannot be read is believed."""
    if os.geteuid() != 0:
        return True
    for line in (read_bytes(SHADOW) or b"").splitlines():
        words = line.split(b":")
        if words[0] == os.fsencode(name) and len(words) > 1:
            return words[1][:1] in (b"!", b"*")
    return True


def _lingers(name: str) -> bool:
    return os.path.lexists(f"{LINGER}/{name}")


def _notes(entry: pwd.struct_passwd) -> list[str]:
    """What a person should know, and may have a use for."""
    name, told = entry.pw_name, []
    if os.path.lexists(f"{CRONTABS}/{name}"):
        told.append(
            f"the user {name} has a crontab, which runs outside of every cycle: crontab -u {name} -l shows it,"
            f" crontab -u {name} -r removes it"
        )
    with contextlib.suppress(OSError):
        jobs = [job for job in os.scandir(AT_JOBS) if job.stat(follow_symlinks=False).st_uid == entry.pw_uid]
        if jobs:
            told.append(f"the user {name} has jobs of at, which run outside of every cycle: rm {jobs[0].path}")
    return told


# --- processes ----------------------------------------------------------------------------


def _strays(uid: int) -> list[tuple[int, str]]:
    """Processes of this user that are of no service, with words for each."""
    if uid in (0, os.geteuid()):
        return []
    found = []
    for pid in processes.of_user(uid):
        service = processes.service_of(pid)
        if not service or service in SPAWNERS:
            found.append((pid, f"process {pid} ({show(processes.command_of(pid).split(chr(0))[0], 60)})"))
    return found


# --- small things -------------------------------------------------------------------------


def _group_exists(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(grp.getgrnam(name))
    return False


def _group_name(gid: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)


def _run(*command: str) -> str:
    """For its effect, which is looked at afterwards; what it says, nothing where it cannot be run."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return programs.run(command, 60).stdout
    return ""
