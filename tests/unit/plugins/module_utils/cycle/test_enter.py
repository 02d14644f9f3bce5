# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kept cell is opened, and its work brought out: real repositories and users; systemd alone is played."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.sizes import number_of
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import cells, pristine, sandbox
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.cells import Cell
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import enter, handover
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import sessions
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import programs
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import LOOP, NAME, NEEDS_ROOT, Box, box, gid, git, give, shape, uid, write
from forks import PROGRAM
from waiting import soon
from worlds import BRANCH, of_nobodys, swept

pytestmark = NEEDS_ROOT
COLLECTIONS = Path(__file__).resolve().parents[5] / ".collections"
UNIT = "[Service]\nUser=loop\nProtectSystem=strict\nPrivateTmp=yes\n"
CHANGE = "issue_app_7"
NETWORK = os.stat("/proc/self/ns/net").st_ino


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with box() as found:
        found.deploy()
        monkeypatch.setattr(enter, "systemctl", lambda *_words: UNIT)
        yield found


def options(words: list[str]) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == "-p"]


def unit_in(words: list[str]) -> str:
    """The unit that a command starts."""
    assert words[1].startswith("--unit=") and words[1].endswith(".service")
    return words[1].removeprefix("--unit=")


def secrets(host: Box) -> Path:
    return Path(f"/run/{host.config['unit']}-enter")


# --- the door


def test_the_command_that_opens_it(host: Box) -> None:
    write(host.top / "etc", {"pi.toml": "x"})
    host.config["home_files"] = [{"src": f"{host.top}/etc/pi.toml", "dest": ".pi/pi.toml"}]
    cell = host.kept(NAME)
    with enter.opened(host.config, cell, ["git", "log"]) as words:
        assert cells.in_use(cell)
        given = json.loads((secrets(host) / f"{NAME}.json").read_text())
        assert handover.Handover(**given) == handover.Handover(cell=cell.path, network=NETWORK)
        assert sessions.listing(host.config) == [] and "gate.socket" not in "".join(words)
        assert (secrets(host) / f"{NAME}.json").stat().st_mode & 0o777 == 0o600
    assert not cells.in_use(cell) and not (secrets(host) / f"{NAME}.json").exists()
    assert words[:1] + words[2:6] == ["systemd-run", "--quiet", "--wait", "--collect", "--pipe"]
    assert unit_in(words).startswith(f"{host.config['unit']}-enter-{NAME}-")
    at = words.index("--")
    assert words[at + 1 :] == [f"{host.top}/lib/loop", "inside", host.config_file, cell.path, "git", "log"]
    told = options(words)
    assert {"ProtectSystem=strict", "PrivateTmp=yes", f"User={LOOP}", "UMask=0022"} <= set(told)
    assert "User=loop" not in told
    assert f"TemporaryFileSystem={host.runs}:mode=0755" in told
    assert [one for one in told if one.startswith("BindPaths=")] == [
        f"BindPaths={cell.part(part)}" for part in (*cells.PARTS, cells.GIVEN)
    ]
    secrets(host).rmdir()


def test_the_engine_s_own_commands_get_what_the_engine_gets(host: Box) -> None:
    (host.top / "etc/env").write_text("GH_TOKEN=t\nENGINEERING_LOOP_GITHUB_TOKEN=u\nOPENAI_API_KEY=k\n")
    cell = host.kept(NAME)
    with enter.opened(host.config, cell, [], as_engine=True) as words:
        given = json.loads((secrets(host) / f"{NAME}.json").read_text())
        assert "t" not in words and "k" not in words
        assert sessions.session_of(host.config, unit_in(words)) == {"cycle": NAME, "bound": False, "counts": {}}
        assert f"Wants={host.config['unit']}-gate.socket" in options(words)
    policy = f"{host.release}/{handover.OWN_POLICY}"
    assert handover.Handover(**given) == handover.Handover(
        environment={"OPENAI_API_KEY": "k", "HYRULE_MODEL_POLICY_FILE": policy},
        hidden=[f"{host.top}/etc/env"],
        cell=cell.path,
        network=NETWORK,
    )
    assert sessions.listing(host.config) == []  # nobody asks after the end
    subprocess.run(["rm", "-r", sessions.directory(host.config)], check=True)
    secrets(host).rmdir()


def test_not_while_it_runs_and_not_twice(host: Box) -> None:
    running, kept = host.cell(NAME), host.kept("20260131T120000Z-0000000a")
    with (
        pytest.raises(LoopError, match=f"the cycle of {NAME} is still running"),
        enter.opened(host.config, running, []),
    ):
        raise AssertionError
    with enter.opened(host.config, kept, []):
        with pytest.raises(LoopError, match=r"somebody has .* open already"), enter.opened(host.config, kept, []):
            raise AssertionError
        with pytest.raises(LoopError, match="there is no such cell"):
            cells.find(host.config, "ffff")
    secrets(host).rmdir()


def test_nothing_goes_on_in_it_when_nobody_waits_for_that_any_more(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, stopped = host.kept(NAME), []

    def asked(*words: str) -> str:
        if words[0] == "stop":
            assert cells.in_use(cell)  # still
            stopped.append(words[1])
        return UNIT

    monkeypatch.setattr(enter, "systemctl", asked)
    with pytest.raises(KeyboardInterrupt), enter.opened(host.config, cell, ["sleep", "600"]) as words:
        raise KeyboardInterrupt
    assert stopped == [unit_in(words)] and not cells.in_use(cell)


@pytest.mark.parametrize(
    ("ignored", "sent"),
    [
        ((), (signal.SIGTERM,)),
        ((), (signal.SIGHUP,)),
        ((), (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM)),  # as a session that ends
        ((signal.SIGHUP,), (signal.SIGHUP, signal.SIGTERM)),  # nohup
    ],
)
def test_who_is_told_to_end_ends_what_runs_in_it(
    host: Box,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    ignored: tuple[signal.Signals, ...],
    sent: tuple[signal.Signals, ...],
) -> None:
    cell = host.kept(NAME)
    begun, asked = host.top / "begun", host.top / "asked"
    write(
        host.top / "bin", {"systemd-run": f"#!/bin/sh\necho $$ >{begun}.new; mv {begun}.new {begun}; exec sleep 600\n"}
    )
    (host.top / "bin/systemd-run").chmod(0o755)
    monkeypatch.setenv("PATH", f"{host.top}/bin:{os.environ['PATH']}")

    def systemctl(*words: str) -> str:
        if words[0] == "stop":
            time.sleep(0.2)  # meanwhile the other signals come
            held = cells.in_use(cell) and (secrets(host) / f"{NAME}.json").exists()
            asked.write_text(f"{words[1]} {'held' if held else 'open'}")
        return UNIT

    monkeypatch.setattr(enter, "systemctl", systemctl)
    before = [signal.getsignal(one) for one in enter.ENDING]
    child = os.fork()
    if child == 0:
        status = 99
        try:
            for one in enter.ENDING:  # whatever the tests themselves were started with
                signal.signal(one, signal.SIG_IGN if one in ignored else signal.SIG_DFL)
            before = [signal.getsignal(one) for one in enter.ENDING]
            status = enter.main(host.config_file, "--as-engine", NAME, "--", "sleep", "600")
            status += 10 * (before != [signal.getsignal(one) for one in enter.ENDING])
        finally:
            os._exit(status)
    assert soon(begun.exists)
    for one in sent:
        os.kill(child, one)
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    unit, held = asked.read_text().split()
    assert unit.startswith(f"{host.config['unit']}-enter-{NAME}-") and held == "held"
    assert not os.path.exists(f"/proc/{begun.read_text().strip()}")  # nor does anybody wait for it
    assert not cells.in_use(cell) and os.listdir(secrets(host)) == [] and sessions.listing(host.config) == []
    told = next(one for one in sent if one not in ignored).name
    assert capfd.readouterr().err == f"loop: ended by {told}: what ran in {NAME} was stopped\n"
    assert [signal.getsignal(one) for one in enter.ENDING] == before
    subprocess.run(["rm", "-r", sessions.directory(host.config), str(secrets(host))], check=True)


def test_it_is_measured_again_afterwards(host: Box) -> None:
    cell = host.kept(NAME, size=1)
    with enter.opened(host.config, cell, []):
        write(Path(cell.part("runs")), {"new.md": "x" * 10_000})
    assert cells.manifest_of(cell).size > 10_000
    assert os.lstat(cell.path).st_mode & 0o777 == 0o700
    secrets(host).rmdir()


def test_an_adopted_one_is_seen_where_its_paths_say(host: Box) -> None:
    cell = host.kept(NAME, "adopted")
    os.rmdir(cell.part("memory"))
    old_runs, old_home = Path(cell.path, "runs"), Path(cell.path, "home of old")
    write(old_runs, {"issue_x_1/state.json": "{}", "odd:name%/x": "", "20260101T000000Z-00000000/x": ""})
    old_home.mkdir()
    binds = ((str(old_runs), str(host.runs)), (str(old_home), "/home/lo op"), (f"{cell.path}/none", "/none"))
    told = [word for word in enter._places(host.config, cell, cells.Manifest("adopted", binds=binds)) if word != "-p"]
    assert f"BindPaths={cell.part('memory')}" not in told
    assert f"BindPaths={old_runs}/issue_x_1:{host.runs}/issue_x_1" in told
    assert f"BindPaths={old_runs}/odd\\:name%%:{host.runs}/odd\\:name%%" in told
    assert f"BindPaths={cell.path}/home\\ of\\ old:/home/lo\\ op" in told
    assert not [one for one in told if "/none" in one or "20260101T000000Z" in one]


@pytest.mark.parametrize(
    "words",
    [[], ["a", "b"], ["-x"], ["--as-engine"], ["a", "--help"], ["--", "sh"], ["--as-engine", "a", "b", "--", "sh"]],
)
def test_how_it_is_used(host: Box, words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert enter.main(host.config_file, *words) == 2
    assert capfd.readouterr().err == f"{enter.USAGE}\n"


def test_what_cannot_be_opened_is_one_line(host: Box, capfd: pytest.CaptureFixture[str]) -> None:
    assert enter.main(host.config_file, "none") == 1
    assert enter.main(f"{host.top}/none.json", "none") == 1
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2 and all(line.startswith("loop: ") for line in said)


def test_what_it_says_is_cleaned_and_cut(host: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = host.kept(NAME)

    @contextlib.contextmanager
    def opened(_config: Any, _cell: Cell, command: Sequence[str], **_more: Any) -> Iterator[list[str]]:
        yield list(command)

    monkeypatch.setattr(enter, "opened", opened)
    done = enter.run(host.config, cell, ["sh", "-c", r"printf '\033[2J\377\n'; seq 600; echo no >&2; exit 7"])
    assert (done["exit_status"], len(done["lines"])) == (7, 500)
    assert done["lines"][-1] == "no" and all(line.isprintable() for line in done["lines"])
    done = enter.run(host.config, cell, ["sh", "-c", r"printf '\033[2J\377\n'"])
    assert done["lines"] == ["\\x1b[2J\\xff"]
    with pytest.raises(LoopError, match=r"took longer than 0\.2 s"):
        enter.run(host.config, cell, ["sleep", "30"], seconds=0.2)


def test_what_says_a_great_deal_costs_root_no_memory(played: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, worktree = worked(played)
    loud = "import os; [os.write(1, b'x' * (1 << 20)) for _ in range(64)]; os.write(2, b'\\nthe end\\n')"
    command = [sys.executable, "-c", loud]
    tracemalloc.start()
    try:
        said = programs.ends(command, 60, 0, enter.MAX_SAID)
        assert tracemalloc.get_traced_memory()[1] < 8 * enter.MAX_SAID
    finally:
        tracemalloc.stop()
    assert said.status == 0 and said.lines()[-1] == "the end" and said.left_out > 60 << 20
    for number in range(600):  # each of them is named as left out
        (worktree / f"{number:04}{'n' * 200}").touch(0o000)
    give(worktree, LOOP)
    (brought,) = enter.bring(played.config, cell, "rescue/7")["brought"]
    assert len(brought["left_out"]) == 21 and brought["left_out"][-1] == "and 580 more"
    monkeypatch.setattr(enter, "MAX_SAID", 10_000)
    shutil.rmtree(os.path.dirname(brought["path"]))
    (brought,) = enter.bring(played.config, cell, "rescue/8")["brought"]
    assert brought["left_out"][-1] == "and more"


def test_what_never_ends_is_not_waited_for(played: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, _worktree = worked(played)
    monkeypatch.setattr(enter, "PACK_SECONDS", 0.0)
    with pytest.raises(LoopError, match="was not packed in 0 h"):
        enter.bring(played.config, cell, "rescue/7")
    assert sorted(os.listdir(played.config["pristine_dir"])) == [".private", "app.git"]


# --- bringing work out


def worked(host: Box) -> tuple[Cell, Path]:
    """A kept cell whose run has a commit, changed files, new files and ignored ones in its worktree."""
    host.repository("app")
    host.commit("app", {".gitignore": "*.log\n"})
    host.write_config()
    pristine.refresh(host.config)
    cell = host.cell(NAME, outcome="error")
    as_user(LOOP, lambda: pristine.check_out(host.config, cell.part("workspace")))
    checkout, worktree = (
        Path(cell.part("workspace"), "app"),
        Path(cell.part("runs"), CHANGE, "worktrees", f"app-{CHANGE}"),
    )
    git(checkout, "worktree", "add", "-q", "-b", "hyrule-feature/x", str(worktree))
    write(worktree, {"docs/committed.md": "c\n"})
    git(worktree, "add", "-A")
    git(worktree, "commit", "-q", "-m", "Work")
    write(worktree, {"docs/new.md": "n\n", "docs/0.md": "changed\n", "noise.log": "x"})
    give(cell.part("workspace"), LOOP)
    give(cell.part("runs"), LOOP)
    cells.close(cell)
    return cell, worktree


@pytest.fixture
def played(host: Box, monkeypatch: pytest.MonkeyPatch) -> Box:
    """systemd-run's part: the command runs as the loop's user, in the cell's runs."""

    @contextlib.contextmanager
    def opened(_config: Any, cell: Cell, command: Sequence[str], **_more: Any) -> Iterator[list[str]]:
        os.chmod(cell.path, 0o755)  # it is mounted for it
        load = (
            f"from {enter.__name__} import {command[1]} as main"  # first: the user may not read this Python's library
        )
        home = {"HOME": cell.part("state"), "PATH": os.environ["PATH"]}
        there = f"{PROGRAM}import os, sys; sys.path.insert(0, {str(COLLECTIONS)!r}); {load}; "
        there += f"os.setgroups([]); os.setgid({gid(LOOP)}); os.setuid({uid(LOOP)}); os.environ.clear(); "
        there += f"os.environ.update({home!r}); os.chdir({cell.part('runs')!r}); sys.exit(main(*sys.argv[1:]))"
        yield [sys.executable, "-c", there, *command[2:]]
        os.chmod(cell.path, 0o700)

    monkeypatch.setattr(enter, "opened", opened)
    return host


def test_work_is_brought_as_a_branch(played: Box) -> None:
    cell, _worktree = worked(played)
    told = enter.bring(played.config, cell, "rescue/7", check=True)
    place = f"{played.config['state_dir']}/restored/{cell.id}/app"
    one = {"checkout": "app", "path": place, "branch": "rescue/7", "left_out": []}
    assert told == {"changed": True, "brought": [one]}
    assert not os.path.exists(place)
    assert enter.bring(played.config, cell, "rescue/7") == told
    assert git(place, "branch", "--show-current") == "rescue/7" and git(place, "status", "--short") == ""
    assert git(place, "log", "--format=%s", "origin/main..") == "What was not committed when the cycle ended\nWork"
    files = {name: text for name, text in shape(place).items() if not name.startswith(".git/")}
    assert files == {
        "docs/committed.md": "c\n", "docs/new.md": "n\n", "docs/0.md": "changed\n", "docs/1.md": "1\n",
        ".gitignore": "*.log\n",
    }  # fmt: skip
    assert git(place, "remote", "get-url", "origin") == f"{played.top}/remotes/app.git"
    assert {os.lstat(base).st_uid for base, _folders, _names in os.walk(place)} == {0}
    assert sorted(os.listdir(played.config["pristine_dir"])) == [".private", "app.git"]
    with pytest.raises(LoopError, match="is there already: move it away"):
        enter.bring(played.config, cell, "rescue/7")


def test_the_worktree_stays_as_it_is(played: Box) -> None:
    cell, worktree = worked(played)
    before = dict(shape(worktree).items())
    enter.bring(played.config, cell, "rescue/7")
    assert shape(worktree) == before
    assert git(worktree, "log", "-1", "--format=%s") == "Work"


@pytest.mark.parametrize("branch", ["", "-x", "a..b", "a b", "x.lock", "/x", "refs/heads/\x1b"])
def test_a_name_that_is_no_branch(played: Box, branch: str) -> None:
    cell = played.kept(NAME)
    with pytest.raises(LoopError, match="check-ref-format"):
        enter.bring(played.config, cell, branch)


@pytest.mark.parametrize("check", [True, False])
def test_a_branch_that_cannot_be_made_is_refused_before_anything_is_done(played: Box, check: bool) -> None:
    cell, _worktree = worked(played)
    with pytest.raises(LoopError, match=r"^main/7 cannot be a branch where main is one: choose another name$"):
        enter.bring(played.config, cell, "main/7", check=check)
    assert not os.path.exists(f"{played.config['state_dir']}/restored")
    (brought,) = enter.bring(played.config, cell, "main", check=check)["brought"]  # as any other
    assert os.path.exists(brought["path"]) is not check


def test_a_cell_without_work_says_so(played: Box) -> None:
    cell = played.kept(NAME)
    hostile = Path(cell.part("runs"))
    write(hostile, {"x/worktrees/app-y/.git": "", "\x1b[2J/worktrees/app-\x1b[2J/.git": "", "z/worktrees/-z/.git": ""})
    (hostile / "w").mkdir()
    (hostile / "w/worktrees").symlink_to("/etc")
    give(hostile, LOOP)
    with pytest.raises(
        LoopError, match=rf"has no worktree of a run: look with sudo {played.top}/lib/loop enter {NAME}$"
    ):
        enter.bring(played.config, cell, "rescue/7")


def test_what_cannot_be_packed_is_one_line(played: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, _worktree = worked(played)
    monkeypatch.setattr(enter, "MAX_BUNDLE", 1)
    with pytest.raises(LoopError, match="cannot be packed: ") as caught:
        enter.bring(played.config, cell, "rescue/7")
    assert str(caught.value).isprintable()
    assert sorted(os.listdir(played.config["pristine_dir"])) == [".private", "app.git"]


def test_files_come_out_of_a_worktree_whose_repository_is_gone(played: Box) -> None:
    cell, worktree = worked(played)
    (worktree / ".git").write_text("gitdir: /nowhere\x1b[2J\n")
    os.mkfifo(worktree / "pipe")
    (brought,) = enter.bring(played.config, cell, "rescue/7")["brought"]
    assert os.path.isdir(brought["path"])
    assert not os.path.lexists(f"{brought['path']}/pipe")


def test_what_git_cannot_have_is_named_and_stays(played: Box) -> None:
    cell, worktree = worked(played)
    write(worktree, {"closed/x": "x", "secret.md": "s"})
    give(worktree, LOOP)
    (worktree / "closed").chmod(0)
    (worktree / "secret.md").chmod(0)
    (brought,) = enter.bring(played.config, cell, "rescue/7")["brought"]
    assert "secret.md" in brought["left_out"] and "closed" in " ".join(brought["left_out"])
    assert Path(brought["path"], "docs/new.md").read_text() == "n\n"
    assert not {"secret.md", "closed"} & set(os.listdir(brought["path"]))


def blob(brought: dict[str, Any], name: str) -> bytes:
    """A file as it is in the branch, whatever the clone's attributes make of it."""
    words = ["git", "-c", "safe.directory=*", "cat-file", "blob", f"HEAD:{name}"]
    return subprocess.run(words, cwd=brought["path"], capture_output=True, check=True).stdout


def test_a_file_that_is_not_as_its_attributes_say_comes_as_it_stands(played: Box) -> None:
    cell, worktree = worked(played)
    rules = "*.ps1 working-tree-encoding=UTF-16\ndocs/0.md working-tree-encoding=UTF-16\n*.txt text\n*.bat eol=crlf\n"
    files = {
        "run.ps1": b"Write-Host hello\n", "docs/0.md": b"a day of work\n", "odd.ps1": b"\xff\x00\x80",
        "mixed.txt": b"a\r\nb\n", "mixed.bat": b"a\r\nb\n", "line\nend.ps1": b"odd", "docs/committed.md": b"more\n",
    }  # fmt: skip
    write(worktree, {".gitattributes": rules})
    for name, content in files.items():
        (worktree / name).write_bytes(content)
    give(worktree, LOOP)
    (brought,) = enter.bring(played.config, cell, "rescue/7")["brought"]
    assert brought["left_out"] == []
    assert {name: blob(brought, name) for name in files} == files
    assert blob(brought, "docs/new.md") == b"n\n"


def test_what_a_repository_converts_is_no_change(played: Box) -> None:
    played.repository("app")
    rules = "*.bat text eol=crlf\n*.ps1 text working-tree-encoding=UTF-16\n"
    played.commit("app", {".gitattributes": rules, "a.bat": "1\n2\n", "b.bat": "1\n2\n"})
    (played.top / "work/app/a.ps1").write_text("1\n", encoding="utf-16")
    played.commit("app", {})
    played.write_config()
    pristine.refresh(played.config)
    cell = played.cell(NAME, outcome="error")
    as_user(LOOP, lambda: pristine.check_out(played.config, cell.part("workspace")))
    worktree = Path(cell.part("runs"), CHANGE, "worktrees", f"app-{CHANGE}")
    git(Path(cell.part("workspace"), "app"), "worktree", "add", "-q", "-b", "hyrule-feature/x", str(worktree))
    assert (worktree / "a.bat").read_bytes() == b"1\r\n2\r\n"
    (worktree / "b.bat").write_bytes(b"1\r\n3\r\n")
    for part in ("workspace", "runs"):
        give(cell.part(part), LOOP)
    cells.close(cell)
    (brought,) = enter.bring(played.config, cell, "rescue/7")["brought"]
    assert git(brought["path"], "diff", "--name-only", "origin/main") == "b.bat" and brought["left_out"] == []
    assert blob(brought, "b.bat") == b"1\n3\n" and blob(brought, "a.ps1") == b"1\n"
    assert Path(brought["path"], "b.bat").read_bytes() == b"1\r\n3\r\n"
    assert git(brought["path"], "status", "--short") == ""


def test_what_became_of_tracked_files(played: Box) -> None:
    cell, worktree = worked(played)
    kinds = ("closed", "pipe", "gone", "folder", "link", "large", "mode", "below/one", "aside/one", "same")
    write(worktree, {f"kind/{name}": name for name in kinds})
    git(worktree, "add", "-A")
    git(worktree, "commit", "-q", "-m", "Kinds")
    kind = worktree / "kind"
    for name in ("pipe", "gone", "folder", "link", "below/one", "aside/one"):
        (kind / name).unlink()
    write(kind, {"closed": "more", "folder/x": "x"})
    (kind / "closed").chmod(0)
    os.mkfifo(kind / "pipe")
    (kind / "link").symlink_to("same")
    (kind / "below").rmdir()
    (kind / "below").write_text("a file now")
    (kind / "aside").rmdir()
    (kind / "aside").symlink_to("/")  # where one may stand
    os.truncate(kind / "large", enter.MAX_FILE + 1)
    (kind / "mode").chmod(0o755)
    for name in (".git.x", "git~1"):  # the second is another name of a repository, elsewhere
        (worktree / name).write_text("x")
    (worktree / "other").mkdir()
    git(worktree / "other", "init", "-q")
    give(cell.part("workspace"), LOOP)
    give(worktree, LOOP)
    (brought,) = enter.bring(played.config, cell, "rescue/7")["brought"]
    assert sorted(brought["left_out"]) == ["git~1", "kind/closed", "kind/large", "kind/pipe", "other/"]
    assert shape(f"{brought['path']}/kind") == {
        "closed": "closed", "pipe": "pipe", "large": "large",  # as they were committed
        "folder/x": "x", "link": "-> same", "mode": "mode", "below": "a file now", "aside": "-> /", "same": "same",
    }  # fmt: skip
    assert os.access(f"{brought['path']}/kind/mode", os.X_OK) and (Path(brought["path"]) / ".git.x").exists()


def test_a_closed_directory_of_tracked_files_is_named(played: Box) -> None:
    cell, worktree = worked(played)
    (worktree / "docs").chmod(0)
    (brought,) = enter.bring(played.config, cell, "rescue/7")["brought"]
    assert "docs/" in " ".join(brought["left_out"]) and blob(brought, "docs/0.md") == b"0\n"


def test_files_come_out_where_a_commit_is_broken(played: Box) -> None:
    cell, worktree = worked(played)
    blob = git(worktree, "rev-parse", "HEAD:docs/committed.md")
    Path(cell.part("workspace"), "app/.git/objects", blob[:2], blob[2:]).unlink()
    (brought,) = enter.bring(played.config, cell, "rescue/7")["brought"]
    assert [line for line in brought["left_out"] if line.startswith("the commits of its repository (")]
    assert Path(brought["path"], "docs/committed.md").read_text() == "c\n"
    assert git(brought["path"], "log", "--format=%s", "origin/main..").splitlines() == [
        "What was not committed when the cycle ended"
    ]


def test_work_in_a_repository_of_its_own_comes_out(played: Box) -> None:
    cell, worktree = worked(played)
    (worktree / ".git").unlink()
    git(worktree, "init", "-q")
    git(worktree, "add", "-A")
    git(worktree, "commit", "-q", "-m", "Own")
    give(worktree, LOOP)
    (brought,) = enter.bring(played.config, cell, "rescue/7")["brought"]
    assert git(brought["path"], "log", "--format=%s", "origin/main..") == "Own"  # all of it was committed


def test_what_an_older_layout_had_put_aside_comes_back(played: Box) -> None:
    with of_nobodys(worktree=True) as world:
        name = swept(world)["quarantined"][0]["id"]
        cell = played.kept(NAME, "adopted")
        places = (str(world.runs), str(world.root / "workspace"))
        cells.update(cell, binds=[[place, place] for place in places])
        done = enter.restore_earlier(played.config, name)
        assert done == {
            "id": NAME, "exit_status": 0, "lines": [f"{name} is back at {world.path}, branch {BRANCH}"]
        }  # fmt: skip
        assert (world.path / "untracked.txt").exists()
        assert enter.restore_earlier(played.config, "20260131T120000Z-0000000a-1") is None


def test_what_cannot_come_back_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert enter.earlier(f"{tmp_path}/.quarantine", "20260131T120000Z-0000000a-1", str(tmp_path)) == 1
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_without_what_root_hands_over_nobody_gets_in(
    host: Box, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(host.top / "none"))
    assert enter.inside(host.config_file, host.cell().path) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("loop: ")


def test_which_worktrees_there_are(
    host: Box, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, worktree = worked(host)
    write(Path(cell.part("runs")), {f"{CHANGE}/worktrees/other/x": "", f"{CHANGE}/state/run.json": "{}", "file": ""})
    monkeypatch.chdir(cell.part("runs"))
    assert enter.worktrees(host.config_file) == 0
    assert capfd.readouterr().out == f"app {worktree}\n"


# --- what is received


def bundle(host: Box, make: str) -> str:
    """A bundle as a hostile cell would write it: its commit has what git's checks refuse."""
    work = host.top / "work/app"
    blob = git(work, "hash-object", "-w", "docs/0.md")
    if make == "dotgit":
        listing = f"100644 blob {blob}\t.git\n"
        done = subprocess.run(["git", "mktree"], cwd=work, input=listing, capture_output=True, text=True, check=True)
        commit = git(work, "commit-tree", done.stdout.strip(), "-p", "HEAD", "-m", "x")
    elif make == "commit":
        tree = git(work, "rev-parse", "HEAD^{tree}")
        text = f"tree {tree}\nauthor x <x> nonsense\ncommitter x <x> nonsense\n\nx\n"
        words = ["git", "hash-object", "-t", "commit", "-w", "--stdin", "--literally"]
        done = subprocess.run(words, cwd=work, input=text, capture_output=True, text=True, check=True)
        commit = done.stdout.strip()
    else:
        write(work, {"good.md": "x"})
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", "Good")
        commit = git(work, "rev-parse", "HEAD")
    git(work, "update-ref", enter.BRINGING, commit)
    path = f"{host.config['pristine_dir']}/.bundle-x"
    git(work, "bundle", "create", "-q", path, enter.BRINGING, "--not", "origin/main")
    os.chmod(path, 0o644)
    return path


@pytest.mark.parametrize("make", ["good", "dotgit", "commit", "garbage", "cut"])
def test_objects_are_checked_one_by_one(host: Box, make: str) -> None:
    host.repository("app")
    pristine.refresh(host.config)
    (clone,) = pristine.clones(host.config)
    path = bundle(host, make)
    if make == "garbage":
        Path(path).write_bytes(b"x" * 1000)
    elif make == "cut":
        os.truncate(path, os.path.getsize(path) - 30)
    making, place = f"{host.config['pristine_dir']}/.bringing-x", f"{host.top}/restored/x/app"

    def receive() -> None:
        rescue = pristine.Rescue("x", place, "rescue/7")
        pristine.hand_out(host.config, clone, rescue, lambda made: enter._received(path, made))

    if make == "good":
        receive()
        assert git(place, "log", "-1", "--format=%s", "rescue/7") == "Good"
        assert git(place, "for-each-ref", "refs/loop-bring") == ""
        return
    with pytest.raises(LoopError) as caught:
        receive()
    assert "\n" not in str(caught.value)
    assert not os.path.lexists(place) and not os.path.lexists(making)  # no branch of it anywhere


# --- inside


def test_the_environment_in_it(host: Box, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    cell = host.cell()
    given = {"environment": {"OPENAI_API_KEY": "k"}, "model_policy": "", "network": 0}
    write(host.top / "run", {enter.HANDED: json.dumps(given)})
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(host.top / "run"))
    seen: dict[str, Any] = {}
    monkeypatch.setattr(os, "execve", lambda program, words, environment: seen.update(
        program=program, words=words, environment=environment, at=os.getcwd()))  # fmt: skip
    bounds: list[Any] = []  # set for real, they would stay with all other tests
    monkeypatch.setattr(sandbox.resource, "setrlimit", lambda *given: bounds.append(given))
    before = os.getcwd()
    try:
        enter.inside(host.config_file, cell.path, "ls", "-l")
        most = int(number_of(host.config["cell_max_size"], "size"))
        assert bounds == [(resource.RLIMIT_FSIZE, (most, most))]
        assert (seen["words"], seen["at"]) == (["ls", "-l"], cell.part("runs"))
        assert seen["environment"]["HOME"] == cell.part("state") and seen["environment"]["OPENAI_API_KEY"] == "k"
        assert seen["environment"]["PATH"].startswith(f"{host.top}/lib/bin:")
        assert seen["environment"]["PATH"].endswith(f"{host.release}/.venv/bin")
        enter.inside(host.config_file, cell.path)
        assert seen["words"][0].endswith("sh") and seen["words"][-1] == "-i"
        assert enter.inside(host.config_file, cell.path, "no-such\x1b") == 127
        assert capfd.readouterr().err == "no-such\\x1b: not found\n"
    finally:
        os.chdir(before)
