# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds that fail, find no lock or no disk, and an engine that is tried shut in."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import releases
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted
from commands import sh
from engines import ENGINE, PROJECT, UV, Source, mine, now_active, says


def test_nothing_in_a_release_can_be_written(wanted: Wanted, shas: list[str]) -> None:
    path = Path(releases.present(wanted, shas[0])["release"]["path"])
    writable = [
        str(entry) for entry in [path, *path.rglob("*")] if not entry.is_symlink() and entry.stat().st_mode & 0o222
    ]
    assert writable == []
    assert list(path.glob("src/engine/__pycache__/*.pyc"))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"sync": ["false"]}, "`false` ended with 1"),
        ({"sync": ["/nowhere/tool"]}, "/nowhere/tool cannot be started: No such file"),
        ({"sync": ["true"]}, "made no .venv"),
        (
            {"sync": ["sh", "-c", "echo some words; echo https://u:pw@host/x >&2; exit 7"]},
            r"7: some words / https://\*\*\*@",
        ),
        ({"smoke": [".venv/bin/engine", "&&"], "sync": ["sleep", "5"], "timeout": 0.3}, "longer than 0.3 s"),
        ({"smoke": [".venv/bin/python", "-c", "raise SystemExit('no start')"]}, "no start"),
        ({"smoke": [".venv/bin/other", "daemon"]}, "has no program other, .* it has engine "),
        ({"python": "/nowhere/python3"}, "could not be built: `.*uv"),
        ({"uv": "/nowhere/uv"}, "/nowhere/uv cannot be started"),
        ({"lock_sha256": "0" * 64}, "not 0000"),
        ({"repo": "/nowhere/engine.git"}, "/nowhere/engine.git cannot be fetched"),
        ({"repo": "http://127.0.0.1:9/engine.git"}, "cannot be fetched"),
        ({"branches": ["release"]}, "not on release"),
    ],
)
def test_a_build_that_fails_leaves_what_was_active(
    installed: Wanted, shas: list[str], broken: dict[str, object], reason: str
) -> None:
    with pytest.raises(LoopError, match=reason) as failure:
        releases.present(dataclasses.replace(installed, **broken), shas[1])  # type: ignore[arg-type]
    assert "what was active stays active" in str(failure.value) and "\n" not in str(failure.value)
    assert mine(installed) == {shas[0]} and says(installed) == "release 0"


def test_a_release_that_stands_is_asked_for_another_program(installed: Wanted, shas: list[str]) -> None:
    other = dataclasses.replace(installed, smoke=[".venv/bin/other", "daemon", "--help"])
    for check in (True, False):
        with pytest.raises(LoopError, match="the engine has no program other, which engineering_loop_program"):
            releases.present(other, shas[0], check=check)
    assert releases.present(installed, shas[0])["changed"] is False


def test_a_lock_that_does_not_match_is_refused(anywhere: Wanted, source: Source, shas: list[str]) -> None:
    changed = PROJECT.replace('requires-python = ">=3.11"', 'requires-python = ">=3.11"\ndependencies = ["engine-x"]')
    sh(source.path, "git", "checkout", "-q", "-b", "mismatch")
    sha = source.commit("mismatch", pyproject__toml=changed)
    sh(source.path, "git", "checkout", "-q", "main")
    with pytest.raises(LoopError, match="lock --check"):
        releases.present(anywhere, sha)
    assert mine(anywhere) == set()


def test_without_a_lock_pip_installs(anywhere: Wanted, source: Source) -> None:
    sh(source.path, "git", "checkout", "-q", "-b", "unlocked")
    sh(source.path, "git", "rm", "-q", "uv.lock")
    sha = source.commit("unlocked")
    sh(source.path, "git", "checkout", "-q", "main")
    done = releases.present(anywhere, sha)
    assert done["release"]["lock_digest"] == "" and says(anywhere) == "unlocked"


def test_a_full_disk(wanted: Wanted, shas: list[str], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    sh(tmp_path, "mount", "-t", "tmpfs", "-o", "size=3m", "none", str(small))
    try:
        wanted = dataclasses.replace(wanted, install_dir=str(small / "opt"), smoke=["true"])
        fill = ["sh", "-c", f"{UV} venv -q .venv && cat /dev/zero > .venv/full"]
        venv = ["sh", "-c", f"{UV} sync -q --frozen"]
        releases.present(dataclasses.replace(wanted, sync=venv), shas[0])
        with pytest.raises(LoopError, match="No space left on device"):
            releases.present(dataclasses.replace(wanted, sync=fill), shas[1])
        assert mine(wanted) == {shas[0]} and says(wanted) == "release 0"
        releases.present(dataclasses.replace(wanted, sync=venv), shas[1])
    finally:
        sh(tmp_path, "umount", str(small))


# An engine that looks around where nobody has proven it yet, and says what it could do.
PRYING = """
import contextlib, os, pathlib, socket, sys
PLACES = {places!r}
def main():
    found = [name for name, value in os.environ.items() if "s3cret" in value]
    for place in PLACES:
        try:
            found.append(pathlib.Path(place).read_text())
        except OSError:
            pass
    for place in ("pyproject.toml", f"{{sys.prefix}}/x", "/etc/x", "/opt/x", "/x"):
        try:
            pathlib.Path(place).write_text("changed")
            found.append(f"wrote {{place}}")
        except OSError:
            pass
    for place in PLACES:  # at most the sandbox's own
        with contextlib.suppress(OSError):
            pathlib.Path(place).write_text("changed")
    try:
        socket.create_connection(("127.0.0.1", {port}), 2)
        found.append("connected")
    except OSError:
        pass
    found += [f"saw {{pid}}" for pid in os.listdir("/proc") if pid.isdigit() and int(pid) > 20]
    pathlib.Path.home().joinpath("mine").write_text("")
    print(f"uid {{os.getuid()}} found {{found}}")
    sys.exit("--fail" in sys.argv)
"""


@pytest.mark.parametrize("user", ["", "nobody"])
def test_an_engine_that_is_tried_sees_and_reaches_nothing_of_the_host(
    user: str, anywhere: Wanted, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_INDEX_URL", "https://me:s3cret@index.example.org/simple")
    os.chmod(Path(anywhere.install_dir).parent, 0o755)  # as on a host, where others reach a release
    Path(anywhere.install_dir).mkdir(mode=0o755)
    secrets = [Path(anywhere.install_dir, ".env"), tmp_path / "key.pem", Path("/etc/hostname")]
    for secret in secrets[:2]:
        secret.write_text("s3cret")
        secret.chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as forge:
        text = PRYING.format(places=[str(path) for path in secrets], port=forge.getsockname()[1])
        source.write("src/engine/__init__.py", text)
        sha = source.commit("prying")
        source.write("src/engine/__init__.py", ENGINE)
        # Whose Python it is, an unprivileged user must be able to start.
        python = anywhere.python if not user else "/usr/bin/python3"
        smoke = [".venv/bin/engine", "--fail"] if not user else ["/usr/bin/python3", "-c", f"{text}main()", "--fail"]
        with pytest.raises(LoopError, match=rf"uid {os.getuid() if not user else 65534} found \[\]"):
            releases.present(dataclasses.replace(anywhere, user=user, python=python, smoke=smoke), sha)
        forge.settimeout(0)
        with pytest.raises(BlockingIOError):
            forge.accept()
    assert [secret.read_text() for secret in secrets[:2]] == ["s3cret"] * 2 and now_active(anywhere) == ""


def test_the_smoke_command_that_is_not_there(wanted: Wanted, shas: list[str]) -> None:
    with pytest.raises(LoopError, match="`nowhere` ended with 1: bwrap: execvp nowhere: No such file"):
        releases.present(dataclasses.replace(wanted, smoke=["nowhere"]), shas[0])
