# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases of a tiny but real Python project, fetched by git, locked and installed by uv, killed and broken."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import processes
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import releases
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.releases import Settings

UV = str(Path(sys.executable).parent / "uv")
PYTHON = os.path.realpath(sys.executable)
REFERENCE = Path(__file__).resolve().parents[4] / "world/reference_engine"

# A build backend in the tree itself: an editable install that needs no network.
BACKEND = """
import os, zipfile
NAME, INFO = "engine-1.0-py3-none-any.whl", "engine-1.0.dist-info/"
FILES = {
    "engine.pth": os.path.join(os.getcwd(), "src"),
    INFO + "METADATA": "Metadata-Version: 2.1\\nName: engine\\nVersion: 1.0\\n",
    INFO + "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    INFO + "entry_points.txt": "[console_scripts]\\nengine = engine:main\\n",
}
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(wheel_directory, NAME), "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
        wheel.writestr(INFO + "RECORD", "".join(f"{name},,\\n" for name in [*FILES, INFO + "RECORD"]))
    return NAME
build_wheel = build_editable
"""
PROJECT = """
[project]
name = "engine"
version = "1.0"
requires-python = ">=3.11"
[project.scripts]
engine = "engine:main"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
ENGINE = """
import pathlib
def main():
    print((pathlib.Path(__file__).resolve().parents[2] / "skills" / "one.md").read_text())
"""


def sh(directory: Path, *command: str) -> str:
    identity = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for who in ("AUTHOR", "COMMITTER"):
        identity |= {f"GIT_{who}_NAME": "Someone", f"GIT_{who}_EMAIL": "someone@example.org"}
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, **identity}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class Source:
    """The engine's repository, with a commit per release."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "src/engine").mkdir(parents=True)
        (path / "skills").mkdir()
        self.write("backend.py", BACKEND)
        self.write("pyproject.toml", PROJECT)
        self.write("src/engine/__init__.py", ENGINE)
        self.write(".gitattributes", "skills export-ignore\n")
        sh(path, "git", "init", "-q", "-b", "main")
        sh(path, UV, "lock", "-q", "--offline", "--python", PYTHON)

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def commit(self, text: str, **files: str) -> str:
        self.write("skills/one.md", text)
        for name, content in files.items():
            self.write(name.replace("__", "."), content)
        sh(self.path, "git", "add", "-A")
        sh(self.path, "git", "commit", "-q", "--allow-empty", "-m", text)
        return sh(self.path, "git", "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(tmp_path_factory.mktemp("source") / "engine")


@pytest.fixture(scope="module")
def shas(source: Source) -> list[str]:
    return [source.commit(f"release {number}") for number in range(4)]


@contextlib.contextmanager
def memory() -> Iterator[Path]:
    """A directory in memory: a build waits for its disk, which the machine may be busy with."""
    shared = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as path:
        yield Path(path)


@pytest.fixture
def settings(source: Source, shas: list[str]) -> Iterator[Settings]:
    with memory() as path:
        yield Settings(
            install_dir=str(path / "opt"), repo=str(source.path), python=PYTHON, uv=UV, smoke=[".venv/bin/engine"]
        )


@pytest.fixture
def anywhere(settings: Settings) -> Settings:
    """The same, for commits on branches of their own."""
    return dataclasses.replace(settings, branches=["*"])


@pytest.fixture(scope="module")
def installed(source: Source, shas: list[str]) -> Iterator[Settings]:
    """A host with release 0, for tests that must leave it as it is."""
    with memory() as path:
        settings = Settings(
            install_dir=str(path / "opt"), repo=str(source.path), python=PYTHON, uv=UV, smoke=[".venv/bin/engine"]
        )
        releases.present(settings, shas[0])
        yield settings


def now_active(settings: Settings) -> str:
    found = releases.active(settings.install_dir)
    return found["sha"] if found else ""


def says(settings: Settings) -> str:
    return sh(Path("/"), f"{settings.install_dir}/current/.venv/bin/engine")


def mine(settings: Settings) -> set[str]:
    return set(os.listdir(f"{settings.install_dir}/releases"))


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("main", "can move"),
        ("v1.2.3", "can move"),
        ("abc1234", "7 of the 40"),
        ("A" * 40, "upper-case letters; write aaaa"),
        ("a" * 40 + "\n", "line break"),
        (" " + "a" * 40, "white space"),
        ("a" * 41, "41 characters"),
        ("a" * 39, "39 of the 40"),
        ("g" * 40, "can move"),
        ("", "empty"),
        ("٣" * 40, "can move"),
    ],
)
def test_only_full_commit_ids_are_versions(settings: Settings, version: str, reason: str) -> None:
    with pytest.raises(LoopError, match=reason):
        releases.present(settings, version)
    assert not os.path.exists(settings.install_dir)


def test_a_release_is_built_activated_recorded_and_then_left_alone(settings: Settings, shas: list[str]) -> None:
    foretold = releases.present(settings, shas[0], check=True)
    assert not os.path.exists(settings.install_dir)
    assert foretold["changed"] and foretold["built"] and foretold["activated"]
    done = releases.present(settings, shas[0])
    assert {key: done[key] for key in ("changed", "built", "activated", "pruned", "previous")} == {
        "changed": True, "built": True, "activated": True, "pruned": [], "previous": None,
    }  # fmt: skip
    release = done["release"]
    assert release["sha"] == shas[0] and release["branch"] == "main" and release["source"] == settings.repo
    assert len(release["lock_digest"]) == 64 and release["uv"].startswith("uv ") and release["python"].startswith("3.")
    assert os.readlink(f"{settings.install_dir}/current") == f"releases/{shas[0]}"
    assert says(settings) == "release 0"  # its data beside its sources, export-ignore or not
    again = releases.present(settings, shas[0])
    assert not again["changed"] and not again["built"] and again["previous"]["sha"] == shas[0]
    assert not releases.present(settings, shas[0], check=True)["changed"]


def test_nothing_in_a_release_can_be_written(settings: Settings, shas: list[str]) -> None:
    path = Path(releases.present(settings, shas[0])["release"]["path"])
    writable = [
        str(entry) for entry in [path, *path.rglob("*")] if not entry.is_symlink() and entry.stat().st_mode & 0o222
    ]
    assert writable == []
    assert list(path.glob("src/engine/__pycache__/*.pyc"))


def test_a_bump_keeps_what_is_there_and_prunes_the_rest(settings: Settings, shas: list[str]) -> None:
    settings = dataclasses.replace(settings, keep=2)
    for sha in shas[:2]:
        releases.present(settings, sha)
    assert releases.present(settings, shas[2], check=True)["pruned"] == [shas[0]]
    assert releases.present(settings, shas[2])["pruned"] == [shas[0]]
    assert releases.releases(settings.install_dir) == sorted(shas[1:3])


def test_pruning_spares_active_previous_and_last_proven(settings: Settings, shas: list[str]) -> None:
    settings = dataclasses.replace(settings, keep=1)
    releases.present(settings, shas[0])
    releases.mark(settings.install_dir, shas[0], "proven")
    for sha in shas[1:4]:
        releases.present(settings, sha)
    assert releases.releases(settings.install_dir) == sorted([shas[0], shas[2], shas[3]])


def test_two_bad_releases_in_a_row_go_back_to_the_good_one(settings: Settings, shas: list[str]) -> None:
    good, bad, worse = shas[:3]
    releases.present(settings, good)
    releases.mark(settings.install_dir, good, "proven")
    for sha in (bad, worse):
        releases.present(settings, sha)
        releases.mark(settings.install_dir, sha, "failed", "canary")
    assert releases.previous(settings, check=True)["release"]["sha"] == good
    assert now_active(settings) == worse
    done = releases.previous(settings)
    assert done["activated"] and done["release"]["sha"] == good and says(settings) == "release 0"
    assert not releases.previous(settings)["changed"]
    assert now_active(settings) == good


def test_going_back_never_reaches_what_was_not_judged(settings: Settings, shas: list[str]) -> None:
    for sha in shas[:2]:
        releases.present(settings, sha)
    with pytest.raises(LoopError, match=rf"no proven release.*{shas[0]} .not judged"):
        releases.previous(settings)
    assert now_active(settings) == shas[1]


def test_what_was_gone_back_from_counts_again_when_it_is_asked_for(settings: Settings, shas: list[str]) -> None:
    first, second, third = shas[:3]
    for sha in (first, second):
        releases.present(settings, sha)
        releases.mark(settings.install_dir, sha, "proven")
    releases.previous(settings)
    releases.present(settings, third)
    assert releases.last_proven(settings.install_dir) == first
    releases.present(settings, second)
    releases.present(settings, third)
    assert releases.last_proven(settings.install_dir) == second


def test_a_going_back_that_failed_goes_back_further(settings: Settings, shas: list[str]) -> None:
    for sha in shas[:3]:
        releases.present(settings, sha)
        releases.mark(settings.install_dir, sha, "proven")
    releases.previous(settings)
    releases.mark(settings.install_dir, shas[1], "failed")
    assert releases.previous(settings)["release"]["sha"] == shas[0]


def test_a_wrong_mark_is_refused(settings: Settings, shas: list[str]) -> None:
    with pytest.raises(LoopError, match="proven, failed"):
        releases.mark(settings.install_dir, shas[0], "fine")


# --- builds that fail ---------------------------------------------------------------------


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
        ({"python": "/nowhere/python3"}, "could not be built: `.*uv"),
        ({"uv": "/nowhere/uv"}, "/nowhere/uv cannot be started"),
        ({"lock_sha256": "0" * 64}, "not 0000"),
        ({"repo": "/nowhere/engine.git"}, "/nowhere/engine.git cannot be fetched"),
        ({"repo": "http://127.0.0.1:9/engine.git"}, "cannot be fetched"),
        ({"branches": ["release"]}, "not on release"),
    ],
)
def test_a_build_that_fails_leaves_what_was_active(
    installed: Settings, shas: list[str], broken: dict[str, object], reason: str
) -> None:
    with pytest.raises(LoopError, match=reason) as failure:
        releases.present(dataclasses.replace(installed, **broken), shas[1])  # type: ignore[arg-type]
    assert "what was active stays active" in str(failure.value) and "\n" not in str(failure.value)
    assert mine(installed) == {shas[0]} and says(installed) == "release 0"


@pytest.mark.parametrize("digest", ["0" * 63, "A" * 64, "sha256:" + "0" * 64])
def test_a_pinned_lock_is_a_digest(installed: Settings, shas: list[str], digest: str) -> None:
    with pytest.raises(LoopError, match="is no SHA-256: 64 lower-case"):
        releases.present(dataclasses.replace(installed, lock_sha256=digest), shas[1])


def test_a_commit_that_is_not_there(settings: Settings) -> None:
    with pytest.raises(LoopError, match=r"has no commit 0000.*was it pushed"):
        releases.present(settings, "0" * 40)
    assert mine(settings) == set() and releases.active(settings.install_dir) is None


def test_a_commit_must_be_on_the_default_branch_unless_told(
    settings: Settings, source: Source, shas: list[str]
) -> None:
    sh(source.path, "git", "checkout", "-q", "-b", "feature/one")
    sha = source.commit("not merged")
    sh(source.path, "git", "checkout", "-q", "main")
    with pytest.raises(LoopError, match=rf"commit {sha} is not on main of .*only on feature/one: merge it"):
        releases.present(settings, sha)
    assert mine(settings) == set()
    with pytest.raises(LoopError, match=r"is not on release/\* or main of"):
        releases.present(dataclasses.replace(settings, branches=["release/*", "main"]), sha)
    done = releases.present(dataclasses.replace(settings, branches=["feature/*"]), sha)
    assert done["activated"] and done["release"]["branch"] == "feature/one"
    # Back to the default: what is active came from elsewhere, and is not vouched for any more.
    with pytest.raises(LoopError, match="is not on main"):
        releases.present(settings, sha)
    assert says(settings) == "not merged"


def test_a_commit_on_no_branch_is_refused(settings: Settings, source: Source, shas: list[str]) -> None:
    # Only reachable by a tag: what GitHub serves of forks and pull requests is like that.
    orphan = sh(source.path, "git", "commit-tree", "-m", "orphan", f"{shas[0]}^{{tree}}")
    sh(source.path, "git", "tag", "-f", "orphan", orphan)
    with pytest.raises(LoopError, match="has no commit"):
        releases.present(settings, orphan)
    sh(source.path, "git", "tag", "-d", "orphan")


def test_a_lock_that_does_not_match_is_refused(anywhere: Settings, source: Source, shas: list[str]) -> None:
    changed = PROJECT.replace('requires-python = ">=3.11"', 'requires-python = ">=3.11"\ndependencies = ["engine-x"]')
    sh(source.path, "git", "checkout", "-q", "-b", "mismatch")
    sha = source.commit("mismatch", pyproject__toml=changed)
    sh(source.path, "git", "checkout", "-q", "main")
    with pytest.raises(LoopError, match="lock --check"):
        releases.present(anywhere, sha)
    assert mine(anywhere) == set()


def test_other_demands_on_a_built_release_are_judged_again(settings: Settings, source: Source, shas: list[str]) -> None:
    releases.present(settings, shas[0])
    with pytest.raises(LoopError, match="not on release"):
        releases.present(dataclasses.replace(settings, branches=["release"]), shas[0])
    with pytest.raises(LoopError, match="SHA-256"):
        releases.present(dataclasses.replace(settings, lock_sha256="0" * 64), shas[0])
    assert releases.present(dataclasses.replace(settings, branches=["main"]), shas[0])["changed"]
    assert not releases.present(dataclasses.replace(settings, branches=["main"]), shas[0])["changed"]


def test_a_signature_can_be_demanded(anywhere: Settings, source: Source, shas: list[str], tmp_path: Path) -> None:
    for name in ("key", "other"):
        sh(tmp_path, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name)
    sh(source.path, "git", "checkout", "-q", "-b", "signed")
    ssh = ["-c", "gpg.format=ssh", "-c", f"user.signingKey={tmp_path}/key"]
    sh(source.path, "git", *ssh, "commit", "-q", "--allow-empty", "-S", "-m", "signed")
    sha = sh(source.path, "git", "rev-parse", "HEAD")
    sh(source.path, "git", "checkout", "-q", "main")
    signers, others = tmp_path / "signers", tmp_path / "others"
    signers.write_text(f"someone@example.org {(tmp_path / 'key.pub').read_text()}")
    others.write_text(f"someone@example.org {(tmp_path / 'other.pub').read_text()}")
    for wrong in (others, signers):
        with pytest.raises(LoopError, match="is not signed by anyone in"):
            demanded = dataclasses.replace(anywhere, allowed_signers=str(wrong))
            releases.present(demanded, sha if wrong == others else shas[0])
    demanded = dataclasses.replace(anywhere, allowed_signers=str(signers))
    assert releases.present(demanded, sha)["activated"] and not releases.present(demanded, sha)["changed"]
    # Another key in the same file is another demand.
    signers.write_text(others.read_text())
    with pytest.raises(LoopError, match="is not signed by anyone in"):
        releases.present(demanded, sha)
    signers.chmod(0o666)
    with pytest.raises(LoopError, match="others than root can write it"):
        releases.present(demanded, sha)
    signers.unlink()
    with pytest.raises(LoopError, match="is missing on this host"):
        releases.present(demanded, sha)


def test_an_openpgp_signature_can_be_demanded(
    anywhere: Settings, source: Source, shas: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory() as home:  # a short path: the agent's socket is in it
        home.chmod(0o700)
        monkeypatch.setenv("GNUPGHOME", str(home))
        rings = [tmp_path / f"{name}.asc" for name in ("one", "other")]
        for ring in rings:
            mail = f"{ring.stem}@example.org"
            generate = ["--passphrase", "", "--quick-generate-key", mail, "ed25519", "default", "never"]
            sh(tmp_path, "gpg", "--batch", "--quiet", *generate)
            ring.write_text(sh(tmp_path, "gpg", "--export", "--armor", mail))
        sh(source.path, "git", "checkout", "-q", "-b", "openpgp")
        sh(
            source.path,
            "git",
            "-c",
            "user.signingKey=one@example.org",
            "commit",
            "-q",
            "--allow-empty",
            "-S",
            "-m",
            "one",
        )
        sha = sh(source.path, "git", "rev-parse", "HEAD")
        sh(source.path, "git", "checkout", "-q", "main")
        sh(tmp_path, "gpgconf", "--kill", "all")
    for ring, version in ((rings[1], sha), (rings[0], shas[0])):
        with pytest.raises(LoopError, match="is not signed by anyone in"):
            releases.present(dataclasses.replace(anywhere, keyring=str(ring)), version)
    assert releases.present(dataclasses.replace(anywhere, keyring=str(rings[0])), sha)["activated"]
    rings[0].write_text("no keys")
    with pytest.raises(LoopError, match=r"cannot be read: .*no valid OpenPGP data"):
        releases.present(dataclasses.replace(anywhere, keyring=str(rings[0])), sha)


def test_passwords_in_urls_and_odd_sources_are_refused(settings: Settings, shas: list[str]) -> None:
    for repo in ("https://user:secret@example.org/x.git", "ext::sh -c true", "--upload-pack=x", ""):
        with pytest.raises(LoopError) as failure:
            releases.present(dataclasses.replace(settings, repo=repo), shas[0])
        assert "secret" not in str(failure.value)


def test_a_bundle_is_a_source(settings: Settings, source: Source, shas: list[str], tmp_path: Path) -> None:
    sh(source.path, "git", "bundle", "create", "-q", str(tmp_path / "engine.bundle"), "HEAD", "main")
    releases.present(dataclasses.replace(settings, repo=str(tmp_path / "engine.bundle")), shas[1])
    assert says(settings) == "release 1"
    sh(source.path, "git", "bundle", "create", "-q", str(tmp_path / "headless.bundle"), "main")
    headless = dataclasses.replace(settings, repo=str(tmp_path / "headless.bundle"))
    with pytest.raises(LoopError, match="does not say which branch is its default one"):
        releases.present(headless, shas[2])
    assert releases.present(dataclasses.replace(headless, branches=["main"]), shas[2])["activated"]


def test_without_a_lock_pip_installs(anywhere: Settings, source: Source) -> None:
    sh(source.path, "git", "checkout", "-q", "-b", "unlocked")
    sh(source.path, "git", "rm", "-q", "uv.lock")
    sha = source.commit("unlocked")
    sh(source.path, "git", "checkout", "-q", "main")
    done = releases.present(anywhere, sha)
    assert done["release"]["lock_digest"] == "" and says(anywhere) == "unlocked"


def test_a_full_disk(settings: Settings, shas: list[str], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    sh(tmp_path, "mount", "-t", "tmpfs", "-o", "size=3m", "none", str(small))
    try:
        settings = dataclasses.replace(settings, install_dir=str(small / "opt"), smoke=["true"])
        fill = ["sh", "-c", f"{UV} venv -q .venv && cat /dev/zero > .venv/full"]
        venv = ["sh", "-c", f"{UV} sync -q --frozen"]
        releases.present(dataclasses.replace(settings, sync=venv), shas[0])
        with pytest.raises(LoopError, match="No space left on device"):
            releases.present(dataclasses.replace(settings, sync=fill), shas[1])
        assert mine(settings) == {shas[0]} and says(settings) == "release 0"
        releases.present(dataclasses.replace(settings, sync=venv), shas[1])
    finally:
        sh(tmp_path, "umount", str(small))


# --- killed -------------------------------------------------------------------------------

KILLED = """
import sys, json
sys.path[:0] = json.loads(sys.argv[1])
from ansible_collections.as215932.engineering_loop.plugins.module_utils import alive, releases
releases.present(releases.Settings(**json.loads(sys.argv[2])), sys.argv[3])
"""


def started(settings: Settings, sha: str, **changed: object) -> subprocess.Popen[bytes]:
    given = json.dumps({**dataclasses.asdict(settings), **changed})
    return subprocess.Popen([sys.executable, "-c", KILLED, json.dumps(sys.path), given, sha], stderr=subprocess.PIPE)


def test_a_build_that_was_killed_is_no_release_and_its_tools_end_with_it(settings: Settings, shas: list[str]) -> None:
    releases.present(settings, shas[0])
    slow = ["sh", "-c", "echo $$ > pid; exec sleep 60"]
    process = started(settings, shas[1], sync=slow)
    pid_file = Path(settings.install_dir, "releases", shas[1], "pid")
    wait_for(lambda: pid_file.exists() and pid_file.read_text().strip())
    with pytest.raises(LoopError, match="another run is working"):
        releases.present(settings, shas[1])
    process.kill()
    process.communicate()
    wait_for(lambda: not os.path.exists(f"/proc/{pid_file.read_text().strip()}/exe"))
    assert releases.record(settings.install_dir, shas[1]) is None and says(settings) == "release 0"
    assert not releases.present(settings, shas[0])["built"]
    assert mine(settings) == {shas[0]}
    assert releases.present(settings, shas[1])["built"] and says(settings) == "release 1"


@pytest.mark.parametrize("moment", [0.2, 0.35, 0.5, 0.65, 0.9])
def test_killed_at_any_moment_the_next_run_converges(settings: Settings, shas: list[str], moment: float) -> None:
    releases.present(settings, shas[0])
    process = started(settings, shas[1])
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert says(settings) in ("release 0", "release 1")
    releases.present(settings, shas[1])
    assert says(settings) == "release 1" and mine(settings) == set(shas[:2])
    assert releases.damage(settings.install_dir, shas[1]) == []
    assert not [name for name in os.listdir(settings.install_dir) if name.startswith((".trash", ".current"))]


def test_killed_between_what_is_remembered_and_the_switch_it_goes_back_once(
    settings: Settings, shas: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for sha in shas[:2]:
        releases.present(settings, sha)
        releases.mark(settings.install_dir, sha, "proven")
    releases.present(settings, shas[2])
    with monkeypatch.context() as patched:
        patched.setattr(releases, "_switch", lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL))
        child = os.fork()
        if not child:
            releases.previous(settings)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert now_active(settings) == shas[2]
    assert releases.previous(settings)["release"]["sha"] == shas[1]
    assert not releases.previous(settings)["changed"] and now_active(settings) == shas[1]


def test_what_a_killed_writer_left_in_a_release_is_not_taken_for_a_change_by_hand(
    settings: Settings, shas: list[str]
) -> None:
    path = Path(releases.present(settings, shas[0])["release"]["path"])
    path.chmod(0o755)
    (path / f".{releases.RECORD}.new").write_text("{")
    Path(settings.install_dir, ".current.new").symlink_to("releases/nothing")
    assert releases.present(settings, shas[0])["built"] is False
    assert releases.damage(settings.install_dir, shas[0]) == []
    assert not os.path.lexists(f"{settings.install_dir}/.current.new")


def test_a_broken_mirror_is_made_again(settings: Settings, shas: list[str]) -> None:
    releases.present(settings, shas[0])
    mirror = Path(settings.install_dir, "mirror.git")
    for entry in (mirror / "objects").rglob("*"):
        if entry.is_file():
            entry.unlink()
    (mirror / "packed-refs.lock").write_text("")
    assert releases.present(settings, shas[1])["built"]


# --- tampered with ------------------------------------------------------------------------


def edit(settings: Settings, sha: str) -> Path:
    path = Path(settings.install_dir, "releases", sha, "skills/one.md")
    path.chmod(0o644)
    path.write_text("hot fix")
    return path


def test_a_change_by_hand_is_noticed_put_aside_and_built_again(settings: Settings, shas: list[str]) -> None:
    releases.present(settings, shas[0])
    edit(settings, shas[0])
    assert releases.damage(settings.install_dir, shas[0]) == ["skills/one.md"]
    assert releases.present(settings, shas[0], check=True)["built"]
    done = releases.present(settings, shas[0])
    assert done["built"] and done["damaged"] == ["skills/one.md"] and done["changed"] and not done["activated"]
    assert says(settings) == "release 0"
    aside = [name for name in mine(settings) if name.startswith(".damaged-")]
    assert Path(settings.install_dir, "releases", aside[0], "skills/one.md").read_text() == "hot fix"


def test_a_rebuild_that_fails_or_is_killed_gives_back_what_was_active(settings: Settings, shas: list[str]) -> None:
    releases.present(settings, shas[0])
    edit(settings, shas[0])
    with pytest.raises(LoopError, match="stays active"):
        releases.present(dataclasses.replace(settings, sync=["false"]), shas[0])
    assert says(settings) == "hot fix"
    process = started(settings, shas[0], sync=["sh", "-c", "touch ready; sleep 60"])
    wait_for(Path(settings.install_dir, "releases", shas[0], "ready").exists)
    process.kill()
    process.communicate()
    releases.present(settings, shas[1])
    assert says(settings) == "release 1"
    assert Path(settings.install_dir, "releases", shas[0], "skills/one.md").read_text() == "hot fix"


@pytest.mark.parametrize("harm", ["added", "gone", "mode", "link", "record", "directory", "owner", "top", "python"])
def test_every_kind_of_change_is_seen(settings: Settings, shas: list[str], harm: str) -> None:
    path = Path(releases.present(settings, shas[0])["release"]["path"])
    if harm == "added":
        (path / "sitecustomize.py").write_text("")
    elif harm == "gone":
        (path / "skills/one.md").unlink()
    elif harm == "mode":
        (path / "skills/one.md").chmod(0o666)
    elif harm == "link":
        (path / "skills/two.md").symlink_to("/etc/passwd")
    elif harm == "directory":
        (path / "skills").chmod(0o777)
    elif harm == "owner":
        os.chown(path / "skills/one.md", 65534, -1)
    elif harm == "top":
        path.chmod(0o777)
    elif harm == "python":
        known = json.loads((path / releases.RECORD).read_text())
        (path / releases.RECORD).chmod(0o644)
        (path / releases.RECORD).write_text(json.dumps({**known, "interpreter": "/usr/bin/python3.9"}))
    else:
        (path / releases.MANIFEST).unlink()
    assert len(releases.damage(str(path.parents[1]), shas[0])) == 1


# --- the policy that would judge it -------------------------------------------------------


def test_a_refused_policy_is_found_before_the_switch(anywhere: Settings, source: Source, shas: list[str]) -> None:
    settings = anywhere
    releases.present(settings, shas[0])
    sh(source.path, "git", "checkout", "-q", "-b", "policed")
    shipped = (REFERENCE / "engineering-loop-policy.yml").read_text()
    bare = sh(source.path, "git", "rev-parse", "HEAD")
    sha = source.commit("policed", **{"engineering-loop-policy__yml": shipped})
    sh(source.path, "git", "checkout", "-q", "main")
    name = "engineering-loop-policy.yml"
    wide = dataclasses.replace(settings, policy={"base": name, "overlay": {"defaults": {"max_changed_files": 40}}})
    for check in (False, True):
        with pytest.raises(LoopError, match=rf"{sha} is built but not active.*max_changed_files"):
            releases.present(wide, sha, check=check)
    assert says(settings) == "release 0" and releases.record(settings.install_dir, sha)
    assert releases.ledger(settings.install_dir)["history"][-1]["sha"] == shas[0]
    with pytest.raises(LoopError, match=f"{bare} is built but not active.*there is no policy at"):
        releases.present(dataclasses.replace(settings, policy={"base": name}), bare)
    done = releases.present(dataclasses.replace(settings, policy={"base": name, "handoff_dirs": ["/srv/runs"]}), sha)
    assert done["activated"] and not done["built"] and says(settings) == "policed"


# --- a cycle in progress, older layouts, removal ------------------------------------------


@pytest.fixture
def cycle(tmp_path: Path) -> Iterator[Path]:
    process = subprocess.Popen(["sleep", "60"])
    lock = tmp_path / "daemon.lock"
    lock.write_text(json.dumps({"pid": process.pid, "started_at": time.time()}))
    yield lock
    process.kill()
    process.wait()


def test_nothing_is_switched_under_a_cycle(settings: Settings, shas: list[str], cycle: Path) -> None:
    releases.present(settings, shas[0])
    running = dataclasses.replace(settings, run_lock=str(cycle))
    with pytest.raises(LoopError, match=f"a cycle is in progress.*{shas[1]} is built but not active"):
        releases.present(running, shas[1])
    assert says(settings) == "release 0" and releases.record(settings.install_dir, shas[1])
    with pytest.raises(LoopError, match="nothing was removed"):
        releases.absent(running)
    timer = threading.Timer(0.5, cycle.unlink)
    timer.start()
    done = releases.present(dataclasses.replace(running, wait=20), shas[1])
    assert done["activated"] and not done["built"]


@pytest.mark.parametrize(
    "content", ['{"pid": 99999999, "started_at": 0}', '{"pid": "x"}', "[]", "nonsense", '{"pid": 1, "started_at": 1.0}']
)
def test_a_lock_of_nobody_stops_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "daemon.lock").write_text(content)
    assert processes.cycle_in_progress(str(tmp_path / "daemon.lock"), "") == ""


@pytest.mark.parametrize("days", [-400, 0, 400])
def test_a_clock_that_was_set_meanwhile_hides_no_cycle(tmp_path: Path, days: int) -> None:
    engine = tmp_path / "hyrule-engineering-loop"
    engine.write_text("import time\ntime.sleep(60)\n")
    process = subprocess.Popen([sys.executable, str(engine), "daemon", "--once"])
    lock = tmp_path / "daemon.lock"
    lock.write_text(json.dumps({"pid": process.pid, "started_at": time.time() + days * 86400}))
    assert str(process.pid) in processes.cycle_in_progress(str(lock), "")
    process.kill()
    process.wait()
    assert processes.cycle_in_progress(str(lock), "") == ""


def test_what_else_is_in_the_directory_is_left_alone(settings: Settings, shas: list[str]) -> None:
    install_dir = Path(settings.install_dir)
    (install_dir / ".venv").mkdir(parents=True)
    (install_dir / ".env").write_text("SECRET=1")
    os.chown(install_dir, 65534, 65534)
    os.chown(install_dir / ".env", 65534, 65534)
    releases.present(settings, shas[0])
    assert install_dir.stat().st_uid == 0 and (install_dir / ".env").stat().st_uid == 65534
    assert releases.absent(settings, check=True)["changed"] and releases.active(settings.install_dir)
    assert releases.absent(settings)["pruned"] == [shas[0]]
    assert sorted(os.listdir(install_dir)) == [".env", ".venv"]
    assert not releases.absent(settings)["changed"]
    shutil.rmtree(install_dir)
    assert not releases.absent(settings)["changed"]


def test_what_is_not_ours_is_never_replaced(settings: Settings, shas: list[str]) -> None:
    current = Path(settings.install_dir, "current")
    current.mkdir(parents=True)
    with pytest.raises(LoopError, match="not ours"):
        releases.present(settings, shas[0])
    assert current.is_dir()
    current.rmdir()
    Path(settings.install_dir, "releases").rename(f"{settings.install_dir}/elsewhere")
    Path(settings.install_dir, "releases").symlink_to("elsewhere")
    with pytest.raises(LoopError, match="is not a directory"):
        releases.present(settings, shas[0])


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
    user: str, anywhere: Settings, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        smoke = [".venv/bin/engine", "--fail"] if not user else ["/usr/bin/python3", "-c", f"{text}main()", "--fail"]
        with pytest.raises(LoopError, match=rf"uid {os.getuid() if not user else 65534} found \[\]"):
            releases.present(dataclasses.replace(anywhere, user=user, smoke=smoke), sha)
        forge.settimeout(0)
        with pytest.raises(BlockingIOError):
            forge.accept()
    assert [secret.read_text() for secret in secrets[:2]] == ["s3cret"] * 2 and now_active(anywhere) == ""


def test_the_smoke_command_that_is_not_there(settings: Settings, shas: list[str]) -> None:
    with pytest.raises(LoopError, match="`nowhere` ended with 1: bwrap: execvp nowhere: No such file"):
        releases.present(dataclasses.replace(settings, smoke=["nowhere"]), shas[0])


def wait_for(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
