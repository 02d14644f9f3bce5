# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the variables about the engine's options and environment may be: each refusal in one clear line."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import engine_variables as of

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["dry"], 'begins with "dry": it must begin with a flag'),
        (["--x", ""], 'holds "", which ends the engine\'s flags'),
        (["--x", "--"], 'holds "--", which ends'),
        (["--help"], "holds --help, with which the engine does no work"),
        (["-h"], "holds -h, with which"),
        (["--once"], 'holds "--once", and the role passes --once itself: leave it out'),
        (["--x", "--state-dir=/x"], 'holds "--state-dir", and the role passes --state-dir-path itself: leave it out'),
        (["--repo", "a/b"], "the role passes --repo itself: set engineering_loop_repos instead"),
        (["--knowledge-context"], "set engineering_loop_knowledge_context_enabled instead"),
        (["--max-runs=3"], "set engineering_loop_max_runs_per_day instead"),
        (["--api-key", "k"], 'holds "--api-key": a command line is no place for a secret'),
        (["--forge-token=k"], 'holds "--forge-token": a command line is no place for a secret'),
    ],
)
def test_words_that_are_refused(words: list[str], why: str) -> None:
    with pytest.raises(LoopError) as caught:
        of.daemon_args(words)
    assert str(caught.value).startswith("engineering_loop_daemon_args ") and why in str(caught.value)
    assert "=k" not in str(caught.value) and "\n" not in str(caught.value)


def test_words_that_are_not() -> None:
    of.daemon_args([])
    of.daemon_args(["--dry-run", "--level=3", "-v", "--token-file", "/x", "--max-tokens", "7", "-1"])


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"A B": "x"}, 'has the name "A B"'),
        ({"A": True}, "A is no text"),
        ({"A": ["x"]}, "A is no text"),
        ({"A": "x\x1by"}, "A holds a control character"),
        ({"MISTRAL_API_KEY": "x"}, '"MISTRAL_API_KEY", which is a secret by its name'),
        ({"auth_token": "x"}, "which is a secret by its name"),
        ({"PATH": "/x"}, '"PATH", which the loop sets itself'),
        ({"HTTPS_PROXY": "http://x"}, "which the loop sets itself"),
        ({"NODE_EXTRA_CA_CERTS": "/x"}, "which the loop sets itself"),
        ({"GIT_DIR": "/x"}, "keeps from the agent"),
        ({"HYRULE_POLICY_FILE": "/x"}, "keeps from the agent"),
        ({"PI_OFFLINE": "0"}, "which the loop sets itself"),
        ({"LD_PRELOAD": "/x"}, "must not be where generated code runs"),
    ],
)
def test_an_agents_variable_that_is_refused(environment: dict[str, Any], why: str) -> None:
    with pytest.raises(LoopError) as caught:
        of.agent_environment(environment, ["LD_*"])
    assert str(caught.value).startswith("engineering_loop_agent_environment") and why in str(caught.value)


def test_an_agents_variables() -> None:
    names = {"CODEX_HOME": "/tmp/x", "NODE_OPTIONS": "--max-old-space-size=2048", "AIDER_ANALYTICS": "false", "N": 7}
    of.agent_environment({**names, "OPENAI_KEY_FILE": "/etc/x", "MONKEY": "y"}, ["LD_*"])


PLACES = ("/v/runs", "/v/memory", "/v/workspace", "/v/state", "/opt/loop", "/v/governor")


@pytest.mark.parametrize(
    ("trace", "learning", "name"),
    [
        ("/v/runs/trace", "", "agent_core_trace_path"), ("/v/state/t", "", "agent_core_trace_path"),
        ("/v/t", "/v", "knowledge_learning_dir"), ("/v/t", "/v/memory", "knowledge_learning_dir"),
        ("/v/t", "/v/cycles/x", "knowledge_learning_dir"), ("/v/t", "/opt/loop/learned", "knowledge_learning_dir"),
    ],
)  # fmt: skip
def test_places_that_are_anothers(trace: str, learning: str, name: str) -> None:
    with pytest.raises(LoopError, match=f"engineering_loop_{name} is /.*, which is another's or holds it"):
        of.places(True, trace, learning, "/v", *PLACES)


def test_places_that_are_free() -> None:
    of.places(True, "/v/trace", "/v/learning", "/v", *PLACES)
    of.places("no", "/v/state/t", "", "/v", *PLACES)


def test_the_engine_ends_a_run_before_systemd_does() -> None:
    of.minutes(0, 3600)
    of.minutes(59, "3600")
    with pytest.raises(LoopError, match=r"is 60, but systemd ends a cycle after .*, 3600 seconds: it must be less"):
        of.minutes(60, 3600)


def test_a_certificate_and_no_key() -> None:
    of.certificate("")
    of.certificate(f"Icinga\n{PEM}{PEM}")
    for text in ("x", "-----BEGIN CERTIFICATE-----", f"{PEM}-----BEGIN RSA PRIVATE KEY-----\n"):
        with pytest.raises(LoopError, match="must name a file with a certificate"):
            of.certificate(text)
