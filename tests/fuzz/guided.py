# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The coverage-guided half: atheris mutates bytes and keeps what reaches new code. Arguments: TARGET INPUTS.

The corpus stays in .cache/fuzz, so each run goes on where the last one ended; what a
finding was caused by is written beside it.
"""

from __future__ import annotations

import resource
import sys

import atheris

CORE = "ansible_collections.as215932.engineering_loop.plugins.module_utils"
READERS = (
    "base.untrusted", "cell.cells", "cell.records", "cycle.settle", "git.repository", "git.worktree_admin",
    "host.processes", "lifecycle.host_facts", "policy", "worktrees.manifests",
)  # fmt: skip
with atheris.instrument_imports(include=[*(f"{CORE}.{name}" for name in READERS), "yaml", "json"]):
    import targets

CLAIM = (
    b'{"outcome": "published", "detail": "", "report": {"issue": {"repo": "o/r", "number": 7}, "pr_url": "http://f/1",'
    b' "cost_usd": 0.5}, "pushes": [{"allowed": false}], "numbers": {"cpu_seconds": 3.5},'
    b' "checkouts": [{"status": "failed"}]}'
)
CELL = b'{"kind": "adopted", "outcome": "error", "size": 5, "files": 2, "issue": {"title": "t"}, "binds": []}'
JSON_WORDS = ["{", "[", '"', "1e999", "null", "true", "\\ud800", "\\u001b", "\x1b[2J", "\udcff", "\n{", '{"outcome": "']
SEEDS = {
    "record": [CLAIM],
    "claim": [CLAIM],
    "report": [b"step\n" + CLAIM + b"\n{}\n"],
    "cell": [CELL],
    "policy": [
        b"version: 1\ndefaults:\n  max_changed_files: 20\n  denied_path_globs: [.env, 'secrets/**']\n"
        b'  denied_content_patterns:\n    - "AKIA[0-9A-Z]{16}"\nrepos: {}\n',
        b"version: 1\nrepos:\n  app: {max_file_bytes: 5, allowed_repo_roots: [/srv/app]}\n"
        b"guards:\n  defaults: {ci: true, symlinks: ['docs/*']}\n  repos: {app: {lock_files: false}}\n",
    ],
    "diff": [
        b"diff --git a/docs/a b/docs/a\nindex 1..2 100644\n--- a/docs/a\n+++ b/docs/a\n@@ -1,2 +1,2 @@ x\n a\n-b\n+c\n"
        b"\\ No newline at end of file\n",
        b'diff --git "a/d\\303\\251" b/y\nsimilarity index 90%\nrename from "d\\303\\251"\nrename to y\n',
        b"diff --git a/x b/x\nnew file mode 120000\nindex 0000000..1234567\nGIT binary patch\nliteral 5\n"
        b"McmZQzU|?ckU|;|M00aO5\n\nliteral 0\nHcmV?d00001\n\n",
    ],
    "told": [b'{"a": [1, {"b": "\\ud800\\u001b"}]}', b'{"a": 1e999, "b": NaN}', b"[" * 200],
    "manifest": [
        b'{"id": "x", "what": "worktree", "why": "", "from": "/r/x", "path": "/r/x", "repo": "/w/app", "tree": true,'
        b' "admin": "x", "branch": "a/b", "tip": "' + b"1" * 40 + b'", "head": "", "size": null, "uid": 0}',
        b'{"restored_to": "/r/x", "restored_as": "a", "salvage": {"refs/x": "1"}, "debris": [],'
        b' "restored": {"branch": "", "head": "", "registered": true, "inode": 7}}',
    ],
    "lock": [b'{"pid": 1234, "started_at": "2026-01-02T03:04:05Z"}', b'{"pid": "17", "started_at": 1.5e9}'],
    "admin": [
        b"/r/x/.git\n\xff\xferef: refs/heads/a/b\n\xff\xfe../..\n\xff\xfeDIRC\0\0\0\2\0\0\0\0TREE\0\0\0\x19\x000 0\n"
        + b"1" * 20
        + b"\xff\xfe"
        + b"0" * 40
        + b" "
        + b"1" * 40
        + b" x <y> 1 +0000\tz\n\xff\xferefs/heads/a",
    ],
}
WORDS = {
    **dict.fromkeys(("record", "report", "claim", "cell"), JSON_WORDS),
    "policy": [
        *("version: 1\n", "defaults:\n", "repos:\n", "guards:\n", "denied_content_patterns:", "allowed_handoff_dirs:"),
        *("&a ", "*a", "!!str ", "<<: ", "---\n", "...\n", "? ", "%YAML 1.1\n", "[[[", "{", "}", "|\n", ">-\n"),
        *("0x1F", "1_0", "1e9", "2001-01-01", ".inf", "(?i)", "(a+)+", "{1,9}", "\\U0010ffff", "\\ud800", "\u2028"),
    ],
    "diff": [
        *("diff --git a/", "--- a/", "+++ b/", "--- /dev/null\n", "@@ -1 +1 @@\n", "@@ -0,0 +1,9 @@\n", "rename from "),
        *("rename to ", "copy from ", "copy to ", "old mode ", "new mode ", "new file mode ", "deleted file mode "),
        *("index ", "GIT binary patch\n", "literal ", "delta ", "Binary files ", " differ\n", '"a/\\303'),
        *("\\ No newline\n", "-- \n", "\t", "\r", "\x85", "token = 'x'", ".git/", "../", "999999999"),
    ],
    "told": ["{", "[", '":', "1e999", "NaN", "-Infinity", "\\ud800", "\\u0000", "\x1b[31m", "\u2028"],
    "manifest": [
        *('"id": ', '"what": ', '"path": ', '"repo": ', '"restored_to": ', '"restored": ', '"branch": ', '"admin": '),
        *('"tip": ', '"size": ', '"/', "/../", "//", "\\u0000", "\\ud800", "\\udcff", "1e999", "null", "true", "[[["),
    ],
    "lock": ['"pid": ', '"started_at": ', "1e999", "NaN", "-1", "0001-01-01", "9999-12-31", "+14:00", "99999999999"],
    "admin": ["/.git\n", "ref: refs/heads/", "../..\n", "TREE", "\xff\xfe", "\0", "//", "/../", "gitdir: "],
}


def quoted(word: str) -> str:
    """A line of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode("utf-8", "surrogateescape")) + '"\n'


def main(name: str, inputs: int) -> None:
    place = targets.TOP / ".cache" / "fuzz"
    corpus = place / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed{number}").write_bytes(seed)
    words = place / f"{name}.dict"
    words.write_text("".join(map(quoted, WORDS[name])), encoding="ascii")
    target = targets.limited(targets.TARGETS[name])
    left = inputs

    def counted(content: bytes) -> None:
        nonlocal left
        target(content)
        left -= 1
        if left == 0:  # libFuzzer ends the process without a word to Python
            print(f"Done: {targets.costs()}", flush=True)

    # The targets bound their own time, by the processor's: the clock of a busy machine finds nothing.
    options = [
        f"-atheris_runs={inputs}",
        f"-dict={words}",
        f"-artifact_prefix={place}/{name}-",
        "-max_len=16384",
        "-len_control=20",
    ]
    options += ["-timeout=86400", f"-rss_limit_mb={targets.MEBIBYTES}", "-print_final_stats=1"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    atheris.Setup([sys.argv[0], *options, str(corpus)], counted)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
