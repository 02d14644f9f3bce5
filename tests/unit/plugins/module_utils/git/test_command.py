# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""git, where the repository, the environment and the network want it to do something else."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError, TimedOut
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git import command as command_module
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git.command import (
    credentials,
    git,
    safe_environment,
    told_branch,
    told_refs,
)
from waiting import soon

IDENTITY = {f"GIT_{who}_{what}": f"{who}@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    git("/", ["init", "-q", "-b", "main", str(path)])
    (path / "file").write_text("one\n")
    git(str(path), ["add", "file"])
    git(str(path), ["commit", "-q", "-m", "First"], environment=IDENTITY)
    return path


def test_status_and_both_streams(repo: Path) -> None:
    assert git(str(repo), ["rev-parse", "--abbrev-ref", "HEAD"]) == (0, "main\n", "")
    assert git(str(repo), ["diff", "--quiet", "HEAD"])[0] == 0
    (repo / "file").write_text("two\n")
    assert git(str(repo), ["diff", "--quiet", "HEAD"], ok=(0, 1))[0] == 1


def test_an_error_is_gits_reason_and_not_its_advice(repo: Path) -> None:
    with pytest.raises(
        LoopError, match=rf"^git switch in {repo} ended with 128: fatal: invalid reference: no$"
    ) as caught:
        git(str(repo), ["switch", "no"])
    assert "\n" not in str(caught.value)
    with pytest.raises(LoopError, match="ended with 1: no message"):
        git(str(repo), ["config", "--get", "no.such"])


def test_a_push_that_is_refused_tells_why_in_the_remotes_words(repo: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    git("/", ["init", "-q", "--bare", str(remote)])
    words = "error: GH006: Protected branch update failed.\n\n\x1b[2Jchanges\n" + "x" * 9000
    (remote / "words").write_text(words)
    hook = remote / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ncat {remote}/words >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(LoopError) as caught:
        git(str(repo), ["push", "--receive-pack=git -c core.hooksPath=hooks receive-pack", str(remote), "HEAD:main"])
    said = r"ended with 1: the remote says: error: GH006: Protected branch update failed\. \\x1b\[2Jchanges x+\.\.\.$"
    assert re.search(said, str(caught.value)) and len(str(caught.value)) < 1000


def test_what_it_is_given_arrives_whole(repo: Path) -> None:
    for data in (b"", b"\0\xff" * 2_000_000):
        wanted = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's own
        assert git(str(repo), ["hash-object", "--stdin"], stdin=data)[1].strip() == wanted


def test_names_that_are_no_text_come_back_as_they_are(repo: Path) -> None:
    name = b"caf\xe9\n.md"
    Path(os.fsdecode(os.fsencode(repo) + b"/" + name)).write_text("x")
    out = git(str(repo), ["ls-files", "--others", "-z"])[1]
    assert os.fsencode(out.rstrip("\0")) == name


def test_it_never_runs_anywhere_else(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git would look for a repository above, so that a missing directory would be another repository."""
    monkeypatch.chdir(repo)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(LoopError, match=f"git branch: {place} is not a directory that can be entered"):
            git(str(place), ["branch", "wrong"])
    assert git(str(repo), ["branch", "--list", "wrong"])[1] == ""


def test_the_callers_environment_leads_nowhere(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    git("/", ["init", "-q", "-b", "other", str(other)])
    (tmp_path / "gitconfig").write_text("[core]\n\tbare = true\n")
    for key, value in {
        "GIT_DIR": f"{other}/.git", "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": f"{other}/index",
        "GIT_OBJECT_DIRECTORY": str(other), "GIT_CONFIG_PARAMETERS": "'core.bare=true'", "GIT_NAMESPACE": "x",
        "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"), "GIT_TRACE": "1", "GIT_EXEC_PATH": str(other),
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.bare", "GIT_CONFIG_VALUE_0": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    assert git(str(repo), ["rev-parse", "--show-toplevel"]) == (0, f"{repo}\n", "")
    assert git(str(repo), ["symbolic-ref", "--short", "HEAD"])[1] == "main\n"


# --- a repository whose configuration is an attack


def attack(repo: Path) -> Path:
    """Have git run a program of ours at every turn; returns what that program leaves behind."""
    trace = repo.parent / "PWNED"
    program = repo.parent / "attack"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >> {trace}\n')
    program.chmod(0o755)
    hooks = repo.parent / "hooks"
    hooks.mkdir()
    names = ("pre-commit", "post-commit", "post-checkout", "pre-push", "reference-transaction", "post-index-change")
    for name in names:
        for directory in (hooks, repo / ".git" / "hooks"):
            directory.mkdir(exist_ok=True)
            (directory / name).unlink(missing_ok=True)
            (directory / name).symlink_to(program)
    settings = {
        "core.hooksPath": hooks, "core.fsmonitor": program, "core.pager": program, "core.editor": program,
        "core.sshCommand": program, "credential.helper": program, "commit.gpgSign": "true", "tag.gpgSign": "true",
        "gpg.program": program, "protocol.ext.allow": "always", "alias.status": f"!{program}",
        "sequence.editor": program,
    }  # fmt: skip
    for key, value in settings.items():
        subprocess.run(["git", "config", key, str(value)], cwd=repo, check=True)
    return trace


COMMANDS = [
    ["status"],
    ["commit", "-q", "--allow-empty", "-m", "x"],
    ["tag", "-m", "x", "v1"],
    ["checkout", "-q", "-b", "new"],
    ["worktree", "add", "-q", "../tree"],
    ["log", "--oneline"],
    ["push", "-q", "../copy.git", "HEAD:refs/heads/x"],
    ["fetch", "-q", "ext::../attack x"],
    ["ls-remote", "ssh://nobody@localhost:1/x"],
    ["commit", "--amend"],
]


def test_a_hostile_configuration_runs_nothing(repo: Path) -> None:
    git(str(repo), ["init", "-q", "--bare", "../copy.git"])
    trace = attack(repo)
    for command in COMMANDS:
        git(str(repo), command, environment=IDENTITY, ok=range(256), timeout=20)
        assert not trace.exists(), (command, trace.read_text())
    # The attack is one: the same repository gets plain git to run the program.
    for command in COMMANDS[:2]:
        subprocess.run(["git", *command], cwd=repo, env={**os.environ, **IDENTITY}, capture_output=True, check=False)
    assert "attack" in trace.read_text()


def test_the_environment_for_others_is_as_safe(repo: Path) -> None:
    """What an engine's own git gets."""
    trace = attack(repo)
    for command in (["status"], ["commit", "-q", "--allow-empty", "-m", "x"], ["log", "--oneline"]):
        environment = {"PATH": os.environ["PATH"], **IDENTITY, **safe_environment()}
        subprocess.run(["git", *command], cwd=repo, env=environment, capture_output=True, check=True)
    assert not trace.exists()


def test_more_configuration_and_environment_come_on_top() -> None:
    environment = safe_environment({"LC_ALL": "C", "X": "1"}, {"core.pager": "less", "user.name": "loop"})
    count = int(environment["GIT_CONFIG_COUNT"])
    found = {environment[f"GIT_CONFIG_KEY_{n}"]: environment[f"GIT_CONFIG_VALUE_{n}"] for n in range(count)}
    assert (found["core.pager"], found["user.name"], found["core.hooksPath"]) == ("less", "loop", "/dev/null")
    assert (environment["LC_ALL"], environment["X"]) == ("C", "1")


# --- limits and what is missing


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    """Whether a process ends."""
    return soon(lambda: not alive(pid))


def test_a_limit_ends_git_and_all_it_started(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"  # a host without ps and pgrep
    programs.mkdir()
    for name in ("git", "sh", "sleep"):
        (programs / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(programs))
    alias = f"alias.hang=!sleep 300 & echo $! > {tmp_path}/pid; wait"
    begun = time.monotonic()
    with pytest.raises(LoopError, match=r"git -c in .* took longer than 2 s"):
        git(str(repo), ["-c", alias, "hang"], timeout=2)
    assert time.monotonic() - begun < 10
    assert gone(int((tmp_path / "pid").read_text()))
    assert git(str(repo), ["rev-parse", "--is-bare-repository"], timeout=60)[1] == "false\n"


def test_it_reads_from_a_descriptor_and_leaves_no_thread(repo: Path) -> None:
    before = {*threading.enumerate()}  # of which some may end meanwhile
    with tempfile.TemporaryFile() as given:
        given.write(b"page\n")
        given.seek(0)
        _status, name, _err = git(str(repo), ["hash-object", "--stdin"], stdin=given.fileno())
    assert name == git(str(repo), ["hash-object", "--stdin"], stdin=b"page\n")[1] and len(name) == 41
    assert {*threading.enumerate()} <= before


def test_it_says_no_more_than_it_may(repo: Path) -> None:
    """However early it begins to: the bound holds from the start for a git that waits for its input."""
    name = git(str(repo), ["hash-object", "-w", "--stdin"], stdin=b"x" * 4096)[1]
    asked = name.encode() * 50_000
    with pytest.raises(LoopError, match=r"git cat-file in .* has more than 1000000 bytes to say"):
        git(str(repo), ["cat-file", "--batch"], stdin=asked, most=1_000_000)
    assert len(git(str(repo), ["cat-file", "--batch"], stdin=name.encode() * 2, most=1_000_000)[1]) > 8192


def test_a_host_without_git(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LoopError, match="the program git is missing on this host"):
        git(str(repo), ["status"])


def test_the_callers_environment_is_not_changed(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    before = dict(os.environ)
    assert git(str(repo), ["rev-parse", "--git-dir"])[1] == ".git\n"
    assert dict(os.environ) == before


def test_what_hangs_without_a_limit_of_its_own_is_damaged(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe in the place of a file that git reads: nobody ever writes into it."""
    monkeypatch.setattr(command_module, "SECONDS", 0.5)
    index = repo / ".git" / "info" / "exclude"
    index.parent.mkdir(exist_ok=True)
    index.unlink(missing_ok=True)
    os.mkfifo(index)
    with pytest.raises(TimedOut, match=r"git status in .* took longer than 0.5 s"):
        git(str(repo), ["status"])


def test_what_git_says_is_one_line_that_can_be_printed(repo: Path) -> None:
    with pytest.raises(LoopError) as caught:
        git(str(repo), ["rev-parse", "--verify", "a\x1b[31m\udcff" + "x" * 3000])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    with pytest.raises(LoopError, match="cannot be run"):
        git(str(repo), ["rev-parse", "a\0b"])


# --- credentials


def test_what_a_remote_tells_is_told_by_whole_names(repo: Path) -> None:
    path, other = str(repo), git(str(repo), ["commit-tree", "-m", "x", "HEAD^{tree}"], environment=IDENTITY)[1].strip()
    tip = git(path, ["rev-parse", "HEAD"])[1].strip()
    forged = f"refs/heads/x\u2028{other}\u00a0refs/heads/main"
    tails = ["refs/a/refs/heads/main", "refs/heads/a/refs/heads/main", "refs/remotes/o/HEAD", "refs/heads/z/HEAD"]
    for name in [forged, *tails]:
        git(path, ["update-ref", name, other])
    told = git("/", ["ls-remote", "--symref", path, "refs/heads/main", "HEAD", "refs/heads/x*"])[1]
    assert told_refs(told) == {"HEAD": tip, "refs/heads/main": tip, **dict.fromkeys([forged, *tails], other)}
    assert told_branch(told) == "main"
    git(path, ["symbolic-ref", "refs/remotes/o/HEAD", "refs/heads/a/refs/heads/main"])
    git(path, ["checkout", "--quiet", "--detach"])
    told = git("/", ["ls-remote", "--symref", path])[1]
    assert told_branch(told) == "" and told_refs(told)["HEAD"] == tip
    assert told_refs("") == {}


def header(repo: Path, url: str, config: dict[str, str]) -> str:
    """What git itself would send to a URL."""
    return git(str(repo), ["config", "--get-urlmatch", "http.extraHeader", url], config=config, ok=(0, 1))[1].strip()


def test_the_token_goes_to_its_own_host_only(repo: Path) -> None:
    environment, config = credentials("https://git.example.org/acme/one.git", "s3cret")
    assert environment == {"GIT_ASKPASS": ""}
    sent = header(repo, "https://git.example.org/acme/two.git", config)
    assert re.fullmatch("Authorization: Basic eC1hY2Nlc3MtdG9rZW46czNjcmV0", sent)
    for url in (
        "https://git.example.org.evil.example/x", "http://git.example.org/x", "https://example.org/x",
        "https://git.example.org:8443/x", "https://evil.example/git.example.org/",
    ):  # fmt: skip
        assert header(repo, url, config) == ""


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A server that leads on, or takes what comes; ``seen`` has who came with which credentials."""

    leads_to: ClassVar[str] = ""
    seen: ClassVar[list[tuple[str, str, str]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.headers["Host"], self.path, self.headers.get("Authorization", "")))
        if self.leads_to and not self.leads_to.endswith(f":{self.server.server_address[1]}"):
            self.send_response(301)
            self.send_header("Location", self.leads_to + self.path)
            self.end_headers()
            return
        service = self.path.rpartition("=")[2]
        body = f"001e# service={service}\n0000".encode() + b"0000"
        self.send_response(200)
        self.send_header("Content-Type", f"application/x-{service}-advertisement")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def test_a_redirect_takes_no_token_along(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo / "x").write_text("x")
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as first,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as second,
    ):
        for server in (first, second):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(Elsewhere, "leads_to", f"http://127.0.0.1:{second.server_port}")
        monkeypatch.setattr(Elsewhere, "seen", [])
        url = f"http://127.0.0.1:{first.server_port}/a/b.git"
        environment, config = credentials(url, "s3cret")
        for words in (["ls-remote", url], ["push", url, "HEAD:refs/heads/x"]):
            with pytest.raises(LoopError, match="it has moved, and the token does not go along"):
                git(str(repo), words, environment=environment, config=config)
        asked = {(host, bool(sent)) for host, _path, sent in Elsewhere.seen}
        assert asked == {(f"127.0.0.1:{first.server_port}", True)}
        first.shutdown()
        second.shutdown()


def test_a_token_in_the_clear_is_refused() -> None:
    with pytest.raises(LoopError, match=r"http://git\.example\.org would get the token in the clear: use https"):
        credentials("http://git.example.org/x.git", "t")
    assert credentials("http://git.example.org/x.git")[1] == {}
    assert credentials("http://127.0.0.1:1/x.git", "t")[1] and credentials("http://[::1]:1/x.git", "t")[1]


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://h/x", True),
        ("https://H/x", True),
        ("https://me@h/x", True),
        ("https://h:8443/x", False),
        ("http://h/x", False),
        ("https://h.evil/x", False),
        ("https://h@evil/x", False),
        ("https://h\\@evil/x", False),
        ("https://evil/https://h/x", False),
    ],
)
def test_a_token_is_for_the_forge_that_it_was_given_for(url: str, sent: bool) -> None:
    for forge in ("https://h", "https://h/"):
        assert bool(credentials(url, "t", forge=forge)[1]) == sent


@pytest.mark.parametrize(
    ("url", "token"), [("https://h/x", ""), ("/srv/x.git", "t"), ("ssh://h/x", "t"), ("git@h:x", "t")]
)
def test_no_token_where_none_belongs(url: str, token: str) -> None:
    assert credentials(url, token) == ({"GIT_ASKPASS": ""}, {})
