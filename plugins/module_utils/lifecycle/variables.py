# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role's variables may be: judged before any host is looked at, a line for each that is wrong.

The types are those of the role's argument specification. The role hands values on as they are, so nothing is converted
on the way: what would have to be is refused. No line shows a password of a URL, or a value among the secrets.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..base.errors import LoopError, printable, without_passwords
from ..base.files import inside
from ..git.remotes import check_engine, remote_of
from ..host import jobs, secrets_file, targets
from ..policy import compose, paths
from ..release import agents, build_tools, git_sources
from . import engine_names, engine_variables

PREFIX = "engineering_loop_"
SECRETS = f"{PREFIX}environment"
TARGETS = f"{PREFIX}{targets.WRITTEN}"  # each of them is a secret as well
MAX_LETTERS = 100_000  # of one variable, all in all
MAX_TEXT = 4096
MAX_SHOWN = 100
MAX_NUMBER = 10**10
TRUTH = {"true", "yes", "on", "1", "false", "no", "off", "0"}
NAMES = (
    "the known ones are shown by `ansible-doc -t role as215932.engineering_loop.engineering_loop`; correct the name or"
    " remove it"
)
Json = Mapping[str, Any]


class Shape(NamedTuple):
    """What a text may be: as an expression, and in words."""

    pattern: str
    words: str

    def empty(self) -> Shape:
        return Shape(f"({self.pattern})?", f"{self.words}, or empty")


_LETTERS = r"[A-Za-z0-9/._+@,=~-]"
_NO_DOTS = r"(?!.*(^|/)\.{1,2}(/|$))"
# A directory of the loop becomes root's, and what lies in it is hidden from cycles.
_SYSTEM = (
    r"(?!/*((bin|boot|dev|etc|home|lib\d*|media|mnt|opt|proc|root|run|sbin|srv|sys|tmp)"
    r"|usr(/+(local/+)?(bin|etc|games|include|lib\w*|local|sbin|share|src))?"
    r"|var(/+(backups|cache|lib|local|lock|log|mail|opt|run|spool|tmp))?)?/*\Z)"
)
PATH = Shape(rf"{_NO_DOTS}/{_LETTERS}*", "an absolute path without .., of letters, digits and /._+@,=~- only")
FILE = Shape(rf"{PATH.pattern}(?<!/)", f"{PATH.words}, and no directory")
DIRECTORY = Shape(
    rf"{_SYSTEM}(?!.*/\.?(/|\Z)){PATH.pattern}",
    f"{PATH.words}, and none of the system's such as /opt, and without / at its end or twice in a row",
)
NAME = Shape(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", "a name of letters, digits and _.- only")
USER = Shape(NAME.pattern.replace("199", "30"), f"{NAME.words}, of at most 31")
URL = Shape(r"https?://[^\s/@]+(/\S*)?", "the address of a forge, https://HOST")
SERVER = Shape(r"https?://[^\s/@]+(/[^\s@]*)?", "the address of a server, http(s)://HOST/PATH, without a password")
COMMITTER = Shape(r"(?=.*\w)[^<>]{1,200}", "at most 200 letters without < and >, one of them a letter or digit")
TIME = Shape(r"\d{1,9}[smhdw]", "a time such as 90d")
SIZE = Shape(r"\d{1,9}[KMGT]", "a size such as 10G")
IN_HOME = Shape(rf"{_NO_DOTS}[^/]+(/[^/]+)*", "a path below the home, such as .cache/uv")
REPOSITORY = Shape(r"[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9_.-]*[A-Za-z0-9_-]", "OWNER/NAME")
PROGRAM = Shape(r"[A-Za-z0-9][A-Za-z0-9._+-]*", "the name of a program, without a directory")

SHAPES = {
    **dict.fromkeys(("user", "group", "gate_user"), USER),
    "unit": NAME,
    "program": PROGRAM,
    "label": Shape(engine_names.LABEL, engine_names.LABEL_WORDS),
    "branch_prefixes": Shape(engine_names.PREFIX, engine_names.PREFIX_WORDS),
    **dict.fromkeys(("env_file", "github_app_private_key_file", "python"), FILE),
    **dict.fromkeys(("install_dir", "config_dir", "lib_dir", "state_dir", "workspace_dir", "runs_dir"), DIRECTORY),
    **dict.fromkeys(("daemon_state_dir", "memory_dir", "governor_state_dir"), DIRECTORY),
    "legacy_memory_dir": PATH,
    **dict.fromkeys(("allowed_signers", "keyring", "notify_file"), FILE.empty()),
    **dict.fromkeys(("wheels", "metrics_dir"), PATH.empty()),
    "version": Shape(
        r"[0-9a-f]{40}", "the full SHA of one commit: 40 lower-case hex digits, no branch, tag or short SHA"
    ),
    "uv_version": Shape(r"\d+(\.\d+)+([a-z]+\d+)?", "an exact version such as 0.13.9"),
    "lock_sha256": Shape(r"[0-9a-f]{64}", "64 lower-case hex digits").empty(),
    "packages": Shape(r"[a-z0-9][a-z0-9+.:-]+", "names of Debian packages"),
    "allowed_branches": Shape(r"[^\s-]\S*", "names or patterns of branches, such as release/*"),
    **dict.fromkeys(("git_url", "github_api_url"), URL),
    **dict.fromkeys(("repos", "canary.repo"), REPOSITORY),
    "repos_shared_unsafely": Shape(rf"{REPOSITORY.pattern}|[*]", f"{REPOSITORY.words}, or * for all"),
    **dict.fromkeys(("git_user_name", "git_user_email"), COMMITTER),
    "forbidden_environment": Shape(r"[A-Za-z0-9_*?]+", "names of variables, * and ? for any letters"),
    "github_app_id": Shape("[A-Za-z0-9._]{1,100}", "the App's id, or its client id").empty(),
    "github_app_installation_id": Shape("[0-9]{1,20}", "a number").empty(),
    "agent_programs": PROGRAM,
    "canary.identity": Shape(r"[A-Za-z0-9][A-Za-z0-9_-]*(\[bot\])?", "a login").empty(),
    **dict.fromkeys(("home_files.src", "agent.path"), FILE),
    "caches.src": PATH,
    **dict.fromkeys(("home_files.dest", "caches.dest"), IN_HOME),
    # The last part has a letter in front, so that no address is one.
    "egress": Shape(
        r"(?i:([*][.])?([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?[.])*[a-z]([a-z0-9-]*[a-z0-9])?)(:[1-9][0-9]{0,4})?",
        "names of hosts such as example.org, *.example.org or example.org:8443, and no addresses",
    ),
    **dict.fromkeys(("cell_max_size", "min_free"), SIZE),
    "quarantine_min_age": TIME,
    **dict.fromkeys(("quarantine_max_age", "cycles_max_age"), TIME.empty()),
    **dict.fromkeys(("quarantine_max_size", "cycles_max_size"), SIZE.empty()),
    "canary_max_age": Shape(r"[1-9]\d{0,8}[sm]|[1-9]\d{0,6}h|[1-9]\d{0,4}[dw]", "a time such as 90d").empty(),
    **dict.fromkeys(("noc_lhp_base_url", "agent_core_trace_collector_url"), SERVER.empty()),
    "knowledge_mcp_url": SERVER,
    "knowledge_mcp_transport": NAME,
    "knowledge_learning_dir": DIRECTORY.empty(),
    "agent_core_trace_path": FILE,
    "governor_state_dir": DIRECTORY,
    "icinga_ca_dest": Shape(
        r"/usr/local/share/ca-certificates/[A-Za-z0-9_.-]+\.crt", "a .crt file in /usr/local/share/ca-certificates"
    ),
    "jobs.name": Shape(jobs.NAME.pattern, "a name of small letters, digits and -, of at most 40"),
    "jobs.unit": NAME,
    "jobs.state": DIRECTORY,
    "jobs.command": Shape(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", "a program of the engine, and words that choose"),
    "governor_repos": REPOSITORY,
    **dict.fromkeys(
        ("timer_on_calendar", "jobs.on_calendar", "governor_timer_calendar"),
        Shape(r".*\S.*", "a time as OnCalendar= of systemd has it, such as hourly"),
    ),
}
# Text that YAML takes for a number, and that says the same as one.
BY_NUMBER = {f"{PREFIX}{name}" for name in ("github_app_id", "github_app_installation_id", "memory_max")}
LEAST = {
    **dict.fromkeys(("keep_releases", "cell_max_files", "canary.issue", "egress_local", "notify_per_hour"), 1),
    **dict.fromkeys(("canary_timeout", "service_timeout", "jobs.timeout", "governor_timeout"), 60),
    **dict.fromkeys(("governor_limit", "knowledge_context_budget", "knowledge_context_timeout"), 1),
}


def refused(options: Json, given: Json, unknown: Sequence[str] = ()) -> list[str]:
    """A line for each variable of ``given`` that no host could bear, by its name; ``options`` are the specification's.

    ``unknown`` are names of the role's kind that it does not have.
    """
    lines = [f"{name} is a variable that nobody knows: {NAMES}" for name in map(printable, unknown)]
    wrong = set()
    for name, option in options.items():
        if name not in given:
            if option.get("required"):
                lines.append(f"{name} is missing: {_allowed(option, name)}")
            continue
        found = list(_judge(name, option, given[name], name))
        wrong |= {name} if found else set()
        lines += found
    for names, check in TOGETHER:
        full = [f"{PREFIX}{name}" for name in names]
        if all(name in given and name not in wrong for name in full):
            try:
                check(*(given[name] for name in full))
            except LoopError as error:
                lines.append(f"{error}")
    return lines


def _judge(name: str, option: Json, value: Any, kind: str) -> Iterator[str]:
    """Why a value is not what ``option`` says. ``name`` is its place, and ``kind`` that without numbers."""
    if name == kind:
        letters = len(_json(value)) if "." not in name else 0
        if letters > MAX_LETTERS:
            yield f"{name} has {letters} letters, but may have {MAX_LETTERS}"
            return
    of_type, words = TYPES[option.get("type", "str")]
    if not of_type(value) and not (kind in BY_NUMBER and _is_number(value, True)):
        quoted = ", in quotes" if words.endswith("line") and isinstance(value, (int, float)) else ""
        yield _line(name, value, _allowed(option, kind) + quoted)
        return
    if option.get("type") == "list":
        of = {
            "type": option.get("elements", "raw"),
            **{key: option[key] for key in ("choices", "options") if key in option},
        }
        for number, entry in enumerate(value):
            yield from _judge(f"{name}[{number}]", of, entry, kind)
    elif option.get("type") == "dict":
        yield from _judge_parts(name, option.get("options"), value, kind)
    elif not _fits(option, value, kind):
        yield _line(name, value, _allowed(option, kind))


def _judge_parts(name: str, options: Json | None, value: Json, kind: str) -> Iterator[str]:
    if options is None:
        return
    for key in value:
        if key not in options:
            yield f"{name} has a part {_shown(key)} that nobody knows; it may have {', '.join(options)}"
    for key, option in options.items():
        if key in value:
            yield from _judge(f"{name}.{key}", option, value[key], f"{kind}.{key}")
        elif option.get("required"):
            yield f"{name} has no {key}, and must have one"


def _fits(option: Json, value: Any, kind: str) -> bool:
    short = kind.removeprefix(PREFIX)
    if "choices" in option:
        return str(value) in option["choices"]
    if option.get("type") in ("int", "float"):
        number = float(value) if isinstance(value, str) else value  # a whole one may be too long to be made a float
        return bool(LEAST.get(short, 0) <= number <= MAX_NUMBER)
    if option.get("type") == "raw":
        return all(map(_is_text, _texts(value)))
    return short not in SHAPES or re.fullmatch(SHAPES[short].pattern, str(value)) is not None


def _allowed(option: Json, kind: str) -> str:
    """What a value may be, in words."""
    short = kind.removeprefix(PREFIX)
    if "choices" in option:
        return f"one of {', '.join(option['choices'])}"
    shape = SHAPES[short].words if short in SHAPES else ""
    words = TYPES[option.get("type", "str")][1]
    if option.get("type") in ("int", "float"):
        return f"{words}, {LEAST.get(short, 0)} or more"
    if option.get("type") == "list":
        return f"{words} of {shape}" if shape else words
    return shape or words


def _line(name: str, value: Any, allowed: str) -> str:
    what = "no such thing" if name == SECRETS or re.fullmatch(rf"{TARGETS}(\[\d+\])?", name) else _shown(value)
    return f"{name} is {what}, but must be {allowed}"


def _shown(value: Any) -> str:
    """A value as it is written, in one line that hides no letter and is not too long."""
    text = without_passwords(printable(_json(value)))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except TypeError:  # a key that YAML reads as a date
        return str(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()


def _is_number(value: Any, whole: bool) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"-?\d{1,12}" if whole else r"-?\d{1,12}(\.\d{1,12})?", value) is not None
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _texts(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from _texts(entry)
    elif not isinstance(value, (bool, int, float)):
        yield value


TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (lambda value: isinstance(value, (bool, str, int)) and str(value).lower() in TRUTH, "true or false"),
    "int": (lambda value: _is_number(value, True), "a whole number"),
    "float": (lambda value: _is_number(value, False), "a number"),
    "str": (_is_text, "text in one line"),
    "path": (_is_text, "a path, in one line"),
    "list": (lambda value: isinstance(value, (list, tuple)), "a list"),
    "dict": (lambda value: isinstance(value, Mapping), "a dictionary"),
    "raw": (lambda value: value is not None, "text, a list or a dictionary, each text in one line"),
}


# --- what one variable alone does not say ----------------------------------------------------------------


def _users(user: str, gate_user: str) -> None:
    if user == gate_user:
        raise LoopError(
            "engineering_loop_user and engineering_loop_gate_user must be two users: one runs generated code, the other"
            " owns what it must not touch"
        )


def _repos(repos: Sequence[str]) -> None:
    """Of two the forge would say that they are one: it knows no capitals."""
    if again := _repeated(list(map(str.lower, repos))):
        raise LoopError(f"engineering_loop_repos names {', '.join(again)} more than once")


def _checkouts(_repos: Sequence[str], checkouts: Sequence[Mapping[str, str]], git_url: str) -> None:
    try:
        remotes = [remote_of(one, git_url) for one in checkouts]
    except LoopError as error:
        raise LoopError(f"engineering_loop_workspace_repositories: {error}") from error
    if again := _repeated([remote.dest for remote in remotes]):
        raise LoopError(f"engineering_loop_workspace_repositories has more than one checkout {', '.join(again)}")


def _allowed_paths(given: Any) -> None:
    for entries in given.values() if isinstance(given, Mapping) else [given]:
        if not isinstance(entries, (list, tuple)):
            raise LoopError(
                _line("engineering_loop_allowed_paths", given, "a list of paths, or a dictionary of checkout to list")
            )
        for entry in entries:
            try:
                paths.normal_prefix(entry if isinstance(entry, str) else "")
            except LoopError:
                allowed = "a path inside a repository, without .. and no absolute one; . is all of it"
                raise LoopError(f"engineering_loop_allowed_paths holds {_shown(entry)}: it must be {allowed}") from None


def _environment(environment: Mapping[str, Any], forbidden: Sequence[str]) -> None:
    for name, value in environment.items():
        if not secrets_file.NAME.fullmatch(str(name)):
            raise LoopError(f"{SECRETS} has the name {_shown(name)}: names are made of letters, digits and _")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise LoopError(f"{SECRETS}.{name} is no text: put it in quotes, and leave it out where it is not wanted")
        if secrets_file.CONTROL.search(str(value)):
            raise LoopError(f"{SECRETS}.{name} holds a control character")
    secrets_file.check(map(str, environment), forbidden, SECRETS)


def _agent(agent: Mapping[str, Any]) -> None:
    named = {key: part for key, part in agent.items() if key != "lockfile"}
    if "package" in named:
        named["lock"] = ""
    elif "path" in named:
        named.setdefault("program", os.path.basename(named["path"]))
    if agent:
        agents.check_named(named)


def _home(home_files: Sequence[Mapping[str, str]], caches: Sequence[Mapping[str, str]]) -> None:
    if again := _repeated([entry["dest"] for entry in (*home_files, *caches)]):
        raise LoopError(
            f"engineering_loop_home_files and engineering_loop_caches name {', '.join(again)} more than once"
        )


def _ports(ports: Sequence[Any]) -> None:
    if bad := [str(port) for port in ports if int(port) in (0, 3128) or int(port) > 65535]:
        raise LoopError(
            f"engineering_loop_egress_local holds {', '.join(bad)}: it must be ports, but 3128, which is the proxy's"
        )


def _jobs(named: Sequence[Mapping[str, Any]], unit: str, governor: Any, runs_dir: str, state_dir: str) -> None:
    """Each is a unit and a directory of its own, and none of them the loop's."""
    for job in named:
        _job(job)
    names = [str(job["name"]) for job in named] + [jobs.GOVERNOR] * (
        str(governor).lower() in ("true", "yes", "on", "1")
    )
    units = [str(job.get("unit") or f"{unit}-job-{job['name']}") for job in named]
    if again := _repeated(names):
        raise LoopError(f"engineering_loop_jobs names {', '.join(again)} more than once (the governor is one of them)")
    if again := _repeated(units):
        raise LoopError(f"engineering_loop_jobs has more than one job with the unit {', '.join(again)}")
    for name in units:
        if name in (unit, jobs.GOVERNOR_UNIT) or (name.startswith(f"{unit}-") and not name.startswith(f"{unit}-job-")):
            raise LoopError(
                f"engineering_loop_jobs has a job with the unit {name}, which is the loop's own or the governor's"
            )
    states = {str(job["name"]): os.path.normpath(job["state"]) for job in named if job.get("state")}
    for name, state in states.items():
        others = [other for one, other in states.items() if one != name]
        for other in (*others, runs_dir, f"{state_dir}/jobs", f"{state_dir}/cycles", f"{state_dir}/gate"):
            if inside(state, other) or inside(other, state):
                raise LoopError(
                    f"engineering_loop_jobs: {name} would write {state}, which is another's or holds it ({other}): give"
                    " each job a directory of its own"
                )


def _job(job: Mapping[str, Any]) -> None:
    if not job["command"]:
        raise LoopError(f"engineering_loop_jobs: {job['name']} has an empty command; an engine's program comes first")
    for flag, value in (job.get("options") or {}).items():
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise LoopError(
                f"engineering_loop_jobs: {job['name']} gives {flag} the value {_shown(value)}, but it must be text or a"
                " number: '' gives the flag alone"
            )


def _governor(repos: Sequence[str], scope: Sequence[str], state: str, *moved: str) -> None:
    if beyond := sorted({*map(str.lower, repos)} - {*map(str.lower, scope)}):
        raise LoopError(
            f"engineering_loop_governor_repos names {', '.join(beyond)}, which is not in engineering_loop_repos: the"
            " gateway answers for those alone"
        )
    for other in moved:
        if inside(os.path.normpath(state), other) or inside(other, os.path.normpath(state)):
            raise LoopError(
                f"engineering_loop_governor_state_dir {state} stands in {other} or holds it, which is another's: leave"
                " the variable out, and what the governor has there already is brought along"
            )


def _policy(overlay: Mapping[str, Any], widen: Sequence[str]) -> None:
    compose.check_overlay(overlay, widen)


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


# Each is looked at where all the variables that it is about are right by themselves.
TOGETHER: list[tuple[tuple[str, ...], Callable[..., object]]] = [
    (("user", "gate_user"), _users),
    (("repo",), check_engine),
    (("branch_prefixes", "policy_overlay", "workspace_repositories"), engine_names.check_prefixes),
    (("checkout_names",), engine_names.check_checkouts),
    (("git_sources",), git_sources.check),
    (("build_tools",), build_tools.pinned),
    (("repos",), _repos),
    (("repos", "workspace_repositories", "git_url"), _checkouts),
    (("allowed_paths",), _allowed_paths),
    (("environment", "forbidden_environment"), _environment),
    (("agent",), _agent),
    (("home_files", "caches"), _home),
    (("egress_local",), _ports),
    (("notify",), targets.check_all),
    (("policy_overlay", "policy_widen"), _policy),
    (("jobs", "unit", "governor_enabled", "runs_dir", "state_dir"), _jobs),
    (("governor_repos", "repos", "governor_state_dir", "daemon_state_dir", "workspace_dir", "runs_dir"), _governor),
    *engine_variables.TOGETHER,
]
