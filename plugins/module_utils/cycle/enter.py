# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open a kept cell: run something in it, in the sandbox of a cycle, or bring its work to a person as a branch.

The cell stays closed on the disk. What runs sees its parts mounted where they were, under a directory that ends with
it, and no other cell; so every path in a state file or a worktree is still true, also in a cell that an older layout
left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..base import documents, untrusted
from ..base.errors import LoopError
from ..base.files import read_bytes, write_atomic
from ..base.journal import say
from ..cell import cells, egress, pristine, sandbox
from ..cell.cells import GIVEN, PARTS, Cell, Manifest
from ..gateway import sessions
from ..git.command import ANY, git
from ..host import programs, settings
from ..host.settings import Settings
from ..host.systemd import systemctl
from ..host.users import as_user
from ..worktrees.restore import restore
from . import engine_run, handover
from .handover import Handover

USAGE = "usage: loop enter [--as-engine] CELL [-- COMMAND...]"
BRINGING = "refs/loop-bring/work"
MAX_BUNDLE = 4 * 1024**3
MAX_FILE = 100 * 1024**2
MAX_SAID = 1024**2  # bytes at each end of what is said in a cell: root reads it
PACK_SECONDS = 3600.0
HANDED = "handover"
ENDING = (signal.SIGHUP, signal.SIGTERM)


# --- as root: the door ------------------------------------------------------------------------


def main(config_path: str, *words: str) -> int:
    """``loop enter``: a shell, or a command, in a kept cell."""
    options = [word for word in words[: words.index("--")] if word] if "--" in words else list(words)
    command = list(words[words.index("--") + 1 :]) if "--" in words else []
    as_engine = "--as-engine" in options
    names = [word for word in options if word != "--as-engine"]
    if len(names) != 1 or names[0].startswith("-"):
        sys.stderr.write(f"{USAGE}\n")
        return 2
    try:
        if os.geteuid() != 0:
            raise LoopError(f"this must run as root: sudo {sys.argv[0]} enter ...")
        config = settings.load(config_path)
        cell = cells.find(config, names[0])
        how = "--pty" if sys.stdin.isatty() and sys.stdout.isatty() else "--pipe"
        with opened(config, cell, command, how=how, as_engine=as_engine) as line:
            return subprocess.run(line, check=False).returncode
    except LoopError as error:
        sys.stderr.write(f"loop: {error}\n")
        return 1


@contextlib.contextmanager
def opened(
    config: Settings, cell: Cell, command: Sequence[str], *, how: str = "--pipe", as_engine: bool = False
) -> Any:
    """The systemd-run command that runs ``command`` (a shell, where it is empty) in the cell.

    ``as_engine`` hands over what the engine gets, the provider's keys and the way to the gateway: for the engine's own
    commands on a state file. Who is told to end meanwhile, by a signal as well, ends what runs in the cell first.
    """
    manifest = cells.manifest_of(cell)
    if manifest.outcome == cells.RUNNING:
        raise LoopError(f"the cycle of {cell.id} is still running")
    directory = f"/run/{config.unit}-enter"
    with cells.used(cell), _told_to_end(cell), contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # that somebody looked is told; on a full disk it is not
            os.close(os.open(f"{cell.path}/{cells.SEEN}", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o640))
        os.makedirs(directory, mode=0o700, exist_ok=True)
        secrets = f"{directory}/{cell.id}.json"
        stack.callback(_forget, secrets)
        write_atomic(secrets, _handed(config, cell, as_engine).content.encode(), mode=0o600)
        unit = f"{config.unit}-enter-{cell.id}-{os.urandom(3).hex()}.service"
        if as_engine:
            stack.callback(sessions.close_session, config, unit)
            sessions.open_session(config, unit, cell.id, bound=False)
        line = [
            "systemd-run", f"--unit={unit}", "--quiet", "--wait", "--collect", how, "--service-type=exec",
            "--expand-environment=no",
            *sandbox.properties(systemctl("cat", f"{config.unit}.service")),
            *egress.joined(config),
            *_places(config, cell, manifest),
            *(["-p", f"Wants={config.unit}-gate.socket", "-p", f"After={config.unit}-gate.socket"] * as_engine),
            "-p", f"User={config.user}", "-p", f"Group={config.group}",
            "-p", f"LoadCredential={HANDED}:{secrets}", "-p", "PrivatePIDs=yes",
            "-p", "TimeoutStopSec=5", "-p", "UMask=0022",
            f"--description=A person in the cell {cell.id}",
            "--", f"{config.lib_dir}/loop", "inside", f"{config.config_dir}/loop.json", cell.path, *command,
        ]  # fmt: skip
        stack.callback(_deaf)
        try:
            yield line
        except BaseException:  # who waited for it is gone; it must not be at work in a cell that is nobody's
            _deaf()
            with contextlib.suppress(LoopError):
                systemctl("stop", unit)
            raise
        size, files = cells.measure(cell.path)
        cells.update(cell, size=size, files=files)


@contextlib.contextmanager
def _told_to_end(cell: Cell) -> Iterator[None]:
    """A signal that would end us is ``Stopped`` meanwhile, once; where it is ignored, as by nohup, it stays so."""
    before = {one: signal.getsignal(one) for one in ENDING}

    def stop(number: int, _frame: object) -> None:
        _deaf()
        raise engine_run.Stopped(f"ended by {signal.Signals(number).name}: what ran in {cell.id} was stopped")

    for one in ENDING:
        if before[one] != signal.SIG_IGN:
            signal.signal(one, stop)
    try:
        yield
    finally:
        for one in ENDING:
            signal.signal(one, before[one])


def _deaf() -> None:
    """From here on all is put back as it was, whoever wants us to end: a session that ends sends two signals."""
    for one in ENDING:
        signal.signal(one, signal.SIG_IGN)


def _forget(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _handed(config: Settings, cell: Cell, as_engine: bool) -> Handover:
    given = handover.for_cycle(config, handover.secrets(config)) if as_engine else Handover()
    return replace(given, cell=cell.path, network=egress.host_namespace())


def _places(config: Settings, cell: Cell, manifest: Manifest) -> list[str]:
    """Mounts: the cell's parts under their own names and, of an older layout, under the names they were known by."""
    words = ["-p", f"TemporaryFileSystem={config.runs_dir}:mode=0755"]
    for part in (*PARTS, GIVEN):
        if os.path.isdir(cell.part(part)):
            words += ["-p", f"BindPaths={_escaped(cell.part(part))}"]
    for actual, seen in manifest.binds:
        if seen == config.runs_dir:  # its own place is taken by the cells now: what is in it stands beside them
            for name in sorted(os.listdir(actual)):
                if not cells.ID.fullmatch(name):
                    words += ["-p", f"BindPaths={_escaped(f'{actual}/{name}')}:{_escaped(f'{seen}/{name}')}"]
        elif os.path.isdir(actual):
            words += ["-p", f"BindPaths={_escaped(actual)}:{_escaped(seen)}"]
    return words


def _escaped(path: str) -> str:
    """A path as a unit's setting has it."""
    return re.sub(r"([\\:\s\"'%])", lambda found: "%%" if found[1] == "%" else f"\\{found[1]}", path)


def run(
    config: Settings, cell: Cell, command: Sequence[str], *, as_engine: bool = False, seconds: float = 600
) -> dict[str, Any]:
    """Run ``command`` in the cell and return ``{exit_status, lines}``; the end of what it says, cleaned and cut."""
    with opened(config, cell, command, as_engine=as_engine) as line:
        done = programs.ends(line, seconds, 0, MAX_SAID)
        if done.status is None:
            raise LoopError(f"the command in {cell.id} took longer than {seconds:g} s")
    return {"exit_status": done.status, "lines": [untrusted.show(one, 500) for one in done.lines()[-500:]]}


def restore_earlier(config: Settings, what: str) -> dict[str, Any] | None:
    """Put back, in its adopted cell, what an older layout had in quarantine; None where no cell has it."""
    for cell, manifest in cells.listing(config.runs_dir):
        for name, seen in cells.earlier(manifest):
            if name == what:
                known = [place for _actual, place in manifest.binds]
                command = [f"{config.lib_dir}/loop", "earlier", f"{seen}/.quarantine", what, *known]
                return {"id": cell.id, **run(config, cell, command)}
    return None


# --- bringing work out ------------------------------------------------------------------------


def bring(config: Settings, cell: Cell, branch: str, *, check: bool = False) -> dict[str, Any]:
    """The work of a cell as ``branch`` in a fresh clone for a person; ``{path, branch, commits, files}`` each.

    Its commits and, in one more commit, what was not committed come out as a bundle, made in the sandbox, and are
    checked object by object when they are received. Ignored files stay in the cell.
    """
    home = pristine.place_for(config, cell.id, branch)
    listed = run(config, cell, [f"{config.lib_dir}/loop", "worktrees", f"{config.config_dir}/loop.json"])
    if listed["exit_status"]:
        said = (listed["lines"] or ["no message"])[-1]
        raise LoopError(f"{cell.id} cannot be looked through: {said}")
    known = {one.dest: one for one in pristine.clones(config)}
    found = [line.split(" ", 1) for line in listed["lines"] if " /" in line]
    places = [(dest, path) for dest, path in found if dest in known]
    if not places:
        raise LoopError(f"{cell.id} has no worktree of a run: look with sudo {cells.enter_command(config, cell.id)}")
    for dest in {dest for dest, _path in places}:
        pristine.check_branch(config, known[dest].path, branch)
    several = len({dest for dest, _path in places}) < len(places)
    brought = []
    for dest, path in places:
        place = f"{home}/{os.path.basename(path) if several else dest}"
        brought.append({"checkout": dest, "path": place, "branch": branch, "left_out": []})
        if not check:
            brought[-1]["left_out"] = _bring_one(config, cell, known[dest], path, place, branch)
    return {"changed": True, "brought": brought}


def _bring_one(
    config: Settings, cell: Cell, clone: pristine.Clone, worktree: str, place: str, branch: str
) -> list[str]:
    """Bring one worktree's work out; what could not come along."""
    bundle = f"{config.pristine_dir}/.bundle-{cell.id}"
    known = as_user(config.gate_user, lambda: pristine.read_tip(clone.path, clone.version))
    command = [f"{config.lib_dir}/loop", "pack", f"{config.config_dir}/loop.json", worktree, known]
    try:
        with open(bundle, "wb") as handle, opened(config, cell, command) as line:
            os.chmod(bundle, 0o644)
            done = programs.ends(line, PACK_SECONDS, MAX_SAID, MAX_SAID, out=handle)
            if done.status is None:
                raise LoopError(f"the work in {untrusted.show(worktree)} was not packed in {PACK_SECONDS / 3600:g} h")
        told = done.lines()
        if done.status or os.path.getsize(bundle) > MAX_BUNDLE:
            said = next((one for one in reversed(told) if one.strip()), "it is too large")
            raise LoopError(f"the work in {untrusted.show(worktree)} cannot be packed: {untrusted.show(said, 500)}")
        rescue = pristine.Rescue(cell.id, place, branch)
        pristine.hand_out(config, clone, rescue, lambda making: _received(bundle, making))
    finally:
        _forget(bundle)
    lost = [untrusted.show(line.removeprefix("left out: ")) for line in told if line.startswith("left out: ")]
    more = "and more" if done.left_out else f"and {len(lost) - 20} more"
    return lost[:20] + [more] * (len(lost) > 20 or done.left_out > 0)


def _received(bundle: str, making: str) -> str:
    """As the gate's user: the bundle's work in the clone ``making``, its objects checked; the commit of it."""
    packs = f"{making}/.git/objects/pack"
    known = set(os.listdir(packs))
    words = ["fetch", "--quiet", "--no-tags", "--recurse-submodules=no", bundle, f"+{BRINGING}:{BRINGING}"]
    git(making, words, config={**pristine.LENDERS_ARE_MUTE, "fetch.unpackLimit": "1"}, timeout=600)
    # Asked for by itself: git before 2.46 does not check what comes in a bundle, whatever fetch.fsckObjects says.
    for name in sorted(set(os.listdir(packs)) - known):
        if name.endswith(".pack"):
            git(making, ["index-pack", "--verify", "--strict", f"{packs}/{name}"], timeout=600)
    commit = git(making, ["rev-parse", "--verify", f"{BRINGING}^{{commit}}"], timeout=60)[1].strip()
    git(making, ["update-ref", "-d", BRINGING], timeout=60)
    return commit


# --- inside: as the loop's user, in the sandbox -----------------------------------------------


def inside(config_path: str, path: str, *command: str) -> int:
    """Become the command, or a shell, with the engine's environment for this cell."""
    config = settings.load(config_path)
    cell = Cell(path)
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    try:
        handed = documents.load(Handover, read_bytes(f"{credentials}/{HANDED}") or b"")
        egress.check(config, handed.network)
    except LoopError as error:
        sys.stderr.write(f"loop: {error}\n")
        return 1
    current = os.path.realpath(f"{config.install_dir}/current")
    os.makedirs(cell.part("state"), exist_ok=True)
    environment = engine_run.engine_environment(cells.settings_in(config, cell), handed)
    environment["PATH"] += f":{current}/.venv/bin"
    sandbox.bound_files(config)
    os.chdir(cell.part("runs") if os.path.isdir(cell.part("runs")) else "/")
    words = list(command) or [shutil.which("bash") or "/bin/sh", "--norc", "-i"]
    program = shutil.which(words[0], path=environment["PATH"])
    if program is None:
        sys.stderr.write(f"{untrusted.show(words[0])}: not found\n")
        return 127
    os.execve(program, words, environment)  # noqa: S606 - a shell has no part in this
    return 127  # never: this process is the program now


def earlier(place: str, what: str, *within: str) -> int:
    """Put a thing of an older layout's quarantine back to where it stood in that layout."""
    try:
        back = restore(place, what, within=within)
    except LoopError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{what} is back at {back['path']}, branch {back['branch'] or 'none'}\n")
    return 0


def worktrees(config_path: str) -> int:
    """Print the worktrees of runs in this cell: checkout and path, separated by a space."""
    settings.load(config_path)
    runs = os.getcwd()
    for change in sorted(os.listdir(runs)):
        home = f"{runs}/{change}/worktrees"
        for name in sorted(os.listdir(home)) if os.path.isdir(home) and not os.path.islink(home) else []:
            checkout = re.fullmatch(rf"(.+)-{re.escape(change)}", name, re.IGNORECASE)
            if checkout and os.path.lexists(f"{home}/{name}/.git"):
                say(f"{checkout[1]} {home}/{name}\n")
    return 0


def pack(config_path: str, worktree: str, known: str) -> int:
    """Write a bundle of a worktree's work to stdout: its commits, and what was not committed in one more.

    Without what the commit ``known`` has: the clone that receives it has that already. Nothing of the cell's repository
    is used but its objects, so a repository that was broken, or whose settings name programs, still gives its files.
    What git cannot have (pipes, closed files, other repositories) is named on stderr, and stays in the cell. A file
    comes as its attributes say where that can be taken back, else as it stands.
    """
    config = settings.load(config_path)
    home = _borrowing_repository(config, worktree)
    environment = {
        "GIT_DIR": home, "GIT_WORK_TREE": worktree,
        "GIT_AUTHOR_NAME": config.git_user_name, "GIT_AUTHOR_EMAIL": config.git_user_email,
        "GIT_COMMITTER_NAME": config.git_user_name, "GIT_COMMITTER_EMAIL": config.git_user_email,
    }  # fmt: skip
    quiet = {"core.excludesFile": "/dev/null", "core.attributesFile": "/dev/null", "core.safecrlf": "true"}

    def asked(*words: str, stdin: Sequence[str] | None = None, ok: Sequence[int] = (0,)) -> tuple[int, str, str]:
        names = None if stdin is None else b"".join(os.fsencode(name) + b"\0" for name in stdin)
        return git(worktree, words, environment=environment, config=quiet, timeout=600, stdin=names, ok=ok)

    def ask(*words: str) -> str:
        return asked(*words)[1].strip()

    def add(names: Sequence[str]) -> list[str]:
        """Which of them git does not take. It takes none where one of them is such, so these are found by halves."""
        try:
            asked("update-index", "--add", "-z", "--stdin", stdin=names)
        except LoopError:
            half = len(names) // 2
            return [*add(names[:half]), *add(names[half:])] if half else list(names)
        return []

    head = _head(worktree) or known
    try:
        ask("rev-list", "--objects", "--quiet", head, "--not", known)
    except LoopError as error:
        _left_out(f"the commits of its repository ({error})")
        head = known
    ask("read-tree", head)
    asked("update-index", "-q", "--refresh", ok=ANY)
    told = asked("diff-files", "--name-status", "--no-renames", "--ignore-submodules=dirty", "-z")[1].split("\0")
    changed = dict(zip(told[1::2], told[::2], strict=False))
    asked("update-index", "--force-remove", "-z", "--stdin", stdin=[name for name in changed if changed[name] == "D"])
    _status, listed, warned = asked("ls-files", "--others", "--exclude-standard", "-z")
    for line in warned.splitlines():  # of directories that are closed
        _left_out(line.removeprefix("warning: "))
    names = [name for name in changed if changed[name] != "D"] + [name for name in listed.split("\0") if name]
    fit, unfit = _fit_for_git(worktree, names)
    refused = add(fit)
    os.makedirs(f"{home}/info", exist_ok=True)
    with open(f"{home}/info/attributes", "w", encoding="utf-8") as handle:  # which win over those of the worktree
        handle.write("* -text !ident !filter !working-tree-encoding\n")
    refused = add(refused)
    # A name that might be a repository's own, git passes over and says nothing.
    taken = {*asked("ls-files", "-z")[1].split("\0")}.difference(refused)
    for name in [*unfit, *(name for name in fit if name not in taken)]:
        _left_out(name)
    tree = ask("write-tree")
    if tree != ask("rev-parse", f"{head}^{{tree}}"):
        head = ask("commit-tree", tree, "-p", head, "-m", "What was not committed when the cycle ended")
    ask("update-ref", BRINGING, head)
    # git itself writes to our stdout, which may be long.
    words = ["git", f"--git-dir={home}", "bundle", "create", "--quiet", "-", BRINGING, "--not", known]
    os.execv("/usr/bin/git", words)  # noqa: S606 - a shell has no part in this


def _borrowing_repository(config: Settings, worktree: str) -> str:
    """A fresh repository that borrows the objects of the pristine clones and of the worktree's own repository."""
    home = tempfile.mkdtemp(prefix="pack-")
    git("/", ["init", "--quiet", "--bare", "--template=", home], timeout=60)
    lenders = [f"{one.path}/objects" for one in pristine.clones(config)]
    lenders += [f"{place}/.git/objects" for place in _checkout(worktree) if _lends_only(place, lenders)]
    os.makedirs(f"{home}/objects/info", exist_ok=True)
    with open(f"{home}/objects/info/alternates", "w", encoding="utf-8", errors="surrogateescape") as handle:
        handle.write("".join(f"{path}\n" for path in lenders if os.path.isdir(path)))
    return home


def _left_out(what: str) -> None:
    sys.stderr.write(f"left out: {untrusted.show(what)}\n")


def _head(worktree: str) -> str:
    """The commit that the worktree stands at; empty where its repository does not say."""
    with contextlib.suppress(LoopError):
        found = git(worktree, ["rev-parse", "--verify", "HEAD^{commit}"], timeout=20)[1].strip()
        return found if pristine.SHA.fullmatch(found) else ""
    return ""


def _checkout(worktree: str) -> list[str]:
    """The checkout whose repository the worktree belongs to, by its own word; itself where it has one of its own."""
    if os.path.isdir(f"{worktree}/.git"):
        return [worktree]
    with contextlib.suppress(LoopError):
        text = os.fsdecode(untrusted.read(f"{worktree}/.git", worktree, 4096) or b"")
        found = re.fullmatch(r"gitdir: (/.+)/\.git/worktrees/[^/\n]+\n?", text)
        return [found[1]] if found else []
    return []


def _lends_only(place: str, known: Sequence[str]) -> bool:
    """Whether a repository borrows from the pristine clones alone: git would follow it anywhere, into pipes as well."""
    with contextlib.suppress(LoopError):
        text = os.fsdecode(untrusted.read(f"{place}/.git/objects/info/alternates", place, 65536) or b"")
        return set(text.splitlines()) <= {*known, ""}
    return False


def _fit_for_git(worktree: str, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which files git can have, and a forge would take, and which not."""
    fit: list[str] = []
    unfit: list[str] = []
    for name in names:
        path = f"{worktree}/{name}"
        good = False
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            small = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE
            good = stat.S_ISLNK(status.st_mode) or (small and os.access(path, os.R_OK))
        (fit if good else unfit).append(name)
    return fit, unfit
