# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ansible-doc reads from this checkout, as Markdown.

reference.py           .cache/docs/reference.md (modules, lookups and the role) and the role's README.md
reference.py --check   fails where the role's README.md is not what the role's argument specification says
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = "as215932.engineering_loop"
TARGET = ROOT / ".cache" / "docs" / "reference.md"
README = ROOT / "roles" / "engineering_loop" / "README.md"
EXAMPLE = """\
Deploy the pinned engine to the hosts of a group, as the playbook `as215932.engineering_loop.apply` does:

```yaml
- hosts: engineering_loop
  become: true
  roles:
    - role: as215932.engineering_loop.engineering_loop
      vars:
        engineering_loop_apply: true
        engineering_loop_repo: https://github.com/ORGANIZATION/ENGINE.git
        engineering_loop_version: 0123456789abcdef0123456789abcdef01234567
        engineering_loop_repos: [ORGANIZATION/REPOSITORY]
```"""


def ansible_doc(*arguments: str) -> dict[str, Any]:
    """What ansible-doc knows, as data."""
    program = Path(sys.executable).with_name("ansible-doc")
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")}
    done = subprocess.run([program, "--json", *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"reference: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def prose(text: str | list[str]) -> str:
    """Ansible's markup as Markdown; a list of paragraphs as one line, fit for a list item."""
    joined = " ".join([text] if isinstance(text, str) else text)
    return re.sub(r"\b[A-Z]\((?:\w+--)?([^()]*(?:\([^()]*\))?[^()]*)\)", r"`\1`", " ".join(joined.split()))


def fields(entries: dict[str, Any], below: str, depth: int = 0) -> list[str]:
    """Options or return values as nested list items; ``below`` is the key that holds their parts."""
    lines = []
    for name, entry in entries.items():
        facts = [entry["type"]] if "type" in entry else []
        facts += [f"of {entry['elements']}"] if "elements" in entry else []
        facts += ["required"] if entry.get("required") is True else []
        facts += [f"default `{json.dumps(entry['default'])}`"] if entry.get("default") is not None else []
        facts += ["one of " + ", ".join(f"`{choice}`" for choice in entry["choices"])] if "choices" in entry else []
        shown = f" ({', '.join(facts)})" if facts else ""
        lines.append(f"{'  ' * depth}- **{name}**{shown}: {prose(entry.get('description', ''))}")
        lines += fields(entry.get(below) or {}, below, depth + 1)
    return lines


def plugin(kind: str, name: str) -> list[str]:
    """The chapter of one module or lookup."""
    known = ansible_doc("--type", kind, name)[name]
    text = known["doc"]
    lines = [
        f"## {kind.capitalize()} {name}",
        "",
        prose(text["short_description"]) + ".",
        "",
        prose(text["description"]),
        "",
    ]
    lines += ["Options:", "", *fields(text.get("options", {}), "suboptions"), ""]
    lines += ["Example:", "", "```yaml", known["examples"].strip(), "```", ""]
    return [*lines, "Returns:", "", *fields(known.get("return") or {}, "contains"), ""]


def role() -> dict[str, Any]:
    """The one entry point of the role."""
    (known,) = ansible_doc("--type", "role", f"{COLLECTION}.engineering_loop").values()
    (entry,) = known["entry_points"].values()
    found: dict[str, Any] = entry
    return found


def readme(entry: dict[str, Any]) -> str:
    """The role's README.md."""
    lines = ["<!-- SPDX-FileCopyrightText: AS215932 -->", "<!-- SPDX-License-Identifier: GPL-3.0-or-later -->"]
    lines += ["<!-- Written by `make docs` from meta/argument_specs.yml: change that file. -->", ""]
    lines += ["# Role engineering_loop", "", f"{prose(entry['short_description'])}. {prose(entry['description'])}", ""]
    lines += ["What a host and the forge must have is in the [README of the collection](../../README.md).", ""]
    lines += ["## Example", "", EXAMPLE, "", "## Variables", "", *fields(entry["options"], "options"), ""]
    return "\n".join(lines)


def check() -> int:
    """Whether the role's README.md is as it would be written."""
    written = README.read_text(encoding="utf-8") if README.exists() else ""
    if written != readme(role()):
        print(f"{README.relative_to(ROOT)} is not what meta/argument_specs.yml says: run make docs and commit it")
        return 1
    return 0


def main() -> int:
    lines = [f"# {COLLECTION}: reference", ""]
    for kind in ("module", "lookup"):
        for name in sorted(ansible_doc("--type", kind, "--list", COLLECTION)):
            lines += plugin(kind, name)
    entry = role()
    lines += [f"## Role {COLLECTION}.engineering_loop", "", prose(entry["description"]), ""]
    lines += [*fields(entry["options"], "options"), ""]
    README.write_text(readme(entry), encoding="utf-8")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text("\n".join(lines), encoding="utf-8")
    print(f"reference: {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(check() if sys.argv[1:] == ["--check"] else main())
