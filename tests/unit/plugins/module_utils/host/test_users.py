# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work done as another user: who may, what it sees, and how it fails.

Only root can become somebody else. Everybody else is refused, and these tests expect exactly that of them.
"""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import (
    account,
    as_user,
    end_with_parent,
    name_of,
    whose,
)

ROOT = os.geteuid() == 0
ME = pwd.getpwuid(os.geteuid())
NOBODY = pwd.getpwnam("nobody")
REFUSAL = "must run as nobody or as root"


def as_nobody(work: Callable[[], Any]) -> Any:
    """What the work answers as nobody; where we cannot become that, what it answers here, after the refusal."""
    if ROOT:
        return as_user("nobody", work)
    with pytest.raises(LoopError, match=REFUSAL):
        as_user("nobody", work)
    return as_user(ME.pw_name, work)


def identity() -> dict[str, Any]:
    mask = os.umask(0)
    os.umask(mask)
    return {
        "ids": [*os.getresuid(), *os.getresgid()],
        "groups": sorted(os.getgroups()),
        "home": os.environ["HOME"],
        "user": os.environ.get("USER"),
        "umask": mask,
        "cwd": os.getcwd(),
        "pid": os.getpid(),
    }


def test_an_unknown_user_is_named() -> None:
    assert account(ME.pw_name).pw_uid == os.geteuid()
    for call in (account, lambda name: as_user(name, identity)):
        with pytest.raises(LoopError, match="there is no user no-such-user on this host"):
            call("no-such-user")


def test_who_is_already_that_user_just_works() -> None:
    assert as_user(ME.pw_name, os.getpid) == os.getpid()
    with pytest.raises(LoopError, match="as it was said"):
        as_user(ME.pw_name, fail("as it was said"))


def test_the_child_is_that_user_and_nothing_else() -> None:
    before = identity()
    seen = as_nobody(identity)
    assert identity() == before
    if ROOT:
        assert seen.pop("pid") != os.getpid()
        assert seen == {
            "ids": [NOBODY.pw_uid] * 3 + [NOBODY.pw_gid] * 3,
            "groups": sorted(set(os.getgrouplist("nobody", NOBODY.pw_gid))),
            "home": NOBODY.pw_dir,
            "user": "nobody",
            "umask": 0o027,
            "cwd": "/",
        }
    else:
        assert seen == before


def test_there_is_no_way_back() -> None:
    def back() -> list[str]:
        refused = []
        steps: list[Callable[[], None]] = [
            lambda: os.setuid(4321),
            lambda: os.setgid(4321),
            lambda: os.setgroups([4321]),
        ]
        for step in steps:
            try:
                step()
            except OSError:
                refused.append("refused")
        return refused

    assert as_nobody(back) == ["refused"] * 3


def fail(text: str) -> Callable[[], Any]:
    def work() -> None:
        raise LoopError(text)

    return work


def reason(of_root: str) -> str:
    return of_root if ROOT else REFUSAL


def test_its_error_is_ours() -> None:
    with pytest.raises(LoopError, match=reason(r"^the disk is full \\xff of caf\u00e9s$")):
        as_user("nobody", fail("the disk is full \udcff of caf\u00e9s"))


def test_a_full_disk_there_is_one_line() -> None:
    def fill() -> None:
        raise OSError(28, "No space left on device", "/var/x")

    with pytest.raises(LoopError, match=r"\A/var/x: No space left on device\Z"):
        as_user("nobody", fill)


def test_its_crash_brings_its_traceback() -> None:
    def crash() -> None:
        raise KeyError("lost")

    with pytest.raises((RuntimeError, LoopError), match=reason("(?s)in crash.*KeyError: 'lost'")):
        as_user("nobody", crash)


def test_its_exit_is_a_crash() -> None:
    def leave() -> None:
        raise SystemExit(0)

    with pytest.raises((RuntimeError, LoopError), match=reason("SystemExit")):
        as_user("nobody", leave)


def test_an_answer_that_is_no_plain_data_is_said_to_be_that() -> None:
    with pytest.raises((RuntimeError, LoopError), match=reason("set is not JSON serializable")):
        as_user("nobody", lambda: {"large": "x" * 100_000, "odd": {1, 2}})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGALRM])
def test_a_child_that_dies_is_one_line(number: signal.Signals) -> None:
    with pytest.raises(LoopError, match=reason("nobody ended without an answer .wait status .*run it again")):
        as_user("nobody", lambda: os.kill(os.getpid(), number))


def test_a_large_answer_arrives_whole() -> None:
    assert as_nobody(lambda: ["\udcff" * 1000] * 1000) == ["\udcff" * 1000] * 1000


def test_no_process_and_no_descriptor_is_left() -> None:
    descriptors = os.listdir("/proc/self/fd")
    for _unused in range(3):
        as_nobody(lambda: None)
    assert os.listdir("/proc/self/fd") == descriptors
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_number_without_a_name() -> None:
    assert name_of(ME.pw_uid) == ME.pw_name
    with pytest.raises(LoopError, match="uid 4242424 has no account on this host"):
        name_of(4242424)


def test_a_user_becomes_no_other() -> None:
    with pytest.raises(LoopError, match="this must run as daemon or as root"):
        as_nobody(lambda: as_user("daemon", lambda: 1))


def test_a_child_whose_parent_is_gone_ends() -> None:
    child = os.fork()
    if child == 0:
        end_with_parent(os.getpid())  # as if somebody else had become its parent meanwhile
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.skipif(not ROOT, reason="what only root may follow")
def test_whose_a_path_is_through_links_of_roots(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").touch()
    (tmp_path / "one/link").symlink_to("./../two")
    assert whose(f"{tmp_path}/one/link") == (f"{tmp_path}/two", 0)
    with pytest.raises(LoopError, match=r"none cannot be read: No such file"):
        whose(f"{tmp_path}/none")


def test_whose_a_path_is_for_who_is_not_root(tmp_path: Path) -> None:
    assert as_nobody(lambda: whose("/etc/passwd")) == ["/etc/passwd", 0]
    tmp_path.chmod(0o700)
    with pytest.raises(LoopError, match=r"cannot be read: (Permission denied|No such file)"):
        as_nobody(lambda: whose(f"{tmp_path}/none"))
