# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role refuses before it looks at the host: run by Ansible, one host of an inventory for each value."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
REPOS = {
    "text": ("AS215932/engineering-loop", "must be a list of OWNER/NAME"),
    "dict": ({"AS215932/engineering-loop": "main"}, "engineering_loop_repos"),
    "dicts": ([{"repo": "AS215932/engineering-loop"}], "Not so: {'repo': 'AS215932/engineering-loop'}."),
    "number": (["o/a", 7], "Not so: 7."),
    "url": (["https://me:s3cret@github.com/o/a.git"], "Not so: https://***@github.com/o/a.git."),
    "name": (["o/a", "engineering-loop"], "Not so: engineering-loop."),
    "deep": (["o/a/b"], "Not so: o/a/b."),
    "twice": (["o/a", "o/b", "O/A"], "Not so: o/a, O/A."),
    "right": (["o/a", "o/as215932.net", "o/.github"], "engineering_loop_agent must have"),
}

SHORT = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_CALLBACK_FORMAT_PRETTY": "0", "ANSIBLE_NOCOLOR": "1"}


VALUES = {
    "root": ("install_dir", "/", 'engineering_loop_install_dir=\\"/\\"'),
    "opt": ("install_dir", "/opt/", "none of the system's"),
    "etc": ("config_dir", "//etc", "none of the system's"),
    "lib": ("state_dir", "/var/lib", "none of the system's"),
    "local": ("lib_dir", "/usr/local/lib", "none of the system's"),
    "never": ("timer_on_calendar", " ", 'engineering_loop_timer_on_calendar=\\" \\"'),
    "lines": ("git_user_name", "a\nb", "engineering_loop_git_user_name="),
    "long": ("git_user_email", "x" * 201, "engineering_loop_git_user_email="),
    "scheme": ("git_url", "ftp://x y", "engineering_loop_git_url="),
    "less": ("max_runs_per_day", -1, "engineering_loop_max_runs_per_day and"),
    "soon": ("canary_timeout", 0, "engineering_loop_canary_timeout at least 60"),
    "nan": ("max_cost_usd_per_day", "nan", "engineering_loop_max_cost_usd_per_day numbers"),
    "deep": ("state_dir", "/var/lib/loop", "engineering_loop_agent must have"),
    "flat": ("install_dir", "/options", "engineering_loop_agent must have"),
}


def test_repositories_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    told = refused(tmp_path, {name: {"repos": given} for name, (given, _told) in REPOS.items()})
    for name, (_given, words) in REPOS.items():
        assert words in told[name], name
        assert ("engineering_loop_repos" in told[name]) == (name != "right")


def test_values_that_no_host_could_bear_are_refused_by_name(tmp_path: Path) -> None:
    told = refused(tmp_path, {name: {variable: value} for name, (variable, value, _told) in VALUES.items()})
    for name, (_variable, _value, words) in VALUES.items():
        assert words in told[name], (name, told[name])


def refused(tmp_path: Path, given: dict[str, dict[str, object]]) -> dict[str, str]:
    """Why each host is refused, by its name. What is right is refused a step later, so that no host is looked at."""
    hosts = {
        name: {
            "ansible_connection": "local",
            "engineering_loop_agent": {"package": "half"},
            **{f"engineering_loop_{variable}": value for variable, value in values.items()},
        }
        for name, values in given.items()
    }
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}), encoding="utf-8")
    play = {
        "hosts": "all", "gather_facts": False, "vars": {"engineering_loop_version": "0" * 40},
        "roles": ["as215932.engineering_loop.engineering_loop"],
    }  # fmt: skip
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", tmp_path / "hosts.json", tmp_path / "play.yml"],
        cwd=ROOT, check=False,
        env={**os.environ, **SHORT}, capture_output=True, text=True,
    )  # fmt: skip
    told = dict(re.findall(r"^fatal: \[(\w+)\]: FAILED! => (.*)", done.stdout + done.stderr, re.MULTILINE))
    assert "s3cret" not in done.stdout and "Traceback" not in done.stdout
    assert told.keys() == given.keys()
    return told
