# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tool in an environment of its own, installed by the real pip from wheels made here."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.pypi_tools import install, installed

COLLECTIONS = Path(__file__).resolve().parents[5] / ".collections"
PYTHON = os.path.realpath(sys.executable)


def wheel(directory: Path, version: str) -> None:
    """A package with one program, which prints its version."""
    info = f"looptool-{version}.dist-info"
    files = {
        "looptool.py": f"def main():\n    print('looptool {version}')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: looptool\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nlooptool = looptool:main\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for name, text in files.items()
    )
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(directory / f"looptool-{version}-py3-none-any.whl", "w") as archive:
        for name, text in [*files.items(), (f"{info}/RECORD", f"{record}{info}/RECORD,,\n")]:
            archive.writestr(name, text)


@pytest.fixture
def dest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for version in ("1.0", "2.0"):
        wheel(tmp_path / "wheels", version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "opt").mkdir()
    return tmp_path / "opt" / "tool"


def runs(dest: Path) -> str:
    return subprocess.run([dest / "bin/looptool"], capture_output=True, text=True, check=True).stdout.strip()


def names(dest: Path) -> list[str]:
    return sorted(name for name in os.listdir(dest.parent) if not name.endswith(".lock"))


def pip_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    path = tmp_path / "pip.conf"
    path.write_text(f"[install]\n{line}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))


def test_the_hosts_pip_conf_keeps_no_tool_from_its_place(
    dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_conf(tmp_path, monkeypatch, "user = true")
    install("looptool", "1.0", str(dest), PYTHON)
    assert runs(dest) == "looptool 1.0"
    for line in (f"target = {tmp_path}/elsewhere", "dry-run = true"):
        pip_conf(tmp_path, monkeypatch, line)
        with pytest.raises(LoopError, match=r"looptool 2.0 was not put into .*tool-2.0: pip is told to .*remove that"):
            install("looptool", "2.0", str(dest), PYTHON)
        assert (installed(str(dest)), names(dest)) == ("1.0", ["tool", "tool-1.0"])


def test_no_umask_closes_it_to_others_and_what_is_closed_is_made_anew(dest: Path) -> None:
    before = os.umask(0o077)
    try:
        install("looptool", "1.0", str(dest), PYTHON)
    finally:
        os.umask(before)
    assert installed(str(dest)) == "1.0"
    (dest / "bin").chmod(0o700)  # as an older one of ours was made
    assert installed(str(dest)) == ""
    install("looptool", "1.0", str(dest), PYTHON)
    assert (installed(str(dest)), runs(dest)) == ("1.0", "looptool 1.0")


def test_installed_upgraded_and_kept_where_an_upgrade_fails(dest: Path) -> None:
    assert installed(str(dest)) == ""
    install("looptool", "1.0", str(dest), PYTHON)
    assert (installed(str(dest)), runs(dest)) == ("1.0", "looptool 1.0")

    with pytest.raises(
        LoopError, match=r"looptool 3.0 cannot be installed: ERROR: .*looptool==3.0.* \(check the version"
    ):
        install("looptool", "3.0", str(dest), PYTHON)
    assert (installed(str(dest)), runs(dest), names(dest)) == ("1.0", "looptool 1.0", ["tool", "tool-1.0"])

    script = f"import sys; from {install.__module__} import install; install('looptool', '2.0', *sys.argv[1:])"
    killed = subprocess.Popen(
        [sys.executable, "-c", script, str(dest), PYTHON], env={**os.environ, "PYTHONPATH": str(COLLECTIONS)}
    )
    while not (dest.parent / "tool-2.0/bin").exists():
        assert killed.poll() is None
        time.sleep(0.005)
    killed.kill()
    killed.wait()
    assert (installed(str(dest)), runs(dest)) == ("1.0", "looptool 1.0")

    (dest.parent / "tool.new").symlink_to("left by a killed run")
    (dest.parent / "tool-1.5").mkdir()  # as well
    install("looptool", "2.0", str(dest), PYTHON)
    assert (installed(str(dest)), runs(dest), names(dest)) == ("2.0", "looptool 2.0", ["tool", "tool-2.0"])

    begun = time.monotonic()
    install("looptool", "2.0", str(dest), "/nowhere/python3")  # nothing to do, so nothing is touched
    assert time.monotonic() - begun < 1


def test_a_directory_of_wheels_stands_for_the_index(
    dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    install("looptool", "1.0", str(dest), PYTHON, str(tmp_path / "wheels"))
    assert runs(dest) == "looptool 1.0"
    with pytest.raises(LoopError, match=rf"check the version and what is in {tmp_path}/wheels"):
        install("looptool", "3.0", str(dest), PYTHON, str(tmp_path / "wheels"))


@pytest.mark.parametrize(
    ("index", "proxy", "why"),
    [
        ("https://me:s3cret@127.0.0.1:9/simple", "", "NewConnectionError.*Connection refused"),
        ("https://index.invalid/simple", "http://me:s3cret@127.0.0.1:9", "ProxyError.*Connection refused"),
    ],
)
def test_an_index_that_is_not_reached(
    dest: Path, monkeypatch: pytest.MonkeyPatch, index: str, proxy: str, why: str
) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index)
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(LoopError, match=rf"cannot be installed: ERROR: .* reaches its package index: {why}") as failed:
        install("looptool", "1.0", str(dest), PYTHON)
    assert "s3cret" not in str(failed.value) and " object at " not in str(failed.value)


def test_a_link_that_leads_nowhere_or_elsewhere_is_no_installation(dest: Path) -> None:
    for target in ("tool-1.0", "/usr", "../tool-1.0", "tool"):
        dest.symlink_to(target)
        assert installed(str(dest)) == ""
        dest.unlink()
    (dest.parent / "tool-1.0/bin").mkdir(parents=True)
    dest.symlink_to("tool-1.0")
    assert installed(str(dest)) == "1.0"


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        ("/nowhere/python3", "No such file or directory"),
        ("/bin/false", "/bin/false failed"),
        ("/bin/sleep", "invalid option|invalid number"),
    ],
)
def test_an_interpreter_that_is_none_leaves_nothing(dest: Path, python: str, reason: str) -> None:
    with pytest.raises(LoopError, match=f"(?s)looptool 1.0 cannot be installed: .*({reason}|Try)") as caught:
        install("looptool", "1.0", str(dest), python)
    assert "\n" not in str(caught.value)
    assert names(dest) == []


def test_a_build_that_takes_too_long_is_ended(dest: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with pytest.raises(LoopError, match=r"cannot be installed: .*timed out after 0.3 seconds"):
        install("looptool", "1.0", str(dest), str(slow), timeout=0.3)
    assert names(dest) == []


def test_what_stands_in_its_place_is_left_alone(dest: Path) -> None:
    dest.mkdir()
    (dest / "precious").write_text("x")
    with pytest.raises(LoopError, match="tool is in the way"):
        install("looptool", "1.0", str(dest), PYTHON)
    assert (dest / "precious").read_text() == "x"
    with pytest.raises(LoopError, match=r"lock .* cannot be opened"):
        install("looptool", "1.0", str(dest / "none" / "tool"), PYTHON)
