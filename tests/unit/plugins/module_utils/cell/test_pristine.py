# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pristine clones and what is made from them: real git, the gate's user beside the loop's, and every kind of damage."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import pristine
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import GATE, LOOP, Box, box, gid, git, give, uid
from damages import DAMAGES, SETTINGS, left_by_a_killed_git

# --- what is asked for


def clones(*entries: dict[str, Any]) -> list[pristine.Clone]:
    config = Settings(
        {"workspace_repositories": list(entries), "pristine_dir": "/p", "git_url": "https://forge.example/"}
    )
    return pristine.clones(config)


def test_where_they_come_from_and_stand() -> None:
    forge = "https://forge.example/"
    assert clones({"repo": "o/app"}, {"repo": "/srv/x.git", "dest": "x", "version": "release/1"}) == [
        pristine.Clone("o/app", "https://forge.example/o/app.git", "app", "/p/app.git", "main", forge),
        pristine.Clone("/srv/x.git", "/srv/x.git", "x", "/p/x.git", "release/1", forge),
    ]
    assert clones({"repo": "https://other.example/o/y.git/"})[0].dest == "y"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({}, "is not a repository: write OWNER/NAME or a URL"), ({"repo": "app"}, "is not a repository"),
        ({"repo": "../x"}, "is not a repository"), ({"repo": "-o/x"}, "is not a repository"),
        ({"repo": "https://u:secret@h/x"}, "holds a password"), ({"repo": "o/x", "dest": "../x"}, "is not a plain"),
        ({"repo": "o/x", "dest": ".git"}, "is not a plain directory name"),
        ({"repo": "o/x", "dest": "a/b"}, "is not a plain directory name"),
        ({"repo": "o/x", "version": "-x"}, "is not the name of a branch"),
        ({"repo": "o/x", "version": "a..b"}, "is not the name of a branch"),
        ({"repo": "o/x", "version": "a.lock"}, "is not the name of a branch"),
        ({"repo": "o/x", "version": "a//b"}, "is not the name of a branch"),
        ({"repo": "o/x", "version": "a\nb"}, "is not the name of a branch"),
        ({"repo": "o/x", "version": "HEAD:x"}, "is not the name of a branch"),
    ],
)  # fmt: skip
def test_what_is_no_repository_is_refused(entry: dict[str, Any], reason: str) -> None:
    with pytest.raises(LoopError, match=reason) as caught:
        clones(entry)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_two_of_the_same_name() -> None:
    with pytest.raises(LoopError, match="two repositories have the same dest: app"):
        clones({"repo": "o/app"}, {"repo": "p/app"})


# --- refreshing


@pytest.fixture
def host() -> Iterator[Box]:
    if os.geteuid() != 0:
        pytest.skip("only root can work as the gate's user")
    with box() as found:
        yield found


def clone_of(host: Box, name: str = "app") -> Path:
    return Path(host.config["pristine_dir"], f"{name}.git")


def refresh(host: Box, **options: Any) -> list[tuple[str, str]]:
    return [(one["dest"], one["status"]) for one in pristine.refresh(host.config, **options)]


def workspace(host: Box, name: str = "cell") -> Path:
    path = host.top / "work" / f"workspace-{name}"
    path.mkdir()
    os.chown(path, uid(LOOP), gid(LOOP))
    return path


def check_out(host: Box, place: Path) -> list[dict[str, Any]]:
    """As the loop's user, as each cycle does it."""
    found: list[dict[str, Any]] = as_user(LOOP, lambda: pristine.check_out(host.config, str(place)))
    return found


def test_cloned_updated_and_current(host: Box) -> None:
    host.repository("app")
    (one,) = pristine.refresh(host.config, check=True)
    assert (one["status"], clone_of(host).exists()) == ("cloned", False)
    (one,) = pristine.refresh(host.config)
    tip = git(host.top / "work/app", "rev-parse", "HEAD")
    assert (one["status"], one["before"], one["after"], one["detail"]) == ("cloned", "", tip, "")
    assert refresh(host) == refresh(host, check=True) == [("app", "current")]
    new = host.commit("app", {"docs/new.md": "x\n"})
    (one,) = pristine.refresh(host.config)
    assert (one["status"], one["before"], one["after"]) == ("updated", tip, new)


def test_it_is_the_gates_and_the_loops_user_can_read_it(host: Box) -> None:
    host.repository("app")
    refresh(host)
    host.commit("app", {"docs/new.md": "x\n"})
    refresh(host)
    for base, folders, names in os.walk(clone_of(host)):
        for name in [*folders, *names]:
            status = os.lstat(f"{base}/{name}")
            assert (status.st_uid, status.st_gid, status.st_mode & 0o022) == (uid(GATE), gid(LOOP), 0), name

    def look() -> list[bool]:
        files = [f"{base}/{name}" for base, _folders, names in os.walk(clone_of(host)) for name in names]
        return [os.access(path, os.R_OK) and not os.access(path, os.W_OK) for path in files]

    read = as_user(LOOP, look)
    assert len(read) > 5 and all(read)


def repack(host: Box) -> None:
    """As after many refreshes."""
    before = pristine.PACKS
    pristine.PACKS = 0
    try:
        pristine._pack(str(clone_of(host)))
    finally:
        pristine.PACKS = before


def test_a_branch_that_goes_keeps_its_objects(host: Box) -> None:
    host.repository("app")
    work = host.top / "work/app"
    git(work, "checkout", "-q", "-b", "topic")
    topic = host.commit("app", {"topic.md": "x\n"}, "topic")
    git(work, "checkout", "-q", "main")
    refresh(host)
    git(host.top / "remotes/app.git", "branch", "-D", "topic")
    assert refresh(host) == [("app", "current")]
    assert git(clone_of(host), "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert git(clone_of(host), "cat-file", "-t", topic) == "commit"
    for _unused in range(2):
        as_user(GATE, lambda: repack(host))
    assert git(clone_of(host), "cat-file", "-t", topic) == "commit"
    assert len(list((clone_of(host) / "objects/pack").glob("*.pack"))) == 1


def test_a_history_that_was_rewritten_is_followed(host: Box) -> None:
    host.repository("app")
    refresh(host)
    work = host.top / "work/app"
    git(work, "reset", "-q", "--hard", "HEAD^")
    give(host.top / "remotes/app.git", "root")
    git(work, "push", "-q", "--force", "origin", "main")
    give(host.top / "remotes/app.git", GATE)
    (one,) = pristine.refresh(host.config)
    assert one["status"] == "updated" and one["after"] == git(work, "rev-parse", "HEAD")


def lose_objects(path: Path) -> None:
    for each in (path / "objects").rglob("*"):
        if each.is_file() and "info" not in each.parts:
            each.unlink()


def lose_a_blob(path: Path) -> None:
    """Nothing that a fetch would look at."""
    (pack,) = (path / "objects/pack").glob("*.pack")
    pack = pack.rename(path / "pack")
    for each in (path / "objects/pack").iterdir():
        each.unlink()
    with pack.open("rb") as stdin:
        words = ["git", "-c", "safe.directory=*", "unpack-objects", "-q"]
        subprocess.run(words, cwd=path, stdin=stdin, check=True)
    name = git(path, "rev-parse", "main:docs/0.md")
    (path / "objects" / name[:2] / name[2:]).unlink()


def garbage_head(path: Path) -> None:
    (path / "HEAD").write_bytes(bytes([255, 0]) + b"garbage")


def garbage_refs(path: Path) -> None:
    (path / "packed-refs").write_text("garbage\n")


def no_such_object(path: Path) -> None:
    (path / "packed-refs").unlink(missing_ok=True)
    (path / "refs/heads/main").write_text("1" * 40 + "\n")


def half_config(path: Path) -> None:
    (path / "config").write_text("[core\n")


def file_in_place(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def link_in_place(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def marked(path: Path) -> None:
    (path / "rebuild").touch()


@pytest.mark.parametrize(
    "damage",
    [lose_a_blob, garbage_head, garbage_refs, no_such_object, half_config, file_in_place, link_in_place, empty, marked,
     *(pytest.param(spoil, id=name) for name, spoil in {**DAMAGES, **SETTINGS}.items())],
)  # fmt: skip
def test_a_damaged_one_is_made_anew(host: Box, damage: Callable[[Path], None]) -> None:
    """Though there is nothing to fetch, in the same run, and no other has to suffer for it."""
    for name in ("other", "app"):
        host.repository(name)
    refresh(host)
    damage(clone_of(host))
    give(clone_of(host), GATE)
    other, one = pristine.refresh(host.config, check=True)
    assert (other["status"], one["status"]) == ("current", "replaced")
    other, one = pristine.refresh(host.config)
    assert (other["status"], one["status"]) == ("current", "replaced")
    assert one["detail"] and "\n" not in one["detail"] and "cannot be reached" not in one["detail"]
    assert one["after"] == git(host.top / "work/app", "rev-parse", "HEAD")
    assert refresh(host) == [("other", "current"), ("app", "current")]
    assert git(clone_of(host), "fsck", "--connectivity-only", "--strict") == ""
    assert [made["status"] for made in check_out(host, workspace(host))] == ["made", "made"]


def test_what_a_killed_git_left_is_cleared(host: Box) -> None:
    host.repository("app")
    refresh(host)
    left = left_by_a_killed_git(clone_of(host))
    left.append(clone_of(host) / "objects/pack/tmp_pack_x1y2z3")
    left[-1].write_bytes(b"PACK")
    give(clone_of(host), GATE)
    assert refresh(host) == [("app", "current")]
    assert not [path for path in left if path.exists()]


def test_one_that_cannot_be_fetched_into_is_made_anew_and_not_for_ever(host: Box) -> None:
    """Nothing is missing, and the remote answers."""
    host.repository("app")
    refresh(host)
    for number in range(pristine.REBUILDS + 1):
        host.commit("app", {f"docs/more-{number}.md": "x"})
        (clone_of(host) / "objects/pack").chmod(0o555)
        (one,) = pristine.refresh(host.config)
        assert "the remote answers, and yet: git fetch in " in one["detail"]
        assert one["status"] == ("replaced" if number < pristine.REBUILDS else "failed")
    assert "it was made anew 3 times" in one["detail"]


def test_alternates_that_lead_nowhere_are_put_right(host: Box) -> None:
    host.repository("app")
    refresh(host)
    marked(clone_of(host))
    give(clone_of(host), GATE)
    refresh(host)
    (lender,) = Path(host.config["pristine_dir"]).glob(".replaced-app-*")
    shutil.rmtree(lender)  # somebody needed the room
    assert refresh(host) == [("app", "current")]
    assert (clone_of(host) / "objects/info/alternates").read_text() == ""


def test_one_that_has_lost_everything_fetches_it(host: Box) -> None:
    host.repository("app")
    refresh(host)
    lose_objects(clone_of(host))
    assert refresh(host) == [("app", "updated")]
    assert refresh(host) == [("app", "current")]
    assert git(clone_of(host), "fsck", "--connectivity-only") == ""


def test_who_lends_is_an_earlier_clone_of_the_same(host: Box) -> None:
    for name in ("app", "app-2x"):
        host.repository(name)
    refresh(host)
    for name in ("app-2x", "app"):
        marked(clone_of(host, name))
    give(host.config["pristine_dir"], GATE)
    assert {status for _name, status in refresh(host)} == {"replaced"}
    for name in ("app", "app-2x"):
        (lender,) = (clone_of(host, name) / "objects/info/alternates").read_text().splitlines()
        assert Path(lender).parent.name.startswith(f".replaced-{name}-20") and Path(lender).is_dir()


def test_a_replaced_one_lends_to_the_cells_that_borrowed_from_it(host: Box) -> None:
    host.repository("app")
    git(host.top / "work/app", "checkout", "-q", "-b", "topic")
    topic = host.commit("app", {"topic.md": "x\n"}, "topic")
    git(host.top / "work/app", "checkout", "-q", "main")
    refresh(host)
    place = workspace(host)
    check_out(host, place)
    git(host.top / "remotes/app.git", "branch", "-D", "topic")
    for _unused in range(2):
        marked(clone_of(host))
        give(clone_of(host), GATE)
        assert refresh(host) == [("app", "replaced")]
    assert git(place / "app", "cat-file", "-t", topic) == "commit"  # gone on the forge, and from the fresh clone's refs
    assert git(place / "app", "fsck", "--connectivity-only") == ""
    assert len([name for name in os.listdir(host.config["pristine_dir"]) if name.startswith(".replaced-app-")]) == 2


def age(host: Box, seconds: float) -> None:
    """All that was replaced was, so long ago."""
    for path in Path(host.config["pristine_dir"]).glob(".replaced-*"):
        dest = path.name.removeprefix(".replaced-").rpartition("-")[0]
        then = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - seconds))
        path.rename(path.with_name(f".replaced-{dest}-{then}"))


def test_what_was_replaced_goes_when_nothing_can_borrow_from_it_any_more(host: Box) -> None:
    for name in ("app", "app-2x"):
        host.repository(name)
    refresh(host)
    git(host.top / "work/app", "checkout", "-q", "-b", "topic")
    topic = host.commit("app", {"topic.md": "x\n"}, "topic")
    refresh(host)
    git(host.top / "remotes/app.git", "branch", "-D", "topic")
    for name in ("app", "app-2x"):
        marked(clone_of(host, name))
    give(host.config["pristine_dir"], GATE)
    assert {status for _name, status in refresh(host)} == {"replaced"}
    give(host.top / "remotes/app.git", "root")
    git(host.top / "work/app", "push", "-q", "origin", "topic")  # again: what is borrowed need not be fetched
    give(host.top / "remotes/app.git", GATE)
    refresh(host)
    home = Path(host.config["pristine_dir"])
    names = sorted(path.name for path in home.glob(".replaced-*"))
    assert pristine.let_go(host.config, 0, 3600) == [] and len(names) == 2
    age(host, 7200)
    names = sorted(path.name for path in home.glob(".replaced-*"))
    assert pristine.let_go(host.config, 9000, 3600) == []  # a cell is older
    (home / f".gone-{names[0]}").mkdir()
    assert pristine.let_go(host.config, 0, 3600) == names
    assert sorted(os.listdir(home)) == [".private", "app-2x.git", "app.git"]
    assert {status for _name, status in refresh(host)} == {"current"}
    assert git(clone_of(host), "cat-file", "-t", topic) == "commit"
    for name in ("app", "app-2x"):
        assert git(clone_of(host, name), "fsck", "--connectivity-only") == ""
    assert pristine.let_go(host.config, 0, 0) == []


def test_a_remote_that_does_not_answer_is_no_damage(host: Box) -> None:
    bare = host.repository("app")
    refresh(host)
    bare.rename(bare.with_name("gone"))
    before = clone_of(host).stat().st_ino
    (one,) = pristine.refresh(host.config)
    assert one["status"] == "failed" and "cannot be reached: " in one["detail"] and "\n" not in one["detail"]
    assert clone_of(host).stat().st_ino == before
    (made,) = check_out(host, workspace(host))
    assert made["status"] == "made"  # with what it had
    lose_a_blob(clone_of(host))
    give(clone_of(host), GATE)
    (one,) = pristine.refresh(host.config)
    assert one["status"] == "failed" and "it cannot be cloned anew" not in one["detail"]  # nobody could tell yet
    garbage_head(clone_of(host))
    (one,) = pristine.refresh(host.config)
    assert one["status"] == "failed" and "cannot be cloned" in one["detail"]
    bare.with_name("gone").rename(bare)
    assert refresh(host) == [("app", "replaced")]


def test_one_that_fails_stops_no_other(host: Box) -> None:
    host.repository("app")
    elsewhere = [(f"{host.top}/none.git", "none"), ("https://user@127.0.0.1:9/o/x.git", "closed")]
    host.config["workspace_repositories"] += [{"repo": repo, "dest": dest} for repo, dest in elsewhere]
    found = pristine.refresh(host.config, "secret-token")
    assert [one["status"] for one in found] == ["cloned", "failed", "failed"]
    assert "secret-token" not in str(found) and "user@" not in found[2]["detail"]
    assert sorted(os.listdir(host.config["pristine_dir"])) == [".private", "app.git"]


def test_no_time_is_left(host: Box) -> None:
    host.repository("app")
    (one,) = pristine.refresh(host.config, seconds=0)
    assert one["status"] == "failed" and "no time was left for it: all of them together may take 0 s" in one["detail"]


def test_a_repository_without_commits(host: Box) -> None:
    host.repository("app", commits=0)
    for _unused in range(2):
        (one,) = pristine.refresh(host.config)
        assert one["status"] == "failed" and one["detail"].endswith("has no branch main")
    (made,) = check_out(host, workspace(host))
    assert (made["status"], made["detail"].split()[-1]) == ("failed", "main")
    host.commit("app", {"a": "x"})
    (one,) = pristine.refresh(host.config)
    assert one["status"] == "updated"


def test_a_branch_that_is_not_there(host: Box) -> None:
    host.repository("app")
    host.config["workspace_repositories"][0]["version"] = "release/1"
    (one,) = pristine.refresh(host.config)
    assert one["status"] == "failed" and one["detail"].endswith("has no branch release/1")


def test_what_a_killed_one_left_is_made_anew(host: Box) -> None:
    host.repository("app")
    aside = Path(host.config["pristine_dir"], ".cloning-app")
    (aside / "objects").mkdir(parents=True)
    give(aside, GATE)
    assert refresh(host) == [("app", "cloned")]
    assert sorted(os.listdir(host.config["pristine_dir"])) == [".private", "app.git"]


def test_who_is_already_that_user_needs_nobody_else(host: Box) -> None:
    host.config["gate_user"] = "root"
    bare = host.repository("app")
    give(bare, "root")
    assert refresh(host) == [("app", "cloned")]
    new = host.commit("app", {"new.md": "x"})
    give(bare, "root")
    assert refresh(host) == [("app", "updated")]
    repack(host)
    garbage_head(clone_of(host))
    assert refresh(host, check=True) == refresh(host) == [("app", "replaced")]
    place = host.top / "work" / "root"
    place.mkdir()
    assert [one["status"] for one in pristine.check_out(host.config, str(place))] == ["made"]
    assert git(place / "app", "rev-parse", "HEAD") == new
    pristine.mark_damaged(host.config, "app")
    bare.rename(bare.with_name("gone"))
    (one,) = pristine.refresh(host.config)
    assert one["status"] == "failed" and "cannot be cloned" in one["detail"]
    garbage_head(clone_of(host))
    (made,) = pristine.check_out(host.config, f"{place}/again")
    assert made["status"] == "failed"


# --- checking out


def test_a_checkout(host: Box) -> None:
    host.repository("app", "release/1.x")
    git(host.top / "work/app", "checkout", "-q", "-b", "other")
    host.commit("app", {"other.md": "x"}, "other")
    git(host.top / "work/app", "checkout", "-q", "release/1.x")
    refresh(host)
    place = workspace(host)
    assert check_out(host, place) == [{"dest": "app", "status": "made", "detail": ""}]
    app = place / "app"
    assert git(app, "status", "--short", "--branch") == "## release/1.x...origin/release/1.x"
    assert git(app, "rev-parse", "HEAD") == git(host.top / "work/app", "rev-parse", "HEAD")
    assert git(app, "for-each-ref", "--format=%(refname)").split() == [
        "refs/heads/release/1.x", "refs/remotes/origin/other", "refs/remotes/origin/release/1.x",
    ]  # fmt: skip
    assert git(app, "rev-parse", "origin/other") == git(host.top / "work/app", "rev-parse", "other")
    assert git(app, "config", "--local", "user.name") == host.config["git_user_name"]
    assert git(app, "config", "--local", "user.email") == host.config["git_user_email"]
    assert git(app, "remote", "get-url", "origin") == f"{host.top}/remotes/app.git"
    assert (app / "docs/1.md").read_text() == "1\n"
    assert {os.lstat(base).st_uid for base, _folders, _names in os.walk(app)} == {uid(LOOP)}
    borrowed = [name for _base, _folders, names in os.walk(app / ".git/objects") for name in names]
    assert borrowed == ["alternates"]  # nothing was copied
    script = "cd app && git log --oneline | wc -l && echo x >x && git add x && git commit -qm x && git status -s"
    done = subprocess.run(  # as the loop's user, whom nobody told to trust anything
        ["sh", "-c", script], cwd=place, env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"}, user=LOOP,
        group=gid(LOOP), extra_groups=[], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "2\n"


def test_a_damaged_clone_gives_no_checkout_and_is_marked(host: Box) -> None:
    for name in ("app", "other"):
        host.repository(name)
    refresh(host)
    lose_objects(clone_of(host))
    place = workspace(host)
    found = check_out(host, place)
    assert [(one["dest"], one["status"]) for one in found] == [("app", "failed"), ("other", "made")]
    assert found[0]["detail"] and os.listdir(place) == ["other"]
    pristine.mark_damaged(host.config, "app")
    for odd in ("none", "../other", "", "None"):
        pristine.mark_damaged(host.config, odd)
    assert (clone_of(host) / "rebuild").stat().st_uid == uid(GATE)
    assert not (clone_of(host, "other") / "rebuild").exists()
    assert refresh(host) == [("app", "replaced"), ("other", "current")]
    assert [one["status"] for one in check_out(host, workspace(host, "again"))] == ["made", "made"]


def test_a_clone_that_is_missing_is_one_line(host: Box) -> None:
    host.repository("app")
    (made,) = check_out(host, workspace(host))
    assert made["status"] == "failed" and "app.git is not a directory that can be entered" in made["detail"]


def test_what_a_repository_brings_is_not_obeyed(host: Box) -> None:
    """Attributes of the repository name a filter; nobody configured one, and hooks come with no clone."""
    host.repository("app")
    modules = '[submodule "x"]\n\tpath = x\n\turl = /x\n'
    host.commit("app", {".gitattributes": "* filter=evil\n", ".gitmodules": modules, "hooks/post-checkout": "exit 1\n"})
    refresh(host)
    place = workspace(host)
    assert [one["status"] for one in check_out(host, place)] == ["made"]
    assert not (place / "app/.git/hooks").exists() and not (place / "app/x").exists()


def test_names_that_are_no_text(host: Box) -> None:
    host.repository("app")
    name = b"caf" + bytes([233, 10])
    with open(os.fsencode(host.top / "work/app") + b"/" + name, "w", encoding="utf-8") as handle:
        handle.write("x")
    host.commit("app", {"a": "x"})
    refresh(host)
    place = workspace(host)
    assert [one["status"] for one in check_out(host, place)] == ["made"]
    assert name in os.listdir(os.fsencode(place / "app"))


def test_sha256(host: Box) -> None:
    host.repository("app", sha="sha256")
    (one,) = pristine.refresh(host.config)
    assert one["status"] == "cloned" and len(one["after"]) == 64
    assert refresh(host) == [("app", "current")]
    place = workspace(host)
    assert [made["status"] for made in check_out(host, place)] == ["made"]
    assert git(place / "app", "rev-parse", "HEAD") == one["after"]
    assert git(place / "app", "status", "--short") == ""


def test_a_hundred_repositories(host: Box) -> None:
    first = host.repository("r0")
    for number in range(1, 100):
        shutil.copytree(first, host.top / f"remotes/r{number}.git")
        host.config["workspace_repositories"].append(
            {"repo": f"{host.top}/remotes/r{number}.git", "dest": f"r{number}"}
        )
    give(host.top / "remotes", GATE)
    assert {status for _name, status in refresh(host)} == {"cloned"}
    assert {status for _name, status in refresh(host)} == {"current"}
    began = time.monotonic()
    found = check_out(host, workspace(host))
    assert len(found) == 100 and {one["status"] for one in found} == {"made"}
    assert time.monotonic() - began < 60


def test_a_clone_is_not_made_anew_for_ever(host: Box) -> None:
    host.repository("app")
    refresh(host)
    for _unused in range(pristine.REBUILDS):
        pristine.mark_damaged(host.config, "app")
        assert refresh(host) == [("app", "replaced")]
    with pytest.raises(LoopError, match="it was made anew 3 times"):
        pristine.mark_damaged(host.config, "app")
    assert refresh(host) == [("app", "current")]
