# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pause: one file, which says why, since when and by whom, and holds also where it cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.clock import moment_of
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof import pause
from ansible_collections.as215932.engineering_loop.plugins.module_utils.proof.pause import Pause


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return Settings({"install_dir": str(tmp_path)})


def test_what_an_operator_says_is_kept(config: Settings, tmp_path: Path) -> None:
    assert pause.read(config) is None
    pause.check(config)
    made, changed = pause.put(config, "  the forge\n moves ", "ann")
    assert changed and (made.why, made.by) == ("the forge moves", "ann") and moment_of(made.since)
    assert pause.read(config) == made
    assert (tmp_path / "paused.json").stat().st_mode & 0o777 == 0o644
    with pytest.raises(pause.Paused) as caught:
        pause.check(config)
    assert str(caught.value) == made.sentence
    assert made.sentence == (
        f"paused since {made.since} by ann: the forge moves; resume with:"
        " ansible-playbook -i INVENTORY as215932.engineering_loop.resume -l HOST"
    )


def test_a_pause_keeps_its_moment_and_its_reason_until_another_is_given(config: Settings, tmp_path: Path) -> None:
    text = '{"why": "the forge moves", "since": "2026-01-01T00:00:00Z", "by": "ann"}'
    (tmp_path / "paused.json").write_text(text)
    first = Pause("the forge moves", "2026-01-01T00:00:00Z", "ann")
    assert pause.put(config, "", "bob") == (first, False) == pause.put(config, "the forge moves", "bob")
    other = Pause("it costs too much", "2026-01-01T00:00:00Z", "bob")
    assert pause.put(config, "it costs too much", "bob", dry_run=True) == (other, True)
    assert pause.read(config) == first
    assert pause.put(config, "it costs too much", "bob") == (other, True)
    assert pause.read(config) == other


def test_it_is_lifted_once(config: Settings, tmp_path: Path) -> None:
    made, _changed = pause.put(config, "", "ann")
    assert ": nobody said why; " in made.sentence
    assert pause.lift(config, dry_run=True) == made == pause.read(config)
    assert pause.lift(config) == made
    assert pause.lift(config) is None is pause.read(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[", "{}", '{"why": 3}', "[" * 100_000, '{"why": "x", "since": null}'])
def test_what_cannot_be_read_pauses_as_well(config: Settings, tmp_path: Path, content: str) -> None:
    (tmp_path / "paused.json").write_text(content)
    found = pause.read(config)
    assert found and f"{tmp_path}/paused.json cannot be read as a pause" in found.why and found.since == ""
    assert found.sentence.startswith("paused: ") and "\n" not in found.sentence
    made, changed = pause.put(config, "mine", "ann")
    assert changed and pause.read(config) == made and made.why == "mine" and made.since
    assert pause.lift(config) == made


def test_what_is_no_file_pauses_and_is_not_taken_away(config: Settings, tmp_path: Path) -> None:
    (tmp_path / "paused.json").mkdir()
    found = pause.read(config)
    assert found and "is not a regular file" in found.why
    with pytest.raises(LoopError, match=r"cannot be removed: .*; remove it by hand"):
        pause.lift(config)


def test_hostile_words_are_shown_and_cut(config: Settings) -> None:
    made, _changed = pause.put(config, "\x1b[2J\u202e" + "x" * 70_000, "\x07" * 300)
    assert made.why.startswith("\\x1b[2J\\u202e") and len(made.why) < 510 and len(made.by) < 110
    assert made.sentence.isprintable() and pause.read(config) == made
