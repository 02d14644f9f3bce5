# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engine releases: built side by side, switched by renaming one link, never half of one and half of another.

``INSTALL_DIR/releases/<sha>`` holds one build each, ``current`` points to the active one and
``releases.json`` remembers what was activated when, and what was proven. A build happens at its
final path, because virtual environments hold absolute paths; what makes it a release is the
record ``.release.json``, written last. A directory without one is the rest of a killed build.
"""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import getpass
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.clock import utc_now
from ..base.errors import LoopError, certificate, without_passwords
from ..base.files import flocked, read_bytes, sha256, sync_directory, write_atomic
from ..base.untrusted import show
from ..git.command import credentials, git, rows, told_branch, told_refs
from ..git.remotes import check_engine
from ..host.bubblewrap import BWRAP
from ..host.processes import cycle_in_progress, wait_until_idle
from ..host.users import account, end_with_parent

Json = dict[str, Any]

RECORD = ".release.json"
MANIFEST = ".release.files"
LEDGER = "releases.json"
OURS = (
    "current",
    "releases",
    "agents",
    "mirror.git",
    "cache",
    LEDGER,
    "proven",
    "rollout.json",
)  # the last two are the rollout's
HISTORY = 200  # activations remembered
VERDICTS = ("proven", "failed")
SMOKE = (".venv/bin/hyrule-engineering-loop", "daemon", "--help")
NETWORK_SECONDS = 600.0
# What a build may see of the caller's environment: indexes, certificates and proxies, no secrets of the loop, and
# nothing that leads an installation elsewhere.
PASSED_ON = re.compile(
    r"(UV|PIP)_(\w*INDEX\w*|FIND_LINKS|\w+_HOST|\w*CERTS?|NATIVE_TLS|KEYRING_PROVIDER|PROXY|CONFIG_FILE|OFFLINE"
    r"|\w*TIMEOUT|\w*RETRIES|CONCURRENT_\w+)"
    r"|SSL_CERT_\w+|(http|https|no|all)_proxy|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|HOME|TMPDIR",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Settings:
    """What an operator asks for; the options of the module ``engine_release``."""

    install_dir: str
    repo: str = ""
    branches: Sequence[str] = ()  # patterns; none: the repository's default branch
    keep: int = 3
    python: str = "/usr/bin/python3"
    uv: str = "uv"
    sync: Sequence[str] = ()
    wheels: str = ""
    smoke: Sequence[str] = SMOKE
    user: str = ""  # whom the smoke command runs as; empty: whoever runs this
    policy: Mapping[str, Any] | None = None  # what gate_policy is asked for once the release is active
    lock_sha256: str = ""
    allowed_signers: str = ""
    keyring: str = ""
    run_lock: str = ""
    unit: str = ""
    wait: float = 0.0
    timeout: float = 1800.0
    askpass: str = ""
    token: str = field(default="", repr=False)
    git_url: str = ""  # the forge that the token is for; empty where it is the repository's own
    before_switch: Callable[[], None] | None = None  # called once another release is about to become active


# --- what is there ------------------------------------------------------------------------


def check_version(version: str) -> str:
    """``version`` if it is a full commit id; LoopError with what it is instead."""
    if re.fullmatch(r"[0-9a-f]{40}", version):
        return version
    shown = repr(version if len(version) <= 60 else version[:57] + "...")
    if version != version.strip():
        reason = "it has white space or a line break around it"
    elif re.fullmatch(r"[0-9a-fA-F]{40}", version):
        reason = f"it has upper-case letters; write {version.lower()}"
    elif re.fullmatch(r"[0-9a-fA-F]+", version) and 4 <= len(version) < 40:
        reason = f"it has {len(version)} of the 40 characters, and a short one can become ambiguous"
    elif re.fullmatch(r"[0-9a-fA-F]+", version) and len(version) > 40:
        reason = f"it has {len(version)} characters instead of 40"
    elif not version:
        reason = "it is empty"
    else:
        reason = "a branch or tag can move to other code at any time; write the commit that it points to"
    raise LoopError(f"version {shown} is not a full commit id (40 lower-case hexadecimal digits): {reason}")


def active(install_dir: str) -> Json | None:
    """The record of the release that ``current`` leads to, with its ``path``; None where there is none."""
    try:
        target = os.readlink(os.path.join(install_dir, "current"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoopError(f"{install_dir}/current is not a symbolic link: move it away, it is not ours") from error
    directory, sha = os.path.split(target)
    if os.path.join(install_dir, directory) != os.path.join(install_dir, "releases"):
        raise LoopError(f"{install_dir}/current leads to {target}, not to a release: remove it, it is not ours")
    return record(install_dir, sha)


def record(install_dir: str, sha: str) -> Json | None:
    """What was recorded of a complete release, with its ``path``; None where it is missing or half built."""
    path = _path(install_dir, sha)
    try:
        content = read_bytes(os.path.join(path, RECORD))
        known = json.loads(content or b"null")
    except (ValueError, LoopError, NotADirectoryError):
        return None
    if not isinstance(known, dict) or known.get("sha") != sha:
        return None
    return {**known, "path": path}


def releases(install_dir: str) -> list[str]:
    """The commits of all complete releases on this host."""
    return [name for name in _names(install_dir) if record(install_dir, name) is not None]


def damage(install_dir: str, sha: str) -> list[str]:
    """The files of a release that are no longer as they were built, were added or are gone."""
    path = _path(install_dir, sha)
    known = record(install_dir, sha)
    listed = read_bytes(os.path.join(path, MANIFEST))
    if known is None or listed is None or sha256(listed) != known.get("files_digest"):
        return [MANIFEST]
    built = _lines(listed.decode("utf-8", "surrogateescape"))
    found = _lines(_manifest(path))
    wrong = [name for name in sorted(built.keys() | found.keys()) if built.get(name) != found.get(name)]
    if not wrong and known.get("interpreter", "") != _interpreter(path):
        return [".venv/bin/python"]  # the host's Python was replaced by another version
    return wrong


def ledger(install_dir: str) -> Json:
    """``{"history": [{sha, at, by, left}], "marks": {sha: {verdict, at, detail}}}``."""
    path = os.path.join(install_dir, LEDGER)
    try:
        known = json.loads(read_bytes(path) or b"{}")
        return {"history": list(known.get("history", [])), "marks": dict(known.get("marks", {}))}
    except (ValueError, AttributeError, TypeError) as error:
        raise LoopError(f"{path} cannot be understood ({error}): move it away to start anew") from error


def mark(install_dir: str, sha: str, verdict: str, detail: str = "") -> None:
    """Remember that a release was ``proven`` or ``failed``: what ``previous`` may go back to."""
    check_version(sha)
    if verdict not in VERDICTS:
        raise LoopError(f"a release is marked as one of {', '.join(VERDICTS)}, not {verdict!r}")
    with flocked(os.path.join(install_dir, ".ledger.lock")):
        known = ledger(install_dir)
        known["marks"][sha] = {"verdict": verdict, "at": utc_now(), "detail": detail}
        _save(install_dir, known)


def last_proven(install_dir: str) -> str | None:
    """The commit that ``previous`` goes back to: proven, on disk, activated most recently, not active.

    One that somebody went back from is passed over until it is asked for by name again.
    """
    known = ledger(install_dir)
    now = active(install_dir)
    withdrawn: set[str] = set()
    for entry in known["history"]:
        withdrawn.discard(entry["sha"])
        if entry["by"] == "previous":
            withdrawn.add(entry["left"])
    for entry in reversed(known["history"]):
        sha = entry["sha"]
        if sha in withdrawn or (now and sha == now["sha"]) or _verdict(known, sha) != "proven":
            continue
        if record(install_dir, sha):
            return str(sha)
    return None


# --- what can be asked for ----------------------------------------------------------------


def present(settings: Settings, version: str, *, check: bool = False) -> Json:
    """Have ``version`` built, proven to start, and active. Returns the module's result."""
    sha = check_version(version)
    check_engine(settings.repo)
    if not re.fullmatch(r"([0-9a-f]{64})?", settings.lock_sha256):
        raise LoopError(
            f"engineering_loop_lock_sha256 {settings.lock_sha256!r} is no SHA-256: 64 lower-case hexadecimal digits"
        )
    if check:
        return _foretell(settings, sha)
    with _alone(settings):
        moved = _recover(settings.install_dir)
        known = record(settings.install_dir, sha)
        damaged = damage(settings.install_dir, sha) if known else []
        built = known is None or bool(damaged)
        stale = known is not None and not built and _provenance(settings) != known.get("provenance")
        if built:
            _build(settings, sha)
        elif stale:
            _vouch_again(settings, sha)
        return _settle(settings, sha, "version", built=built, damaged=damaged, changed=moved or stale)


def previous(settings: Settings, *, check: bool = False) -> Json:
    """Go back to the release that was proven last. Where that was done already, nothing changes."""
    install_dir = settings.install_dir
    with contextlib.ExitStack() as stack:
        if not check:
            stack.enter_context(_alone(settings))
            _recover(install_dir)
        now = active(install_dir)
        known = ledger(install_dir)
        newest = known["history"][-1] if known["history"] else {}
        back_already = now and newest.get("by") == "previous" and newest["sha"] == now["sha"]
        if now and back_already and _verdict(known, now["sha"]) != "failed":
            sha = str(now["sha"])
        else:
            sha = last_proven(install_dir) or ""
        if not sha:
            on_disk = ", ".join(f"{name} ({_verdict(known, name) or 'not judged'})" for name in releases(install_dir))
            raise LoopError(
                f"there is no proven release to go back to in {install_dir}; there are: {on_disk or 'none'};"
                " an apply with engineering_loop_version activates one deliberately"
            )
        if check:
            return _foretell(settings, sha)
        return _again(settings, sha)


def back_to(settings: Settings, sha: str) -> Json:
    """Go back to that very release, which is on this host."""
    with _alone(settings):
        _recover(settings.install_dir)
        return _again(settings, sha)


def _again(settings: Settings, sha: str) -> Json:
    damaged = damage(settings.install_dir, sha)
    if damaged:
        _build(settings, sha)
    return _settle(settings, sha, "previous", built=bool(damaged), damaged=damaged, changed=False)


def absent(settings: Settings, *, check: bool = False) -> Json:
    """Remove every release and what belongs to them; other files in the directory stay."""
    install_dir = settings.install_dir
    now = _active_or_none(install_dir)
    ours = [name for name in OURS if _stands(install_dir, name)]
    result = {**_result(now, None), "pruned": releases(install_dir), "changed": bool(ours)}
    if check or not ours:
        return result
    with _alone(settings):
        _wait_until_idle(settings, "nothing was removed")
        for name in OURS:  # to be alone makes some of them
            _remove(os.path.join(install_dir, name))
    for name in (".releases.lock", ".ledger.lock", ".budget.lock", ".rollout.lock", ".canary.lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(install_dir, name))
    with contextlib.suppress(OSError):
        os.rmdir(install_dir)  # only where nothing else is in it
    return result


def _foretell(settings: Settings, sha: str) -> Json:
    """Check mode: what ``present`` or ``previous`` would do, read from files alone."""
    install_dir = settings.install_dir
    now = _active_or_none(install_dir)
    known = record(install_dir, sha)
    damaged = damage(install_dir, sha) if known else []
    built = known is None or bool(damaged)
    result = _result(now, known or {"sha": sha, "path": _path(install_dir, sha)})
    activated = now is None or now["sha"] != sha
    gone = _prunable(settings, sha, now["sha"] if now and activated else None)
    stale = known is not None and settings.repo != "" and _provenance(settings) != known.get("provenance")
    if activated and not built:
        _check_policy(settings, sha)
    changed = built or activated or stale or bool(gone) or _exposed(install_dir)
    return {**result, "built": built, "activated": activated, "damaged": damaged, "pruned": gone, "changed": changed}


def _settle(settings: Settings, sha: str, by: str, *, built: bool, damaged: list[str], changed: bool) -> Json:
    """Activate, prune, and say what was done."""
    install_dir = settings.install_dir
    now = active(install_dir)
    activated = now is None or now["sha"] != sha
    if activated:
        _check_policy(settings, sha)
        _wait_until_idle(settings, f"{sha} is built but not active")
        if settings.before_switch:
            settings.before_switch()
        # Remembered first: who is killed between the two, or has no room to write, must not go back twice.
        _remember(install_dir, sha, by, now["sha"] if now else None)
        _switch(install_dir, sha)
    pruned = _prune(settings, sha)
    result = _result(now, record(install_dir, sha))
    changed = changed or built or activated or bool(pruned)
    return {**result, "built": built, "activated": activated, "damaged": damaged, "pruned": pruned, "changed": changed}


def _check_policy(settings: Settings, sha: str) -> None:
    """Compose the policy that will judge this release, before it is switched to: a refused one must cost nothing."""
    if settings.policy is None:
        return
    from ..policy import compose, schema  # here: it needs PyYAML, which a fresh host lacks

    wanted = {"overlay": {}, "handoff_dirs": (), "widen": (), **settings.policy}
    path = os.path.join(_path(settings.install_dir, sha), wanted["base"])
    try:
        base = read_bytes(path, schema.MAX_BYTES)
        if base is None:
            raise LoopError(f"there is no policy at {path}")
        compose.compose(
            schema.load(base, path, complete=False), wanted["overlay"], wanted["handoff_dirs"], wanted["widen"]
        )
    except LoopError as error:
        raise LoopError(f"{sha} is built but not active, for its gate policy is refused: {error}") from error


def _result(before: Json | None, release: Json | None) -> Json:
    return {
        "release": release,
        "previous": {"sha": before["sha"], "path": before["path"]} if before else None,
        "activated": False,
        "built": False,
        "damaged": [],
        "pruned": [],
        "changed": False,
    }


# --- one at a time, never under a cycle ---------------------------------------------------


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Own the install directory: root's, ours alone, for as long as this lasts."""
    install_dir = settings.install_dir
    try:
        os.makedirs(os.path.join(install_dir, "releases"), mode=0o755, exist_ok=True)
        # uv leaves lock files in its cache that anybody may write; nobody but root gets that far.
        os.makedirs(os.path.join(install_dir, "cache"), mode=0o700, exist_ok=True)
        os.chmod(os.path.join(install_dir, "cache"), 0o700)
    except OSError as error:
        raise LoopError(f"{install_dir}/releases cannot be made: {error.strerror}") from error
    _take_ownership(install_dir)
    deadline = time.monotonic() + settings.wait
    while True:
        with flocked(os.path.join(install_dir, ".releases.lock"), wait=False) as held:
            if held:
                yield
                return
        if time.monotonic() >= deadline:
            raise LoopError(
                f"another run is working on the releases in {install_dir}: wait for it"
                " (engineering_loop_wait_for_cycle says how long)"
            )
        time.sleep(0.2)


def _exposed(install_dir: str) -> bool:
    """Whether somebody else could replace what is in the install directory, or the loop's user not reach a release."""
    with contextlib.suppress(FileNotFoundError):
        for path in (install_dir, os.path.join(install_dir, "releases")):
            status = os.lstat(path)
            closed = path != install_dir and status.st_mode & 0o055 != 0o055
            if status.st_uid != os.geteuid() or status.st_mode & 0o022 or closed:
                return True
    return False


def _take_ownership(install_dir: str) -> None:
    """The two directories become ours, never what else is in them: an older layout may live there."""
    for path in (install_dir, os.path.join(install_dir, "releases")):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise LoopError(f"{path} is not a directory: move it away, releases are kept there")
    if _exposed(install_dir):
        for path in (install_dir, os.path.join(install_dir, "releases")):
            try:
                os.chown(path, os.geteuid(), os.getegid())
                os.chmod(path, 0o755)
            except OSError as error:
                raise LoopError(f"{path} must belong to whoever installs the engine: {error.strerror}") from error


def _wait_until_idle(settings: Settings, otherwise: str) -> None:
    wait_until_idle(settings.run_lock, settings.unit, settings.wait, otherwise)


# --- building -----------------------------------------------------------------------------


def _build(settings: Settings, sha: str) -> None:
    """Make the release at its path. Whatever goes wrong, nothing half-made stays."""
    install_dir, path = settings.install_dir, _path(settings.install_dir, sha)
    aside = ""
    if os.path.lexists(path):
        now = active(install_dir)
        if now and now["sha"] == sha:
            wait_until_idle(
                settings.run_lock, settings.unit, settings.wait, f"{path} was changed by hand and has to be built again"
            )
        # A change by hand may be somebody's work: it is put aside, not deleted.
        number = max((number for number, _name in _aside(install_dir)), default=0) + 1
        aside = os.path.join(install_dir, "releases", f".damaged-{sha}-{number}")
        os.rename(path, aside)
    try:
        _make(settings, sha, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            _remove(path)
        if aside:
            os.rename(aside, path)
        if isinstance(error, OSError):
            what = f"{error.strerror}: {error.filename or install_dir}"
            raise LoopError(f"release {sha} could not be built: {what}; what was active stays active") from error
        if isinstance(error, LoopError):
            raise LoopError(f"release {sha} could not be built: {error}; what was active stays active") from error
        raise


def _make(settings: Settings, sha: str, path: str) -> None:
    begun = time.monotonic()
    old_mask = os.umask(0o022)
    try:
        branch = _materialize(settings, sha, path)
        lock = read_bytes(os.path.join(path, "uv.lock"))
        digest = sha256(lock) if lock is not None else ""
        if settings.lock_sha256 and digest != settings.lock_sha256:
            raise LoopError(f"its uv.lock has the SHA-256 {digest or '(there is none)'}, not {settings.lock_sha256}")
        for command in _sync_commands(settings, lock is not None):
            _run(settings, command, path)
        fetched = time.monotonic()
        _compile(settings, path)
        freeze(path)
        smoke = _smoke(settings, path)
    finally:
        os.umask(old_mask)
    manifest = _manifest(path).encode("utf-8", "surrogateescape")
    known: Json = {
        "sha": sha,
        "source": settings.repo,
        "branch": branch,
        "provenance": _provenance(settings),
        "lock_digest": digest,
        "files_digest": sha256(manifest),
        "python": _first_line([os.path.join(path, ".venv/bin/python"), "--version"]).removeprefix("Python "),
        "interpreter": _interpreter(path),
        "uv": _first_line([settings.uv, "--version"]),
        "smoke": smoke,
        "built_at": utc_now(),
        "built_by": os.environ.get("SUDO_USER") or getpass.getuser(),
        "seconds": {"install": round(fetched - begun, 2), "total": round(time.monotonic() - begun, 2)},
    }
    os.chmod(path, 0o755)  # as it was listed, it gets 0555 again with the record
    write_atomic(os.path.join(path, MANIFEST), manifest, mode=0o444)
    flush(path)  # the record must not outlive a power cut that the files did not
    _write_record(path, known)


def flush(path: str) -> None:
    """Have what was written to this file system on its disk; the host's other disks are not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)


def _write_record(path: str, known: Json) -> None:
    os.chmod(path, 0o755)
    write_atomic(os.path.join(path, RECORD), (json.dumps(known, indent=2, sort_keys=True) + "\n").encode(), mode=0o444)
    os.chmod(path, 0o555)


def _sync_commands(settings: Settings, locked: bool) -> list[list[str]]:
    """What installs the engine and its dependencies, editable: it looks for its data beside its sources."""
    if settings.sync:
        return [list(settings.sync)]
    if not locked:
        local = ["--no-index", "--find-links", settings.wheels] if settings.wheels else []
        return [
            [settings.python, "-m", "venv", ".venv"],
            [".venv/bin/python", "-m", "pip", "install", "--quiet", "--no-user", *local, "--editable", "."],
        ]
    if not settings.wheels:
        # --frozen alone would install an old lock under a new pyproject.toml without a word.
        return [[settings.uv, "lock", "--check"], [settings.uv, "sync", "--frozen", "--no-dev"]]
    local = ["--no-index", "--find-links", settings.wheels]
    requirements = ".venv/requirements.txt"
    return [
        [settings.uv, "venv", "--python", settings.python, ".venv"],
        [settings.uv, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "-o", requirements],
        [settings.uv, "pip", "install", "--python", ".venv/bin/python", *local, "--require-hashes", "-r", requirements],
        [settings.uv, "pip", "install", "--python", ".venv/bin/python", *local, "--no-deps", "--editable", "."],
        # Without an index `uv lock --check` cannot compare the lock with pyproject.toml; what came of it, this does.
        [settings.uv, "pip", "check", "--python", ".venv/bin/python"],
    ]


def _environment(settings: Settings) -> dict[str, str]:
    """For the build: what the host says about indexes and certificates, no more; nothing downloads a Python."""
    passed = {key: value for key, value in os.environ.items() if PASSED_ON.fullmatch(key)}
    cache = os.path.join(settings.install_dir, "cache")
    return {
        "UV_SYSTEM_CERTS": "1",
        "LANG": "C.UTF-8",
        **passed,
        "PATH": os.pathsep.join(filter(None, [os.path.dirname(settings.uv), os.environ.get("PATH", os.defpath)])),
        "UV_PYTHON": settings.python,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_PROJECT_ENVIRONMENT": ".venv",
        "UV_NO_PROGRESS": "1",
        "UV_CACHE_DIR": os.path.join(cache, "uv"),
        "PIP_CACHE_DIR": os.path.join(cache, "pip"),
        # A hard link into the cache would make the cache read-only, and a change by hand poison it.
        "UV_LINK_MODE": "copy",
    }


def _run(
    settings: Settings,
    command: Sequence[str],
    path: str,
    environment: Mapping[str, str] | None = None,
    user: str = "",
    within: Sequence[str] = (),
) -> str:
    """Run one step of a build in ``path``, ``within`` a sandbox; its output.

    LoopError with the last words of what failed. The step is a process group of its own that ends with us, however we
    end: an orphan would go on writing into a directory that the next run has removed.
    """
    program = os.path.join(path, command[0]) if command[0].startswith(".") else command[0]
    identity: dict[str, Any] = {}
    if user and os.geteuid() == 0:
        entry = account(user)
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(user, entry.pw_gid)}
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [*within, program, *command[1:]], cwd=path, env=environment or _environment(settings),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=end_with_parent, **identity,
            )  # fmt: skip
        except OSError as error:
            raise LoopError(f"{[*within, *command][0]} cannot be started: {error.strerror}") from error
        try:
            status = process.wait(settings.timeout)
        except subprocess.TimeoutExpired:
            raise LoopError(f"`{' '.join(command)}` took longer than {settings.timeout:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if status:
        raise LoopError(f"`{' '.join(command)}` ended with {status}: {last_words(text)}")
    return text


def last_words(text: str) -> str:
    """The end of a tool's output that says why, on one line and without credentials."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.lower().startswith("hint:")][-4:]
    return certificate(text) or without_passwords(" / ".join(told) or "no message")[-600:]


def _compile(settings: Settings, path: str) -> None:
    """Byte code now, as nobody can write it later. Files that do not compile are none that get imported."""
    script = "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2, workers=0)"
    python = os.path.join(path, ".venv/bin/python")
    if not os.path.exists(python):
        raise LoopError("the sync command made no .venv in the release; the engine is run from there")
    _run(settings, [python, "-I", "-S", "-c", script, "."], path)  # nothing of the release's own is run by that


def _smoke(settings: Settings, path: str) -> Json:
    """Start the engine once from the finished, read-only release, as the one who will run it.

    It is shut in, as nobody has proven it yet: it sees the host's programs and itself, reaches no network and none of
    the host's other files, and nothing that it leaves stays.
    """
    begun = time.monotonic()
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp"}  # noqa: S108
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    _run(settings, settings.smoke, path, environment, settings.user, _shut_in(path))
    return {"command": list(settings.smoke), "user": settings.user, "seconds": round(time.monotonic() - begun, 2)}


def _shut_in(path: str) -> list[str]:
    words = [BWRAP, "--unshare-all", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    words += ["--tmpfs", "/tmp", "--ro-bind", "/usr", "/usr"]  # noqa: S108 - the sandbox's own
    home = re.search(r"(?m)^home = (.+)$", (read_bytes(f"{path}/.venv/pyvenv.cfg") or b"").decode())
    pythons = [home[1] if home else "", os.path.dirname(_interpreter(path))]
    for prefix in dict.fromkeys(["", *(os.path.dirname(place) for place in pythons)]):
        for name in ("bin", "lib", "lib64") if not f"{prefix}/".startswith("/usr/") else ():
            words += ["--ro-bind-try", f"{prefix.rstrip('/')}/{name}", f"{prefix.rstrip('/')}/{name}"]
    for name in ("alternatives", "group", "ld.so.cache", "localtime", "passwd", "ssl/certs"):
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return [*words, "--ro-bind", path, path, "--remount-ro", "/", "--chdir", path, "--"]


def freeze(path: str) -> None:
    """Everybody reads, nobody writes. Links are left alone: they may lead out of the release."""
    for directory, directories, files in os.walk(path, topdown=False):
        for name in [*files, *directories]:
            entry = os.path.join(directory, name)
            mode = os.lstat(entry).st_mode
            if os.geteuid() == 0:
                os.lchown(entry, 0, 0)
            if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and mode & 0o100):
                os.chmod(entry, 0o555)
            elif stat.S_ISREG(mode):
                os.chmod(entry, 0o444)
    os.chmod(path, 0o555)


def _manifest(path: str) -> str:
    """One line per file, link and directory: mode and owner, digest, name."""
    lines: list[str] = []
    for directory, directories, files in os.walk(path):
        below = directory[len(path) + 1 :]
        for name in [*files, *directories, *([] if below else ["."])]:
            shown = os.path.join(below, name)
            if shown in (RECORD, MANIFEST):
                continue
            entry = os.path.join(directory, name)
            status = os.lstat(entry)
            digest = "-"
            if stat.S_ISLNK(status.st_mode):
                digest = sha256(os.fsencode(os.readlink(entry)))
            elif stat.S_ISREG(status.st_mode):
                digest = _digest(entry)
            lines.append(f"{status.st_mode:o}:{status.st_uid}:{status.st_gid} {digest} {json.dumps(shown)}")
    return "\n".join(sorted(lines)) + "\n"


def _digest(path: str) -> str:
    with open(path, "rb", buffering=0) as handle:
        return hashlib.sha256(handle.read()).hexdigest()


def _lines(manifest: str) -> dict[str, str]:
    split = (line.split(" ", 2) for line in manifest.splitlines())
    return {json.loads(name): f"{kind} {digest}" for kind, digest, name in split}


# --- where the sources come from ----------------------------------------------------------


def _provenance(settings: Settings) -> Json:
    """What a release was let in by; another demand means to look again."""
    return {
        "repo": settings.repo,
        "branches": sorted(settings.branches),
        "signers": [_signers(path) for path in (settings.allowed_signers, settings.keyring)],
        "lock_sha256": settings.lock_sha256,
    }


def _signers(path: str) -> str:
    """The digest of a file of signers, or nothing where none is demanded: other keys in it are another demand."""
    content = read_bytes(path) if path else b""
    if content is None:
        raise LoopError(f"{path}, which says who may have signed the engine, is missing on this host")
    if path:
        status = os.lstat(path)
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise LoopError(f"{path} says who may have signed the engine, but others than root can write it")
    return sha256(content) if path else ""


def _vouch_again(settings: Settings, sha: str) -> None:
    """The release is built, but repo, branches or signers are others than it was judged by."""
    known = record(settings.install_dir, sha) or {}
    if settings.lock_sha256 not in ("", known["lock_digest"]):
        raise LoopError(f"uv.lock of {sha} has the SHA-256 {known['lock_digest']}, not {settings.lock_sha256}")
    mirror = os.path.join(settings.install_dir, "mirror.git")
    _fetch(settings, mirror)
    branch = _vouch(settings, mirror, sha)
    path = known.pop("path")
    _write_record(path, {**known, "source": settings.repo, "branch": branch, "provenance": _provenance(settings)})


def _materialize(settings: Settings, sha: str, path: str) -> str:
    """Check ``sha`` out of the host's mirror into ``path``; the branch that it was found on.

    The mirror is a cache: where it turns out to be broken it is made again, once.
    """
    mirror = os.path.join(settings.install_dir, "mirror.git")
    try:
        return _export(settings, mirror, sha, path)
    except LoopError:
        if not os.path.isdir(mirror) or git(mirror, ["fsck", "--connectivity-only"], ok=range(-128, 256))[0] == 0:
            raise
    _remove(mirror)
    _remove(path)
    return _export(settings, mirror, sha, path)


def _export(settings: Settings, mirror: str, sha: str, path: str) -> str:
    if settings.repo:
        _fetch(settings, mirror)
        branch = _vouch(settings, mirror, sha)
    else:
        branch = ""  # going back: it was judged when it was built
    os.mkdir(path, 0o755)
    # An index of its own: `git archive` would leave out what .gitattributes marks as export-ignore.
    index = {"GIT_DIR": mirror, "GIT_WORK_TREE": path, "GIT_INDEX_FILE": os.path.join(path, ".index")}
    git(path, ["read-tree", sha], environment=index)
    git(path, ["checkout-index", "--all"], environment=index)
    os.unlink(index["GIT_INDEX_FILE"])
    return branch


def _fetch(settings: Settings, mirror: str) -> None:
    """All branches of the repository, as they are now, into the mirror."""
    if not os.path.isdir(mirror):
        git(settings.install_dir, ["init", "--quiet", "--bare", "--template=", mirror])
        os.chmod(mirror, 0o700)
    for directory, _below, files in os.walk(mirror):
        for name in files:
            if name.endswith(".lock"):  # of a killed run: whoever gets here is alone
                os.unlink(os.path.join(directory, name))
    environment, config = _access(settings)
    refs = "+refs/heads/*:refs/heads/*"
    try:
        git(
            mirror, ["fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--", settings.repo, refs],
            environment=environment, config=config, timeout=NETWORK_SECONDS,
        )  # fmt: skip
    except LoopError as error:
        raise LoopError(f"{settings.repo} cannot be fetched: {without_passwords(str(error))}") from error


def _vouch(settings: Settings, mirror: str, sha: str) -> str:
    """The branch that ``sha`` is on, once everything that was demanded of it holds."""
    repo = settings.repo
    if git(mirror, ["cat-file", "-e", f"{sha}^{{commit}}"], ok=range(-128, 256))[0]:
        raise LoopError(f"{repo} has no commit {sha} on any branch: was it pushed, is it the right repository?")
    found = git(mirror, ["for-each-ref", "--contains", sha, "--format=%(refname:lstrip=2)", "refs/heads"])[1]
    on = rows(found)
    wanted = settings.branches or _default_branches(settings, mirror)
    allowed = [name for name in on if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)]
    if not allowed:
        raise LoopError(
            f"commit {sha} is not on {' or '.join(wanted)} of {repo}, only on {', '.join(on[:5])}:"
            " merge it, or name the branch in engineering_loop_allowed_branches if it may come from there"
        )
    if settings.allowed_signers or settings.keyring:
        _check_signature(settings, mirror, sha)
    return show(allowed[0])


def _default_branches(settings: Settings, mirror: str) -> list[str]:
    """The branch that the repository calls its own; of a bundle, which only tells its commit, all that end there."""
    environment, config = _access(settings)
    told = git(
        mirror, ["ls-remote", "--symref", "--", settings.repo, "HEAD"],
        environment=environment, config=config, timeout=NETWORK_SECONDS,
    )[1]  # fmt: skip
    if branch := told_branch(told):
        return [branch]
    if at := told_refs(told).get("HEAD"):
        tips = git(mirror, ["for-each-ref", "--points-at", at, "--format=%(refname:lstrip=2)", "refs/heads"])[1]
        if tips:
            return rows(tips)
    raise LoopError(
        f"{settings.repo} does not say which branch is its default one (a bundle does if it was made with"
        " `git bundle create FILE HEAD main`): name those that may hold the engine in engineering_loop_allowed_branches"
    )


def _access(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """Environment and configuration for git where it goes to the repository; a stalled transfer ends."""
    environment, config = credentials(settings.repo, settings.token, settings.askpass, settings.git_url)
    return environment, {**config, "http.lowSpeedLimit": "1000", "http.lowSpeedTime": "30"}


def _check_signature(settings: Settings, mirror: str, sha: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        if settings.keyring:
            done = subprocess.run(
                # Without an agent, which only secret keys need, and which would outlive us.
                ["gpg", "--batch", "--quiet", "--no-autostart", "--homedir", home, "--import", settings.keyring],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise LoopError(f"the keyring {settings.keyring} cannot be read: {last_words(done.stderr)}")
        # Without signers a file of none: git must never look for another one.
        signers = settings.allowed_signers or os.devnull
        config = {"gpg.ssh.allowedSignersFile": signers, "gpg.minTrustLevel": "undefined"}
        status, _out, said = git(
            mirror, ["verify-commit", sha], environment={"GNUPGHOME": home}, config=config, ok=range(-128, 256)
        )
    if status:
        by = settings.allowed_signers or settings.keyring
        raise LoopError(f"commit {sha} is not signed by anyone in {by}: {last_words(said)}")


# --- switching, remembering, forgetting ---------------------------------------------------


def _switch(install_dir: str, sha: str) -> None:
    """Point ``current`` elsewhere in one rename: whoever looks sees the old release or the new one."""
    active(install_dir)  # refuses where something that is not ours stands in the way
    aside = os.path.join(install_dir, ".current.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside)
    try:
        os.symlink(f"releases/{sha}", aside)
        os.rename(aside, os.path.join(install_dir, "current"))
    except OSError as error:
        raise LoopError(f"{install_dir}/current cannot be switched: {error.strerror}; it is as it was") from error
    sync_directory(install_dir)


def _remember(install_dir: str, sha: str, by: str, left: str | None) -> None:
    with flocked(os.path.join(install_dir, ".ledger.lock")):
        known = ledger(install_dir)
        known["history"] = [*known["history"], {"sha": sha, "at": utc_now(), "by": by, "left": left}][-HISTORY:]
        _save(install_dir, known)


def _save(install_dir: str, known: Json) -> None:
    content = json.dumps(known, indent=2, sort_keys=True) + "\n"
    write_atomic(os.path.join(install_dir, LEDGER), content.encode(), mode=0o644)


def _verdict(known: Json, sha: str) -> str:
    return str(known["marks"].get(sha, {}).get("verdict", ""))


def _recover(install_dir: str) -> bool:
    """Clear what killed runs left. A release put aside for a build that never ended comes back. True if any."""
    directory = os.path.join(install_dir, "releases")
    cleared = False
    for parent in (install_dir, directory):
        for name in os.listdir(parent):
            release = parent == directory and re.fullmatch(r"[0-9a-f]{40}", name)
            if (release and not record(install_dir, name)) or name.startswith(".trash-") or name == ".current.new":
                _remove(os.path.join(parent, name))
                cleared = True
            elif release:
                _tidy(os.path.join(parent, name))
    with contextlib.suppress(OSError):
        wanted = os.path.basename(os.readlink(os.path.join(install_dir, "current")))
        for _number, name in reversed(_aside(install_dir)):
            if name.startswith(f".damaged-{wanted}-") and not os.path.lexists(os.path.join(directory, wanted)):
                os.rename(os.path.join(directory, name), os.path.join(directory, wanted))
                cleared = True
    return cleared


def _tidy(path: str) -> None:
    """End what `_write_record` may have been killed in."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, f".{RECORD}.new"))
    if stat.S_IMODE(os.lstat(path).st_mode) == 0o755:
        os.chmod(path, 0o555)


def _prunable(settings: Settings, sha: str, before: str | None) -> list[str]:
    """The releases beyond ``keep``: never the active one, the one before it, or one to go back to."""
    install_dir = settings.install_dir
    known = ledger(install_dir)
    order = [entry["sha"] for entry in reversed(known["history"])]
    newest = [name for name in dict.fromkeys([sha, *order]) if name != sha]
    proven = [name for name in newest if _verdict(known, name) == "proven"][:1]
    kept = [sha, before or (newest or [""])[0], *proven, last_proven(install_dir)]
    kept = list(dict.fromkeys(name for name in kept if name))
    # The rest by activation, newest first; those that never were activated go first.
    rest = sorted(
        (name for name in releases(install_dir) if name not in kept),
        key=lambda name: order.index(name) if name in order else len(order),
    )
    return rest[max(settings.keep - len(kept), 0) :]


def _prune(settings: Settings, sha: str) -> list[str]:
    if cycle_in_progress(settings.run_lock, settings.unit):
        return []  # it may have been started from any of them
    gone = _prunable(settings, sha, None)
    for name in gone:
        _remove(_path(settings.install_dir, name))
    for _number, name in _aside(settings.install_dir)[: -max(settings.keep, 1)]:
        _remove(_path(settings.install_dir, name))
    return gone


def _aside(install_dir: str) -> list[tuple[int, str]]:
    """The copies that were put aside, oldest first: by number, as the clock may have been set back between two."""
    found = (re.fullmatch(r"\.damaged-[0-9a-f]{40}-(\d+)", name) for name in os.listdir(_path(install_dir, "")))
    return sorted((int(match[1]), match[0]) for match in found if match)


def _remove(path: str) -> None:
    """Remove whatever stands at ``path``: out of sight by one rename, then piece by piece."""
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return
    trash = f"{os.path.dirname(path)}/.trash-{secrets.token_hex(8)}"  # a full disk has no room for a new directory
    os.chmod(path, 0o700)
    os.rename(path, trash)
    for directory, directories, _files in os.walk(trash):
        for name in directories:
            if not os.path.islink(os.path.join(directory, name)):
                os.chmod(os.path.join(directory, name), 0o700)
    shutil.rmtree(trash)


# --- small things -------------------------------------------------------------------------


def _path(install_dir: str, sha: str) -> str:
    return os.path.join(install_dir, "releases", sha)


def _names(install_dir: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(_path(install_dir, "")) if re.fullmatch(r"[0-9a-f]{40}", name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stands(install_dir: str, name: str) -> bool:
    """Whether it is there and is ours: of that name there may be something in an engine that was checked out."""
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(os.path.join(install_dir, name)).st_uid == os.geteuid()
    return False


def _active_or_none(install_dir: str) -> Json | None:
    return active(install_dir) if os.path.isdir(install_dir) else None


def _first_line(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.splitlines() or [""])[0]


def _interpreter(path: str) -> str:
    """The program of the host that a release's Python leads to; empty where there is none."""
    program = os.path.realpath(os.path.join(path, ".venv/bin/python"))
    return program if os.path.exists(program) else ""
