# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation tells somebody to type, or to write into an inventory, is taken as it is by what it is for."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from ansible.cli.galaxy import GalaxyCLI
from ansible.cli.playbook import PlaybookCLI
from ansible_collections.as215932.engineering_loop.plugins.module_utils.lifecycle import variables

ROOT = Path(__file__).resolve().parents[3]
COLLECTION = "as215932.engineering_loop"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
OPTIONS = yaml.safe_load((ROOT / "roles/engineering_loop/meta/argument_specs.yml").read_text(encoding="utf-8"))[
    "argument_specs"
]["role"]["options"]
EXAMPLE = yaml.safe_load((ROOT / "examples/one-host/host_vars/loop.yml").read_text(encoding="utf-8"))
# Beside the role's variables, what a playbook of ours or a user's own host has.
OF_OTHERS = {"ansible_host", "ansible_user", "ansible_become"}


class Block(NamedTuple):
    """What stands between two fences."""

    page: str
    line: int
    language: str
    text: str


def blocks(*languages: str) -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"(?ms)^ *```(\w+)\n(.*?)^ *```$", text):
            if found[1] in languages:
                line = text[: found.start()].count("\n") + 2
                yield Block(str(page.relative_to(ROOT)), line, found[1], found[2])


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each command line, without its comment, with where it stands."""
    for block in blocks("console", "sh"):
        for number, line in enumerate(block.text.replace("\\\n", " ").splitlines()):
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # a line of a text that spans several, as a shell reads it
                continue
            if words:
                yield f"{block.page}:{block.line + number}", words


def of(program: str) -> list[Any]:
    """Each command of it, as far as it goes: what a shell redirects is not its own."""
    own = [
        (where, [*itertools.takewhile(lambda word: not re.match(r"\d*[<>|]", word), words)])
        for where, words in commands()
    ]
    return [pytest.param(words, id=where) for where, words in own if Path(words[0]).name == program]


def playbook(name: str) -> Path:
    """The file of a playbook as it is named in a command."""
    return ROOT / "playbooks" / f"{name.removeprefix(f'{COLLECTION}.').removesuffix('.yml').split('/')[-1]}.yml"


@pytest.mark.parametrize("words", of("ansible-playbook"))
def test_each_playbook_is_there_and_knows_what_it_is_given(words: list[str]) -> None:
    """That it is one, ansible-lint says."""
    cli = PlaybookCLI(words)
    cli.parse()
    from ansible import context

    for name in context.CLIARGS["args"]:
        assert playbook(name).is_file() or not name.startswith((COLLECTION, "playbooks/")), name
    text = "".join(
        playbook(name).read_text(encoding="utf-8") for name in context.CLIARGS["args"] if playbook(name).exists()
    )
    for given in context.CLIARGS["extra_vars"]:
        for pair in re.findall(r"(\w+)=", given):
            assert pair in OPTIONS or re.search(rf"\b{pair}\b", text), f"{pair} is not known to {words[1:]}"


@pytest.mark.parametrize("words", of("ansible-galaxy"))
def test_each_command_of_ansible_galaxy_is_one(words: list[str]) -> None:
    GalaxyCLI(words).parse()


@pytest.mark.parametrize("words", of("make"))
def test_each_target_of_make_is_there(words: list[str]) -> None:
    known = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert {word for word in words[1:] if "=" not in word} <= known


def test_the_pages_have_commands_at_all() -> None:
    assert min(len(of(program)) for program in ("ansible-playbook", "ansible-galaxy", "make")) > 3


def snippets() -> list[Any]:
    return [pytest.param(block.text, id=f"{block.page}:{block.line}") for block in blocks("yaml")]


def role_variables(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a snippet that has variables of the role."""
    if isinstance(node, list):
        for one in node:
            yield from role_variables(one)
    elif isinstance(node, dict):
        if any(str(key).startswith(variables.PREFIX) for key in node):
            yield node
        for one in node.values():
            yield from role_variables(one)


def modules(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every task in a snippet that calls a module of ours, with its arguments."""
    if isinstance(node, list):
        for one in node:
            yield from modules(one)
    elif isinstance(node, dict):
        for key, value in node.items():
            if str(key).startswith(f"{COLLECTION}.") and isinstance(value, dict):
                yield str(key).removeprefix(f"{COLLECTION}."), value
            yield from modules(value)


@pytest.mark.parametrize("text", snippets())
def test_a_piece_of_yaml_is_taken_by_the_role_and_the_modules(text: str) -> None:
    node = yaml.safe_load(text)
    for mapping in role_variables(node):
        groups = [key for key, value in mapping.items() if isinstance(value, dict) and "hosts" in value]
        given = {key: value for key, value in mapping.items() if "{{" not in str(value) and key not in groups}
        unknown = [key for key in mapping if key.startswith(variables.PREFIX) and key not in OPTIONS]
        assert unknown == []
        ours = {key: value for key, value in given.items() if key.startswith(variables.PREFIX)}
        complete = {**defaults(), **EXAMPLE, **ours}
        assert variables.refused(OPTIONS, complete) == []
    for name, arguments in modules(node):
        source = (ROOT / "plugins/modules" / f"{name}.py").read_text(encoding="utf-8")
        found = re.search(r'(?s)DOCUMENTATION = r"""\n(.*?)"""', source)
        assert found is not None
        known = yaml.safe_load(found[1])["options"]
        fragments = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "plugins/doc_fragments").glob("*.py"))
        assert [key for key in arguments if key not in known and f"\n  {key}:" not in fragments] == []


def defaults() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "roles/engineering_loop/defaults/main.yml").read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if "{{" not in str(value)}


def test_a_wrong_piece_of_yaml_would_be_found() -> None:
    wrong = "engineering_loop_max_runs_per_day: often"
    assert variables.refused(OPTIONS, {**defaults(), **EXAMPLE, **yaml.safe_load(wrong)}) != []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    missing = [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md" and page.name not in index
    ]
    assert missing == []


def anchors(page: Path) -> set[str]:
    """The names that a forge gives to the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "examples/README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _hash, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if "://" in target or target.startswith("mailto:"):
            continue
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            lost.append(target)
    assert lost == []
