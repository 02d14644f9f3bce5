# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Notification targets: refused before anything is changed, and never shown."""

from __future__ import annotations

from pathlib import Path

import apprise
import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import targets
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.targets import Target
from celled import NEEDS_ROOT
from hypothesis import given
from hypothesis import strategies as st

SLACK = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
DISCORD = "https://discord.com/api/webhooks/123456789012345678/wHd15c0rdT0ken-abcdefghijklmnopqrstuvwxyz"
GOOD = {
    "json://hooks.example.org/s3cret": "json://hooks.example.org/***",
    "jsons://user:s3cret@hooks.example.org:8443/a?x=s3cret": "jsons://hooks.example.org:8443/***",
    "ntfys://ntfy.example.org/s3cret": "ntfys://ntfy.example.org/***",
    "ntfy://s3cret-topic": "ntfy://***",
    SLACK: "https://hooks.slack.com/***",
    DISCORD: "https://discord.com/***",
    "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ": "slack://***",
    "discord://123456789012345678/wHd15c0rdT0ken": "discord://***",
    "matrixs://robot:s3cret@matrix.example.org/!room:example.org": "matrixs://matrix.example.org/***",
    "mailtos://user:s3cret@example.org?to=ops@example.org": "mailtos://example.org/***",
    "mailto://localhost?from=a@example.org&to=b@example.org": "mailto://localhost/***",
    "mmosts://chat.example.org/s3crettoken0123456789abcd": "mmosts://chat.example.org/***",
}


@pytest.mark.parametrize("url", GOOD)
def test_what_apprise_takes_is_taken_and_shown_without_its_secret(url: str) -> None:
    targets.check(url, "engineering_loop_notify[0]")
    assert targets.refused([Target(url, "x")]) == []
    assert targets.shown(url) == GOOD[url]
    assert Target(url, "x").id not in url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://hooks.example.org/s3cret", "a webhook that takes JSON is jsons://HOST/PATH"),
        ("http://127.0.0.1:8080/s3cret", "a webhook that takes JSON is json://HOST/PATH"),
        ("https://discord.com:s3cret@evil.example/x", "a webhook that takes JSON"),
        ("nfty://ntfy.example.org/s3cret", "nfty://, which Apprise does not know"),
        ("s3cret", "no scheme and host"),
        ("json://", "no scheme and host"),
        ("json://a b/s3cret", "in one line without blanks"),
        ("json://a\n/s3cret", "in one line without blanks"),
        ("json://" + "s3cret" * 400, "no URL in one line"),
        ("", "no URL"),
        (5, "no URL"),
        (None, "no URL"),
        ("s3cret<script>://x", "something else://"),
    ],
)
def test_what_is_no_target_is_refused_with_what_it_may_be(url: object, says: str) -> None:
    with pytest.raises(LoopError) as caught:
        targets.check(url, "engineering_loop_notify[3]")
    assert str(caught.value).startswith("engineering_loop_notify[3] ") and says in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_url_that_lacks_something_is_refused_where_apprise_is_there() -> None:
    (line,) = targets.refused([Target("slack://s3cret", "engineering_loop_notify[0]"), Target(SLACK, "x")])
    assert line.startswith("engineering_loop_notify[0] (slack://***) lacks something") and "s3cret" not in line


def test_twice_the_same_and_too_many_are_refused() -> None:
    with pytest.raises(LoopError, match=r"engineering_loop_notify\[1\] is there twice"):
        targets.check_all([SLACK, SLACK])
    with pytest.raises(LoopError, match="has 21 targets, and may have 20"):
        targets.check_all([f"json://example.org/{number}" for number in range(21)])


def test_the_schemes_are_those_of_apprise() -> None:
    """Of whatever version is here: that none of Debian's is missing is looked at on a booted host."""
    known = {
        name
        for service in apprise.Apprise().details()["schemas"]
        for name in (*(service["protocols"] or ()), *(service["secure_protocols"] or ()))
    }
    assert {url.split("://")[0] for url in GOOD} - {"https"} <= known & targets.SCHEMES
    assert len(targets.SCHEMES - known) <= 10, "services come and go"


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_is_shown_but_scheme_and_host(host: str, rest: str) -> None:
    for scheme in ("json", "slack", "https", host):
        told = targets.shown(f"{scheme}://{host}/{rest}")
        assert told.endswith("***") and told.isascii() and told.isprintable()


@NEEDS_ROOT
def test_a_file_that_somebody_renders_is_read_beside_ours(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "notify", tmp_path / "rendered"
    config = Settings({"config_dir": str(tmp_path), "notify_file": str(theirs)})
    assert targets.read(config) == []
    ours.write_text(f"# ours\n{SLACK}\n\n")
    theirs.write_text(f"  {DISCORD}  \n{SLACK}\n")
    for path in (ours, theirs):
        path.chmod(0o600)
    assert targets.read(config) == [Target(SLACK, f"{ours}, line 2"), Target(DISCORD, f"{theirs}, line 1")]
    theirs.write_text("nonsense\n")
    with pytest.raises(LoopError, match="rendered, line 1 is no URL"):
        targets.read(config)
    theirs.chmod(0o666)
    with pytest.raises(LoopError, match="can be written by others than root"):
        targets.read(config)


@NEEDS_ROOT
def test_the_problem_of_an_apply(tmp_path: Path) -> None:
    path = tmp_path / "rendered"
    assert targets.problem([SLACK], "") == ""
    assert "rendered is missing: what renders it must have done so before" in targets.problem([], str(path))
    path.write_text("json://s3cret\n")
    path.chmod(0o644)
    assert targets.problem([], str(path)) == ""
    path.write_text("slack://s3cret\n")
    told = targets.problem([SLACK, "slack://x"], str(path))
    assert "engineering_loop_notify[1]" in told and f"{path}, line 1" in told and "s3cret" not in told
