# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A library is loaded by its first use, and not before."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.later import later


def test_it_is_loaded_by_its_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "loaded"
    (tmp_path / "loaded_later.py").write_text(
        f"import pathlib\npathlib.Path({str(trace)!r}).touch(exist_ok=False)\nVALUE = 5\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "loaded_later", raising=False)
    found = later("loaded_later")
    assert not trace.exists()
    assert found.VALUE == 5 and later("loaded_later") is found and trace.exists()
    monkeypatch.delitem(sys.modules, "loaded_later")


def test_one_that_is_not_there() -> None:
    assert later("no_such_library_at_all") is None
