# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role's variables may be: each of its argument specification is tried with all that has gone wrong once."""

from __future__ import annotations

import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import secrets_file
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import variables
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment

ROLE = Path(__file__).resolve().parents[5] / "roles/engineering_loop"
(ENTRY,) = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"].values()
OPTIONS: dict[str, Any] = ENTRY["options"]
NASTY: dict[str, Any] = {
    "list": [["x"]],
    "dict": {"x": 1},
    "bool": True,
    "null": None,
    "empty": "",
    "lines": "docs\nup",
    "dots": "../up",
    "control": "a\x07b",
    "long": "x" * 1_000_000,
    "hidden": "a\u202eb",
    "foreign": "d\u00f6cs",
    "template": "{{ 7 * 7 }}",
    "option": "--upload-pack=x",
    "negative": "-1",
    "huge": 10**30,
}
JOB: dict[str, Any] = {"name": "look", "command": ["engine", "look"]}
# What has parts is tried part by part, the others being right.
RIGHT: dict[str, Any] = {
    "home_files": {"src": "/etc/pi.json", "dest": ".pi/agent.json"},
    "caches": {"src": "/var/cache/uv", "dest": ".cache/uv"},
    "workspace_repositories": {"repo": "o/a", "dest": "a"},
    "agent": {"path": "/usr/bin/pi"},
    "canary": {"mode": "docs", "repo": "o/a", "issue": 1},
    "jobs": JOB,
}


def places() -> list[tuple[str, str, Any]]:
    """Every place that a value can be given in: its name, its type, and what makes a variable's value of one there."""
    found: list[tuple[str, str, Any]] = []
    for full, option in OPTIONS.items():
        name, kind = full.removeprefix("engineering_loop_"), option["type"]
        found.append((name, kind, lambda value: value))
        if kind == "list" and "options" not in option:
            found.append((f"{name}[]", option["elements"], lambda value: [value]))
        for part, inner in option.get("options", {}).items():
            right = RIGHT[name]
            found.append(
                (
                    f"{name}.{part}",
                    inner["type"],
                    lambda value, part=part, right=right, many=kind == "list": (
                        [{**right, part: value}] if many else {**right, part: value}
                    ),
                )
            )
    return found


# What no shape forbids, since it does no harm: systemd judges its own values before anything is changed, Ansible its
# own patterns and files, and a name of an author is only shown.
FREE = {
    "git_user_name", "git_user_email", "timer_on_calendar", "memory_max", "cpu_quota", "on_failure", "hosts", "serial",
    "pin_file", "bump_checks", "agent.lockfile", "fleet_first", "jobs.on_calendar", "governor_timer_calendar",
    "icinga_ca_src",
}  # fmt: skip
IN_HOME = {"home_files.dest", "caches.dest"}
BORNE = {
    "bool": {name for name, kind, _make in places() if kind == "bool"} | {"serial", "bump_checks", "fleet_first"},
    "list": {"serial", "bump_checks", "fleet_first"},
    "dict": {"serial", "bump_checks", "agent_environment", "environment", "fleet_first", "jobs.options"},
    "empty": {
        "allowed_signers", "keyring", "lock_sha256", "wheels", "github_app_id", "github_app_installation_id",
        "metrics_dir", "notify_file", "quarantine_max_age", "quarantine_max_size", "cycles_max_age", "cycles_max_size",
        "agent_core_trace_collector_url", "knowledge_learning_dir", "noc_lhp_base_url",
        "canary_max_age", "canary.identity", "workspace_repositories.dest", "workspace_repositories.version",
        "build_tools[]",  # a blank line of a file of requirements
    } | FREE
    - {"git_user_name", "git_user_email", "timer_on_calendar", "jobs.on_calendar", "governor_timer_calendar"},
    "dots": FREE | {"repo", "allowed_branches[]"},
    "foreign": FREE | IN_HOME | {"repo", "allowed_branches[]", "workspace_repositories.version"},
    "template": FREE | IN_HOME | {"repo"},
    "option": FREE | IN_HOME | {"daemon_args[]"},  # it is the engine's
    "negative": FREE | IN_HOME | {"daemon_args[]"},
    "huge": {"serial", "bump_checks", "memory_max", "github_app_id", "fleet_first"},
}  # fmt: skip


@cache
def defaults() -> dict[str, Any]:
    found = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
    plain = {name: value for name, value in found.items() if name in OPTIONS and "{{" not in str(value)}
    return {
        **plain,
        "engineering_loop_version": "0" * 40,
        "engineering_loop_workspace_repositories": [RIGHT["workspace_repositories"]],
    }


def refused(**given: Any) -> list[str]:
    named = {f"engineering_loop_{name}": value for name, value in given.items()}
    return variables.refused(OPTIONS, {**defaults(), **named})


@pytest.mark.parametrize("name", ["canary_timeout", "service_timeout"])
def test_a_time_in_which_nothing_could_be_done(name: str) -> None:
    (line,) = refused(**{name: 59})
    assert line == f"engineering_loop_{name} is 59, but must be a whole number, 60 or more"
    assert refused(**{name: 60}) == []


@pytest.mark.parametrize("nasty", NASTY)
def test_no_variable_bears_what_would_do_harm(nasty: str) -> None:
    borne = set()
    for name, _kind, make in places():
        top = name.split(".")[0].removesuffix("[]")
        lines = refused(**{top: make(NASTY[nasty])})
        borne |= set() if lines else {name}
        for line in lines:
            assert line.startswith(f"engineering_loop_{top}"), line
            assert line.isprintable() and len(line) < 400, line
    assert borne == BORNE.get(nasty, set())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("repos", "o/a", 'engineering_loop_repos is "o/a", but must be a list of OWNER/NAME'),
        ("repos", [{"repo": "o/a"}], 'engineering_loop_repos[0] is {"repo": "o/a"}, but must be OWNER/NAME'),
        ("repos", ["o/a", "engineering-loop"], 'engineering_loop_repos[1] is "engineering-loop", but must be OWNER/'),
        ("repos", ["o/a", 7], "engineering_loop_repos[1] is 7, but must be OWNER/NAME, in quotes"),
        ("repos", ["https://me:s3cret@github.com/o/a.git"], '[0] is "https://***@github.com/o/a.git", but must be'),
        ("repos", ["o/a/b"], 'engineering_loop_repos[0] is "o/a/b", but'),
        ("repos", ["o/a", "o/b", "O/A"], "engineering_loop_repos names o/a more than once"),
        ("repos", [f"o/{number}" for number in range(20_000)], "letters, but may have 100000"),
        ("install_dir", "/", 'engineering_loop_install_dir is "/", but must be an absolute path'),
        ("install_dir", "/opt/", "none of the system's such as /opt"),
        ("config_dir", "//etc", "none of the system's such as /opt"),
        ("state_dir", "/var/lib", "none of the system's such as /opt"),
        ("lib_dir", "/usr/local/lib", "none of the system's such as /opt"),
        ("env_file", "/etc/engineering-loop/", "and no directory"),
        ("notify", "json://example.org/s3cret", "engineering_loop_notify is no such thing, but must be a list"),
        ("notify", [5], "engineering_loop_notify[0] is no such thing, but must be text in one line"),
        ("notify", ["json://example.org/s3cret\n"], "engineering_loop_notify[0] is no such thing, but must be text in"),
        ("notify", ["https://example.org/s3cret"], "a webhook that takes JSON is jsons://HOST/PATH"),
        ("notify", ["nfty://example.org/s3cret"], "engineering_loop_notify[0] begins with nfty://, which Apprise does"),
        ("notify_file", "/etc/engineering-loop/", "and no directory"),
        ("notify_per_hour", 0, "engineering_loop_notify_per_hour is 0, but must be a whole number, 1 or more"),
        ("metrics_dir", "prom", 'engineering_loop_metrics_dir is "prom", but must be an absolute path'),
        ("timer_on_calendar", " ", 'engineering_loop_timer_on_calendar is " ", but must be a time as OnCalendar='),
        ("git_user_name", "a\nb", 'engineering_loop_git_user_name is "a\\nb", but must be at most 200 letters'),
        ("git_user_email", "x" * 201, "engineering_loop_git_user_email is"),
        ("git_url", "ftp://x y", "but must be the address of a forge, https://HOST"),
        ("max_runs_per_day", -1, "engineering_loop_max_runs_per_day is -1, but must be a whole number, 0 or more"),
        ("max_runs_per_day", 1.5, "is 1.5, but must be a whole number, 0 or more"),
        ("max_cost_usd_per_day", "nan", 'engineering_loop_max_cost_usd_per_day is "nan", but must be a number'),
        ("max_cost_usd_per_day", float("inf"), "but must be a number"),
        ("keep_releases", 0, "engineering_loop_keep_releases is 0, but must be a whole number, 1 or more"),
        ("uv_version", 0.13, "engineering_loop_uv_version is 0.13, but must be an exact version such as 0.13.9, in q"),
        ("version", "main", 'engineering_loop_version is "main", but must be the full SHA of one commit'),
        ("state", "gone", 'engineering_loop_state is "gone", but must be one of present, absent'),
        ("leave_remove", ["all"], 'engineering_loop_leave_remove[0] is "all", but must be one of work, config, '),
        ("gate_user", "loop", "engineering_loop_user and engineering_loop_gate_user must be two users"),
        ("repo", "https://me:s3cret@github.com/o/a.git", "engineering_loop_repo https://***@github.com/o/a.git holds"),
        ("workspace_repositories", [{"repo": "o/a", "dest": "../up"}], "dest '../up' of o/a is not a plain directory"),
        ("workspace_repositories", [{"repo": "o/a", "dest": "/up"}], "engineering_loop_workspace_repositories: dest"),
        ("workspace_repositories", [{"repo": "o/a"}], "engineering_loop_workspace_repositories[0] has no dest"),
        ("workspace_repositories", [RIGHT["workspace_repositories"]] * 2, "more than one checkout a"),
        ("allowed_paths", ["docs/../.."], 'engineering_loop_allowed_paths holds "docs/../.."'),
        ("allowed_paths", {"a": ["docs", "/etc"]}, 'engineering_loop_allowed_paths holds "/etc"'),
        ("allowed_paths", [""], 'engineering_loop_allowed_paths holds ""'),
        ("allowed_paths", [["docs"]], 'engineering_loop_allowed_paths holds ["docs"]'),
        ("allowed_paths", {"a": "docs"}, "a list of paths, or a dictionary of checkout to list"),
        ("allowed_paths", "docs", "a list of paths, or a dictionary of checkout to list"),
        ("environment", {"A": {"B": "s3cret"}}, "engineering_loop_environment.A is no text: put it in quotes"),
        ("environment", {"A": ["s3cret"]}, "engineering_loop_environment.A is no text"),
        ("environment", {"A": True}, "engineering_loop_environment.A is no text"),
        ("environment", {"A": None}, "leave it out where it is not wanted"),
        ("environment", {"A": "s3cret\0"}, "engineering_loop_environment.A holds a control character"),
        ("environment", {"A B": "s3cret"}, 'engineering_loop_environment has the name "A B"'),
        ("environment", {"AWS_SECRET": "s3cret"}, "engineering_loop_environment holds AWS_SECRET, which must not be"),
        ("environment", "GH_TOKEN=s3cret", "engineering_loop_environment is no such thing, but must be a dictionary"),
        ("agent", {"package": "pi", "path": "/usr/bin/pi"}, "engineering_loop_agent must have either package, version"),
        ("agent", {"package": "pi", "version": "latest"}, "not so: version"),
        ("agent", {"path": "pi"}, 'engineering_loop_agent.path is "pi", but must be an absolute path'),
        ("agent", {"pkg": "pi"}, 'engineering_loop_agent has a part "pkg" that nobody knows; it may have package, '),
        ("canary", {"mode": "no"}, 'engineering_loop_canary.mode is "no", but must be one of docs, empty'),
        ("caches", [RIGHT["caches"], RIGHT["caches"]], "engineering_loop_caches name .cache/uv more than once"),
        ("egress", ["10.0.0.1"], 'engineering_loop_egress[0] is "10.0.0.1", but must be names of hosts'),
        ("egress_local", [3128], "engineering_loop_egress_local holds 3128"),
        ("egress_local", ["65536"], "engineering_loop_egress_local holds 65536"),
        ("jobs", [{"name": "A", "command": ["x"]}], 'engineering_loop_jobs[0].name is "A", but must be a name of'),
        ("jobs", [{"name": "a"}], "engineering_loop_jobs[0] has no command, and must have one"),
        ("jobs", [{**JOB, "timeout": 5}], "engineering_loop_jobs[0].timeout is 5, but must be a whole number, 60 or"),
        ("jobs", [{**JOB, "may": ["push"]}], "must be one of read, comment, label, approve"),
        ("jobs", [{**JOB, "command": ["/bin/sh"]}], "must be a program of the engine"),
        ("git_user_name", "...", "one of them a letter or digit"),
        ("knowledge_learning_dir", "/srv/learning/", "without / at its end"),
        ("knowledge_learning_dir", "/srv/./learning", "twice in a row"),
        ("allowed_paths", {datetime.date(2026, 1, 1): 1}, "must be text, a list or a dictionary"),
        ("egress_local", [10**400], "must be a whole number, 1 or more"),
        ("policy_overlay", {"defaults": {"max_files": 1}}, "overlay: defaults.max_files: an unknown key"),
        ("policy_overlay", {"defaults": {"denied_path_globs": ["../x"]}}, "this one never matches"),
        ("policy_overlay", {"defaults": {"denied_path_globs": {"add": "x"}}}, "denied_path_globs.add: found 'x'"),
        ("policy_overlay", {"repos": {"o/a": {}}}, "the name of a checkout"),
        ("policy_widen", ["everything"], "engineering_loop_policy_widen: found 'everything'"),
    ],
)  # fmt: skip
def test_a_value_is_refused_in_one_line(name: str, value: Any, words: str) -> None:
    (line,) = refused(**{name: value})
    assert words in line
    assert f"engineering_loop_{name}" in line
    assert "s3cret" not in line


def test_a_name_that_nobody_knows_and_one_that_is_missing() -> None:
    lines = variables.refused(OPTIONS, {}, ["engineering_loop_frob\n"])
    assert lines[0].startswith("engineering_loop_frob\\n is a variable that nobody knows: the known ones are shown by")
    assert lines[1:] == [f"engineering_loop_version is missing: {variables.SHAPES['version'].words}"]


def test_an_overlay_is_judged_without_its_base() -> None:
    overlay = {
        "defaults": {"max_changed_files": 5, "denied_path_globs": {"add": ["x/**"], "remove": ["y"]}},
        "repos": {"a": {"denied_content_patterns": {"remove": ["z"]}}},
        "guards": {"defaults": {"ci": ["a/**"]}, "repos": {"a": {"binaries": False}}},
    }
    assert refused(policy_overlay=overlay, policy_widen=["guards.defaults.ci"]) == []


ENV = Environment(keep_trailing_newline=True).from_string(  # noqa: S701 - a file of root's, no web page
    (ROLE / "templates/env.j2").read_text(encoding="utf-8")
)


@settings(max_examples=300)
@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), st.text() | st.integers()))
def test_a_secret_that_is_let_in_arrives_as_it_was_given(secrets: dict[str, str | int]) -> None:
    """On several lines as well, as a key in PEM is; the same words are read from the file that is written of it."""
    if not variables.refused(
        {"engineering_loop_environment": {"type": "dict"}, "engineering_loop_forbidden_environment": {"type": "list"}},
        {"engineering_loop_environment": secrets, "engineering_loop_forbidden_environment": []},
    ):
        text = ENV.render(engineering_loop_environment=secrets)
        assert secrets_file.parse(text, "it") == {key: str(value) for key, value in secrets.items()}


BASE = {"unit": "loop", "governor_enabled": False, "runs_dir": "/var/lib/loop/runs", "state_dir": "/var/lib/loop",
        "repos": ["o/a"], "governor_repos": [], "governor_state_dir": "/var/lib/loop/gov",
        "daemon_state_dir": "/var/lib/loop/state",
        "workspace_dir": "/var/lib/loop/workspace"}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"jobs": [JOB, JOB]}, "engineering_loop_jobs names look more than once"),
        ({"jobs": [{**JOB, "name": "reliability-governor"}], "governor_enabled": "yes"}, "the governor is one of them"),
        ({"jobs": [{**JOB, "command": []}]}, "look has an empty command"),
        (
            {"jobs": [{**JOB, "options": {"--dry-run": None}}]},
            "--dry-run the value null, but it must be text or a number",
        ),
        ({"jobs": [{**JOB, "options": {"--dry-run": True}}]}, "'' gives the flag alone"),
        ({"jobs": [{**JOB, "unit": "x"}, {**JOB, "name": "b", "unit": "x"}]}, "more than one job with the unit x"),
        ({"jobs": [{**JOB, "unit": "loop"}]}, "the unit loop, which is the loop's own or the governor's"),
        ({"jobs": [{**JOB, "unit": "loop-gate"}]}, "the unit loop-gate, which is the loop's own or the governor's"),
        ({"jobs": [{**JOB, "state": "/var/lib/loop/runs/x"}]}, "look would write /var/lib/loop/runs/x"),
        ({"jobs": [{**JOB, "state": "/srv/a"}, {**JOB, "name": "b", "state": "/srv/a/b"}]}, "a directory of its own"),
        ({"governor_repos": ["o/B"]}, "governor_repos names o/b, which is not in engineering_loop_repos"),
        ({"governor_state_dir": "/var/lib/loop/state/gov"}, "stands in /var/lib/loop/state or holds it"),
        ({"governor_state_dir": "/var/lib/loop/workspace"}, "leave the variable out"),
    ],
)
def test_jobs_stand_in_nobodys_way(given: dict[str, Any], words: str) -> None:
    def told(more: dict[str, Any]) -> list[str]:
        return variables.refused(OPTIONS, {f"engineering_loop_{key}": one for key, one in {**BASE, **more}.items()})

    needed = told({"jobs": [{**JOB, "unit": "loop-job-look", "state": "/srv/look"}], "governor_repos": ["O/A"]})
    (line,) = [one for one in told(given) if one not in needed]
    assert words in line
