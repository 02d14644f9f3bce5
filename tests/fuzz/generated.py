# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The half that knows the formats: hypothesis builds policies, diffs, reports and manifests, nearly right.

Arguments: TARGET INPUTS.

It gets past the first line more often than mutated bytes do, and repeats pieces until an
input has up to 1 MiB. The target runs in a process of its own, so that its memory is not hypothesis's.
Ends with a traceback and the smallest input that causes it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import targets
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

EACH = 5_000  # hypothesis keeps each example's tree, so many short runs stay small
LARGEST = 1024 * 1024
TIMES = st.sampled_from([1] * 60 + [30, 1000])

TEXTS = st.one_of(
    st.sampled_from([".env", "*.key", "secrets/**", "AKIA[0-9A-Z]{16}", "(?i)a|b", "/srv/runs", "main", "origin"]),
    st.sampled_from(["(", "(a+)+$", "a{99999999999}", "\\", "[", "../x", "/", "\0", "\u2028", "\ud800", "x" * 2000]),
    st.text(max_size=8),
)
VALUES = st.one_of(
    st.lists(TEXTS, max_size=4),
    *(st.integers(), st.booleans(), st.none(), st.floats(), TEXTS, st.dictionaries(TEXTS, TEXTS)),
)
KEYS = st.sampled_from(targets.KEYS)
SECTION = st.dictionaries(st.one_of(KEYS, KEYS, KEYS, TEXTS), VALUES, max_size=4)
REPOS = st.dictionaries(st.sampled_from(["app", "hyrule-infra", "a/b", ""]), SECTION, max_size=2)
GUARDS = st.fixed_dictionaries({}, optional={"defaults": SECTION, "repos": REPOS})
POLICIES = st.fixed_dictionaries(
    {"version": st.sampled_from([1, 1, 1, 2, "1", True])},
    optional={"defaults": SECTION, "repos": REPOS, "guards": GUARDS, "more": VALUES},
)
ODDITIES = st.sampled_from(
    ["&a ", "*a", "!!python/object:os.system ", "<<: *a", "---\n", "? ", ": ", "- ", "\t", "[", "{", "|\n", "#"]
)


@st.composite
def policy(draw: st.DrawFn) -> bytes:
    """JSON is YAML: a policy written so, with pieces put in, doubled, or repeated past every bound."""
    content = draw(POLICIES)
    text = json.dumps(content, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    for _change in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        end = at + draw(st.integers(0, 30))
        piece = draw(st.one_of(ODDITIES, st.just(text[at:end]), st.text(max_size=3)))
        text = text[:at] + piece * draw(TIMES) + text[draw(st.sampled_from([at, end])) :]
    return text.encode("utf-8", draw(st.sampled_from(["replace", "surrogatepass"])))[:LARGEST]


NAMES = st.one_of(
    st.sampled_from(["docs/a", "docs/é", ".env", "a b/c d", ".git/config", "../x", "docs/\t", "x\\y", ""]),
    st.text(max_size=6),
)
LINES = st.one_of(
    st.sampled_from(["a", "", "token = 'x'", "AKIA0123456789ABCDEF", "++ b/x", "@@ -1 +1 @@", "diff --git a/x b/x"]),
    st.text(max_size=8),
)
HEADERS = st.sampled_from(
    [
        *("index 1..2 100644", "index 0..1", "old mode 100644", "new mode 100755", "new file mode 9"),
        *("deleted file mode 100644", "new file mode 120000"),
        *("similarity index 90%", "Binary files a/x and b/x differ", "GIT binary patch"),
        *("literal 5", "delta 999999999999999", "McmZQzU|?ckU|;|M00aO5"),
        *("", "rename from docs/a", "rename to x", "copy to x"),
    ]
)


def quoted(name: str) -> str:
    """A name as git quotes it."""
    raw = name.encode("utf-8", "surrogatepass")
    return '"' + "".join(chr(byte) if chr(byte).isalnum() else f"\\{byte:03o}" for byte in raw) + '"'


@st.composite
def file(draw: st.DrawFn) -> str:
    """One file of a diff. Most of what it says about itself is true."""
    name, other = draw(NAMES), draw(NAMES)
    write = quoted if draw(st.booleans()) else str
    old, new = write(f"a/{name}"), write(f"b/{draw(st.sampled_from([name, name, name, other]))}")
    lines = [f"diff --git {old} {new}"] * draw(st.sampled_from([1, 1, 1, 0]))
    lines += draw(st.lists(HEADERS, max_size=3))
    if draw(st.booleans()):
        lines += [
            f"--- {draw(st.sampled_from([old, '/dev/null']))}",
            f"+++ {draw(st.sampled_from([new, '/dev/null']))}",
        ]
    for _hunk in range(draw(st.integers(0, 2))):
        body = draw(st.lists(st.tuples(st.sampled_from("+++- \\"), LINES), max_size=5))
        body *= draw(TIMES)
        before = sum(mark in "- " for mark, _text in body) + draw(st.sampled_from([0] * 9 + [1, 10**8]))
        after = sum(mark in "+ " for mark, _text in body)
        lines += [f"@@ -1,{before} +1,{after} @@", *(mark + text for mark, text in body)]
    return "\n".join(lines) + draw(st.sampled_from(["\n", "\n", "\n", "", "\r\n", "\0", "\x85", "\n-- \n"]))


@st.composite
def diff(draw: st.DrawFn) -> bytes:
    """A few files, or very many of the same."""
    raw = "".join(draw(st.lists(file(), max_size=3))).encode("utf-8", "surrogatepass")
    raw = (raw * min(draw(TIMES), LARGEST // max(len(raw), 1)))[:LARGEST]
    at = draw(st.integers(0, len(raw)))
    return raw[:at] + draw(st.one_of(st.just(b""), st.binary(max_size=3))) + raw[at:]


PLACES = st.one_of(
    st.sampled_from(["/r/x", "/", "", "//x", "/a/../b", "relative", "/\0", "/\ud800", "/caf\udce9", "/x" * 3000]), TEXTS
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, 2**63, -1, 1, 0]))
TREES = st.recursive(
    st.one_of(VALUES, NUMBERS), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8
)
FIELDS = {
    **dict.fromkeys(
        ("id", "what", "why", "from", "path", "repo", "restored_to", "branch", "restored_as", "admin"), PLACES
    ),
    **dict.fromkeys(("tip", "head"), st.sampled_from(["1" * 40, "", "--x", "1" * 64])),
    **dict.fromkeys(("size", "uid"), st.one_of(NUMBERS, st.none())),
    "restored": st.fixed_dictionaries({"branch": TEXTS, "head": TEXTS, "registered": VALUES, "inode": NUMBERS}),
}
TIMES_SAID = st.sampled_from(["0001-01-01", "9999-12-31T23:59:59", "2026-01-02T03:04:05+00:00", "x"])


def written(content: Any, draw: st.DrawFn) -> bytes:
    """JSON as a program of another user's may have written it, at times not to the end or doubled."""
    raw = json.dumps(content).encode()
    at = draw(st.integers(0, len(raw)))
    piece = draw(
        st.one_of(st.just(b""), st.just(b""), st.binary(max_size=3), st.sampled_from([b"[", b"{", b'"', b"1e999"]))
    )
    return (raw[:at] + piece * draw(TIMES) + raw[at if draw(st.integers(0, 9)) else len(raw) :])[:LARGEST]


@st.composite
def told(draw: st.DrawFn) -> bytes:
    """Any JSON."""
    return written(draw(TREES), draw)


@st.composite
def manifest(draw: st.DrawFn) -> bytes:
    """A manifest whose fields are mostly what they are called."""
    return written(
        {**draw(st.fixed_dictionaries({}, optional=FIELDS)), **draw(st.dictionaries(TEXTS, TREES, max_size=1))}, draw
    )


@st.composite
def lock(draw: st.DrawFn) -> bytes:
    """The engine's lock."""
    said = st.fixed_dictionaries(
        {"pid": st.one_of(NUMBERS, TREES)}, optional={"started_at": st.one_of(NUMBERS, TIMES_SAID, TREES)}
    )
    return written(draw(said), draw)


@st.composite
def admin(draw: st.DrawFn) -> bytes:
    """The files of a worktree's directory in .git."""
    parts = st.one_of(
        st.builds(
            lambda place: f"{place}/.git\n".encode("utf-8", "surrogateescape" if "\ud800" not in place else "replace"),
            PLACES,
        ),
        st.builds(lambda name: f"ref: refs/heads/{name}\n".encode("utf-8", "replace"), PLACES),
        st.sampled_from([b"../..\n", b"", b"1" * 40 + b"\n", b"DIRC\0\0\0\2TREE\0\0\0\x190 0\n" + b"x" * 20]),
        st.binary(max_size=40),
    )
    return b"\xff\xfe".join(part * draw(TIMES) for part in draw(st.lists(parts, max_size=6)))[:LARGEST]


ODD_TEXTS = st.one_of(
    st.sampled_from(["", "published", "idle", "error", "running"]),
    st.sampled_from(["\x1b[2J", "\u202e", "\ud800", "\udcff", "\0", "a\nb"]),
    st.sampled_from(["cycle", "adopted", "2026-01-31T12:00:00Z", "AS215932/x", "../../etc", "x" * 3000]),
    st.text(max_size=8),
)
LEAVES = st.one_of(
    ODD_TEXTS, st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from([10**400, -1, 1e308, float("inf")])
)
NAMED = st.sampled_from(
    [
        *("outcome", "detail", "report", "issue", "repo", "number", "title", "pr_url", "cost_usd", "pushes", "allowed"),
        *("checkouts", "dest", "status", "numbers", "cpu_seconds", "exit_status", "engine_ended", "agents", "size"),
        *("files", "kind", "made", "sealed", "binds", "id", "path", "ended_by", "budget", "kept", "seconds", "trigger"),
    ]
)
ODD_TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(NAMED, NAMED, ODD_TEXTS), inner, max_size=6)
    ),
    max_leaves=20,
)
PIECES = st.sampled_from(["[", "{", '"', '{"a":', ",", "1e999", "\n", "\\ud800"])
OBJECTS = st.dictionaries(st.one_of(NAMED, NAMED, NAMED, ODD_TEXTS), ODD_TREES, max_size=8)


@st.composite
def tree(draw: st.DrawFn) -> bytes:
    """An object with the names that decide something, at any depth; a part of it put in again, or repeated."""
    text = json.dumps(draw(OBJECTS), ensure_ascii=draw(st.booleans()))
    for _change in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(text)))
        piece = draw(st.one_of(PIECES, st.text(max_size=3)))
        text = text[:at] + piece * draw(TIMES) + text[at:]
    return text.encode("utf-8", draw(st.sampled_from(["replace", "surrogatepass"])))[:LARGEST]


@st.composite
def output(draw: st.DrawFn) -> bytes:
    """Lines as an engine says them, reports among them."""
    others = LINES.map(lambda line: line.encode("utf-8", "replace"))
    lines = draw(st.lists(st.one_of(tree(), tree(), others), max_size=5))
    return draw(st.sampled_from([b"\n", b"\r\n", b" "])).join(lines * draw(TIMES))[:LARGEST]


STRATEGIES = {
    "policy": policy, "diff": diff, "told": told, "manifest": manifest, "lock": lock, "admin": admin,
    "report": output, **dict.fromkeys(("record", "claim", "cell"), tree),
}  # fmt: skip


class Judge:
    """The target in its own process; a new one where the last has ended or has grown too big."""

    def __init__(self, name: str) -> None:
        self.command = [sys.executable, targets.__file__, name]
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=pipe)

    def __call__(self, content: bytes) -> None:
        assert self.process.stdin and self.process.stdout
        targets.send(self.process.stdin, content)
        answer = targets.receive(self.process.stdout)
        if answer != b"":
            said = self.end() if answer is None else answer.decode()
            if answer is not None:
                self.end()
            self.process = self.start()
            raise targets.Finding(f"{content[:200]!r}... ({len(content)} bytes): {said}")

    def end(self) -> str:
        """What the process said last: how much memory it had, or what it died of."""
        return self.process.communicate()[1].decode("utf-8", "replace").strip()


def main(name: str, inputs: int) -> None:
    judge = Judge(name)
    done = 0
    number = 0
    while done < inputs:

        @seed(number)
        @settings(
            max_examples=min(EACH, inputs - done),
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(STRATEGIES[name]())
        def run(content: bytes) -> None:
            nonlocal done
            judge(content)
            done += 1

        run()
        number += 1
    print(f"Done {done} inputs; {judge.end()}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
