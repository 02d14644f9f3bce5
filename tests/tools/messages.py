# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every error that the collection can end with, read from its source: messages.py [--check | --loose]

It writes .cache/docs/messages.md: by room and file, each message with where it comes from, its cause and what mends it.
The message tells both where it can; what it leaves open, docs/site/mends.yml says for the whole file. --check fails
where neither does, or where mends.yml has a line that nothing needs; --loose shows the messages that say nothing of it.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
MENDS = ROOT / "docs" / "site" / "mends.yml"
TARGET = ROOT / ".cache" / "docs" / "messages.md"

# What begins what a person can do: after a colon, semicolon, comma or a full stop, in the words that our messages use.
ADVICE = re.compile(
    r"(?:[:;.,]|\band|\bor|\bfirst|\bthen|→)\s+(?:please\s+|first\s+|to\s+\w+,?\s+)?"
    r"(?:add|allow|ask|approve|bring|bump|check|choose|close|commit|copy|correct|create|delete|end|enter|fetch|find|free"
    r"|fix|give|go|have|install|keep|leave|let|look|lower|make|mend|mount|move|name|open|pin|point|publish|put|raise"
    r"|read|rebase|release|remove|rename|render|repair|replace|restart|restore|run|say|see|send|set|shorten|split|start"
    r"|stop|take|tell|try|turn|type|unset|update|use|wait|write)\b"
    r"|\b(?:allowed|must|instead|needs?|give it|can be|has to|have to|takes? (?:one|a|the)|expected|wanted|one of"
    r"|ansible-playbook|known are|it has|there (?:is|are) only)\b",
    re.IGNORECASE,
)


# Of an expression that fills a gap, what tells a reader nothing.
PLUMBING = {"show", "printable", "join", "str", "self", "sorted", "untrusted", "os", "basename", "format", "or"}
# A function whose text is a problem says so in its first words.
PROBLEM = re.compile(
    r"(Why|What is wrong|What to do)\b|.*\bempty where (it|all|nothing|there is none|they)\b", re.DOTALL
)


class Message(NamedTuple):
    """One error: where it is raised, by what, and its text with «names» for what is filled in."""

    place: str  # file below plugins/module_utils, or from the top of the collection
    line: int
    text: str

    @property
    def says_what_to_do(self) -> bool:
        return ADVICE.search(self.text) is not None


class Source:
    """The Python of the collection: its constants, its functions that return texts, and what raises."""

    def __init__(self) -> None:
        self.trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(plugins())}
        self.constants: dict[str, ast.expr] = {}
        self.functions: dict[str, list[ast.FunctionDef]] = {}
        self.errors = {"LoopError", "AnsibleError"}
        for tree in self.trees.values():
            self._learn(tree)

    def _learn(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                self.functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.ClassDef) and {name_of(base) for base in node.bases} & self.errors:
                self.errors.add(node.name)
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                self.constants[statement.targets[0].id] = statement.value

    def messages(self) -> Iterator[Message]:
        for path, tree in self.trees.items():
            own = path.relative_to(ROOT / "plugins")
            place = str(own.relative_to("module_utils") if own.parts[0] == "module_utils" else "plugins" / own)
            for node in ast.walk(tree):
                for text in self._said(node):
                    yield Message(place, node.lineno, " ".join(text.split()))  # type: ignore[attr-defined]

    def _said(self, node: ast.AST) -> list[str]:
        """The texts of a call that ends in an error; those alone that hold more than what somebody else said."""
        if isinstance(node, ast.FunctionDef):
            is_text = isinstance(node.returns, ast.Name) and node.returns.id == "str"
            return self._returned(node, 0) if is_text and PROBLEM.match(ast.get_docstring(node) or "") else []
        if not isinstance(node, ast.Call):
            return []
        name, arguments = name_of(node.func), list(node.args)
        if name == "MissingLibrary":
            return []  # base/errors.py has its text
        if name == "fail_json":
            arguments = [one.value for one in node.keywords if one.arg == "msg"]
        elif name not in {*self.errors, "refuse", "fail"} and "super" not in ast.dump(node.func):
            return []
        found = [text for one in arguments for text in self.texts(one)]
        return [text for text in found if len(re.sub(r"«[^»]*»", "", text).split()) > 1]

    def texts(self, node: ast.expr, depth: int = 0) -> list[str]:
        """What an expression may come to, with «» around what only a run knows."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                return self._joined(parts, depth)
            case ast.FormattedValue(value=value):
                inner = self.texts(value, depth + 1)
                return inner if len(inner) == 1 and not isinstance(value, ast.IfExp) else [gap(value)]
            case ast.IfExp(body=body, orelse=other):
                return [text for one in (body, other) for text in self.texts(one, depth)]
            case ast.BoolOp(values=values):
                return [text for one in values for text in self.texts(one, depth)]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return [a + b for a in self.texts(left, depth) for b in self.texts(right, depth)]
            case ast.BinOp(left=left, op=ast.Mod()):
                return self.texts(left, depth)
            case ast.Name(id=name) if name in self.constants and depth < 4:
                return self.texts(self.constants[name], depth + 1)
            case ast.Call(func=func) if name_of(func) == "playbook" and depth < 4:
                (named,) = [ast.unparse(one).strip("'\"") for one in node.args[:1]]
                return [f"ansible-playbook -i INVENTORY as215932.engineering_loop.{named} -l HOST"]
            case ast.Call(func=func) if depth < 3 and len(self.functions.get(name_of(func), ())) == 1:
                return self._returned(self.functions[name_of(func)][0], depth) or [gap(node)]
        return [gap(node)]

    def _joined(self, parts: list[ast.expr], depth: int) -> list[str]:
        told = [""]
        for part in parts:
            told = [before + after for before in told for after in self.texts(part, depth)[:3]]
        return told[:4]

    def _returned(self, function: ast.FunctionDef, depth: int) -> list[str]:
        """The texts that a function returns: those of a sentence's length."""
        values = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value]
        found = [text for value in values for text in self.texts(value, depth + 1)]
        return [text for text in found if len(re.sub(r"«[^»]*»", "", text).split()) > 3]


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def gap(node: ast.expr) -> str:
    """What stands for something that only a run knows: its name, where it has one."""
    words = re.findall(r"[A-Za-z_]\w*", re.sub(r"'[^']*'|\"[^\"]*\"", "", ast.unparse(node)))
    plain = [word for word in words if word not in PLUMBING]
    return f"«{plain[-1] if len(plain) <= 3 and plain else '...'}»"


def plugins() -> list[Path]:
    return [path for path in (ROOT / "plugins").rglob("*.py") if "doc_fragments" not in path.parts]


def in_yaml() -> Iterator[Message]:
    """What tasks of the role and the playbooks refuse in words of their own."""
    for path in sorted([*(ROOT / "roles").rglob("tasks/*.yml"), *(ROOT / "playbooks").glob("*.yml")]):
        text = path.read_text(encoding="utf-8")
        for said in refusals(yaml.safe_load(text)):
            words = re.sub(r"\{\{\s*(.*?)\s*\}\}", r"«\1»", " ".join(said.split()))
            if len(re.sub(r"«[^»]*»", "", words).split()) > 3:
                first = next((line for line in said.splitlines() if line.strip()), said).strip()
                number = next((n for n, line in enumerate(text.splitlines(), 1) if first in line), 1)
                yield Message(str(path.relative_to(ROOT)), number, words)


def refusals(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for one in node:
            yield from refusals(one)
    elif isinstance(node, dict):
        if isinstance(node.get("fail_msg"), str):
            yield node["fail_msg"]
        if "ansible.builtin.assert" in node:  # which of them is told, the task itself says
            yield from (one for one in node.get("vars", {}).values() if isinstance(one, str))
        ended = node.get("ansible.builtin.fail")
        if isinstance(ended, dict):
            yield ended["msg"]
        for one in node.values():
            yield from refusals(one)


@functools.cache
def everything() -> list[Message]:
    """All of them, each text of a file once."""
    found: dict[tuple[str, str], Message] = {}
    for one in (*Source().messages(), *in_yaml()):
        found.setdefault((one.place, one.text), one)
    return list(found.values())


def mends() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = yaml.safe_load(MENDS.read_text(encoding="utf-8"))
    return found


def page(found: list[Message], known: dict[str, dict[str, str]]) -> str:
    lines = [
        "# Every error message",
        "",
        "Written by `make docs` from the source, so none is missing. «Names» stand for what a run fills in. Search this"
        " page for the words of yours that are no names. A message says what happened, where, and what to do or what is"
        " allowed instead; what it leaves open stands under the file's name. Nothing was changed by what was refused,"
        " unless the message says so.",
        "",
    ]
    room = ""
    for place in dict.fromkeys(one.place for one in found):
        if place.split("/")[0] != room:
            room = place.split("/")[0]
            lines += [f"## {room}", ""]
        lines += [f"### {place}", ""]
        if place in known:
            lines += [f"**Cause:** {known[place]['cause']}", "", f"**Mend:** {known[place]['mend']}", ""]
        for one in found:
            if one.place == place:
                text = one.text.replace("``", "` `")
                lines += [f"- `` {text} ``"]
        lines.append("")
    return "\n".join(lines)


def check(found: list[Message], known: dict[str, dict[str, str]]) -> list[str]:
    """What is missing or too much."""
    needed = {one.place for one in found if not one.says_what_to_do}
    complaints = [
        f"{one.place}:{one.line}: neither this message nor docs/site/mends.yml says what to do: {one.text}"
        for one in found
        if one.place in needed - known.keys() and not one.says_what_to_do
    ]
    unneeded = sorted(known.keys() - needed)
    complaints += [f"docs/site/mends.yml: {place} has no message that needs it" for place in unneeded]
    for place, entry in known.items():
        if set(entry) != {"cause", "mend"}:
            complaints.append(f"docs/site/mends.yml: {place} must have cause and mend")
    return complaints


def main(words: list[str]) -> int:
    found, known = everything(), mends()
    if words == ["--loose"]:
        for one in found:
            if not one.says_what_to_do:
                print(f"{one.place}:{one.line}: {one.text}")
        return 0
    complaints = check(found, known)
    print("\n".join(complaints), end="\n" if complaints else "")
    if words != ["--check"]:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(page(found, known), encoding="utf-8")
        print(f"messages: {len(found)} in {TARGET.relative_to(ROOT)}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
