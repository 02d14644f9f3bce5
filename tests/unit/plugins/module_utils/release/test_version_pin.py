# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pin: what a bump may go to, in real repositories, and that nothing but the value changes in the file."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import version_pin

OLD = "58735fa051d24290f128109b4267e136316cbc86"
NEW = "0123456789abcdef0123456789abcdef01234567"
KEY = version_pin.KEY


@dataclass
class Engine:
    """A repository: main has one, two, three; side branches off two and is not merged."""

    repo: str
    one: str
    two: str
    three: str
    side: str


def run(directory: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.net", *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


def commit(directory: Path, name: str) -> str:
    (directory / name).write_text(name, encoding="utf-8")
    run(directory, "add", name)
    run(directory, "commit", "--quiet", "-m", name)
    return run(directory, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    top = tmp_path_factory.mktemp("engine")
    run(top, "init", "--quiet", "-b", "main")
    one, two = commit(top, "one"), commit(top, "two")
    run(top, "tag", "-a", "-m", "annotated", "v2")
    run(top, "checkout", "--quiet", "-b", "side")
    side = commit(top, "side")
    run(top, "checkout", "--quiet", "main")
    return Engine(str(top), one, two, commit(top, "three"), side)


def resolve(repo: str, before: str, to: str = "", **options: Any) -> version_pin.Bump:
    return version_pin.resolve(version_pin.Target(repo, to, **options), before)


@pytest.mark.parametrize(
    ("to", "expected"), [("", "three"), ("main", "three"), ("v2", "two"), ("SHA", "two"), ("SHORT", "two")]
)
def test_names(engine: Engine, to: str, expected: str) -> None:
    to = {"SHA": engine.two, "SHORT": engine.two[:9]}.get(to, to)
    bump = resolve(engine.repo, engine.one, to)
    wanted = getattr(engine, expected)
    assert (bump.before, bump.after, bump.branch) == (engine.one, wanted, "main")
    assert (bump.commits, bump.dropped) == (2 if expected == "three" else 1, 0)
    assert bump.changed


def test_a_bundle_is_a_repository(engine: Engine, tmp_path: Path) -> None:
    run(Path(engine.repo), "bundle", "create", "--quiet", str(tmp_path / "engine.bundle"), "--all", "HEAD")
    bump = resolve(str(tmp_path / "engine.bundle"), engine.one)
    assert (bump.after, bump.commits) == (engine.three, 2)


def test_the_same_commit_is_no_change(engine: Engine) -> None:
    bump = resolve(engine.repo, engine.three)
    assert not bump.changed and (bump.commits, bump.dropped, bump.compare) == (0, 0, "")


def test_what_is_refused_and_what_lifts_it(engine: Engine) -> None:
    def refusal(before: str, to: str, **options: bool) -> str:
        with pytest.raises(LoopError) as caught:
            resolve(engine.repo, before, to, **options)
        return str(caught.value)

    assert f"is older than the pinned {engine.three}, by 2 commits" in refusal(engine.three, engine.one)
    assert "is not on main, the default branch" in refusal(engine.two, "side")
    assert "have diverged" in refusal(engine.three, "side", any_branch=True)
    assert f"the pinned {OLD} is not in {engine.repo}" in refusal(OLD, "main")
    for name in ("nothing", "--all", "HEAD~1", "v2^", "main@{0}", NEW, "0000000"):
        assert f"called {name!r}" in refusal(engine.one, name)
    back = resolve(engine.repo, engine.three, engine.one, allow_downgrade=True)
    assert (back.after, back.commits, back.dropped) == (engine.one, 0, 2)
    assert resolve(engine.repo, engine.two, "side", any_branch=True).after == engine.side
    unknown = resolve(engine.repo, OLD, "main", allow_downgrade=True)
    assert (unknown.after, unknown.commits, unknown.dropped) == (engine.three, None, None)


def test_a_name_that_is_tag_and_branch(engine: Engine, tmp_path: Path) -> None:
    run(tmp_path, "clone", "--quiet", engine.repo, "copy")
    run(tmp_path / "copy", "branch", "v2", engine.one)
    with pytest.raises(LoopError, match="'v2' names 2 commits"):
        resolve(str(tmp_path / "copy"), engine.one, "v2")


def test_a_repository_without_default_branch(engine: Engine, tmp_path: Path) -> None:
    run(tmp_path, "clone", "--quiet", "--bare", engine.repo, "copy.git")
    run(tmp_path / "copy.git", "symbolic-ref", "HEAD", "refs/heads/gone")
    with pytest.raises(LoopError, match="has no default branch"):
        resolve(str(tmp_path / "copy.git"), engine.one, "main")


@pytest.mark.parametrize("repo", ["--upload-pack=x", "ext::sh -c true", "a\nb"])
def test_no_repository(repo: str) -> None:
    with pytest.raises(LoopError, match="is not the URL or path"):
        resolve(repo, OLD)


@pytest.mark.parametrize("who", ["me:s3cret", "me:s3c/ret", "s3cret"])
def test_a_password_in_the_url(who: str) -> None:
    with pytest.raises(LoopError, match=r"repo https://\*\*\*@example.net/o/r.git holds a password") as caught:
        resolve(f"https://{who}@example.net/o/r.git", OLD)
    assert "s3c" not in str(caught.value) and "ret@" not in str(caught.value)


@pytest.mark.parametrize("repo", ["http://127.0.0.1:1/o/r.git", "/nowhere/engine.git"])
def test_a_repository_that_cannot_be_read(repo: str) -> None:
    with pytest.raises(LoopError, match=f"^{repo} cannot be read: ") as caught:
        resolve(repo, OLD, token="t0ken")
    assert "t0ken" not in str(caught.value)


def test_a_repository_that_does_not_answer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is git's, or ours where git was ended; never nothing, and never a directory that is gone."""
    monkeypatch.setattr(version_pin, "NETWORK_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        repo = f"http://127.0.0.1:{silent.getsockname()[1]}/o/r.git"
        with pytest.raises(LoopError) as caught:
            resolve(repo, OLD)
    assert str(caught.value) == f"{repo} cannot be read: git clone took longer than 1 s"


def test_without_a_repository_the_commit_is_believed() -> None:
    bump = resolve("", OLD, NEW)
    assert (bump.after, bump.commits, bump.dropped, bump.compare, bump.changed) == (NEW, None, None, "", True)
    for name in ("main", NEW[:12], ""):
        with pytest.raises(LoopError, match="is not the full SHA of a commit"):
            resolve("", OLD, name)


@pytest.mark.parametrize(
    ("repo", "link"),
    [
        ("https://github.com/o/r.git", f"https://github.com/o/r/compare/{OLD}...{NEW}"),
        ("https://me:pw@ghe.example.net:8443/o/r/", f"https://ghe.example.net:8443/o/r/compare/{OLD}...{NEW}"),
        ("https://example.net/a/b/c.git", ""),
        ("git@github.com:o/r.git", ""),
        ("/srv/engine.bundle", ""),
    ],
)
def test_compare_link(repo: str, link: str) -> None:
    assert version_pin.compare_link(repo, OLD, NEW) == link


@pytest.mark.parametrize(
    "text",
    [
        f"{KEY}: @\n",
        f"# {KEY}: {OLD}\n---\r\na: 1\r\n{KEY}:   '@'   # why: {OLD}\r\nb: [é, 2]\r\n",
        f'\ufeffé: "ü"\n"{KEY}": "@"',
        f"nested:\n  {KEY}: {OLD}\n{KEY}: @ # x\nother: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3161\n...\n",
        f"{{{KEY}: @, a: 1}}\n",
    ],
)
def test_exactly_the_value_changes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "loop.yml"
    path.write_bytes(text.replace("@", OLD).encode())
    path.chmod(0o604)
    os.chown(path, -1, os.getgid())
    pin = version_pin.load(str(path))
    assert pin.value == OLD
    version_pin.write(str(path), pin, NEW)
    assert path.read_bytes() == text.replace("@", NEW).encode()
    assert path.stat().st_mode & 0o7777 == 0o604
    assert [entry.name for entry in tmp_path.iterdir()] == ["loop.yml"]


def test_a_sha_of_digits_stays_a_string() -> None:
    digits = "1" * 40
    assert version_pin.parse(f"{KEY}: {OLD}\n".encode(), "f").replaced(digits) == f'{KEY}: "{digits}"\n'
    assert version_pin.parse(f"{KEY}: '{OLD}'\n".encode(), "f").replaced(digits) == f"{KEY}: '{digits}'\n"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.yml").write_text(f"{KEY}: {OLD}\n", encoding="utf-8")
    (tmp_path / "loop.yml").symlink_to("real.yml")
    path = str(tmp_path / "loop.yml")
    version_pin.write(path, version_pin.load(path), NEW)
    assert (tmp_path / "loop.yml").is_symlink()
    assert (tmp_path / "real.yml").read_text(encoding="utf-8") == f"{KEY}: {NEW}\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("$ANSIBLE_VAULT;1.1;AES256\n3161\n", "is encrypted by ansible-vault"),
        (f"{KEY}: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3161\n", "line 1: engineering_loop_version is encrypted"),
        (f"{KEY}: {OLD}\na: 1\n{KEY}: {NEW}\n", "2 times, in lines 1 and 3"),
        (f"a:\n  {KEY}: {OLD}\n", f"has no {KEY}"),
        ("", f"has no {KEY}"),
        ("- x\n", f"has no {KEY}"),
        (f"{KEY}: main\n", "must be the full SHA"),
        (f"{KEY}:\n", "must be the full SHA"),
        (f"{KEY}: [{OLD}]\n", "must be the full SHA"),
        (f"{KEY}: |\n  {OLD}\n", "must be the full SHA"),
        (f"{KEY}: &a {OLD}\n", "must be the full SHA"),
        (f"a: &a {OLD}\n{KEY}: *a\n", "line 2: engineering_loop_version must be the full SHA"),
        (f"{KEY}: '{{{{ x }}}}'\n", "must be the full SHA"),
        ("a: s3cret\nb: [s3cret\n", "no YAML that Ansible could read in line 3"),
        ("a: 1\n---\nb: 1\n", "no YAML that Ansible could read"),
        ("a: \x01\n", "no YAML that Ansible could read"),
    ],
)
def test_files_that_are_not_fit(content: str, told: str) -> None:
    with pytest.raises(LoopError) as caught:
        version_pin.parse(content.encode(), "loop.yml")
    assert told in str(caught.value) and "\n" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_a_file_that_is_not_text() -> None:
    with pytest.raises(LoopError, match="not UTF-8 at byte 3"):
        version_pin.parse(b"a: \xff", "loop.yml")


def test_a_file_that_is_not_there_or_changes(tmp_path: Path) -> None:
    path = tmp_path / "loop.yml"
    with pytest.raises(LoopError, match="does not exist"):
        version_pin.load(str(path))
    path.write_text(f"{KEY}: {OLD}\n", encoding="utf-8")
    pin = version_pin.load(str(path))
    path.write_text(f"# mine\n{KEY}: {OLD}\n", encoding="utf-8")
    with pytest.raises(LoopError, match="was changed by somebody else"):
        version_pin.write(str(path), pin, NEW)
    assert path.read_text(encoding="utf-8") == f"# mine\n{KEY}: {OLD}\n"


def test_a_file_that_may_not_be_written() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own lets nobody else in
        path = Path(directory) / "loop.yml"
        path.write_text(f"{KEY}: {OLD}\n", encoding="utf-8")
        path.chmod(0o444)
        Path(directory).chmod(0o755)
        before = os.geteuid()
        os.seteuid(before or 65534)  # root may write everything
        try:
            with pytest.raises(LoopError, match="may not be written by this user"):
                version_pin.load(str(path))
        finally:
            os.seteuid(before)


# --- which file it is

INVENTORY = "all: {children: {parent: {children: {loops: {hosts: {loop: }}}}, other: {hosts: {loop: }}}}\n"
GROUPS = ["loops", "other", "parent"]
SHAPES = {
    "a file": ["inventory/host_vars/loop.yml"],
    "of another name": ["inventory/host_vars/loop.yaml"],
    "of no name": ["inventory/host_vars/loop"],
    "json": ["inventory/host_vars/loop.json"],
    "a directory": ["inventory/host_vars/loop/20-engine.yml", "inventory/host_vars/loop/deep/er/engine.yaml"],
    "a directory that hides a file": ["inventory/host_vars/loop/a.yml", "inventory/host_vars/loop.yml"],
    "the first of two names": ["inventory/host_vars/loop.yml", "inventory/host_vars/loop.yaml"],
    "nothing hidden": [
        "inventory/host_vars/loop/.a.yml",
        "inventory/host_vars/loop/b.yml~",
        "inventory/group_vars/all.yml",
    ],
    "a group": ["inventory/group_vars/loops.yml"],
    "all and a group": ["inventory/group_vars/all/x.yml", "inventory/group_vars/loops.yml"],
    "a host and its group": ["inventory/host_vars/loop.yml", "inventory/group_vars/loops.yml"],
    "beside the playbook": ["playbooks/host_vars/loop.yml", "inventory/host_vars/loop.yml"],
    "a group beside the playbook": ["playbooks/group_vars/all.yml", "inventory/group_vars/loops.yml"],
    "two groups": ["inventory/group_vars/parent.yml", "inventory/group_vars/loops.yml"],
    "two groups beside the playbook": ["inventory/group_vars/loops.yml", "playbooks/group_vars/parent.yml"],
}


@pytest.mark.parametrize("files", [pytest.param(files, id=name) for name, files in SHAPES.items()])
def test_the_file_is_the_one_that_is_in_force_for_ansible(tmp_path: Path, files: list[str]) -> None:
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "inventory/host_vars").mkdir(parents=True)
    (tmp_path / "inventory/hosts.yml").write_text(INVENTORY, encoding="utf-8")
    for number, name in enumerate(files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        value = json.dumps({KEY: f"{number:040x}", "other_version": "f" * 40})
        (tmp_path / name).write_text(value, encoding="utf-8")
    program = Path(sys.executable).with_name("ansible-inventory")
    words = ["-i", "inventory/hosts.yml", "--playbook-dir", "playbooks", "--host", "loop"]
    environment = {**os.environ, "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false"}
    done = subprocess.run([program, *words], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    in_force = json.loads(done.stdout)[KEY]
    sources = [str(tmp_path / "inventory/hosts.yml"), "loop,", str(tmp_path / "playbooks")]
    found = version_pin.find(sources, "loop", GROUPS, in_force=in_force)
    assert version_pin.load(found.path).value == in_force
    read = {files.index(path.removeprefix(f"{tmp_path}/")) for path in (found.path, *found.overridden)}
    assert read <= set(range(len(files))) and int(in_force, 16) in read


def test_what_cannot_be_told_is_refused_with_the_list(tmp_path: Path) -> None:
    sources = [str(tmp_path)]
    with pytest.raises(LoopError, match=f"beside {tmp_path} has {KEY} for loop: write it into host_vars/loop.yml"):
        version_pin.find(sources, "loop", GROUPS)
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars/loop.yml").write_bytes(b"$ANSIBLE_VAULT;1.1;AES256\n3161\n")
    with pytest.raises(LoopError, match=r"host_vars/loop.yml are encrypted by ansible-vault and were not looked into"):
        version_pin.find(sources, "loop", GROUPS)
    (tmp_path / "group_vars").mkdir()
    for name, sha in (("loops", OLD), ("other", NEW)):
        (tmp_path / f"group_vars/{name}.yml").write_text(f"{KEY}: {sha}\n", encoding="utf-8")
    with pytest.raises(LoopError, match=r"loops.yml, .*other.yml, and which of the groups wins cannot be told"):
        version_pin.find(sources, "loop", GROUPS, in_force="0" * 40)
    assert version_pin.find(sources, "loop", GROUPS, in_force=OLD).path.endswith("loops.yml")
    assert version_pin.find(sources, "loop", ["other"]).path.endswith("other.yml")


def test_another_pin_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "host_vars" / "loop.yml"
    path.parent.mkdir()
    text = (
        f"{KEY}: {OLD} # engine\nsecret: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3161\nknowledge_mcp_version: {OLD}\n"
    )
    path.write_text(text, encoding="utf-8")
    key = "knowledge_mcp_version"
    found = version_pin.find([str(tmp_path)], "loop", [], key)
    version_pin.write(found.path, version_pin.load(found.path, key), NEW)
    assert path.read_text(encoding="utf-8") == text.replace(f"{key}: {OLD}", f"{key}: {NEW}")
