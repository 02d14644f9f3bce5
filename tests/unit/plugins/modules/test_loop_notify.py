# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `loop_notify`: what it returns, and that check mode sends nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.targets import Target
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report import send
from ansible_collections.as215932.engineering_loop.plugins.module_utils.report.send import Answer
from ansible_collections.as215932.engineering_loop.plugins.modules import loop_notify
from celled import NEEDS_ROOT

pytestmark = NEEDS_ROOT


@pytest.fixture
def config(tmp_path: Path) -> Path:
    paths = {key: str(tmp_path) for key in ("install_dir", "lib_dir", "receipts_dir", "config_dir")}
    settings = {"user": "nobody", "policy_file": "/x", "unit": "u", "env_file": str(tmp_path / "env"), **paths}
    (tmp_path / "loop.json").write_text(json.dumps(settings))
    (tmp_path / "notify").write_text("json://example.org/s3cret\nslack://s3cret\n")
    (tmp_path / "notify").chmod(0o600)
    return tmp_path / "loop.json"


def test_each_target_is_named_without_its_secret(
    task: Callable[..., dict[str, Any]], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def deliver(_lib: str, targets: Sequence[Target], messages: Mapping[str, Any], _net: object) -> dict[str, Answer]:
        sent.extend(messages)
        return {one.id: Answer(1) if one.url.startswith("json") else Answer(0, "refused") for one in targets}

    monkeypatch.setattr(send, "deliver", deliver)
    told = task(loop_notify, config=str(config), _ansible_check_mode=True)
    assert sent == [] and not told["sent"] and not told["changed"]
    assert [(one["target"], one["taken"]) for one in told["targets"]] == [
        ("json://example.org/***", True), ("slack://***", False),
    ]  # fmt: skip
    done = task(loop_notify, config=str(config))
    assert len(sent) == 2 and done["sent"] and not done["changed"]
    assert [(one["taken"], one["why"]) for one in done["targets"]] == [(True, ""), (False, "refused")]
    assert "s3cret" not in str(told) + str(done)


def test_what_is_wrong_is_one_line(task: Callable[..., dict[str, Any]], config: Path) -> None:
    (config.parent / "notify").write_text("s3cret\n")
    answer = task(loop_notify, config=str(config))
    assert answer["failed"] and "notify, line 1 is no URL" in answer["msg"] and "s3cret" not in answer["msg"]
    config.unlink()
    assert "this host was not deployed yet" in task(loop_notify, config=str(config))["msg"]


def test_nobody_to_be_told(task: Callable[..., dict[str, Any]], config: Path) -> None:
    (config.parent / "notify").unlink()
    assert task(loop_notify, config=str(config))["targets"] == []
