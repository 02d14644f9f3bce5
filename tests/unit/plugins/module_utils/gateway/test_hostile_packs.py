# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs that no git of good will sends: bombs, and what breaks off."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Iterable
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.gateway import (
    audit,
    kept_pushes,
    receive,
    sessions,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.git import command
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.users import as_user
from celled import GATE, LOOP, NEEDS_ROOT
from gated import Cycle, Door, Running, door, emptied, in_unit

pytestmark = NEEDS_ROOT
KEY = "-----BEGIN OPENSSH PRIVATE " + "KEY-----"
NOTHING = "0" * 40


def kept_of(gate: Door) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = as_user(GATE, lambda: kept_pushes.listing(gate.config))
    return found


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
    place = sessions.socket_of(ours.door.config)

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


@pytest.mark.parametrize("what", ["v1", "HEAD^{tree}", "HEAD:docs/b.md"])
def test_a_branch_becomes_nothing_but_a_commit(ours: Cycle, what: str) -> None:
    ours.commit()
    ours.git("tag", "-a", "-m", KEY, "v1")
    new = ours.git("rev-parse", what)
    reply = raw(ours, pack_of(ours, new), new)
    assert "is no commit" in reply, reply
    assert ours.branch not in ours.door.branches()


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
    assert [one["commit"] for one in kept_of(ours.door) if one["id"] == told["kept"]] == [sha]


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
