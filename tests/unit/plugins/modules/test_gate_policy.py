# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module that installs the policy: what it writes, when it says changed, and what it never replaces."""

from __future__ import annotations

import json
import os
import pwd
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy import schema, strict_yaml
from ansible_collections.as215932.engineering_loop.plugins.modules import gate_policy

BASE = """\
version: 1
defaults:
  max_changed_files: 20
  max_file_bytes: 1048576
  denied_path_globs: [".env", "*.key"]
  denied_content_patterns: ["AKIA[0-9A-Z]{16}"]
  allowed_gate_commands: [git]
  protected_branch_prefixes: [main]
  allowed_pr_remotes: [origin]
  allowed_handoff_dirs: [/tmp]
repos: {}
"""


class Host:
    """A directory with a base, and the module run on it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.base = root / "release.yml"
        self.base.write_text(BASE)
        self.dest = root / "etc/policy.yml"
        self.dest.parent.mkdir()

    def run(self, **options: Any) -> dict[str, Any]:
        arguments = {"dest": str(self.dest), "handoff_dirs": ["/srv/runs"], **options}
        if "base_content" not in options:
            arguments.setdefault("base", str(self.base))
        with patch_module_args(arguments), pytest.raises(SystemExit):
            gate_policy.main()
        answer: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return answer


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path, capsys)


def test_it_writes_once_and_tells_what_it_wrote(host: Host) -> None:
    first = host.run()
    assert first["changed"] is True
    policy = schema.load_file(str(host.dest))
    assert first["policy"] == policy
    assert first["sha256"] == schema.digest(policy)
    assert first["admitted"] == ["/srv/runs"]
    assert first["widened"] == []
    assert first["tightened"] == ["defaults.allowed_handoff_dirs"]
    assert stat.S_IMODE(host.dest.stat().st_mode) == 0o640
    before = host.dest.stat()
    second = host.run()
    assert second["changed"] is False
    assert second["sha256"] == first["sha256"]
    assert host.dest.stat().st_ino == before.st_ino


def test_only_the_mode_differs(host: Host) -> None:
    host.run()
    host.dest.chmod(0o666)
    answer = host.run(_ansible_diff=True)
    assert answer["changed"] is True
    assert "mode 0666" in answer["diff"]["before"]
    assert "mode 0640" in answer["diff"]["after"]
    assert stat.S_IMODE(host.dest.stat().st_mode) == 0o640
    assert host.run(mode=0o600)["changed"] is True
    assert stat.S_IMODE(host.dest.stat().st_mode) == 0o600


def test_owner_and_group_by_name_and_number(host: Host) -> None:
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    assert host.run(owner=owner.pw_name, group=str(os.getegid()))["changed"] is True
    status = host.dest.stat()
    assert (status.st_uid, status.st_gid) == (owner.pw_uid, os.getegid())
    assert host.run(owner=str(owner.pw_uid))["changed"] is False


def test_check_mode_tells_and_leaves_alone(host: Host) -> None:
    host.run()
    content = host.dest.read_bytes()
    answer = host.run(overlay={"defaults": {"max_changed_files": 5}}, _ansible_check_mode=True, _ansible_diff=True)
    assert answer["changed"] is True
    assert "max_changed_files: 20" in answer["diff"]["before"]
    assert "max_changed_files: 5" in answer["diff"]["after"]
    assert host.dest.read_bytes() == content
    assert host.run(_ansible_check_mode=True)["changed"] is False


def test_check_mode_on_a_fresh_host(host: Host) -> None:
    host.base.unlink()
    host.dest.parent.rmdir()
    answer = host.run(_ansible_check_mode=True, group="not-made-yet")
    assert answer["changed"] is True
    assert "comes with the release" in answer["msg"]
    host.base.write_text(BASE)
    answer = host.run(_ansible_check_mode=True, group="not-made-yet")
    assert answer["changed"] is True
    assert answer["policy"]["defaults"]["allowed_handoff_dirs"] == ["/srv/runs"]
    assert not host.dest.parent.exists()


def test_check_mode_before_the_yaml_library_is_there(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_yaml, "HAS_YAML", False)
    answer = host.run(_ansible_check_mode=True)
    assert answer["changed"] is True
    assert "PyYAML" in answer["msg"]
    answer = host.run()
    assert answer["failed"] is True
    assert "PyYAML" in answer["msg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlay": {"defaults": {"max_changed_files": 50}}}, "defaults.max_changed_files (50)"),
        ({"overlay": {"defaults": {"max_files": 50}}}, "overlay: defaults.max_files: an unknown key"),
        ({"overlay": {"defaults": {"denied_content_patterns": ["("]}}}, "overlay: defaults.denied_content_patterns[0]"),
        ({"overlay": {"defaults": {"denied_content_patterns": {"add": ["(a+)+$"]}}}}, "denied_content_patterns[1]"),
        ({"handoff_dirs": ["runs"]}, "engineering_loop_runs_dir: [0]: found 'runs', allowed: an absolute directory"),
        ({"base": "/nowhere/policy.yml"}, "there is no policy at /nowhere/policy.yml (base)"),
        ({"base_content": "version: 1\nversion: 1\n"}, "base_content: version (line 2)"),
        ({"base_content": ["x"]}, "base_content"),
        ({"mode": "rw"}, "mode: found 'rw'"),
        ({"mode": "0666"}, "only the owner may write"),
        ({"group": "no-such-group"}, "there is no group no-such-group"),
        ({"dest": "/nowhere/policy.yml"}, "/nowhere (the directory of dest) does not exist"),
        ({"widen": ["everything"]}, "widen: found 'everything'"),
    ],
)
def test_a_refused_policy_never_replaces_the_one_in_force(host: Host, options: dict[str, Any], message: str) -> None:
    host.run()
    content = host.dest.read_bytes()
    answer = host.run(**options)
    assert answer["failed"] is True
    assert message in answer["msg"]
    assert "\n" not in answer["msg"]
    assert host.dest.read_bytes() == content


def test_a_widening_is_told_at_every_run(host: Host) -> None:
    options: dict[str, Any] = {"overlay": {"defaults": {"max_changed_files": 50}}, "widen": ["max_changed_files"]}
    assert host.run(**options)["widened"] == ["defaults.max_changed_files"]
    again = host.run(**options)
    assert (again["changed"], again["widened"]) == (False, ["defaults.max_changed_files"])


def test_an_inline_base_as_data_and_as_text(host: Host) -> None:
    as_file = host.run()["sha256"]
    assert host.run(base_content=BASE)["sha256"] == as_file
    assert host.run(base_content=schema.load(BASE.encode(), "x"))["sha256"] == as_file


def test_backup(host: Host) -> None:
    assert "backup_file" not in host.run(backup=True)
    before = host.dest.read_bytes()
    answer = host.run(backup=True, overlay={"defaults": {"max_changed_files": 5}})
    assert Path(answer["backup_file"]).read_bytes() == before


def test_a_cycle_in_progress_keeps_the_policy_that_it_began_with(host: Host, tmp_path: Path) -> None:
    lock = tmp_path / "daemon.lock"
    lock.write_text(json.dumps({"pid": os.getppid(), "started_at": time.time()}))
    assert host.run(run_lock=str(lock))["changed"]  # a first one is in nobody's way
    before = host.dest.read_bytes()
    tighter = {"defaults": {"max_changed_files": 3}}
    refused = host.run(run_lock=str(lock), overlay=tighter)
    assert refused["failed"] and "a cycle is in progress" in refused["msg"] and "is as it was" in refused["msg"]
    assert host.dest.read_bytes() == before
    assert host.run(run_lock=str(lock), overlay=tighter, _ansible_check_mode=True)["changed"]
    assert not host.run(run_lock=str(lock))["changed"]  # nothing to write, nothing to wait for
    timer = threading.Timer(0.5, lock.unlink)
    timer.start()
    assert host.run(run_lock=str(lock), overlay=tighter, wait=20)["changed"]
    assert schema.load_file(str(host.dest))["defaults"]["max_changed_files"] == 3
