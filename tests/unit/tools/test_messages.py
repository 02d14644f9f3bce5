# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of all errors is made from the source: every way that the collection has to raise one is read."""

from __future__ import annotations

import ast

import pytest
from tools import messages


@pytest.fixture(scope="module")
def source() -> messages.Source:
    return messages.Source()


def texts(source: messages.Source, code: str) -> list[str]:
    statement = ast.parse(code).body[0]
    assert isinstance(statement, ast.Expr)
    return source.texts(statement.value)


def test_what_a_run_fills_in_has_a_name_and_the_rest_is_as_it_is_said(source: messages.Source) -> None:
    assert texts(source, 'f"{show(path)} cannot be read: {error.strerror}"') == ["«path» cannot be read: «strerror»"]
    assert texts(source, '"one way" if a else "another"') == ["one way", "another"]
    assert texts(source, '"all " + "of it"') == ["all of it"]
    assert texts(source, "f\"run {playbook('apply')}\"") == [
        "run ansible-playbook -i INVENTORY as215932.engineering_loop.apply -l HOST"
    ]


def test_errors_of_every_kind_are_on_the_page() -> None:
    found = {(one.place, one.text) for one in messages.everything()}
    expected = {
        "base/errors.py": "install it, and let ansible_python_interpreter be that one",  # by super().__init__
        "gateway/judge.py": "is no commit on top of what",  # a class of its own below LoopError
        "plugins/modules/loop_cell.py": "one runs a command in the cell, one brings work out",  # fail_json
        "plugins/lookup/loop_hosts.py": "or put it into the group engineering_loop",  # AnsibleError
        "release/agents.py": "no agent is on this host",  # returned as a problem, not raised
        "proof/timer_hold.py": "is the clock of this host right?",
        "roles/engineering_loop/tasks/preflight.yml": "Deploy it first: run",
    }
    for place, words in expected.items():
        assert [text for where, text in found if where == place and words in text], place


def test_a_message_that_leaves_everything_open_is_complained_of_and_so_is_a_line_that_nothing_needs() -> None:
    silent = messages.Message("base/new.py", 7, "«path» is strange")
    speaking = messages.Message("base/other.py", 8, "«path» is strange: run apply.yml")
    known = {"base/other.py": {"cause": "C.", "mend": "M."}, "base/new.py": {"cause": "C."}}
    assert messages.check([silent, speaking], {}) == [
        "base/new.py:7: neither this message nor docs/site/mends.yml says what to do: «path» is strange"
    ]
    assert messages.check([silent, speaking], known) == [
        "docs/site/mends.yml: base/other.py has no message that needs it",
        "docs/site/mends.yml: base/new.py must have cause and mend",
    ]


def test_none_of_ours_is_missing_what_to_do() -> None:
    assert messages.check(messages.everything(), messages.mends()) == []
