# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook `status` over hosts of which none is deployed: each has a row, the play goes on, the end tells."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from celled import NEEDS_ROOT

ROOT = Path(__file__).resolve().parents[3]
pytestmark = NEEDS_ROOT  # it becomes root, and is root here

HOSTS = """\
[engineering_loop]
here ansible_connection=local engineering_loop_config_dir={place}
odd ansible_connection=local ansible_python_interpreter=/nonexistent
down ansible_host=127.0.0.1 ansible_port=9 ansible_user=root ansible_ssh_common_args="-oBatchMode=yes"
old ansible_connection=local engineering_loop_config_dir={place}/old
"""


def play(place: Path, *words: str) -> tuple[int, str, str]:
    """Run it from somewhere else; its end, what it says, and its errors."""
    (place / "my hosts").write_text(HOSTS.format(place=place), encoding="utf-8")
    (place / "old").mkdir(exist_ok=True)
    (place / "old/loop.json").write_text('{"collection_version": "0.0.9"}', encoding="utf-8")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [program, "-i", "my hosts", "as215932.engineering_loop.status", *words], cwd=place, capture_output=True,
        text=True, check=False,
        env={**clean, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_row_for_each_host(tmp_path: Path) -> None:
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    for check in ([], ["--check"]):
        status, said, errors = play(tmp_path, "-e", f"page={page}", *check)
        assert status == 2 and "Traceback" not in said + errors
        for host, state in (("here", "ABSENT"), ("odd", "FAILED"), ("down", "UNREACHABLE"), ("old", "BROKEN")):
            assert any(line.split()[:2] == [host, state] for line in said.splitlines()), said
        assert "4 of 4 need a person: here (absent), odd (failed), down (unreachable), old (broken)." in said + errors
        assert said.count("It cannot be reached:") == 1 and "v0.0.9" in said
        (command,) = re.findall(r"\\$ (ansible-playbook .* -l here)\n", said.replace(" \\\n        ", " "))
        assert shlex.split(command)[1:4] == ["-i", f"{tmp_path}/my hosts", "as215932.engineering_loop.apply"]
        rows = said.partition("HOST ")[2].partition("TASK [")[0]
        assert max(map(len, rows.splitlines())) <= 100
    assert "0 of 4 well" in page.read_text(encoding="utf-8")
    status, said, _errors = play(tmp_path, "-e", "format=json", "-e", f"out={out}", "-l", "down,here")
    told = json.loads(out.read_text(encoding="utf-8"))["hosts"]
    assert status == 2 and {name: one["state"] for name, one in told.items()} == {
        "here": "absent",
        "down": "unreachable",
    }
    assert '"hosts"' not in said


def test_json_without_a_file(tmp_path: Path) -> None:
    status, said, _errors = play(tmp_path, "-e", "format=json", "-l", "here")
    found, _end = json.JSONDecoder().raw_decode(said[said.index("{\n") :])
    assert status == 2 and found["hosts"]["here"]["needs"][0]["code"] == "absent"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["format=xml"], "one of: table, json"),
        (["page=/nonexistent/page.html"], "/nonexistent/page.html cannot be written: "),
        (["out=/"], "/ cannot be written: Is a directory"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path: Path, words: list[str], why: str) -> None:
    status, said, errors = play(tmp_path, "-l", "here", *(part for word in words for part in ("-e", word)))
    assert status == 2 and why in said + errors and "Traceback" not in said + errors, said + errors
