# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML that is read, and everything in it that is not."""

from __future__ import annotations

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.schema import (
    load,
)
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version: 1\nversion: 1\n", r"version \(line 2\): the key is there twice"),
        (
            b"version: 1\ndefaults:\n  max_changed_files: 1\n  max_changed_files: 2\n",
            r"defaults\.max_changed_files \(line 4\)",
        ),
        (b"version: 1\ndefaults: &a {}\nrepos: *a\n", r"defaults \(line 2\): anchors"),
        (b"version: 1\nrepos: *a\n", r"repos \(line 2\): anchors"),
        (b"version: 1\ndefaults:\n  <<: {}\n", r"line 3\): found '<<' \(merge\) as a key"),
        (b"version: !!python/object/apply:os.system ['true']\n", r"version \(line 1\): the tag"),
        (b"version: !!int '1'\n", r"version \(line 1\): the tag"),
        (b"version: 1\n---\nversion: 1\n", "a second document"),
        (b"version: 1\n# \xff\n", "line 2: byte 0xff is not UTF-8"),
        (b"version: 1\n#" + b"x" * 70000, "bytes; a policy may have 65536"),
        (b"[" * 60000, "nested more than"),
        (b"", "found nothing at the top"),
        (b"- version\n", "found a list at the top"),
        (b"version: [\n", "line 2"),
        (b"version: 1\nother: 2\n", r"other \(line 2\): an unknown key, allowed: version, defaults"),
        (b"version: 1\ndefaults:\n  max_files: 3\n", r"defaults\.max_files \(line 3\): an unknown key"),
        (
            b"version: 1\ndefaults:\n  max_changed_files: true\n",
            r"max_changed_files \(line 3\): found true, allowed: a whole",
        ),
        (b"version: 1\ndefaults:\n  max_changed_files: 010\n", "not in plain decimal digits"),
        (b"version: 1\ndefaults:\n  max_changed_files: 1.5\n", r"'1.5' \(float\)"),
        (b"version: 1\ndefaults:\n  denied_path_globs:\n    - .env\n    - no\n", r"globs\[1\] \(line 5\): found false"),
        (b"version: 1\ndefaults:\n  denied_path_globs:\n    - 2020-01-01\n", "timestamp"),
        (b"version: 1\ndefaults:\n", r"defaults \(line 2\): found '' \(null\), allowed: a mapping"),
        (b"version: 1\n? [a]\n: 1\n", "as a key"),
        (b'version: 1\n"a\\n\\e[2Jb": 1\n', r"a\\n\\x1b\[2Jb \(line 2\): an unknown key"),
        (b'version: "\\U00110000"\n', "no YAML: an escape names a character"),
        (b'version: "\\UFFFFFFFF"\n', "no YAML: an escape names a character"),
        (b'version: 1\n"a\\nb": {c: &x 1}\n', r"a\\nb\.c \(line 2\): anchors"),
        (b'version: 1\ndefaults: {denied_content_patterns: ["(?<\\e)"]}\n', r"regular expression.*\\x1b"),
    ],
)
def test_what_is_not_read(content: bytes, reason: str) -> None:
    with pytest.raises(LoopError, match=reason) as caught:
        load(content, "policy.yml", complete=False)
    assert str(caught.value).isprintable()


YAML_BITS = st.sampled_from(
    [
        "version: 1\n",
        "defaults:\n",
        "  max_changed_files: ",
        "  denied_path_globs: [",
        "- ",
        "&a ",
        "*a",
        "!!str ",
        "{",
        "}",
        "]",
        "? ",
        ": ",
        "\t",
        "\0",
        "---\n",
        "<<: ",
        "0x1F",
        "~",
        "'",
        '"',
        "|\n",
        "%YAML 9.9\n",
        "\u2028",
        "\ud7ff",
    ]
)


@given(st.lists(st.one_of(YAML_BITS, st.text(max_size=5)), max_size=30).map("".join), st.binary(max_size=3))
@settings(max_examples=400)
def test_any_bytes_are_a_policy_or_one_clear_line(content: str, tail: bytes) -> None:
    try:
        policy = load(content.encode("utf-8", "replace") + tail, "fuzz", complete=False)
    except LoopError as error:
        assert str(error).startswith("fuzz") and "\n" not in str(error)
    else:
        assert policy["version"] == 1


def test_a_key_that_cannot_be_printed_makes_no_long_line() -> None:
    for content in ("\U0002ebe1" * 1000 + ": 1\nversion: 1", "version: 1\n" + '"' + "\x85" * 1000 + '": [&a]'):
        with pytest.raises(LoopError) as caught:
            load(content.encode(), "fuzz")
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()
