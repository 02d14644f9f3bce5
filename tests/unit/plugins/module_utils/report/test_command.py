# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""`loop status` on the host."""

from __future__ import annotations

import builtins
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import command, table
from celled import NEEDS_ROOT
from watched import Watched

pytestmark = NEEDS_ROOT


def test_it_ends_with_what_the_host_needs(well: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(well.host.config_file)
    well.host.write_config()
    assert command.main(config) == 0
    said = capsys.readouterr().out
    assert "It is well." in said and os.uname().nodename[:14] in said
    well.record(2, "needs_triage", "two gates failed")
    Path(well.host.config["env_file"]).unlink()
    assert command.main(config) == 2
    assert "    $ systemctl start hyrule-engineering-loop.service\n" in capsys.readouterr().out
    assert command.main(config, "--json") == 2
    told = json.loads(capsys.readouterr().out)
    assert told["needs"][0]["code"] == "secrets" and "as root: systemctl start" in told["needs"][0]["do"]


@pytest.mark.parametrize("words", [("--yaml",), ("--json", "x"), ("",)])
def test_it_says_how_it_is_called(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main("/nonexistent", *words) == 1
    assert capsys.readouterr().err == "usage: loop status [--json]\n"


def test_others_than_root_are_told_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command.main("/nonexistent") == 1
    assert capsys.readouterr().err == f"loop status is for root: sudo {sys.argv[0]} status\n"


def test_without_rich_it_is_plain(well: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = {"one": well.look()}
    found = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.partition(".")[0] == "rich":
            raise ImportError(name)
        return found(name, *more)

    with monkeypatch.context() as bare:
        bare.setattr(builtins, "__import__", without)
        importlib.reload(table)
        plain = table.draw(fleet)
    importlib.reload(table)
    assert plain == table.draw(fleet, rich=False) and "─" not in plain
