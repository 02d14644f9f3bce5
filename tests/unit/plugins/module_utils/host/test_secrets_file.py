# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file with the secrets: what systemd would read, and what is refused before it is used."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import jinja2
import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import secrets_file
from hypothesis import given
from hypothesis import strategies as st

ROOT = os.geteuid() == 0
TEMPLATES = Path(__file__).resolve().parents[5] / "roles/engineering_loop/templates"
# As Ansible renders it: a line that is a statement leaves nothing behind.
TEMPLATE = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True).from_string(  # noqa: S701 - no web page
    (TEMPLATES / "env.j2").read_text()
)
TEXT = st.text(st.characters(codec="utf-8")).filter(lambda text: not secrets_file.CONTROL.search(text))


# The expected values are what `systemd-run --property=EnvironmentFile=` of systemd 257 made of the same text.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("A=1\n", {"A": "1"}),
        ("A=1", {"A": "1"}),
        ("A=\n", {"A": ""}),
        ("  A  =  1  \n", {"A": "1"}),
        ("# x\n; y\n\nA=1\n", {"A": "1"}),
        ("# does not go on \\\nB=2\nA=1\n", {"A": "1", "B": "2"}),
        ("A=old\nA=new\n", {"A": "new"}),
        ("A=a b # no comment\n", {"A": "a b # no comment"}),
        ("A='a b' \n", {"A": "a b"}),
        ("A='a\nb'\n", {"A": "a\nb"}),
        ("A='a\\b'\n", {"A": "a\\b"}),
        ('A="a\\"b\\$c\\\\d\\e"\n', {"A": 'a"b$c\\d\\e'}),
        ('A="a\\\nb"\n', {"A": "ab"}),
        ("A='a'\"b\"c\n", {"A": "abc"}),
        ("A='a' 'b'\n", {"A": "ab"}),
        ("A=a'b'\n", {"A": "a'b'"}),
        ("A=a\\\nb\n", {"A": "ab"}),
        ("A=a\\ b\\'\\\\\n", {"A": "a b'\\"}),
        ("A=a\\ \n", {"A": "a "}),
        ("A=b=c\n", {"A": "b=c"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=$HOME ${B}\n", {"A": "$HOME ${B}"}),
        ("A=é\n", {"A": "é"}),
    ],
)
def test_it_is_read_as_systemd_reads_it(text: str, expected: dict[str, str]) -> None:
    assert secrets_file.parse(text, "env") == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A=1\nsecret\n", "env, line 2: no KEY=value"),
        ("export A=secret\n", "env, line 1: what stands before the = is not a name"),
        ("A-B=secret\n", "env, line 1: what stands before the = is not a name"),
        ("=secret\n", "env, line 1: what stands before the = is not a name"),
        ("1A=secret\n", "env, line 1: what stands before the = is not a name"),
        ("A=1\n\nB='secret\nC=2\n", "env, line 3: the value of B has a quote that is not closed"),
        ('B="secret\\"\n', "env, line 1: the value of B has a quote that is not closed"),
        ("B=secret\\", "env, line 1: the value of B ends with a lone backslash"),
        ("B=secret\x00\n", "env, line 1: the value of B has a control character in it"),
        ("B='secret\x1b'\n", "env, line 1: the value of B has a control character in it"),
    ],
)
def test_what_systemd_would_pass_over_is_refused_without_its_value(text: str, reason: str) -> None:
    with pytest.raises(LoopError) as caught:
        secrets_file.parse(text, "env")
    assert str(caught.value).startswith(reason)
    assert "secret" not in str(caught.value)


@given(st.text(alphabet="Ab_1='\"\\ \t\n\r#;$é\x00", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = secrets_file.parse(text, "env")
    except LoopError as error:
        assert "\n" not in str(error)
    else:
        assert all(secrets_file.NAME.fullmatch(name) for name in found)


@pytest.mark.parametrize(
    "text",
    ["\\" * 100_000, "A=" + "\\a" * 50_000, '"' * 100_000, "A='" + "'" * 100_000, "#\\" * 9999],
    ids=["backslashes", "escapes", "quotes", "values", "comments"],
)
def test_no_text_takes_long(text: str) -> None:
    begun = time.process_time()
    with contextlib.suppress(LoopError):
        secrets_file.parse(text, "env")
    assert time.process_time() - begun < 1


def test_a_forbidden_name_is_named(tmp_path: Path) -> None:
    names = ["GH_TOKEN", "vault_token", "MY_FLEET_KEY", "VAULT_TOKEN_X"]
    assert secrets_file.refused(names, ["VAULT_TOKEN", "*_FLEET_KEY"]) == ["MY_FLEET_KEY", "vault_token"]
    file = tmp_path / "env"
    file.write_text("GH_TOKEN=secret\nVAULT_TOKEN=secret\n")
    file.chmod(0o600)
    with pytest.raises(LoopError) as caught:
        secrets_file.load(str(file), ["VAULT_TOKEN"])
    assert ("holds VAULT_TOKEN, which must not" if ROOT else "must belong to root") in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "owner", "reason"),
    [
        (0o600, 0, ""),
        (0o640, 0, ""),
        (0o644, 0, ""),
        (0o660, 0, "can be written by others than root (mode 0660)"),
        (0o602, 0, "can be written by others than root (mode 0602)"),
        (0o600, 65534, "belongs to uid 65534 and must belong to root"),
    ],
)
def test_only_root_can_have_written_it(tmp_path: Path, mode: int, owner: int, reason: str) -> None:
    file = tmp_path / "env"
    file.write_text("A=1\n")
    file.chmod(mode)
    if ROOT:
        os.chown(file, owner, -1)
    else:
        reason = "must belong to root"
    link = tmp_path / "link"
    link.symlink_to(file)
    for path in (file, link):
        if reason:
            with pytest.raises(LoopError, match="chown root:root") as caught:
                secrets_file.load(str(path), [])
            assert reason in str(caught.value)
        else:
            assert secrets_file.load(str(path), []) == {"A": "1"}


@pytest.mark.parametrize(("mode", "loose"), [(0o600, 0), (0o400, 0), (0o640, 0o640), (0o644, 0o644), (0o601, 0o601)])
def test_who_else_may_read_it_is_told(tmp_path: Path, mode: int, loose: int) -> None:
    file = tmp_path / "env"
    file.write_text("A=1\n")
    file.chmod(mode)
    if ROOT:
        os.chown(file, 0, 65534)
    assert secrets_file.loose(str(file)) == loose
    if ROOT and loose == 0o640:  # to root's own group, which is nobody else
        os.chown(file, 0, 0)
        assert secrets_file.loose(str(file)) == 0
    assert 'say perms = "0600", with no chgrp or chmod in the command' in secrets_file.mend("/e")


@pytest.mark.skipif(not ROOT, reason="only root can give directories away")
@pytest.mark.parametrize("what", ["directory", "above", "link"])
def test_where_others_can_put_another_it_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    file = tmp_path / "a/b/env"
    file.write_text("A=1\n")
    file.chmod(0o600)
    assert secrets_file.load(str(file), []) == {"A": "1"}
    if what == "link":  # of another's, in a directory of another's
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs/env").symlink_to(file)
        os.chown(tmp_path / "theirs", 65534, -1)
        file = tmp_path / "theirs/env"
    else:
        os.chown(tmp_path / ("a" if what == "above" else "a/b"), 65534, -1)
    with pytest.raises(LoopError, match=r"both must belong to one of them|is a link that root does not follow"):
        secrets_file.load(str(file), [])


@pytest.mark.parametrize(
    "name",
    ["GIT_ASKPASS", "GIT_TERMINAL_PROMPT", "GIT_CONFIG_GLOBAL", "GIT_DIR", "PATH", "HOME", "PYTHONPATH", "GH_HOST",
     "GH_ENTERPRISE_TOKEN", "GITHUB_TOKEN", "HYRULE_POLICY_FILE", "HYRULE_HANDOFF_DIR", "XDG_CONFIG_HOME", "TMPDIR"],
)  # fmt: skip
def test_what_the_loop_sets_itself_has_no_effect(name: str) -> None:
    assert secrets_file.without_ours({name: "x", "OPENAI_API_KEY": "k"}) == {"OPENAI_API_KEY": "k"}


@pytest.mark.parametrize(
    "name",
    ["GH_TOKEN", "GIT_SSL_CAINFO", "HYRULE_MODEL_POLICY_FILE", "HYRULE_CREATE_GITHUB_PR", "HYRULE_ICINGA_URL",
     "ENGINEERING_LOOP_NOC_LHP_SECRET", "HTTPS_PROXY", "LANG", "TZ", "MY_PATH", "HYRULE_LLM_MODEL"],
)  # fmt: skip
def test_all_else_has(name: str) -> None:
    assert secrets_file.without_ours({name: "x"}) == {name: "x"}


def test_what_no_host_has_a_use_for_is_refused_with_its_reason() -> None:
    secrets_file.check(["GH_TOKEN"], ["AWS_*"], "/e")
    with pytest.raises(
        LoopError, match="/e holds GITHUB_ACTIONS, with which the engine takes the host for a CI runner"
    ):
        secrets_file.check(["GITHUB_ACTIONS"], [], "/e")
    with pytest.raises(
        LoopError, match="HYRULE_MOCK_GITHUB_PR_URL, with which the engine reports that address and opens"
    ):
        secrets_file.check(["HYRULE_MOCK_GITHUB_PR_URL"], [], "/e")


def test_what_is_no_text_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LoopError, match="env is missing: it must hold the secrets"):
        secrets_file.load(str(tmp_path / "env"), [])
    (tmp_path / "env").mkdir()
    with pytest.raises(LoopError, match="is not a regular file"):
        secrets_file.load(str(tmp_path / "env"), [])
    (tmp_path / "bytes").write_bytes(b"A=\xff\n")
    with pytest.raises(LoopError, match="is not UTF-8 text"):
        secrets_file.read(str(tmp_path / "bytes"))


@given(st.dictionaries(st.from_regex("[A-Za-z_][A-Za-z0-9_]*", fullmatch=True), TEXT))
def test_what_the_role_writes_is_read_as_it_was_given(environment: dict[str, str]) -> None:
    """Per cent, quotes, backslashes, dollars and line breaks of a value are its own."""
    written = TEMPLATE.render(engineering_loop_environment=environment)
    assert secrets_file.parse(written, "env") == environment
