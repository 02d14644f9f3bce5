# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's program: installed by a real npm from a registry of the test's, named, proven and let go."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import npm_registry
import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError, playbook
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import installed
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import agents
from npm_registry import NAME, PROGRAM, Registry, below, config_of, integrity, packed

# pytest finds fixtures by their names in this module.
registry, agent = npm_registry.registry, npm_registry.agent


def test_it_is_installed_once_and_by_root_alone(agent: dict[str, str], registry: Registry, tmp_path: Path) -> None:
    before = os.umask(0o077)  # as root has it on some hosts
    try:
        assert agents.install(str(tmp_path), agent)
    finally:
        os.umask(before)
    program = agents.program(config_of(tmp_path, agent), "pi")
    assert program and program.startswith(f"{tmp_path}/agents/played-agent-1.2.3-")
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "1.2.3\n"
    place = Path(agents.place(str(tmp_path), agent))
    for path in [place, *place.rglob("*")]:
        if not path.is_symlink():
            assert path.stat().st_mode & 0o777 == (0o555 if path.is_dir() or path.name == "cli.sh" else 0o444), path
    assert (tmp_path / "agents").stat().st_mode & 0o777 == 0o755
    assert not list(tmp_path.rglob("spoiled")) and not (place / ".home").exists()
    assert below(tmp_path) == [place.name]
    registry.asked.clear()
    assert not agents.install(str(tmp_path), agent) and registry.asked == []


def test_another_version_stands_beside(agent: dict[str, str], registry: Registry, tmp_path: Path) -> None:
    newer = {**agent, "version": "1.3.0", "integrity": registry.publish(NAME, "1.3.0", {"a": PROGRAM}, bin={"pi": "a"})}
    assert agents.install(str(tmp_path), agent) and agents.install(str(tmp_path), newer)
    assert len(below(tmp_path)) == 2
    one, other = config_of(tmp_path, agent), config_of(tmp_path, newer)
    assert agents.digest(one) != agents.digest(other) != ""
    assert agents.prune(str(tmp_path), 2, []) == []
    assert agents.prune(str(tmp_path), 1, [agents.place(str(tmp_path), agent)]) == [agents.place(str(tmp_path), newer)]
    with pytest.raises(LoopError, match=r"the agent is not there: .*1.3.0.* is missing; run .*engineering_loop.apply"):
        agents.digest(other)
    assert agents.missing(newer, "pi") == f"the agent @played/agent 1.3.0 is not installed: run {playbook('apply')}"


def test_it_is_what_the_lockfile_says(agent: dict[str, str], registry: Registry, tmp_path: Path) -> None:
    agents.install(str(tmp_path), agent)
    lock = Path(agents.place(str(tmp_path), agent), agents.LOCKFILE).read_text(encoding="utf-8")
    assert registry.url not in lock  # where it came from is the host's matter
    registry.publish("helper", "2.1.0")
    locked = {**agent, "lock": hashlib.sha256(lock.encode()).hexdigest()}
    assert agents.install(str(tmp_path), locked, lock)
    kept = Path(agents.place(str(tmp_path), locked))
    assert json.loads((kept / "node_modules/helper/package.json").read_text())["version"] == "2.0.0"
    assert (kept / agents.LOCKFILE).read_text(encoding="utf-8") == lock


def test_what_was_not_asked_for_is_not_installed(agent: dict[str, str], registry: Registry, tmp_path: Path) -> None:
    other = {**agent, "integrity": integrity(b"another")}
    with pytest.raises(LoopError, match=r"it is 1.2.3 with sha512-.*, not with sha512-.* Nothing was installed"):
        agents.install(str(tmp_path), other)
    with pytest.raises(LoopError, match=r"has no program pie, as engineering_loop_agent.program says; it has pi"):
        agents.install(str(tmp_path), {**agent, "program": "pie"})
    with pytest.raises(LoopError, match=r"9\.9\.9 cannot be installed: .*@played/agent@9\.9\.9.*npm registry") as told:
        agents.install(str(tmp_path), {**agent, "version": "9.9.9"})
    assert ".new" not in str(told.value)  # npm's log, which is gone
    registry.files["tar/helper-2.0.0.tgz"] = packed({"package.json": "{}", "evil.js": "1"})
    with pytest.raises(LoopError, match=r"cannot be installed: .*(EINTEGRITY|integrity)"):
        agents.install(str(tmp_path), agent)
    assert below(tmp_path) == []


def test_a_registry_that_cannot_be_reached(
    agent: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("registry", "http://127.0.0.1:1/"), ("fetch_retries", "0")):
        monkeypatch.setenv(f"npm_config_{name}", value)
    with pytest.raises(LoopError, match=r"reason: .*ECONNREFUSED 127.0.0.1:1. Check .* npm registry") as told:
        agents.install(str(tmp_path), agent)
    assert "proxy" not in str(told.value) and "complete log" not in str(told.value)


def test_an_npm_that_is_not_there_or_hangs(
    agent: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LoopError, match=r"cannot be installed: .*timed out"):
        agents.install(str(tmp_path), agent, timeout=0.01)
    (tmp_path / "npm").write_text("")
    monkeypatch.setattr(agents, "PATH", str(tmp_path))
    with pytest.raises(LoopError, match=r"cannot be installed: .*Permission denied"):
        agents.install(str(tmp_path), agent)
    (tmp_path / "npm").unlink()
    with pytest.raises(LoopError, match="npm is missing, which Debian's package npm has"):
        agents.install(str(tmp_path), agent)
    assert below(tmp_path) == []


@pytest.mark.parametrize(
    "engines", [{"node": ">=99"}, {"node": ">=18", "npm": ">=6"}, {"npm": ">=99"}, ["node >=99"], None]
)
def test_a_node_that_is_too_old_is_told_before_anything_is_installed(
    registry: Registry, tmp_path: Path, engines: Any
) -> None:
    old = engines == {"node": ">=99"}
    about = {"bin": {"pi": "cli.sh"}, **({"engines": engines} if engines else {})}
    wanted = registry.publish(NAME, "3.0.0", {"cli.sh": PROGRAM}, **about)
    agent = {"package": NAME, "version": "3.0.0", "integrity": wanted, "program": "pi", "lock": ""}
    own = {"version": "3.0.0", "integrity": wanted, **({"engines": engines} if engines else {})}
    lock = json.dumps({"lockfileVersion": 3, "packages": {f"node_modules/{NAME}": own}})
    told = [agents.too_old_a_node(str(tmp_path), agent), agents.too_old_a_node(str(tmp_path), agent, lock)]
    node = shutil.which("node", path=agents.PATH)
    version = subprocess.run([str(node), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    says = f"the agent {NAME} 3.0.0 needs node >=99, and {node} is {version}: install a newer node and npm, such as"
    assert [each.startswith(says) for each in told] == [old] * 2 and (old or told == ["", ""])
    assert not (tmp_path / "agents").exists()
    if old:
        with pytest.raises(LoopError, match="needs node >=99, and "):
            agents.install(str(tmp_path), agent)
        assert below(tmp_path) == []
    else:
        assert agents.install(str(tmp_path), agent)
        registry.asked.clear()
        assert agents.too_old_a_node(str(tmp_path), agent) == "" and registry.asked == []


def test_of_a_node_nobody_can_judge_nothing_is_said(
    agent: dict[str, str], registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert agents.too_old_a_node(str(tmp_path), agent, "{") == ""
    assert agents.too_old_a_node(str(tmp_path), {**agent, "version": "9.9.9"}) == ""
    assert agents.too_old_a_node(str(tmp_path), {"path": "/usr/bin/pi", "program": "pi"}) == ""
    registry.asked.clear()
    monkeypatch.setattr(agents, "PATH", str(tmp_path))  # where Debian's are installed then
    assert agents.too_old_a_node(str(tmp_path), agent) == "" and registry.asked == []


def test_what_a_killed_installation_left_is_no_agent(agent: dict[str, str], tmp_path: Path) -> None:
    left = Path(f"{agents.place(str(tmp_path), agent)}.new/node_modules")
    left.mkdir(parents=True)
    assert not agents.installed(str(tmp_path), agent)
    assert agents.install(str(tmp_path), agent)
    assert below(tmp_path) == [os.path.basename(agents.place(str(tmp_path), agent))]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no package-lock.json"),
        ("[]", "is no package-lock.json"),
        ('{"packages": {"node_modules/x": 1}}', "is no package-lock.json"),
        ('{"packages": {}}', "it is None with None"),
        ('{"packages": {"node_modules/a": {"version": "2", "integrity": "i"}}}', "it is 2 with i"),
        ('{"packages": {"node_modules/a": {"version": "1", "integrity": "other"}}}', "it is 1 with other, not with i"),
        (
            '{"packages": {"node_modules/a": {"version": "1", "integrity": "i"}, "node_modules/b": {"version": "1"}}}',
            "needs node_modules/b, which come without a hash",
        ),
        (
            '{"packages": {"node_modules/a": {"version": "1", "integrity": "i"}, "b": {"link": true}}}',
            "needs b, which come without a hash",
        ),
    ],
)
def test_a_lockfile_that_does_not_hold(text: str, says: str) -> None:
    with pytest.raises(LoopError, match=says):
        agents.check_lock(text, {"package": "a", "version": "1", "integrity": "i"})


def test_a_lockfile_that_holds() -> None:
    own = {"version": "1", "integrity": "sha1-x i"}
    bundled = {"version": "1", "inBundle": True}
    text = json.dumps({"packages": {"": {}, "node_modules/a": own, "node_modules/a/node_modules/b": bundled}})
    agents.check_lock(text, {"package": "a", "version": "1", "integrity": "i"})


FULL = {"package": "@a/b", "version": "1.0.0", "integrity": integrity(b""), "program": "pi", "lock": ""}


@pytest.mark.parametrize(
    "change",
    [
        {"package": "../x"}, {"package": "@a/b/c"}, {"package": "--global"}, {"version": "latest"},
        {"version": "^1.0.0"}, {"version": "1.0.0/../../x"}, {"integrity": "sha1-abc"}, {"integrity": ""},
        {"program": "a/b"}, {"program": ""}, {"lock": "x"}, {"path": "/usr/bin/pi"}, {"other": "x"},
    ],
)  # fmt: skip
def test_one_that_is_not_named_in_full(tmp_path: Path, change: dict[str, str]) -> None:
    agents.check_named(FULL)
    with pytest.raises(LoopError, match="engineering_loop_agent must have either package, version"):
        agents.install(str(tmp_path), {**FULL, **change})
    with pytest.raises(LoopError, match=f"not so: {next(iter(change))}" if "path" not in change else "must have"):
        agents.lacking(config_of(tmp_path, {**FULL, **change}))


@pytest.mark.parametrize("left", ["package", "version", "integrity", "program"])
def test_one_of_which_a_part_is_missing(tmp_path: Path, left: str) -> None:
    with pytest.raises(LoopError, match="engineering_loop_agent must have either"):
        agents.install(str(tmp_path), {key: value for key, value in FULL.items() if key != left})


# --- what is on the host already


def test_a_program_that_is_there(tmp_path: Path) -> None:
    program = tmp_path / "lib/pi/dist/cli"
    program.parent.mkdir(parents=True)
    program.write_text(PROGRAM)
    (tmp_path / "pi").symlink_to(program)
    given = {"path": f"{tmp_path}/pi", "program": "pi"}
    config = config_of(tmp_path, given)
    assert agents.lacking(config).startswith(f"engineering_loop_agent.path is {tmp_path}/pi, where no program is")
    program.chmod(0o755)
    assert agents.lacking(config) == "" and agents.program(config, "pi") == f"{tmp_path}/pi"
    digests = {agents.digest(config)}
    (tmp_path / "lib/pi/package.json").write_text('{"version": "2"}')  # another version with the same first file
    digests.add(agents.digest(config))
    program.write_text(PROGRAM + "#\n")
    digests.add(agents.digest(config))
    assert len(digests) == 3
    assert (
        agents.missing(given, "claude")
        == "the engine starts claude as its agent: set engineering_loop_agent to that, it has pi"
    )


def test_a_host_where_nobody_named_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "PATH", str(tmp_path))
    config = config_of(tmp_path, {})
    assert agents.lacking(config).startswith(
        f"no agent is on this host: no pi in {tmp_path}. Set engineering_loop_agent"
    )
    before = agents.digest(config)
    (tmp_path / "pi").write_text(PROGRAM)
    (tmp_path / "pi").chmod(0o755)
    assert agents.program(config, "pi") == f"{tmp_path}/pi"
    assert before != agents.digest(config) and agents.lacking(config) == ""


def test_settings_of_before_there_was_one_prove_what_they_did(tmp_path: Path) -> None:
    assert agents.digest({"install_dir": str(tmp_path)}) == ""
    assert "agent_digest" in installed.BOUND
