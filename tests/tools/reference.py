# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write .cache/docs/reference.md: modules, lookups and the role, as ansible-doc reads them from this checkout."""

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


def main() -> int:
    lines = [f"# {COLLECTION}: reference", ""]
    for kind in ("module", "lookup"):
        for name in sorted(ansible_doc("--type", kind, "--list", COLLECTION)):
            lines += plugin(kind, name)
    for name, role in ansible_doc("--type", "role", f"{COLLECTION}.engineering_loop").items():
        for entry in role["entry_points"].values():
            lines += [f"## Role {name}", "", prose(entry["description"]), "", *fields(entry["options"], "options"), ""]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text("\n".join(lines), encoding="utf-8")
    print(f"reference: {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
