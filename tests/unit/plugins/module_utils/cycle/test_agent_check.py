# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Would the agent work: what the model policy names, the key of its provider, whether it starts and gets an answer."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cell import sandbox
from ansible_collections.as215932.engineering_loop.plugins.module_utils.cycle import agent_check, handover
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from celled import Box, box

PI = {"path": "/usr/bin/git", "program": "pi"}
KEY = {"OPENROUTER_API_KEY": "sk-or-secret"}


@pytest.fixture
def host() -> Iterator[Box]:
    with box() as found:
        yield found


def policy(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- what the model policy names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("backends: {default: pi}", [["pi", "--print", "{prompt}"]]),
        ("backends: {default: claude-code}", [["claude", "-p", "{prompt}"]]),
        ("backends: {default: pi, definitions: {pi: {command: [pi, -p, x]}}}", [["pi", "-p", "x"]]),
        ("backends: {default: own, definitions: {own: {command: [thing]}}}", [["thing"]]),
        (
            "backends: {default: pi, tiers: {cheap: pi, frontier: claude-code}}",
            [["pi", "--print", "{prompt}"], ["claude", "-p", "{prompt}"]],
        ),
        # The engine takes the tier's where there is one: this default is never used.
        (
            "backends: {default: mock, tiers: {cheap: pi, mid: pi, strong: pi, frontier: pi}}",
            [["pi", "--print", "{prompt}"]],
        ),
    ],
)
def test_what_the_engine_would_start(tmp_path: Path, text: str, words: list[list[str]]) -> None:
    assert agent_check.commands(policy(tmp_path / "p.yml", text)) == words


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no agent"),
        ("{}", "names no agent"),
        ("[", "names no agent"),
        ("backends: 3", "names no agent"),
        ("backends: {tiers: {cheap: pi}}", "names no agent"),
        ("backends: {default: pi, definitions: [1]}", "names no agent"),
        ("backends: {default: pi, definitions: {pi: {command: 3}}}", "names no agent"),
        ("backends: {default: pi, definitions: {pi: {command: [1]}}}", "names the backend pi, which starts no program"),
        ("backends: {default: mock}", "names the backend mock, which starts no program: .*would play its mock"),
        ("backends: {default: pi, tiers: {strong: mock}}", "names the backend mock"),
    ],
)
def test_a_policy_without_an_agent(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(LoopError, match=says):
        agent_check.commands(policy(tmp_path / "p.yml", text))


# --- is it fit


def settings(**more: Any) -> Settings:
    usual = {"install_dir": "/nowhere", "agent": PI, "agent_programs": ["pi"], "home_files": [], "env_file": "/e"}
    return Settings(usual, **more)


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("claude", {}, "starts claude as the agent, which would not be shut in: .*engineering_loop_agent_programs"),
        ("/usr/bin/pi", {"agent_programs": ["/usr/bin/pi"]}, "starts /usr/bin/pi as the agent, which would not"),
        ("claude", {"agent_programs": ["claude", "pi"]}, "set engineering_loop_agent to that, it has pi"),
        ("pi", {"agent": {"path": "/nowhere/pi", "program": "pi"}}, "engineering_loop_agent.path is /nowhere/pi"),
        (
            "pi",
            {"agent": {"package": "p", "version": "1", "integrity": "i", "lock": "", "program": "pi"}},
            "the agent p 1 is not installed: run ansible-playbook -i INVENTORY as215932.engineering_loop.apply",
        ),
        (
            "no-such-agent",
            {"agent": {}, "agent_programs": ["no-such-agent"]},
            "no agent is on this host: no no-such-agent",
        ),
    ],
)
def test_one_that_is_not_fit(name: str, more: dict[str, Any], says: str) -> None:
    with pytest.raises(LoopError, match=says):
        agent_check.fit(settings(**more), name, KEY)


def test_as_root_sees_it(tmp_path: Path) -> None:
    config = settings(install_dir=str(tmp_path), agent_programs=["pi", "other"])
    assert agent_check.check(config, KEY) == ["pi"]  # there is no engine yet
    wanted = {"package": "p", "version": "1", "integrity": "i", "lock": "", "program": "other"}
    assert agent_check.check(Settings(config, agent=wanted), {}, expected=True) == ["other"]
    (tmp_path / "current" / handover.OWN_POLICY).parent.mkdir(parents=True)
    policy(tmp_path / "current" / handover.OWN_POLICY, "backends: {default: claude-code}")
    with pytest.raises(LoopError, match="starts claude as the agent, which would not be shut in"):
        agent_check.check(config, KEY)


@pytest.mark.parametrize(
    ("name", "files", "environment", "says"),
    [
        ("pi", {}, {}, "has no key of its model's provider: put ANTHROPIC_API_KEY or OPENAI_API_KEY or OPENROUTER_API"),
        ("pi", {}, {"OPENAI_API_KEY": ""}, "has no key"),
        ("pi", {}, {"OPENAI_API_KEY": "k"}, ""),
        ("pi", {"auth.json": {}}, {}, ""),
        (
            "pi",
            {"settings.json": {"defaultProvider": "anthropic"}},
            {"OPENAI_API_KEY": "k"},
            "put ANTHROPIC_API_KEY into",
        ),
        ("pi", {"settings.json": {"defaultProvider": "openai"}}, {"OPENAI_API_KEY": "k"}, ""),
        ("pi", {"settings.json": {"defaultProvider": "own"}}, {"OPENAI_API_KEY": "k"}, ""),
        ("pi", {"settings.json": [1], "models.json": 3}, {"OPENAI_API_KEY": "k"}, ""),
        (
            "pi",
            {"settings.json": {"defaultProvider": "own"}, "models.json": {"providers": {"own": {"apiKey": "OWN_KEY"}}}},
            {"OPENAI_API_KEY": "k"},
            "put OWN_KEY into /e",
        ),
        (
            "pi",
            {"settings.json": {"defaultProvider": "own"}, "models.json": {"providers": {"own": {"apiKey": "none"}}}},
            {},
            "",
        ),
        ("claude", {}, {}, "put ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN into"),
        ("claude", {}, {"ANTHROPIC_API_KEY": "k"}, ""),
        ("another", {}, {}, ""),
    ],
)
def test_the_key_of_its_provider(
    tmp_path: Path, name: str, files: dict[str, Any], environment: dict[str, str], says: str
) -> None:
    home_files = []
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(content), encoding="utf-8")
        (tmp_path / file).chmod(0o600)
        home_files.append({"src": str(tmp_path / file), "dest": f".pi/agent/{file}"})
    told = pytest.raises(LoopError, match=re.escape(says)) if says else contextlib.nullcontext()
    with told:
        agent_check.check_key(settings(home_files=home_files), name, environment)


# --- does it start, does it answer


def test_it_starts(host: Box) -> None:
    assert agent_check.starts(host.config, "pi").startswith("git version")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/bin/sh", "the agent /bin/sh does not start: .*Illegal option"),
        ("/nowhere/pi", "the agent pi does not start: .*No such file"),
    ],
)
def test_it_does_not_start(host: Box, path: str, says: str) -> None:
    with pytest.raises(LoopError, match=says):
        agent_check.starts(Settings(host.config, agent={"path": path, "program": "pi"}), "pi")


def asked(host: Box, program: str, words: list[str], **environment: str) -> str:
    config = Settings(host.config, agent={"path": program, "program": "pi"})
    given = {"PATH": "/usr/bin:/bin", "HYRULE_X": "not for it", **environment}
    return agent_check.answers(config, host.cell(), words, given)


def test_it_answers_as_the_engine_would_start_it(host: Box) -> None:
    said = asked(host, "/bin/echo", ["pi", "--print", "{prompt}", "{max_iterations}"])
    assert said == f"--print {agent_check.PROMPT} 1"


def test_nothing_of_an_answer_stays(host: Box) -> None:
    cell = host.cell()
    config = Settings(host.config, agent={"path": "/bin/sh", "program": "pi"})
    script = 'echo x >"$HOME/left" && echo x >/tmp/left && cat "$HOME/left" && env | grep -c HYRULE_X; echo said'
    said = agent_check.answers(config, cell, ["pi", "-c", script], {"PATH": "/usr/bin:/bin", "HYRULE_X": "1"})
    assert said == "said"
    assert not Path(cell.part("home"), "left").exists()


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 401 for $OPENROUTER_API_KEY >&2; exit 1", r"gets no answer from its model: 401 for \*\*\*"),
        ("exit 3", "gets no answer from its model: status 3"),
        ("true", "gets no answer from its model: status 0"),
        ("sleep 20", "gets no answer from its model: nothing was said for 1 s"),
    ],
)
def test_no_answer_comes(host: Box, monkeypatch: pytest.MonkeyPatch, script: str, says: str) -> None:
    if script.startswith("sleep"):
        monkeypatch.setattr(agent_check, "ANSWER_SECONDS", 1.0)
    with pytest.raises(LoopError, match=says) as caught:
        asked(host, "/bin/sh", ["pi", "-c", script], **KEY)
    assert KEY["OPENROUTER_API_KEY"] not in str(caught.value)


def test_what_was_proven_looks_for_no_other_of_itself(host: Box) -> None:
    said = asked(host, "/bin/sh", ["pi", "-c", "echo $PI_OFFLINE"])
    assert said == sandbox.QUIET["PI_OFFLINE"]
