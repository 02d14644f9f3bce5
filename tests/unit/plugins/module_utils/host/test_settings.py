# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""loop.json: read whole or refused by the name of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import settings

WHOLE: dict[str, Any] = {key: kind() for key, kind in settings.KEYS.items()}


def load(tmp_path: Path, text: str | bytes) -> dict[str, Any]:
    path = tmp_path / "loop.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return settings.load(str(path))


def test_what_the_role_wrote_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, json.dumps({**WHOLE, "more": 1})) == {**WHOLE, "more": 1}


def test_a_host_where_nothing_was_deployed(tmp_path: Path) -> None:
    with pytest.raises(
        LoopError,
        match=r"this host was not deployed yet; run ansible-playbook -i INVENTORY as215932[.]engineering_loop[.]apply ",
    ):
        settings.load(str(tmp_path / "none"))


@pytest.mark.parametrize("text", ["", "{", "user: loop", b"\xff", "{}{}", "1" * 10_000])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(
        LoopError, match=r"loop.json is not JSON .* as215932[.]engineering_loop[.]apply -l HOST writes it again"
    ) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "null", '"text"', "1"])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(LoopError, match="must hold one JSON object"):
        load(tmp_path, text)


@pytest.mark.parametrize("key", sorted(settings.KEYS))
def test_every_key_is_missed_and_every_type_is_looked_at(tmp_path: Path, key: str) -> None:
    kind = settings.KEYS[key].__name__
    other = "1" if kind == "int" else 1
    for broken in ({name: WHOLE[name] for name in WHOLE if name != key}, {**WHOLE, key: None}, {**WHOLE, key: other}):
        with pytest.raises(LoopError, match=f"{key} is missing or not a {kind}"):
            load(tmp_path, json.dumps(broken))


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(json.dumps(WHOLE))
    (tmp_path / "loop.json").symlink_to("real")
    with pytest.raises(LoopError, match="cannot be read"):
        settings.load(str(tmp_path / "loop.json"))


def test_what_lasts_is_part_of_what_every_version_wrote(tmp_path: Path) -> None:
    lasting = {key: WHOLE[key] for key in settings.LASTING}
    (tmp_path / "loop.json").write_text(json.dumps(lasting))
    assert settings.load(f"{tmp_path}/loop.json", keys=settings.LASTING) == lasting
    with pytest.raises(LoopError, match="is missing or not a"):
        settings.load(f"{tmp_path}/loop.json")


def test_the_engines_name_for_the_work_on_an_issue() -> None:
    assert settings.change_id("AS215932/network-operations", 235) == "ISSUE_NETWORK_OPERATIONS_235"
