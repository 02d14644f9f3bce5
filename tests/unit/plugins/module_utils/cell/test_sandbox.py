# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated code alone: the command line, what it names, and, where this machine can, bubblewrap itself.

Overlays need bubblewrap 0.11, which Debian 13 has: where it is older they are looked at in the command line, and run on
a booted host.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import wire
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import cells, sandbox
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell.cells import Cell
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import bubblewrap
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import LOOP, NEEDS_ROOT, Box, a_while, box, git, none_left, write
from changing import Changing

TEMPLATE = Path(__file__).resolve().parents[5] / "roles/engineering_loop/templates/loop.service.j2"


def bwrap(*words: str) -> bool:
    """Whether bubblewrap does this here."""
    command = [bubblewrap.BWRAP, "--unshare-user", "--ro-bind", "/", "/", *words, "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


class Inside:
    """A cell with a checkout and a worktree of a run."""

    def __init__(self, top: Path) -> None:
        self.runs = top / "runs"
        self.cell = Cell(f"{self.runs}/20260131T120000Z-1a2b3c4d")
        for part in cells.PARTS:
            os.makedirs(self.cell.part(part))
        self.config = Changing({
            "runs_dir": str(self.runs), "lib_dir": str(top / "lib"), "home_files": [], "caches": [],
            "egress": [],
            "agent_programs": ["pi"], "unit": "u",
        })  # fmt: skip
        self.checkout = Path(self.cell.part("workspace"), "app")
        git(self.runs, "init", "-q", "-b", "main", str(self.checkout))
        write(self.checkout, {"docs/a.md": "a\n"})
        git(self.checkout, "add", "-A")
        git(self.checkout, "commit", "-q", "-m", "Page")
        self.worktree = Path(self.cell.part("runs"), "x/worktrees/app-X")
        git(self.checkout, "worktree", "add", "-q", "-b", "work", str(self.worktree))

    def command(self, directory: Path | str) -> list[str]:
        return sandbox.command(self.config, self.cell, str(directory), ["/bin/agent", "--x"])


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    return Inside(tmp_path)


def pairs(words: list[str], option: str) -> list[tuple[str, str]]:
    return [(words[at + 1], words[at + 2]) for at, word in enumerate(words) if word == option]


# --- the command line


def test_in_a_worktree(inside: Inside) -> None:
    words = inside.command(inside.worktree / "docs")
    home, tree = inside.cell.part("home"), str(inside.worktree)
    repository = f"{inside.checkout}/.git"
    assert words[0] == "/usr/bin/bwrap"
    assert {"--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session"} <= set(words)
    assert pairs(words, "--ro-bind") == [("/", "/"), (f"{tree}/.git", f"{tree}/.git")]
    assert pairs(words, "--bind") == [(home, home), (tree, tree)]
    assert [words[at + 1] for at, word in enumerate(words) if word == "--tmpfs"] == ["/tmp", "/var/tmp", "/run"]
    assert [words[at : at + 4] for at, word in enumerate(words) if word == "--overlay-src"] == [
        ["--overlay-src", repository, "--tmp-overlay", repository]
    ]
    assert words.index("--tmp-overlay") > words.index("--bind")
    assert words[-8:] == ["--chdir", f"{tree}/docs", "--setenv", "HOME", home, "--", "/bin/agent", "--x"]


def test_in_a_checkout_the_repository_itself_is_covered(inside: Inside) -> None:
    words = inside.command(inside.checkout)
    repository = f"{inside.checkout}/.git"
    assert (str(inside.checkout), str(inside.checkout)) in pairs(words, "--bind")
    assert words[words.index("--overlay-src") + 1] == repository
    assert words.index("--overlay-src") > words.index(str(inside.checkout))
    assert pairs(words, "--ro-bind") == [("/", "/")]


def test_elsewhere_only_the_home_is_written(inside: Inside) -> None:
    home = inside.cell.part("home")
    for directory in (home, "/", inside.cell.part("runs"), inside.runs):
        words = inside.command(directory)
        assert pairs(words, "--bind") == [(home, home)] and "--overlay-src" not in words


def test_files_and_caches_of_roots(inside: Inside) -> None:
    inside.config["home_files"] = [{"src": "/etc/pi", "dest": ".config/pi"}]
    inside.config["caches"] = [{"src": "/var/cache/uv", "dest": ".cache/uv"}]
    home, given = inside.cell.part("home"), f"{inside.cell.path}/given/.config/pi"
    assert given not in inside.command("/")  # in a cell of an older version
    write(Path(inside.cell.path), {"given/.config/pi": "x"})
    words = inside.command("/")
    assert (given, f"{home}/.config/pi") in pairs(words, "--ro-bind")
    at = words.index("--overlay-src")
    assert words[at : at + 4] == ["--overlay-src", "/var/cache/uv", "--tmp-overlay", f"{home}/.cache/uv"]
    assert words.index(home) < at


# --- which cell, worktree and repository


def test_which_cell(inside: Inside) -> None:
    config, path = inside.config, inside.cell.path
    for home in (f"{path}/home", f"{path}/state", f"{path}/state/x/y", f"{path}//home/"):
        assert sandbox.cell_of(config, home) == inside.cell
    odd = (
        "",
        "/",
        path,
        f"{inside.runs}/x/home",
        f"{path}/../x/home",
        "home",
        f"{inside.runs}/\x1b/home",
        f"{path}/..",
    )
    for home in odd:
        with pytest.raises(LoopError, match="lies in no cell below") as caught:
            sandbox.cell_of(config, home)
        assert str(caught.value).isprintable()


def test_which_worktree(inside: Inside) -> None:
    cell = inside.cell
    assert sandbox.worktree_of(cell, str(inside.worktree / "docs")) == str(inside.worktree)
    assert sandbox.worktree_of(cell, str(inside.checkout)) == str(inside.checkout)
    assert sandbox.worktree_of(cell, cell.part("runs")) == sandbox.worktree_of(cell, "/usr/bin") == ""
    (inside.runs / ".git").mkdir()  # above the cell: none of its own
    assert sandbox.worktree_of(cell, cell.part("runs")) == ""
    outside = inside.runs.parent / "outside"
    git(inside.runs, "init", "-q", str(outside))
    (inside.worktree / "out").symlink_to(outside)
    assert sandbox.worktree_of(cell, str(inside.worktree / "out")) == ""
    assert sandbox.worktree_of(cell, f"{inside.worktree}/none/at/all") == str(inside.worktree)


def test_which_repository(inside: Inside) -> None:
    repository = f"{inside.checkout}/.git"
    assert sandbox.repository_of(inside.cell, str(inside.worktree)) == repository
    assert sandbox.repository_of(inside.cell, str(inside.checkout)) == repository
    (inside.worktree / ".git").write_text(f"gitdir: ../../../../workspace/app/.git/worktrees/{inside.worktree.name}\n")
    assert sandbox.repository_of(inside.cell, str(inside.worktree)) == repository


@pytest.mark.parametrize(
    "text",
    [b"", b"gitdir: /\n", b"gitdir: /etc\n", b"gitdir: ../../../../../..\n", bytes([255]), b"x" * 5000, b"gitdir: \n",
     b"gitdir: CELL/workspace/../../other/workspace/app/.git\n", b"gitdir: CELL/home/.git\n",
     b"gitdir: CELL/workspace/app\n",
     b"gitdir: CELL/workspace/app/.git-evil/x\n", b"gitdir: CELL/workspace/.git\n",
     b"gitdir: CELL/workspace/a/b/.git\n"],
)  # fmt: skip
def test_a_hostile_git_file_names_no_repository(inside: Inside, text: bytes) -> None:
    (inside.worktree / ".git").write_bytes(text.replace(b"CELL", inside.cell.path.encode()))
    assert sandbox.repository_of(inside.cell, str(inside.worktree)) == ""
    assert "--overlay-src" not in inside.command(inside.worktree)


def test_a_git_that_is_no_file(inside: Inside) -> None:
    path = inside.worktree / ".git"
    path.unlink()
    os.mkfifo(path)
    assert sandbox.repository_of(inside.cell, str(inside.worktree)) == ""
    path.unlink()
    path.symlink_to("/etc")
    assert sandbox.repository_of(inside.cell, str(inside.worktree)) == ""
    path.unlink()
    path.symlink_to(path)
    assert sandbox.repository_of(inside.cell, str(inside.worktree)) == ""
    path.unlink()
    path.symlink_to(inside.checkout / ".git")
    assert sandbox.repository_of(inside.cell, str(inside.worktree)) == f"{inside.checkout}/.git"


def test_a_nul_in_it(inside: Inside) -> None:
    (inside.worktree / ".git").write_bytes(b"gitdir: a" + bytes([0]) + b"b\n")
    assert sandbox.repository_of(inside.cell, str(inside.worktree)) == ""


# --- the environment


def test_a_gate_command_gets_what_ci_would_give_it() -> None:
    given = {
        "PATH": "/usr/bin", "LANG": "C.UTF-8", "LC_ALL": "C", "TERM": "xterm", "HTTPS_PROXY": "http://p:3128",
        "SSL_CERT_FILE": "/c", "GH_TOKEN": "t", "OPENAI_API_KEY": "k", "HYRULE_POLICY_FILE": "/p", "HOME": "/h",
        "ENGINEERING_LOOP_SETTINGS": "/s", "GIT_CONFIG_COUNT": "1", "GIT_ASKPASS": "/a", "PYTHONUNBUFFERED": "1",
        "LD_PRELOAD": "/x", "CREDENTIALS_DIRECTORY": "/c", "INVOCATION_ID": "i", "NOTIFY_SOCKET": "/n",
    }  # fmt: skip
    assert sandbox.gate_environment(given) == {
        "PATH": "/usr/bin", "LANG": "C.UTF-8", "LC_ALL": "C", "TERM": "xterm", "HTTPS_PROXY": "http://p:3128",
        "SSL_CERT_FILE": "/c", "CI": "true",
    }  # fmt: skip


def test_what_no_agent_gets() -> None:
    given = {"PATH": "/usr/bin", "OPENAI_API_KEY": "k", "HOME": "/h", "LC_ALL": "C"}
    others = ["GH_TOKEN", "GITHUB_TOKEN", "GIT_ASKPASS", "HYRULE_POLICY_FILE", "ENGINEERING_LOOP_SECRETS"]
    config = Settings({"agent_environment": {}})
    assert sandbox.agent_environment({**given, **dict.fromkeys(others, "x")}, config) == {**given, **sandbox.QUIET}


def test_what_the_operator_has_for_the_agent() -> None:
    config = Settings({"agent_environment": {"EDITOR": "true", "LANG": "C.UTF-8"}})
    seen = sandbox.agent_environment({"PATH": "/usr/bin", "LANG": "de"}, config)
    assert seen == {"PATH": "/usr/bin", "EDITOR": "true", "LANG": "C.UTF-8", **sandbox.QUIET}


def test_path_without_our_programs() -> None:
    assert (
        sandbox.plain_path(Settings({"lib_dir": "/lib/loop"}), "/lib/loop/bin:/usr/bin::/bin:/lib/loop/bin")
        == "/usr/bin:/bin"
    )


# --- what shuts a person in


def test_the_units_sandbox_is_a_persons() -> None:
    text = """
    # /etc/systemd/system/u.service
    [Unit]
    ProtectSystem=no
    [Service]
    # ProtectHome=no
    ; ProtectHome=no
    Type=oneshot
    User=loop
    ExecStartPre=+/x
    ExecStart=/lib/loop cycle
    ReadWritePaths=/var/lib/runs
    ProtectSystem=strict
    TemporaryFileSystem=/run:ro,mode=0755
    SystemCallFilter=@system-service
    SystemCallFilter=~@privileged
    Environment=A=b
    UMask=0077
    TimeoutStartSec=3h
    CapabilityBoundingSet=

    # /etc/systemd/system/u.service.d/x.conf
    [Service]
    MemoryMax=4G
    PrivateTmp=disconnected
    [Install]
    ProtectHome=no
    """
    assert sandbox.properties(text) == [
        "-p", "ProtectSystem=strict", "-p", "TemporaryFileSystem=/run:ro,mode=0755",
        "-p", "SystemCallFilter=@system-service",
        "-p", "SystemCallFilter=~@privileged", "-p", "CapabilityBoundingSet=", "-p", "MemoryMax=4G",
        "-p", "PrivateTmpEx=disconnected",
    ]  # fmt: skip
    assert sandbox.properties("") == []


def test_all_of_the_roles_unit_that_shuts_in_is_taken() -> None:
    text = TEMPLATE.read_text().partition("[Service]")[2] + TEMPLATE.with_name("engine-shut.j2").read_text()
    lines = [line.strip() for line in text.splitlines()]
    options = sandbox.properties("[Service]\n" + "\n".join(line for line in lines if not line.startswith("{%")))
    names = {word.partition("=")[0] for word in options[1::2]}
    assert {"ProtectSystem", "ProtectHome", "PrivateTmp", "NoNewPrivileges", "RestrictNamespaces",
            "SystemCallFilter", "TemporaryFileSystem", "CapabilityBoundingSet",
            "RestrictAddressFamilies"} <= names  # fmt: skip
    assert not names & {"User", "Group", "ExecStart", "ExecStartPre", "ExecStopPost", "Type", "ReadWritePaths",
                        "RuntimeDirectory", "TimeoutStopSec", "UMask", "KillMode", "SuccessExitStatus"}  # fmt: skip


# --- bubblewrap itself


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        found.write_config()
        yield found


def alone(host: Box, directory: str, script: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """What a script sees as the loop's user, alone."""
    (cell,) = [cell for cell, _manifest in cells.listing(str(host.runs))]
    words = sandbox.command(Settings(host.config, **more), cell, directory, ["/bin/sh", "-c", script])
    environment = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(
        words, env=environment, user=LOOP, group=os.stat(cell.part("home")).st_gid, extra_groups=[], cwd="/",
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@NEEDS_ROOT
def test_it_sees_no_process_but_its_own_and_writes_its_home_alone(host: Box) -> None:
    cell = host.cell()
    places = " ".join([cell.path, cell.part("state"), cell.part("runs"), str(host.runs), str(host.memory), "/etc", "/"])
    script = f"""
    ls -d /proc/[0-9]* | wc -l
    ls -A /run /tmp /var/tmp
    touch "$HOME/mine" /tmp/mine && rm /tmp/mine
    for place in {places}; do touch "$place/x" 2>/dev/null; done
    kill -9 {os.getpid()} 2>/dev/null && echo killed
    true
    """
    done = alone(host, cell.part("home"), script)
    lines = done.stdout.split("\n")
    assert done.returncode == 0, done.stderr
    assert 1 <= int(lines[0]) <= 5
    assert "killed" not in done.stdout
    assert [place for place in places.split() if os.path.lexists(f"{place}/x")] == []  # what it had of /tmp was its own
    assert os.listdir(cell.part("home")) == ["mine"]


@NEEDS_ROOT
def test_nothing_of_it_survives(host: Box) -> None:
    cell = host.cell()
    long = a_while()
    done = alone(host, cell.part("home"), f"setsid sh -c 'sleep {long}' </dev/null >/dev/null 2>&1 & echo $$")
    assert done.returncode == 0
    assert none_left(long)  # its first process is killed as bwrap ends, and may take a moment


@NEEDS_ROOT
def test_a_file_of_roots_in_its_home_stays_roots(host: Box) -> None:
    (host.top / "etc/auth.json").write_text("{}")
    host.config["home_files"] = [{"src": f"{host.top}/etc/auth.json", "dest": ".pi/auth.json"}]
    cell = host.cell()
    script = 'cd "$HOME/.pi"; cat auth.json; rm -f auth.json; echo x >x; mv x auth.json; echo evil >auth.json'
    done = alone(host, cell.part("home"), script)
    assert done.stdout.startswith("{}") and done.returncode != 0
    assert Path(cell.part("home"), ".pi/auth.json").read_text() == "{}"


@NEEDS_ROOT
def test_what_ran_before_gives_the_next_program_no_file_of_its_own_for_roots(host: Box) -> None:
    (host.top / "etc/auth.json").write_text("{}")
    host.config["home_files"] = [{"src": f"{host.top}/etc/auth.json", "dest": ".pi/agent/auth.json"}]
    home = host.cell().part("home")
    done = alone(
        host, home, 'cd "$HOME"; mv .pi old && mkdir -p .pi/agent && echo evil >.pi/agent/auth.json && echo made'
    )
    assert done.stdout == "made\n", done.stderr
    assert alone(host, home, 'cat "$HOME/.pi/agent/auth.json"').stdout == "{}"
    assert alone(host, home, 'rm -r "$HOME/.pi" && echo gone').stdout == ""  # it is mounted there
    assert alone(host, home, 'cd "$HOME"; mv .pi older && echo made').stdout == "made\n"
    assert alone(host, home, 'cat "$HOME/.pi/agent/auth.json"').stdout == "{}"


@NEEDS_ROOT
@pytest.mark.parametrize("link", [".pi", ".pi/agent", ".pi/agent/auth.json", ".cache", ".cache/uv"])
def test_what_ran_before_does_not_choose_where_something_of_roots_is_mounted(host: Box, link: str) -> None:
    (host.top / "etc/auth.json").write_text("{}")
    host.config["home_files"] = [{"src": f"{host.top}/etc/auth.json", "dest": ".pi/agent/auth.json"}]
    host.config["caches"] = [{"src": f"{host.top}/etc", "dest": ".cache/uv"}]
    cell = host.cell()
    place = Path(cell.part("home"), link)
    shutil.rmtree(Path(cell.part("home"), link.split("/")[0]), ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to("/run")
    with pytest.raises(LoopError, match=rf"{re.escape(str(place))} was made a link by what ran before"):
        sandbox.command(Settings(host.config), cell, cell.part("home"), ["true"])


@NEEDS_ROOT
def test_a_host_that_can_shut_in_is_fine(host: Box) -> None:
    cell = host.cell()
    assert as_user(LOOP, lambda: sandbox.check(host.config, cell)) is None


def test_a_host_that_cannot_says_how_to_allow_it(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def becomes(text: str) -> None:
        program = tmp_path / "bwrap"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sandbox, "BWRAP", str(program))

    becomes("exit 0")
    sandbox.check(inside.config, inside.cell)
    becomes("printf 'one\\nbwrap: \\033[2JNo permissions to create new namespace\\n' >&2; exit 1")
    with pytest.raises(LoopError, match=r"the agent cannot be shut in .*No permissions.*sysctl -w kernel") as caught:
        sandbox.check(inside.config, inside.cell)
    assert str(caught.value).isprintable()
    becomes("exit 3")
    with pytest.raises(LoopError, match="no message"):
        sandbox.check(inside.config, inside.cell)
    monkeypatch.setattr(sandbox, "BWRAP", f"{tmp_path}/none")
    with pytest.raises(LoopError, match="none is missing, which shuts the agent in: install Debian's bubblewrap"):
        sandbox.check(inside.config, inside.cell)
    (tmp_path / "plain").write_text("")
    monkeypatch.setattr(sandbox, "BWRAP", f"{tmp_path}/plain")
    with pytest.raises(LoopError, match="the agent cannot be shut in: "):
        sandbox.check(inside.config, inside.cell)


# --- the programs of ours


@pytest.fixture
def door(inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a program of ours would become, and what it tells the watch."""
    seen: dict[str, Any] = {"told": []}
    from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import settings

    config = {**{key: kind() for key, kind in settings.KEYS.items()}, **inside.config, "unit": "u"}
    (tmp_path / "loop.json").write_text(json.dumps(config))
    for place in ("lib/bin", "real"):
        write(tmp_path / place, {"pi": "#!/bin/sh\n", "pytest": "#!/bin/sh\n"})
        for name in ("pi", "pytest"):
            (tmp_path / place / name).chmod(0o755)
    monkeypatch.setenv(sandbox.SETTINGS, f"{tmp_path}/loop.json")
    monkeypatch.setenv("HOME", inside.cell.part("state"))
    monkeypatch.setenv("PATH", f"{tmp_path}/lib/bin:{tmp_path}/real")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.chdir(inside.worktree)
    monkeypatch.setattr(wire, "tell", lambda _config, message: seen["told"].append(message))
    monkeypatch.setattr(os, "execve", lambda program, words, environment: seen.update(
        program=program, words=words, environment=environment))  # fmt: skip
    return seen


def test_the_watch_hears_of_an_agent_before_it_starts(door: dict[str, Any], tmp_path: Path, inside: Inside) -> None:
    sandbox.alone("pi", "--print", "a b")
    assert door["told"] == [{"what": "agent", "program": "pi"}]
    assert door["words"][-3:] == [f"{tmp_path}/real/pi", "--print", "a b"] and door["program"] == bubblewrap.BWRAP
    assert door["environment"]["OPENAI_API_KEY"] == "k" and door["environment"]["PATH"] == f"{tmp_path}/real"
    assert (str(inside.worktree), str(inside.worktree)) in pairs(door["words"], "--bind")


def test_a_gate_command_is_no_agent_and_gets_no_key(door: dict[str, Any]) -> None:
    sandbox.alone("pytest", "-q")
    assert door["told"] == [] and "OPENAI_API_KEY" not in door["environment"]
    assert door["environment"]["CI"] == "true" and sandbox.SETTINGS not in door["environment"]


def test_what_cannot_be_shut_in_is_not_started(
    door: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(_config: Any, _message: Any) -> None:
        raise LoopError("the watch beside the cycle does not answer")

    assert sandbox.alone("make") == 127
    monkeypatch.setattr(wire, "tell", refuse)
    assert sandbox.alone("pi") == 126
    monkeypatch.setenv("HOME", "/root")
    assert sandbox.alone("pytest") == 126
    monkeypatch.setenv(sandbox.SETTINGS, f"{tmp_path}/none.json")
    assert sandbox.alone("pytest") == 126
    assert "words" not in door
    said = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["make", *["pi was not started"], *["pytest was not started"] * 2]
