# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A unified diff: what is read in it, and that everything else is refused."""

from __future__ import annotations

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.diff import changes_in_diff
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.rules import (
    judge_changes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import POLICY, new_file, violations


def test_content_cannot_pass_for_a_header() -> None:
    diff = new_file("docs/a.md", "++ b/harmless.md", "@@ -0,0 +1 @@", "diff --git a/x b/x", "++ token = 'x'")
    changes = changes_in_diff(diff.encode())
    assert [change.path for change in changes] == ["docs/a.md"]
    assert violations(diff) == {("docs/a.md", "denied_content_patterns")}, (
        "the engine skips a line that begins with +++"
    )


def test_both_names_of_a_rename_and_of_a_copy_are_judged() -> None:
    head = "diff --git a/secrets/x b/docs/x\nsimilarity index 100%\n"
    for word in ("rename", "copy"):
        assert violations(f"{head}{word} from secrets/x\n{word} to docs/x\n") == {("secrets/x", "denied_path_globs")}
        assert violations(f"{head}{word} from secrets/x\n{word} to docs/x\n", prefixes=["docs"]) == {
            ("secrets/x", "denied_path_globs"),
            ("secrets/x", "allowed_paths"),
        }


def test_a_deletion_and_a_mode_are_changes_too() -> None:
    gone = "diff --git a/id_rsa b/id_rsa\ndeleted file mode 100644\nindex 1111111..0000000\n"
    assert violations(gone) == {("id_rsa", "denied_path_globs")}
    mode = "diff --git a/docs/a b b/docs/a b\nold mode 100644\nnew mode 100755\n"
    assert violations(mode) == {("docs/a b", "guards.executables")}
    assert violations(new_file("docs/l", "/etc/passwd", mode="120000")) == {("docs/l", "guards.symlinks")}
    assert violations(new_file("docs/m", "Subproject commit 1", mode="160000")) == {("docs/m", "guards.submodules")}
    assert violations(new_file("docs/m", "x", mode="104755")) == {("docs/m", "modes")}


def test_binary_patches() -> None:
    head = "diff --git a/docs/i.png b/docs/i.png\nnew file mode 100644\nindex 0000000..1111111\n"
    assert violations(f"{head}Binary files /dev/null and b/docs/i.png differ\n") == {("docs/i.png", "guards.binaries")}
    patch = f"{head}GIT binary patch\nliteral 200000\nMcmZQzU|?ckU|;|M00aO5\n\nliteral 0\nHcmV?d00001\n\n"
    both = {("docs/i.png", "guards.binaries"), ("docs/i.png", "max_file_bytes")}
    assert violations(patch + new_file("docs/b.md", "x")) == both


def test_a_plain_diff_without_git_headers_and_a_mailed_one() -> None:
    plain = "--- a/docs/a.md\t2026-01-01\n+++ b/docs/a.md\t2026-01-02\n@@ -1 +1 @@\n-a\n+AKIA0123456789ABCDEF\n"
    assert violations(plain) == {("docs/a.md", "denied_content_patterns")}
    assert violations("From: x\n\n words\n---\n docs/a.md | 2 +-\n\n" + plain + "-- \n2.47\n") == violations(plain)


@pytest.mark.parametrize(
    "diff",
    [
        "nothing to see\n",
        "diff --cc a\n",
        "@@ -0,0 +1 @@\n+x\n",
        "diff --git a/x b/y\n",
        'diff --git "a/x b/x\n',
        'diff --git "a/\\q" "b/\\q"\n',
        "diff --git x x\nnew file mode 100644\n",
        "diff --git a/x b/x\n--- a/x\n+++ b/y\n",
        "diff --git a/x b/x\nrename from y\nrename to x\n",
        "diff --git a/x b/x\nnew mode 1\nnew mode 2\n",
        "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1,9 @@\n+x\n",
        "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+x\n+hidden\n",
        "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1,0 @@\n x\n",
        "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ what @@\n",
        "diff --git a/x b/x\n@@ -0,0 +1 @@\n+x\n",
        "diff --git a/x b/x\nGIT binary patch\n",
        "--- /dev/null\n+++ /dev/null\n@@ -0,0 +1 @@\n+x\n",
        "--- x\n+++ x\n@@ -0,0 +1 @@\n+x\n",
    ],
)
def test_a_diff_that_is_not_understood_is_refused(diff: str) -> None:
    with pytest.raises(LoopError, match="the diff cannot be read"):
        changes_in_diff(diff.encode())


def test_no_diff_is_no_change() -> None:
    assert changes_in_diff(b"") == []
    assert judge_changes(POLICY, "app", [], []) == []


BITS = st.sampled_from(
    [
        "diff --git a/x b/x\n",
        "--- a/x\n",
        "+++ b/x\n",
        "@@ -1 +1 @@\n",
        "@@ -0,0 +1,3 @@\n",
        "+a\n",
        "-a\n",
        " a\n",
        "\n",
        "\\ No newline\n",
        "new file mode 120000\n",
        "index 1..2 100644\n",
        "rename from x\n",
        "rename to y\n",
        '"a/\\303',
        "\0",
        "GIT binary patch\n",
        "literal 5\n",
        "McmZQzU|?ckU|;|M00aO5\n",
        "Binary files a/x and b/x differ\n",
        "\t",
        "-- \n",
    ]
)


@given(
    st.lists(
        st.one_of(BITS, st.binary(max_size=4).map(lambda raw: raw.decode("utf-8", "surrogateescape"))), max_size=25
    )
)
@settings(max_examples=500)
def test_any_bytes_are_a_diff_or_one_clear_line(bits: list[str]) -> None:
    try:
        changes = changes_in_diff("".join(bits).encode("utf-8", "surrogateescape"))
    except LoopError as error:
        assert str(error).startswith("the diff cannot be read") and "\n" not in str(error)
    else:
        for violation in judge_changes(POLICY, "app", changes, ["docs"]):
            assert str(violation).isprintable()
