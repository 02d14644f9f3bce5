# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""An engine of one's own, on one booted host with the local forge: story.py STAGE INVENTORY [CHAPTER...].

The engine is examples/engine as it is; the same with a dependency from git; and changed to lie in its report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "operator"))
import at_work
from at_work import TOP, apply, forge, must, on_host, pins, play, stage
from chapters import tell

SOURCES = TOP / "examples/engine"
ENGINE, REPO, LABEL, UNIT = "example/small-engine", "example/handbook", "agent:go", "small-loop"
PAGE = "# A handbook\n"
# What the lying engine does instead, by the last word of the issue's title; {url} is that of its own pull request.
LIES: dict[str, tuple[str, str]] = {
    "nothing": ("error", "says published, but no pull request was opened"),
    "theirs": ("error", "but it opened"),
    "idle": ("error", "says idle, but an agent was started"),
    "triage": ("error", "says needs_triage, but it opened"),
    "unheard": ("error", "which nobody knows"),
    "another": ("error", "but it took"),
    "silent": ("error", "without a report"),
    "broken": ("error", "without a report"),
    "twice": ("error", "but it opened"),
    "backwards": ("error", "was not published by this cycle"),
    "foreign": ("error", "is not the loop's own"),
    "debt": ("published", ""),
    "nan": ("published", ""),
    "endless": ("published", ""),
    "long": ("published", ""),
}
# None of them cost the pull request that it really opened, and no other one is in the record.
UNPUBLISHED = ("nothing", "backwards", "foreign")
WORDS = """
[project]
name = "words"
version = "1.0"

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""
LIAR = """
def lie(report):
    title = (report.get("issue") or {}).get("title") or TITLE
    name, told, other = title.split()[-1], {"cost_usd": 0.0, **report}, "https://forge.example/o/r/pull/1"
    long = "x" * 65536
    told.update({
        "theirs": {"pr_url": other}, "idle": {"outcome": "idle"}, "triage": {"outcome": "needs_triage"},
        "unheard": {"outcome": "splendid"}, "another": {"issue": {"repo": "example/handbook", "number": 1}},
        "debt": {"cost_usd": -5}, "nan": {"cost_usd": float("nan")}, "endless": {"cost_usd": float("inf")},
        "long": {"detail": long, "state_path": long, "notifications": [long, long], long: long},
    }.get(name, {}))
    if name == "silent":
        print("all is well")
    elif name == "broken":
        print(json.dumps(told)[:-1])
    else:
        print(json.dumps(told))
    if name == "twice":
        print(json.dumps({**told, "pr_url": other}))


def main("""


def pin(**more: Any) -> None:
    """What the inventory says from now on."""
    now = yaml.safe_load(pins.read_text(encoding="utf-8"))
    named = {f"engineering_loop_{name}": value for name, value in more.items()}
    pins.write_text(yaml.safe_dump({**now, **named}), encoding="utf-8")


def asked(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """A person at the forge, in the repository that the engine works on."""
    return at_work.asked(method, f"/repos/{REPO}/{path}", body)


def approved(title: str, label: str = LABEL) -> int:
    made = forge("POST", "issues", {"repo": REPO, "title": title, "body": "Write it.", "labels": [label]})
    return int(made["number"])


def run() -> dict[str, Any]:
    """Start a cycle as a person does; its record, which must be JSON for everybody."""
    on_host(f"systemctl start {UNIT}.service; systemctl reset-failed {UNIT}.service")
    text = must("cat $(ls /var/lib/engineering-loop/cycles/*.json | tail -1)")
    found: dict[str, Any] = json.loads(text, parse_constant=lambda name: sys.exit(f"{name} is no JSON"))
    return found


def release(files: dict[str, str], message: str) -> str:
    """Another version of the engine at the forge; its commit."""
    return str(forge("POST", "commits", {"repo": ENGINE, "files": files, "message": message})["sha"])


def sources() -> dict[str, str]:
    files = [path for path in sorted(SOURCES.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(SOURCES)): path.read_text(encoding="utf-8") for path in files}


def a_forge_of_ones_own() -> None:
    """The engine and what it works on, which share no name with the public engine's."""
    forge("POST", "repos", {"repo": ENGINE, "files": {"README.md": "# An engine\n"}})
    forge("POST", "repos", {"repo": REPO, "files": {"docs/index.md": PAGE, "README.md": PAGE}})
    for name in (LABEL, "agent:later", "loop:approved"):
        asked("POST", "labels", {"name": name, "color": "0e8a16"})
    number = approved("The canary's page")
    pin(
        repo=f"{stage['url']}/{ENGINE}.git",
        version=release(sources(), "A small engine"),
        program="small-engine",
        label=LABEL,
        branch_prefixes=["small"],
        checkout_names={},
        unit=UNIT,
        repos=[REPO],
        canary={"mode": "docs", "repo": REPO, "issue": number, "cleanup": True},
        max_attempts_per_issue=0,
    )


def what_it_cannot_be_called() -> None:
    """One line for each, before the host is touched, in --check."""
    wrong = {
        "program": ("bin/small-engine", "the name of a program, without a directory"),
        "label": ("agent:go,bug", "a label of the forge"),
        "branch_prefixes": (["small", "Main/x"], "main is protected"),
        "checkout_names": ({"handbook": "../up"}, "a name of letters, digits"),
    }
    for name, (value, allowed) in wrong.items():
        said = apply("--check", "-e", json.dumps({f"engineering_loop_{name}": value}), fails=True)
        assert f"engineering_loop_{name}" in said and allowed in said and " changed=0 " in said, said[-2000:]
    assert on_host("ls /opt/engineering-loop /etc/engineering-loop")[0] != 0, "nothing is there yet"


def a_program_that_it_does_not_have() -> None:
    """Said by the name of those that it has, and no engine is active."""
    said = apply("-e", "engineering_loop_program=big-engine", fails=True)
    assert "the engine has no program big-engine" in said and "it has small-engine" in said, said[-2000:]
    assert on_host("ls /opt/engineering-loop/current")[0] != 0


def proven() -> None:
    """The canary proves it, the timer runs, and there is nothing more to do."""
    said = apply("-e", "engineering_loop_canary_run=true")
    assert must(f"systemctl is-active {UNIT}.timer") == "active", said[-2000:]
    (pull,) = asked("GET", "pulls?state=all")
    assert pull["head"]["ref"].startswith("small/ISSUE_HANDBOOK_"), pull["head"]
    assert " changed=0 " in apply(), "a second apply has nothing to do"
    status, said = play("status")
    assert status == 0, said


def only_what_its_label_approves() -> None:
    """Neither the public engine's label nor one that begins alike."""
    for label in ("loop:approved", "agent:later"):
        approved("Not for it", label)
    assert run()["outcome"] == "idle"
    number = approved("A page about Ünïcode & <angles>")
    seen = run()
    assert seen["outcome"] == "published" and seen["issue"] == {**seen["issue"], "repo": REPO, "number": number}, seen
    assert seen["pr_url"].startswith(f"{stage['url']}/{REPO}/pull/"), seen
    assert run()["outcome"] == "idle", "its pull request waits for a person"


def with_words() -> tuple[str, dict[str, str]]:
    """The commit that the engine depends on; and the engine's sources, locked to that, with an option more."""
    made = {"pyproject.toml": WORDS, "src/words/__init__.py": "GENTLE = 'be gentle with the words'\n"}
    forge("POST", "repos", {"repo": "example/words", "files": {"README.md": "# Words\n"}})
    sha = str(forge("POST", "commits", {"repo": "example/words", "files": made, "message": "Words"})["sha"])
    changed = sources()
    for name, text, instead in (
        (
            "pyproject.toml",
            "dependencies = []",
            f'dependencies = ["words @ git+{stage["url"]}/example/words.git@{sha}"]',
        ),
        ("pyproject.toml", "[tool.hatch", "[tool.hatch.metadata]\nallow-direct-references = true\n\n[tool.hatch"),
        ("src/small_engine.py", "import traceback\n", "import traceback\nimport words\n"),
        (
            "src/small_engine.py",
            "    asked = parser",
            '    daemon.add_argument("--gently", help=words.GENTLE)\n    asked = parser',
        ),
    ):
        assert changed[name].count(text) == 1, text
        changed[name] = changed[name].replace(text, instead)
    with tempfile.TemporaryDirectory() as place:
        for name, text in changed.items():
            Path(place, name).parent.mkdir(parents=True, exist_ok=True)
            Path(place, name).write_text(text, encoding="utf-8")
        subprocess.run([Path(sys.executable).with_name("uv"), "lock", "--quiet"], cwd=place, check=True)
        changed["uv.lock"] = Path(place, "uv.lock").read_text(encoding="utf-8")
    return sha, changed


def its_words_come_from_a_repository() -> None:
    """A dependency from git: refused from elsewhere, built from its commit; what the new engine can is said before."""
    sha, changed = with_words()
    before = must("readlink /opt/engineering-loop/current")
    pin(version=release(changed, "With words"))
    elsewhere = json.dumps({"engineering_loop_git_sources": ["https://example.org/others"]})
    said = apply("-e", elsewhere, fails=True)
    assert "words" in said and "engineering_loop_git_sources" in said, said[-2000:]
    assert must("readlink /opt/engineering-loop/current") == before
    said = apply()
    assert "of the new engine has gained --gently" in said, said[-3000:]
    (told,) = json.loads(must("cat /opt/engineering-loop/current/.release.json"))["git_dependencies"]
    assert (told["name"], told["commit"]) == ("words", sha), told
    must(f"cd /opt/engineering-loop/current && ls .venv/wheels/{told['wheel']} && ! ls -d .git-*")
    assert " changed=0 " in apply(), "a second apply has nothing to do"
    approved("A page with words")
    assert run()["outcome"] == "published"


def it_lies() -> None:
    """The record says what the gateway saw, whatever the engine reports."""
    changed = sources()
    engine = changed["src/small_engine.py"]
    for text, instead in (
        ('print(json.dumps({"detail": "", "cost_usd": 0.0, **report}))', "lie(report)"),
        ("def main(", LIAR.lstrip("\n")),
        ('    run("git", "push"', ORDERS),
        ("    tree, title =", '    globals()["TITLE"] = issue["title"]\n    tree, title ='),
    ):
        assert engine.count(text) == 1, text
        engine = engine.replace(text, instead)
    pin(version=release({"src/small_engine.py": engine}, "It lies"), timer_enabled=False)
    apply()
    for name, (outcome, why) in LIES.items():
        number = approved(f"A page that is {name}")
        before = len(asked("GET", "pulls?state=all"))
        seen = run()
        opened = [pull["html_url"] for pull in asked("GET", "pulls?state=all")]
        told = seen["detail"] + json.dumps(seen["refusals"])
        assert (seen["outcome"], why in told) == (outcome, True), (name, seen)
        assert len(opened) - before == (name not in UNPUBLISHED), (name, opened)
        assert seen["pr_url"] == ("" if name in UNPUBLISHED else opened[0]), (name, seen["pr_url"], opened)
        assert (seen["issue"]["repo"], seen["issue"]["number"]) == (REPO, number), (name, seen["issue"])
        assert seen["numbers"]["cost_usd"] == 0 and len(json.dumps(seen)) < 65536, (name, seen["numbers"])
        asked("PATCH", f"issues/{number}", {"state": "closed"})
        print(f"  {name}: {seen['outcome']} {seen['detail'][:110]}", flush=True)
    branches = [one["name"] for one in asked("GET", "branches")]
    assert all(name == "main" or name.startswith("small/") for name in branches), branches
    status, said = play("cycles", "-e", "last=50")
    assert status == 0 and "x" * 3000 not in said, said[-2000:]


ORDERS = '''    word = title.split()[-1]
    if word == "nothing":
        return {"outcome": "published", "pr_url": "https://forge.example/o/r/pull/1", "issue": issue}
    if word == "foreign":
        run("git", "push", "--quiet", "origin", f"HEAD:refs/heads/hyrule-feature/{change}/x", cwd=tree)
    if word == "backwards":
        run("gh", "pr", "create", "--draft", "--head", branch, "--title", title, "--body", "b", cwd=tree)
    run("git", "push"'''

tell(
    (
        a_forge_of_ones_own,
        what_it_cannot_be_called,
        a_program_that_it_does_not_have,
        proven,
        only_what_its_label_approves,
        its_words_come_from_a_repository,
        it_lies,
    )
)
