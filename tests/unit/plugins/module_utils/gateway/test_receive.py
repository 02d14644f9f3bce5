# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A push of the cycle: real git, a real gateway and a real forge; what is let through, refused, kept and given back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import audit, receive
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git import command
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import GATE, LOOP, NEEDS_ROOT, box, git
from gated import OTHER, REPO, Cycle, Door, Running, commit_files, door, gateway_of, in_unit

pytestmark = NEEDS_ROOT
KEY = "-----BEGIN OPENSSH PRIVATE " + "KEY-----"
NOTHING = "0" * 40


def kept(gate: Door) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = as_user(GATE, lambda: receive.kept(gate.config))
    return found


def emptied(ours: Cycle) -> bool:
    """Whether nothing of a push stays in the inbox. It is told before that is cleared."""
    for _unused in range(200):
        if not os.listdir(f"{ours.door.config['gate_dir']}/inbox"):
            return True
        time.sleep(0.05)
    return False


# --- what is let through


def test_good_work_passes_and_is_told(ours: Cycle) -> None:
    sha = ours.commit()
    done = ours.push()
    assert done.returncode == 0, done.stderr
    assert ours.door.branches()[ours.branch] == sha
    (told,) = ours.entries("push")
    assert told["allowed"] and told["new"] == sha and told["old"] == "" and told["seconds"] < 30
    assert (told["repo"], told["branch"], told["reason"]) == (REPO, ours.branch, "")
    assert ours.entries("forward")[0]["new"] == sha  # before it was sent
    assert git(ours.checkout, "rev-parse", f"refs/remotes/origin/{ours.branch}") == sha
    more = ours.commit("docs/c.md")
    assert ours.push().returncode == 0
    assert ours.door.branches()[ours.branch] == more and ours.entries("push")[-1]["old"] == sha
    assert emptied(ours)


def test_what_was_merged_meanwhile_is_not_ours(ours: Cycle) -> None:
    ours.commit()
    store = ours.door.forge.store
    commit_files(store.directory(REPO), "main", {"src/theirs.py": "x\n"}, "Merged", int(time.time()))
    fetched = ours.git("fetch", "origin", "main")
    assert fetched == "" and ours.git("cat-file", "-t", "FETCH_HEAD:src/theirs.py") == "blob"
    ours.git("merge", "-q", "--no-edit", "FETCH_HEAD")
    done = ours.push()
    assert done.returncode == 0, done.stderr


def test_a_repository_with_sha256(forge: Running) -> None:
    """Another hash than most: received, judged and forwarded all the same."""
    forge.store.add_repo("AS215932/long")
    at_forge = forge.store.directory("AS215932/long")
    with box() as host:
        host.deploy()
        bare = host.repository("app", sha="sha256")
        shutil.rmtree(at_forge)
        shutil.copytree(bare, at_forge)
        git(at_forge, "config", "http.receivepack", "true")
        host.config.update(
            unit=f"{host.config['unit']}-sha256", api_url=forge.api_url, git_url=forge.url,
            workspace_repositories=[{"repo": "AS215932/long", "dest": "app", "version": "main"}],
        )  # fmt: skip
        (host.top / "etc/env").write_text(f"GH_TOKEN={forge.token}\n")
        with gateway_of(host) as pid, Door(host, forge, pid).cycle(bound=False) as ours:
            new = ours.commit()
            assert len(new) == 64 and ours.push().returncode == 0
            ours.commit("src/x.py")
            assert "src/x.py: outside of what may be changed" in ours.push().stderr.replace("\nremote: ", "")
            assert git(at_forge, "rev-parse", ours.branch) == new


# --- which ref


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("HEAD:refs/heads/main", "main is not the loop's own, allowed: below hyrule-feature, hyrule-loop"),
        ("HEAD:refs/heads/hyrule-feature", "hyrule-feature is not the loop's own"),
        ("HEAD:refs/heads/hyrule-features/x", "hyrule-features/x is not the loop's own"),
        ("HEAD:refs/heads/hyrule-feature/ISSUE_APP_99999/app", "is not of the issue that this cycle took, allowed: "),
        ("HEAD:refs/heads/hyrule-feature/x", "is not of the issue that this cycle took"),
        ("HEAD:refs/tags/v1", "refs/tags/v1 is no branch"),
        ("HEAD:refs/pull/1/head", "refs/pull/1/head is no branch"),
        ("HEAD:refs/replace/1", "refs/replace/1 is no branch"),
        (":refs/heads/main", "refs/heads/main would be deleted"),
    ],
)
def test_only_a_branch_of_its_own_issue(ours: Cycle, ref: str, reason: str) -> None:
    ours.commit()
    assert reason in ours.refused(ref)


def test_one_ref_at_a_time(ours: Cycle) -> None:
    ours.commit()
    told = ours.refused("HEAD", f"HEAD:{ours.branch}", "HEAD:refs/tags/v1")
    assert "one branch is published at a time, not 3 refs" in told


def test_a_branch_of_each_prefix_is_an_issues_own_and_there_is_one(ours: Cycle) -> None:
    ours.commit()
    assert ours.push(f"HEAD:refs/heads/hyrule-loop/ISSUE_APP_{ours.number}/app").returncode == 0
    reason = ours.refused()
    assert f"has published hyrule-loop/ISSUE_APP_{ours.number}/app already, and publishes one branch" in reason


def test_without_an_issue_there_is_nothing_to_publish(gate: Door) -> None:
    with gate.cycle() as idle:
        idle.number = gate.issue()
        idle.listed()  # it was offered, and not taken
        idle.commit()
        assert "this cycle has taken no issue, so it has nothing to publish" in idle.refused()


def test_a_person_in_a_kept_cell_is_bound_to_no_issue(gate: Door) -> None:
    with gate.cycle(bound=False) as person:
        person.number = gate.issue()
        person.commit()
        assert person.push().returncode == 0
        assert person.open().returncode == 0


def test_another_repository_of_the_workspace_takes_no_branch_of_this_one(ours: Cycle) -> None:
    before = ours.door.branches(OTHER)
    done = ours.run(
        "git", "push", "origin", f"HEAD:refs/heads/hyrule-feature/x/{ours.number}", where=f"{ours.workspace}/other"
    )
    assert done.returncode and ours.door.branches(OTHER) == before


@pytest.mark.parametrize("what", ["v1", "HEAD^{tree}", "HEAD:docs/b.md"])
def test_a_branch_becomes_nothing_but_a_commit(ours: Cycle, what: str) -> None:
    ours.commit()
    ours.git("tag", "-a", "-m", KEY, "v1")
    new = ours.git("rev-parse", what)
    reply = raw(ours, pack_of(ours, new), new)
    assert "is no commit" in reply, reply
    assert ours.branch not in ours.door.branches()


def test_what_this_cycle_published_stays(ours: Cycle) -> None:
    ours.commit()
    assert ours.push().returncode == 0
    ours.git("commit", "-q", "--amend", "-m", "Other")
    assert "which this cycle published and which would be lost" in ours.refused()


def test_the_issue_that_it_took_stands_while_its_work_is_judged(
    forge: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one issue's branch would be published, and the record say that the cycle had worked on another."""
    judge = receive.judge

    def slowly(config: dict[str, Any], *more: Any) -> Any:
        view = {"what": "view", "repo": REPO, "number": other, "body": True}
        audit.append(config, audit.cycles(config)[-1], view)
        return judge(config, *more)

    with monkeypatch.context() as patched:
        patched.setattr(receive, "judge", slowly)
        other = 4711
        with door(forge) as gate, gate.cycle(gate.issue()) as ours:
            ours.commit()
            assert "is not of the issue that this cycle took, allowed: " in ours.refused()
            gate.close_all()


# --- what is in it


@pytest.mark.parametrize(
    ("path", "text", "message", "reason"),
    [
        ("src/x.py", "x\n", "Page", "src/x.py: outside of what may be changed (docs) [allowed_paths]"),
        ("docs/b.md", f"{KEY}\n", "Page", "docs/b.md: adds text denied by"),
        ("docs/b.md", "x\n", f"Page\n\n{KEY}", "a commit: adds text denied by"),
        ("docs/AGENTS.md", "x\n", "Page", "docs/AGENTS.md: is protected (agent instructions) [guards."),
        ("docs/b.bin", "a\0b\n", "Page", "docs/b.bin: is binary [guards.binaries]"),
    ],
)
def test_each_commit_is_judged_not_only_the_last(ours: Cycle, path: str, text: str, message: str, reason: str) -> None:
    ours.commit(path, text, message)
    (ours.checkout / path).unlink()
    ours.commit("docs/c.md", message="Tidy")
    assert ours.refused().startswith(f"push refused: {reason}")


def test_a_hostile_author_is_published_too(ours: Cycle) -> None:
    ours.commit(GIT_AUTHOR_NAME=KEY)
    assert "a commit: adds text denied" in ours.refused()


def test_a_commit_of_the_year_2100(ours: Cycle) -> None:
    """It says what it likes of its time: nothing that we decide rests on it."""
    ours.commit(GIT_AUTHOR_DATE="@4102444800 +0000", GIT_COMMITTER_DATE="@4102444800 +0000")
    ours.commit("src/x.py")
    assert "src/x.py: outside" in ours.refused()


def test_an_author_with_odd_characters_cannot_speak_to_the_terminal(ours: Cycle) -> None:
    ours.commit(GIT_AUTHOR_NAME="\x1b[2J\u202e<Nobody", GIT_AUTHOR_EMAIL="a\tb@\x07")
    ours.commit("src/\x1b[2J.py")
    done = ours.push()
    assert done.returncode and "\x1b[2J" not in done.stderr.replace("\x1b[K", "")
    assert "\x1b" not in ours.entries("push")[-1]["reason"]


def test_names_of_files_that_end_a_line_elsewhere(ours: Cycle) -> None:
    ours.commit("docs/a\u2028b\x1cc\x85.md")
    (ours.checkout / "docs" / "\udcff\x0b\n.md").write_text("x\n")
    ours.commit("docs/d.md")
    reason = ours.refused()
    assert "docs/a\\u2028b\\x1cc\\x85.md: has U+2028, which is not seen as it is [names]" in reason, reason


def test_a_merged_side_branch_counts(ours: Cycle) -> None:
    ours.git("checkout", "-q", "-b", "side")
    ours.commit("src/x.py")
    ours.git("checkout", "-q", "main")
    ours.commit()
    ours.git("merge", "-q", "--no-ff", "-m", "Merge", "-s", "ours", "side")
    assert "src/x.py: outside" in ours.refused()


def test_a_directory_with_nothing_in_it_is_not_published(ours: Cycle) -> None:
    """git makes none, and no difference shows one: its name could be anything, anywhere."""
    hollow = ours.git("hash-object", "-t", "tree", "-w", "/dev/null")
    inner = ours.git("mktree", stdin=f"040000 tree {hollow}\t{KEY}\n")
    files = ours.git("ls-tree", "HEAD")
    tree = ours.git("mktree", stdin=f"{files}\n040000 tree {inner}\thollow\n")
    ours.git("reset", "-q", "--hard", ours.git("commit-tree", "-p", "HEAD", "-m", "Page", tree))
    reason = f"hollow/{KEY}: is a directory with nothing in it, which git makes none of [modes]"
    assert reason in ours.refused()
    ours.commit()
    assert reason in ours.refused()


def test_a_history_of_its_own_is_judged_as_a_whole(ours: Cycle) -> None:
    ours.git("checkout", "-q", "--orphan", "fresh")
    ours.commit("src/x.py")
    assert "README.md: outside" in ours.refused() or "src/x.py: outside" in ours.entries("push")[-1]["reason"]


def test_links_and_a_few_reasons_of_many(ours: Cycle) -> None:
    (ours.checkout / "docs/p").symlink_to("/etc/passwd")
    for number in range(5):
        ours.commit(f"src/{number}.py")
    reason = ours.refused()
    assert "docs/p: is a symlink" in reason and reason.endswith(" and 3 more")


def test_nothing_that_a_repository_says_hides_a_commit(ours: Cycle) -> None:
    """Forged refs, replaced objects, grafts and a forged object in the pusher's store: what is received is judged."""
    base = ours.git("rev-parse", "HEAD")
    bad = ours.commit("src/x.py")
    (ours.checkout / "src/x.py").unlink()
    last = ours.commit()
    for ref in ("refs/remotes/origin/main", "refs/heads/other", "refs/tags/main"):
        ours.git("update-ref", ref, bad)
    ours.git("replace", bad, base)
    assert "src/x.py: outside" in ours.refused()
    ours.git("replace", "-d", bad)
    (ours.checkout / ".git/info").mkdir(exist_ok=True)
    (ours.checkout / ".git/info/grafts").write_text(f"{last} {base}\n")
    ours.push("--force")
    assert ours.branch not in ours.door.branches()


def test_a_forged_object_of_the_pushers_does_not_arrive(ours: Cycle) -> None:
    ours.commit("src/x.py", "bad\n")
    blob = ours.git("rev-parse", "HEAD:src/x.py")
    good = zlib.compress(b"blob 5\0good\n")
    place = ours.checkout / ".git/objects" / blob[:2] / blob[2:]
    place.chmod(0o644)
    place.write_bytes(good)
    assert ours.push().returncode != 0
    assert ours.branch not in ours.door.branches()


def test_a_policy_that_is_not_the_deployed_one(ours: Cycle) -> None:
    ours.commit()
    policy = Path(ours.door.config["policy_file"])
    text = policy.read_text()
    try:
        policy.write_text(text.replace("20", "2000"))
        assert "is not the one that was deployed" in ours.refused()
        policy.rename(policy.with_name("away"))
        assert "there is no policy at" in ours.refused()
    finally:
        policy.with_name("away").unlink(missing_ok=True)
        policy.write_text(text)
        policy.chmod(0o644)
    assert ours.push().returncode == 0


def test_no_base_to_compare_with(ours: Cycle) -> None:
    (clone,) = [one for one in receive.pristine.clones(ours.door.config) if one.dest == "app"]
    ref = Path(clone.path, "packed-refs")
    text = ref.read_text()
    ours.commit()
    loose = Path(clone.path, "refs/heads/main")
    tip = loose.read_text() if loose.exists() else ""
    try:
        ref.write_text("# pack-refs with: peeled fully-peeled sorted \n")
        loose.unlink(missing_ok=True)
        before = ours.door.branches()
        done = ours.push()
        assert done.returncode and "the gateway has no main of AS215932/app to compare with" in done.stderr
        assert ours.door.branches() == before
    finally:
        ref.write_text(text)
        if tip:
            loose.write_text(tip)


def test_allowed_paths_are_those_of_the_checkout(forge: Running) -> None:
    with door(forge, allowed_paths={"app": ["src"], "other": ["docs"]}) as gate:
        try:
            with gate.cycle(gate.issue()) as ours:
                ours.commit()
                assert "docs/b.md: outside of what may be changed (src)" in ours.refused()
        finally:
            gate.close_all()


# --- bombs, and what breaks off


TYPES = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}


def entry(kind: int, size: int, compressed: bytes, before: bytes = b"") -> bytes:
    """One object of a pack."""
    head, rest = [(kind << 4) | (size & 15)], size >> 4
    while rest:
        head[-1] |= 0x80
        head.append(rest & 0x7F)
        rest >>= 7
    return bytes(head) + before + compressed


def pack(entries: Iterable[bytes], count: int) -> bytes:
    content = b"PACK" + struct.pack(">II", 2, count) + b"".join(entries)
    return content + hashlib.sha1(content).digest()  # noqa: S324 - git's


def name_of(kind: str, content: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()  # noqa: S324 - git's


class Objects:
    """Objects made by hand, for what git itself would not make."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def add(self, kind: str, content: bytes) -> str:
        self.entries.append(entry(TYPES[kind], len(content), zlib.compress(content)))
        return name_of(kind, content)

    def tree(self, *lines: tuple[str, str, str]) -> str:
        content = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(sha) for mode, name, sha in lines)
        return self.add("tree", content)

    def commit(self, tree: str, parent: str, more: str = "") -> str:
        who = "pi <pi@example.invalid> 1767225600 +0000"
        text = f"tree {tree}\nparent {parent}\nauthor {who}\ncommitter {who}\n{more}\nPage\n"
        return self.add("commit", text.encode())

    def pack(self) -> bytes:
        return pack(self.entries, len(self.entries))


def pack_of(ours: Cycle, name: str) -> bytes:
    """Everything that this object needs, as git packs it."""
    words = ["git", "-c", "safe.directory=*", "pack-objects", "--stdout", "--revs", "-q"]
    given = f"{name}\n^origin/main\n".encode()
    done = subprocess.run(words, cwd=ours.checkout, input=given, capture_output=True, check=True)
    return done.stdout


def framed(*lines: bytes) -> bytes:
    return b"".join(b"%04x" % (len(line) + 4) + line for line in lines) + b"0000"


def raw(ours: Cycle, content: bytes, new: str = "", *, said: bytes = b"", cut: bool = False) -> str:
    """Speak git's protocol by hand; all that is answered."""
    asked_for = said or framed(f"{NOTHING} {new} refs/heads/{ours.branch}\0report-status side-band-64k".encode())
    place = audit.socket_of(ours.door.config)

    def work() -> str:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(55)
            peer.connect(place)
            asked = b"git-receive-pack /app.git\0host=gateway\0"
            peer.sendall(b"%04x" % (len(asked) + 4) + asked)
            told = b""
            while not told.endswith(b"0000"):
                told += peer.recv(65536)
            peer.sendall(asked_for)
            answer = b""
            try:
                peer.sendall(content)
                if not cut:
                    while chunk := peer.recv(65536):
                        answer += chunk
            except OSError as error:
                answer += str(error).encode()
            return answer.decode("utf-8", "replace")

    with in_unit(ours.unit):
        answer: str = as_user(LOOP, work)
    return answer


def zeros(size: int) -> tuple[bytes, str]:
    """A blob of zeros as it is in a pack, and its name, without so much memory."""
    step = 1 << 24
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(step)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(step)) + packer.flush(zlib.Z_FULL_FLUSH)
    digest = hashlib.sha1(f"blob {size}\0".encode())  # noqa: S324 - git's
    for _unused in range(size // step):
        digest.update(bytes(step))
    adler = struct.pack(">I", ((size % 65521) << 16) | 1)
    stream = first + again * (size // step - 1) + b"\x03\x00" + adler
    return entry(3, size, stream), digest.hexdigest()


def test_a_pack_bomb(ours: Cycle) -> None:
    """A file of zeros, larger than all memory that receiving may take, in a pack of a megabyte."""
    size = 65 << 24  # more than a gigabyte
    base = ours.git("rev-parse", "HEAD")
    blob, name = zeros(size)
    made = Objects()
    made.entries.append(blob)
    new = made.commit(made.tree(("40000", "docs", made.tree(("100644", "b", name)))), base)
    content = made.pack()
    assert len(content) < 2 << 20
    reply = raw(ours, content, new)
    assert " bytes would be unpacked, more than 8 times what a change may add [max_patch_bytes]" in reply, reply
    assert ours.branch not in ours.door.branches()


def test_a_tree_bomb(ours: Cycle) -> None:
    """Ten trees of ten times the next, which are ten thousand million files when they are written out."""
    base = ours.git("rev-parse", "HEAD")
    made = Objects()
    below = made.add("blob", b"x\n")
    mode = "100644"
    for _unused in range(10):
        below, mode = made.tree(*[(mode, f"a{number}", below) for number in range(10)]), "40000"
    new = made.commit(made.tree(("40000", "docs", below)), base)
    began = time.monotonic()
    reply = raw(ours, made.pack(), new)
    assert "push refused: " in reply and time.monotonic() - began < 30, reply
    assert "more files would be changed in AS215932/app than git can list: " in reply, reply
    assert ours.branch not in ours.door.branches()


def test_one_file_under_many_names(ours: Cycle) -> None:
    base = ours.git("rev-parse", "HEAD")
    made = Objects()
    blob = made.add("blob", b"line\n" * 800_000)
    below = made.tree(*[("100644", f"a{number:04}", blob) for number in range(2000)])
    new = made.commit(made.tree(("40000", "docs", below)), base)
    reply = raw(ours, made.pack(), new)
    assert "push refused: " in reply and "[max_patch_bytes]" in reply, reply


def varint(value: int) -> bytes:
    """A size as a difference begins with it."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def test_a_delta_bomb(ours: Cycle) -> None:
    """A difference of a few bytes that copies the same sixteen megabytes again and again."""
    base = ours.git("rev-parse", "HEAD")
    source = bytes(0xFFFFFF)
    name = name_of("blob", source)
    times = 128  # two gigabytes
    made = Objects()
    made.add("blob", source)
    size = len(source) * times
    delta = varint(len(source)) + varint(size) + (b"\xf0\xff\xff\xff") * times
    made.entries.append(entry(7, len(delta), zlib.compress(delta), bytes.fromhex(name)))
    new = made.commit(made.tree(("40000", "docs", made.tree(("100644", "b", name)))), base)
    began = time.monotonic()
    reply = raw(ours, made.pack(), new)
    assert "unpack index-pack" in reply and "ng refs/heads/" in reply, reply
    assert time.monotonic() - began < 30
    assert ours.branch not in ours.door.branches()


def test_trees_in_trees_in_trees(ours: Cycle) -> None:
    base = ours.git("rev-parse", "HEAD")
    made = Objects()
    below, mode = made.add("blob", b"x\n"), "100644"
    for _unused in range(8_000):
        below, mode = made.tree((mode, "a", below)), "40000"
    new = made.commit(made.tree(("40000", "docs", below)), base)
    reply = raw(ours, made.pack(), new)
    assert "ng refs/heads/" in reply, reply
    assert ours.branch not in ours.door.branches()


def test_differences_that_take_long_to_make(forge: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seventeen kilobytes that are seven gigabytes to be hashed: it ends long before its time to receive does."""
    monkeypatch.setattr(command, "MAX_WORK", 1)
    source = bytes(0xFFFFFF)
    name = name_of("blob", source)
    made = Objects()
    made.add("blob", source)
    size = len(source) * 30 + 2
    for number in range(15):
        delta = varint(len(source)) + varint(size) + b"\xf0\xff\xff\xff" * 30 + b"\x02" + struct.pack(">H", number)
        made.entries.append(entry(7, len(delta), zlib.compress(delta), bytes.fromhex(name)))
    with door(forge) as gate, gate.cycle(gate.issue()) as ours:
        base = ours.git("rev-parse", "HEAD")
        new = made.commit(made.tree(("40000", "docs", made.tree(("100644", "b", name)))), base)
        reply = raw(ours, made.pack(), new)
        assert "git index-pack in the gateway worked for longer than 1 s" in reply, reply
        assert emptied(ours)
        gate.close_all()


def test_who_sends_much_that_is_refused_at_its_beginning_hears_why(ours: Cycle) -> None:
    (ours.checkout / "docs/b.bin").write_bytes(os.urandom(24 << 20))
    good = ours.commit()
    who = "pi <pi@example.invalid> 1767225600 +0000"
    tree = ours.git("rev-parse", "HEAD^{tree}")
    text = f"tree {tree}\nparent {good}\nauthor {who}\nauthor {who}\ncommitter {who}\n\nPage\n"
    bad = ours.git("hash-object", "-t", "commit", "-w", "--stdin", "--literally", stdin=text)
    done = ours.push(f"{bad}:refs/heads/{ours.branch}")
    assert done.returncode and "multipleAuthors" in done.stderr and "nothing was published" in done.stderr, done.stderr
    assert ours.branch not in ours.door.branches()


def test_what_the_forge_is_asked_for_is_in_the_record(ours: Cycle) -> None:
    """It bounds how often that can be: also where nothing is pushed in the end, and where nothing is answered."""
    for _unused in range(3):
        ours.push("HEAD:refs/heads/main")
    assert len(ours.entries("receive")) == 3
    path = audit.path_of(ours.door.config, ours.name)
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(" " * audit.MAX_BYTES + "\n")
    before = len(ours.door.requests())
    assert "this cycle has asked for too much" in ours.push().stderr
    assert "this cycle has asked for too much" in ours.run("git", "fetch", "origin").stderr
    assert len(ours.door.requests()) == before


@pytest.mark.parametrize("fault", ["cut", "checksum", "garbage", "none", "missing"])
def test_a_pack_that_is_broken(ours: Cycle, fault: str) -> None:
    new = ours.commit(text=f"{fault}\n")  # another one each time, that nobody has yet
    content = pack_of(ours, new)
    broken = {
        "cut": content[:-30], "checksum": content[:-1] + bytes([content[-1] ^ 1]), "garbage": b"PACK" + b"x" * 500,
        "none": b"", "missing": pack([], 0),
    }[fault]  # fmt: skip
    ends = fault in ("cut", "none", "garbage")
    reply = raw(ours, broken, new, cut=ends)
    assert ends or "ng refs/heads/" in reply or "unpack" in reply, reply
    for _unused in range(100):
        if ours.entries():
            told = [one for one in ours.entries() if one["what"] in ("refused", "push")]
            if told:
                break
        time.sleep(0.05)
    assert told and not told[-1].get("allowed")
    assert ours.branch not in ours.door.branches()
    assert ours.push().returncode == 0  # and the next one goes its way


@pytest.mark.parametrize(
    "bad",
    [("100644", ".git", "blob"), ("100644", "..", "blob"), ("100644", "a/b", "blob"), ("120000", ".gitmodules", "blob"),
     ("104755", "a", "blob")],
)  # fmt: skip
def test_objects_that_git_finds_wrong(ours: Cycle, bad: tuple[str, str, str]) -> None:
    base = ours.git("rev-parse", "HEAD")
    made = Objects()
    blob = made.add("blob", b"x\n")
    new = made.commit(made.tree(("40000", "docs", made.tree((bad[0], bad[1], blob)))), base)
    reply = raw(ours, made.pack(), new)
    assert "ng refs/heads/" in reply, reply
    assert ours.branch not in ours.door.branches()


def test_a_push_that_is_larger_than_any_may_be(ours: Cycle) -> None:
    """A pack that says nothing for longer than the limit: git is told to stop, and the cycle why."""
    base = ours.git("rev-parse", "HEAD")
    limit = receive.MAX_INPUT
    made = Objects()
    blob = made.add("blob", b"x\n")
    new = made.commit(made.tree(("40000", "docs", made.tree(("100644", "b", blob)))), base)
    stored = zlib.compressobj(0)
    noise = os.urandom(1 << 20)
    large = b"".join(stored.compress(noise) for _unused in range((limit >> 20) + 2)) + stored.flush()
    made.entries.append(entry(3, len(noise) * ((limit >> 20) + 2), large))
    reply = raw(ours, made.pack(), new)
    assert "ng refs/heads/" in reply or "Broken pipe" in reply or "reset" in reply, reply[-300:]
    why = ours.entries("refused")[-1]["why"]
    assert why.startswith("it was not received whole: ") and "pack exceeds maximum allowed size" in why
    assert emptied(ours)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("{0} --all {ref}", "nothing that git asks for in a push"),
        ("{0} HEAD {ref}", "nothing that git asks for in a push"),
        ("-c {new} {ref}", "nothing that git asks for in a push"),
        ("push-cert\0", "nothing that git asks for in a push"),
        ("{0} {new} {ref}/", "is not a branch name"),
        ("{0} {new}", "is no branch"),
        ("{0} {new} {ref}\nconnect git-upload-pack", "is no name that a person can read"),
    ],
)
def test_what_no_git_asks_for(ours: Cycle, words: str, why: str) -> None:
    """Nothing of it becomes a word of a command."""
    new = ours.commit()
    asked = words.format(NOTHING, new=new, ref=f"refs/heads/{ours.branch}")
    assert why in raw(ours, pack_of(ours, new), said=framed(f"{asked}\0report-status".encode()))
    assert ours.branch not in ours.door.branches()


def test_more_refs_than_anybody_has(ours: Cycle) -> None:
    lines = [f"{NOTHING} {NOTHING} refs/heads/{number}".encode() for number in range(receive.MAX_REFS + 1)]
    assert "nothing that git asks for in a push" in raw(ours, b"", said=framed(*lines))
    reply = raw(ours, b"", said=framed(*[line + b"x" * 500 for line in lines[1:]]))  # its report has many packets
    assert "one branch is published at a time, not 1000 refs" in reply
    assert "refs/heads/1000x" in reply and reply.endswith(" refused by the gateway\n00000000")


def test_a_clone_whose_history_is_cut_off(ours: Cycle) -> None:
    (ours.checkout / ".git/shallow").write_text(ours.git("rev-parse", "HEAD") + "\n")
    sha = ours.commit()
    assert "from a clone whose history is cut off: git fetch --unshallow" in ours.refused()
    (told,) = ours.entries("push")
    assert (told["new"], told["branch"]) == (sha, ours.branch)
    assert [one["commit"] for one in kept(ours.door) if one["id"] == told["kept"]] == [sha]


def test_a_clone_whose_history_is_cut_off_and_that_sends_nothing(ours: Cycle) -> None:
    """git tells where it is cut off all the same, and waits for no answer, or sends no pack."""
    (ours.checkout / ".git/shallow").write_text(ours.git("rev-parse", "HEAD") + "\n")
    assert ours.push("HEAD:refs/heads/main").returncode == 0 and emptied(ours)
    assert not ours.entries("push") and not ours.entries("refused")
    assert "from a clone whose history is cut off" in ours.refused(":refs/heads/main")


def test_what_is_there_already_is_no_push(ours: Cycle) -> None:
    done = ours.push("HEAD:refs/heads/main")
    assert done.returncode == 0 and "Everything up-to-date" in done.stderr
    assert not ours.entries("push") and not ours.entries("refused")


# --- the forge


def test_the_forge_refuses_in_its_own_words(ours: Cycle) -> None:
    ours.commit()
    store = ours.door.forge.store
    with store.lock:
        store.state["repos"][REPO]["protected"].append(ours.branch)
        store.save()
    reason = ours.refused()
    assert "the forge refuses it: " in reason and "GH006: Protected branch update failed" in reason


def test_the_forge_moved_meanwhile(ours: Cycle) -> None:
    """Somebody pushed to the branch after we had looked: their work is not lost."""
    new = ours.commit()
    there = commit_files(ours.door.directory(), ours.branch, {"docs/theirs.md": "x\n"}, "Theirs", int(time.time()))
    assert "the forge refuses it: " in ours.refused() and new != there
    assert ours.door.branches()[ours.branch] == there


def test_a_forge_of_another_kind(forge: Running) -> None:
    """Said before anything is received, in words that git shows."""
    with box() as host:
        host.deploy()
        bare = host.repository("app")
        (host.top / "etc/env").write_text(f"GH_TOKEN={forge.token}\n")
        host.config["unit"] += "-file"
        with gateway_of(host) as pid, Door(host, forge, pid).cycle(bound=False) as ours:
            ours.commit()
            told = ours.run("git", "push", f"git://gateway/{bare.name}", "HEAD:refs/heads/hyrule-feature/x").stderr
            assert "is no https address, and the gateway publishes to no other" in told
            assert git(bare, "for-each-ref", "refs/heads/hyrule-feature") == ""


def test_the_forge_is_down(ours: Cycle) -> None:
    ours.commit()
    ours.door.fault("down", r"\.git/")
    reason = ours.refused()
    assert "the forge refuses it: fatal: " in reason and "503" in reason
    ours.door.forge.store.state["faults"] = []
    assert ours.push().returncode == 0


def test_a_token_that_the_forge_does_not_take(ours: Cycle) -> None:
    ours.commit()
    with ours.door.forge.store.lock:
        ours.door.forge.store.limit_tokens("hyrule-loop[bot]", 0)
    reason = ours.refused()
    assert "the forge refuses it: " in reason and ours.door.forge.token not in reason


def test_a_branch_with_an_open_pull_request_is_left_alone(ours: Cycle) -> None:
    ours.commit()
    assert ours.push().returncode == 0 and ours.open().returncode == 0
    with ours.door.cycle(bound=False) as other:
        other.number = ours.number
        other.commit("docs/c.md")
        assert "has the open pull request " in other.refused()


# --- what is kept


def test_what_was_refused_is_kept_and_given_back(ours: Cycle) -> None:
    sha = ours.commit("src/x.py", "precious\n")
    reason = ours.refused()
    name = ours.entries("push")[-1]["kept"]
    one = next(one for one in kept(ours.door) if one["id"] == name)
    assert (one["repo"], one["branch"], one["commit"]) == (REPO, ours.branch, sha)
    assert (one["cycle"], one["why"]) == (ours.name, reason)
    before = receive.restore(ours.door.config, name, "rescue/it", check=True)
    (place,) = before["brought"]
    assert before["changed"] and not os.path.exists(place["path"])
    assert receive.restore(ours.door.config, name, "rescue/it") == before
    there = Path(place["path"])
    assert (there / "src/x.py").read_text() == "precious\n" and os.lstat(there / "src/x.py").st_uid == 0
    assert git(there, "rev-parse", "HEAD") == sha and git(there, "branch", "--show-current") == "rescue/it"
    assert git(there, "remote", "get-url", "origin").endswith("/AS215932/app.git")
    assert not (there / ".git/objects/info/alternates").exists() and git(there, "fsck") == ""
    with pytest.raises(LoopError, match="is there already: move it away"):
        receive.restore(ours.door.config, name, "rescue/it")
    with pytest.raises(LoopError, match="check-ref-format"):
        receive.restore(ours.door.config, name, "rescue..it")
    with pytest.raises(LoopError, match=r"keeps nothing as \.\./x"):
        receive.restore(ours.door.config, "../x", "rescue/it")


def test_of_one_cycle_only_so_much_is_kept_and_the_same_work_once(ours: Cycle) -> None:
    names = []
    for number in range(receive.KEPT_PER_CYCLE + 1):
        ours.commit(f"src/{number}.py")
        ours.refused()
        names.append(ours.entries("push")[-1]["kept"])
    assert all(names[:-1]) and len(set(names)) == len(names) and names[-1] == ""
    ours.git("reset", "-q", "--hard", f"HEAD~{receive.KEPT_PER_CYCLE}")
    ours.refused()
    assert ours.entries("push")[-1]["kept"] == names[0]


def test_a_branch_of_an_earlier_cycle_is_kept_and_makes_room(gate: Door) -> None:
    number = gate.issue()
    with gate.cycle(number) as first:
        old = first.commit()
        assert first.push().returncode == 0 and first.open().returncode == 0
    (pull,) = gate.pulls(first.branch)
    pull["state"] = "closed"
    with gate.cycle(number) as second:  # a person closed it: it is offered again
        new = second.commit("docs/c.md")
        done = second.push(options=("--force",))
        assert done.returncode == 0, done.stderr
        assert gate.branches()[second.branch] == new
        (told,) = second.entries("replaced")
        assert told["old"] == old
    one = next(one for one in kept(gate) if one["id"] == told["kept"])
    assert one["commit"] == old and "an earlier cycle published it" in one["why"]
    assert receive.restore(gate.config, one["id"], "old")["changed"]


def test_what_is_not_kept_by_us_is_passed_over(gate: Door) -> None:
    place = Path(gate.config["gate_dir"], "kept")
    before = kept(gate)
    for name, text in {"a.git": "[", "b.git": "{}", "c.git": '{"a":' * 50 + "1" + "}" * 50}.items():
        (place / name).mkdir()
        (place / name / "kept.json").write_text(text)
    (place / "d.git").mkdir()
    (place / "d.git/kept.json").symlink_to("/etc/passwd")
    (place / "e.git").mkdir()
    os.mkfifo(place / "e.git/kept.json")
    (place / "f.git").symlink_to("/")
    assert receive.kept(gate.config) == before
    for name in "abcdef":
        subprocess.run(["rm", "-rf", place / f"{name}.git"], check=True)


def test_what_was_kept_long_enough_goes(ours: Cycle) -> None:
    ours.commit("src/x.py")
    ours.refused()
    name = ours.entries("push")[-1]["kept"]
    half = Path(ours.door.config["gate_dir"], "inbox", "half.git")
    as_user(GATE, half.mkdir)
    config = {**ours.door.config, "quarantine_keep": {"age": "90d"}}
    as_user(GATE, lambda: receive.tidy(config))
    assert not half.exists() and name in [one["id"] for one in kept(ours.door)]
    old = Path(next(one["path"] for one in kept(ours.door) if one["id"] == name))
    old.rename(old.with_name("20200101T000000Z-0a0b0c0d.git"))
    as_user(GATE, lambda: receive.tidy(config))
    assert not old.with_name("20200101T000000Z-0a0b0c0d.git").exists()


def test_the_token_is_in_no_answer_and_in_no_record(ours: Cycle) -> None:
    ours.commit()
    told = ours.push()
    assert ours.door.forge.token not in told.stderr + told.stdout + json.dumps(ours.entries())
