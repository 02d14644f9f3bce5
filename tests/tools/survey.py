# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's variables as the survey of an AWX job template: survey.py apply|bump

Only what one answer in a form can hold is asked: texts, numbers, choices, yes or no. What is a list or a dictionary
belongs into the inventory. The same, as a page for reading, is made by `make docs`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SPECS = ROOT / "roles/engineering_loop/meta/argument_specs.yml"
# The questions of a form, by type as the specification has it. Secrets are asked from nobody there.
KINDS = {"str": "text", "path": "text", "int": "integer", "float": "float", "bool": "multiplechoice"}
# What a person decides at one run, by playbook. An answer wins over the inventory, so what is a fact of a host (pin,
# limits, whether its timer is wanted) is asked from nobody: the next run would undo it.
ASKED = {
    "apply": ("engineering_loop_canary_run", "engineering_loop_wait_for_cycle"),
    "bump": ("engineering_loop_bump_pr",),
}


def options() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(SPECS.read_text(encoding="utf-8"))["argument_specs"]["role"][
        "options"
    ]
    return found


def plain(description: str | list[str]) -> str:
    """The description without Ansible's markup."""
    text = " ".join([description] if isinstance(description, str) else description)
    return re.sub(r"\b[A-Z]\(([^()]*)\)", r"\1", " ".join(text.split()))


def question(name: str, option: dict[str, Any]) -> dict[str, Any]:
    """One question of a survey, as AWX's API takes it. All are required: an empty answer would be an empty value."""
    kind = KINDS[option.get("type", "str")]
    default = option.get("default")
    choices = option.get("choices") or (["true", "false"] if option.get("type") == "bool" else [])
    asked: dict[str, Any] = {
        "question_name": name.removeprefix("engineering_loop_").replace("_", " ").capitalize(),
        "question_description": plain(option["description"])[:500],
        "variable": name,
        "type": "multiplechoice" if choices else kind,
        "required": True,
        "choices": choices,
        "default": "" if default is None else str(default).lower() if isinstance(default, bool) else default,
    }
    if kind in ("integer", "float") and not choices:
        asked |= {"min": 0, "max": 1_000_000}
    elif not choices:
        asked |= {"min": 0, "max": 1024}
    return asked


def survey(playbook: str) -> dict[str, Any]:
    """The survey_spec of the job template that runs this playbook, as AWX's API takes it."""
    known = options()
    return {
        "name": f"Engineering loop: {playbook}",
        "description": "What is decided at one run. All else is in the inventory.",
        "spec": [question(name, known[name]) for name in ASKED[playbook]],
    }


def page() -> str:
    lines = [
        "# Variables by what a form can ask",
        "",
        "Written by `make docs` from the role's argument specification. The first table is the survey that"
        " `tests/tools/survey.py` prints for job templates; the second what belongs into the inventory.",
        "",
    ]
    rows: dict[bool, list[str]] = {True: [], False: []}
    for name, option in sorted(options().items()):
        kind = option.get("type", "str") + (f" of {option['elements']}" if "elements" in option else "")
        default = "" if option.get("default") is None else f"`{json.dumps(option['default'])}`"
        first = plain(option["description"]).split(". ")[0].rstrip(".").replace("|", "\\|")
        rows[any(name in names for names in ASKED.values())].append(f"| `{name}` | {kind} | {default} | {first}. |")
    for asked, title in ((True, "Asked"), (False, "In the inventory")):
        lines += [f"## {title}", "", "| variable | type | default | |", "| --- | --- | --- | --- |", *rows[asked], ""]
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ASKED:
        sys.exit(f"survey: name one of the playbooks that ask something: {', '.join(ASKED)}")
    print(json.dumps(survey(sys.argv[1]), indent=2))
