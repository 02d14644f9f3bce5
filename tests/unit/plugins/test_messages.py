# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people read names what they have set: variables of the role and of the playbooks, never a module's option."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PLUGINS = Path(__file__).resolve().parents[3] / "plugins"
DOCUMENTS = ("DOCUMENTATION", "EXAMPLES", "RETURN")
WORDS = re.compile(r"(?<![\w.{/])(?<!-e )[a-z]+(?:_[a-z0-9]+)+(?![\w(/])|(?<=`)[a-z]+(?=`)")


def options(given: dict[str, Any] | None) -> Iterator[str]:
    for name, option in (given or {}).items():
        yield name
        yield from options(option.get("suboptions"))


def documents(tree: ast.Module) -> dict[str, ast.Constant]:
    """The constants of a module, or of a fragment's class, that are its documentation, by name."""
    parts = [part for node in tree.body for part in (node.body if isinstance(node, ast.ClassDef) else [node])]
    named = [node for node in parts if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return {
        node.targets[0].id: node.value
        for node in named
        if isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in DOCUMENTS
        and isinstance(node.value, ast.Constant)
    }


def sentences(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Strings of more than a word, but for documentation."""
    kinds = (ast.Module, ast.FunctionDef, ast.ClassDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, kinds) and node.body]
    apart = {id(each.value) for each in first if isinstance(each, ast.Expr)}
    apart |= {id(value) for value in documents(tree).values()}
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in apart else None
        if isinstance(node, ast.Constant) and isinstance(text, str) and " " in text.strip():
            yield node.lineno, text


def test_a_playbook_is_named_as_it_can_be_typed() -> None:
    names = "|".join(path.stem for path in (PLUGINS.parent / "playbooks").glob("*.yml"))
    assert "apply" in names
    for path in sorted(PLUGINS.glob("[!d]*/*.py")):
        for line, text in sentences(ast.parse(path.read_text(encoding="utf-8"))):
            assert not re.search(rf"\b({names})\.yml|[Aa]pply the role", text), f"{path.name}:{line}: {text.strip()!r}"


def test_no_message_names_a_modules_option() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PLUGINS.glob("[!d]*/*.py"))}
    shared = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PLUGINS.glob("doc_fragments/*.py"))]
    documented = (documents(tree).get("DOCUMENTATION") for tree in [*trees.values(), *shared])
    given = {name for text in documented if text for name in options(yaml.safe_load(str(text.value)).get("options"))}
    assert {"env_file", "any_branch", "run_lock", "private_key_file"} <= given
    found = [
        f"{path.name}:{line}: {word} in {text.strip()!r}"
        for path, tree in trees.items()
        for line, text in sentences(tree)
        for word in WORDS.findall(text)
        if word in given
    ]
    assert found == []
