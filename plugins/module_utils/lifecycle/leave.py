# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host is given back: what we brought goes, what came of it stays unless it is asked away, each in one line.

Units, our code and the releases go always. Everything else is somebody's: work, configuration,
secrets, receipts, what an older layout had, and the user. Killed anywhere, the next one goes on.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import grp
import json
import os
import pwd
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..base import progress
from ..base.errors import LoopError
from ..base.files import inside, read_bytes, remove_tree, size_of, unlink
from ..cell import attempts, budget, cells
from ..host import jobs, privileges, renderers, settings, systemd, targets
from ..host.processes import cycle_in_progress
from ..host.settings import Settings
from ..host.users import whose
from ..proof import pause
from ..release import releases
from ..release.wanted_version import Wanted
from ..worktrees.manifests import listing
from . import adopt, core_files, leave_collected, older_layout
from .takeover_manifest import ASIDE

Json = dict[str, Any]

# What is removed only where it is asked for.
REMOVABLE = ("work", "config", "secrets", "receipts", "taken_over", "user")
# The settings that say where things are.
NEEDED = (
    "user", "group", "unit", "install_dir", "config_dir", "lib_dir", "state_dir", "runs_dir", "memory_dir",
    "cycles_dir", "receipts_dir", "policy_file", "env_file",
)  # fmt: skip
# Those that only a layout with cells has, and only one without.
CELLED, CELLESS = ("gate_user", "pristine_dir"), ("workspace_dir", "daemon_state_dir")
# Those that are not in the settings of an earlier version.
LATER = ("metrics_dir", "learning_dir", "trace_file")
# Where memory stands as well, while it is exchanged and after that.
BESIDE_MEMORY = (".previous", ".new", ".swap")
# Those that follow from others, and are no variables.
DERIVED = ("cycles_dir", "receipts_dir", "policy_file", "pristine_dir")
CONTROL = "/run/systemd/system.control"
STARTERS = (".timer", ".socket", ".path")  # units that start others
# What stands in the install directory for a while, or beside something of ours.
OURS_BESIDE = re.compile(r"\.trash-.*|\.[\w.-]+\.(lock|new|leaving)|budget\.json\.lock")
# What goes from there with the releases. A checkout of an engine may stand there as well, and has its uv.lock.
WITH_RELEASES = re.compile(
    rf"uv(\.new|-\d.*)?|\.uv\.lock|\.uv(-\d.*)?\.leaving|\.trash-[0-9a-f]{{16}}|{re.escape(pause.FILE)}"
)
STAMP = "/var/lib/systemd/timers/stamp-{unit}.timer"


@dataclass
class Leaving:
    """What would go, in order, with how; and what stays, with why."""

    steps: list[tuple[str, Callable[[], object]]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def go(self, line: str, how: Callable[[], object] = lambda: None) -> None:
        """A line for a person, and how it is done; without that, of a part of what another step removes."""
        self.steps.append((line, how))


def deployed(config_file: str, given: Mapping[str, Any]) -> Settings:
    """Where things are: as ``config_file`` on the host has it, and where that is silent or broken as ``given``."""
    try:
        known = json.loads(read_bytes(config_file) or b"{}")
    except (ValueError, LoopError):
        known = {}
    known = known if isinstance(known, dict) else {}
    given = {key: value for key, value in given.items() if not known or key not in (*CELLED, *CELLESS)}
    config = {key: known[key] if isinstance(known.get(key), str) else str(given.get(key) or "") for key in NEEDED}
    for key in (*CELLED, *CELLESS, *LATER):
        if value := {**given, **known}.get(key):
            config[key] = str(value)
    for key, value in config.items():
        path = key.endswith(("_dir", "_file"))
        if not value or (path and (not os.path.isabs(value) or os.path.normpath(value) != value or value == "/")):
            name = key if key in DERIVED else f"engineering_loop_{key}"
            raise LoopError(f"{name} {value!r} is not {'an absolute, plain path' if path else 'a name'}")
    beside = known.get("jobs")
    return Settings(
        dict.fromkeys((*CELLED, *CELLESS, *LATER), ""), **config, jobs=beside if isinstance(beside, list) else []
    )


def leave(
    config: Settings,
    remove: Sequence[str] = (),
    wait: float = 0,
    *,
    key_file: str = "",
    unit_dir: str = systemd.UNIT_DIR,
    check: bool = False,
) -> Json:
    """Give the host back. Returns ``changed``, ``removed`` and ``kept``: lines for a person."""
    unknown = sorted(set(remove) - {*REMOVABLE})
    if unknown:
        raise LoopError(f"engineering_loop_leave_remove names {', '.join(unknown)}; it can name {', '.join(REMOVABLE)}")
    plan = _plan(config, remove, key_file, unit_dir)
    if plan.steps and not check:
        timers = [os.path.basename(path) for path in _unit_files(config, unit_dir) if path.endswith(".timer")]
        systemd.rest(
            lambda: cycle_in_progress("", config.unit), timers, wait,
            "nothing was removed", lambda: _at_work(config) if {"work", "user"} & {*remove} else "",
        )  # fmt: skip
        for name in _users(config) if {"work", "user"} & {*remove} else ():
            privileges.quiet(name)
        for line, how in plan.steps:
            progress.step(f"removing {line}")
            how()
        for directory in _homes(config):
            _rmdir(directory)  # where nothing is left in it
    return {"changed": bool(plan.steps), "removed": [line for line, _how in plan.steps], "kept": plan.kept}


def _plan(config: Settings, remove: Sequence[str], key_file: str, unit_dir: str) -> Leaving:
    plan = Leaving()
    _leave_units(plan, config, unit_dir)
    _leave_code(plan, config.lib_dir)
    _leave_releases(plan, config)
    for line, how in leave_collected.always(config):
        plan.go(line, how)
    if "work" in remove:
        _check_nesting(config, remove, key_file)
        _leave_work(plan, config)
    else:
        _keep_work(plan, config)
    _leave_secrets(plan, config, "secrets" in remove, key_file, [unit_dir, *renderers.UNIT_DIRS[1:]])
    for name, path in (("receipts", config.receipts_dir), ("taken_over", f"{config.install_dir}/{ASIDE}")):
        _leave_as_asked(plan, name in remove, name, [_doomed(path), path])
    if "user" in remove:
        _leave_user(plan, config, "work" in remove)
    else:
        plan.kept += [f"the user {name} (user)" for name in _users(config)]
    # The settings last: they say what was deployed to whoever has to go on.
    _leave_as_asked(plan, "config" in remove, "config", [config.policy_file, f"{config.config_dir}/loop.json"])
    for directory in _homes(config):
        if os.path.isdir(directory) and not os.listdir(directory):
            plan.go(f"{directory}, which is empty", partial(_rmdir, directory))
    return plan


def _homes(config: Settings) -> list[str]:
    return [config[key] for key in ("install_dir", "config_dir", "lib_dir")]


# --- what always goes ---------------------------------------------------------------------


def _unit_files(config: Settings, unit_dir: str) -> list[str]:
    """Units of ours: of the loop's name, and written by the role."""
    found = sorted(glob.glob(f"{glob.escape(unit_dir)}/{glob.escape(config.unit)}*"))
    found += [path for name in systemd.job_units(config.unit) if (path := f"{unit_dir}/{name}") not in found]
    return [path for path in found if path.endswith((".timer", ".socket", ".path", ".service")) and systemd.ours(path)]


def _leave_units(plan: Leaving, config: Settings, unit_dir: str) -> None:
    ours = _unit_files(config, unit_dir)
    for path in sorted(ours, key=lambda path: not path.endswith(STARTERS)):
        plan.go(f"{path}, stopped and disabled before", partial(_remove_unit, path))
    stamp = STAMP.format(unit=config.unit)
    if ours:
        plan.go("what systemd remembers of them", partial(_forget_units, ours, stamp))
    for kind in ("service", "timer"):
        path = f"{unit_dir}/{config.unit}.{kind}"
        if os.path.lexists(path) and path not in ours:
            plan.kept.append(f"{path}: the role did not write it")
        if os.path.isdir(f"{path}.d"):
            plan.kept.append(f"{path}.d: somebody's own settings")


def _remove_unit(path: str) -> None:
    name = os.path.basename(path)
    enabled = ("enabled", "enabled-runtime")
    if "@." in name:
        pass  # what was made of a template ends with the cycle that needs it
    elif path.endswith(STARTERS) or systemd.state(name).get("UnitFileState") in enabled:
        systemd.systemctl("disable", "--now", name)
    unlink(path)


def _forget_units(paths: Sequence[str], stamp: str) -> None:
    systemd.systemctl("daemon-reload")
    for path in paths:
        with contextlib.suppress(LoopError):  # it knows only what failed
            systemd.systemctl("reset-failed", os.path.basename(path))
    unlink(stamp)
    for path in paths:  # what was set at run time
        control = f"{CONTROL}/{os.path.basename(path)}.d"
        for kind in ("Allow", "Deny"):
            unlink(f"{control}/50-IPAddress{kind}.conf")
        _rmdir(control)


def _leave_code(plan: Leaving, lib_dir: str) -> None:
    """The package goes last: while it is there, what stands beside it under these names is ours."""
    names = ("bin", "engine", "hooks", "gateway-client", "git-askpass", "loop", core_files.PACKAGE)
    ours = [each for name in names for each in (_doomed(f"{lib_dir}/{name}"), f"{lib_dir}/{name}")]
    ours = [path for path in ours if os.path.lexists(path)]
    if not ours or core_files.PACKAGE not in ours[-1]:
        return
    plan.go(f"our code in {lib_dir}", partial(_remove_code, ours))
    plan.kept += [f"{path}: not ours" for path in _below(lib_dir) if path not in ours]


def _remove_code(paths: Sequence[str]) -> None:
    for path in paths:
        _remove(path)


def _leave_releases(plan: Leaving, config: Settings) -> None:
    install_dir = config.install_dir
    wanted = Wanted(install_dir=install_dir, unit=config.unit)
    known = releases.absent(wanted, check=True)
    if known["changed"]:
        count = len(known["pruned"])
        plan.go(f"{count} release{'s' * (count != 1)} in {install_dir}/releases", partial(releases.absent, wanted))
    locks = () if known["changed"] else (".releases.lock", ".ledger.lock", ".rollout.lock")  # else they go with them
    for path in _below(install_dir):
        name = os.path.basename(path)
        if (WITH_RELEASES.fullmatch(name) or name in locks) and os.lstat(path).st_uid == os.geteuid():
            plan.go(path, partial(_remove, path))


# --- what goes as asked -------------------------------------------------------------------


def _work(config: Settings) -> list[str]:
    """The directories of work, none of them inside another; what a killed removal left counts as well."""
    state_dir, memory = config.state_dir, config.memory_dir
    keys = ("runs_dir", "cycles_dir", "pristine_dir", *CELLESS)
    paths = {config[key] for key in keys if config[key]}
    paths |= {memory + beside for beside in ("", "-legacy", *BESIDE_MEMORY)}
    paths |= {f"{state_dir}/jobs", *_job_states(config)}
    for cell, manifest in cells.listing(config.runs_dir):  # an adopted one has closed on other disks what was there
        beside = [os.path.dirname(actual) for actual, _seen in manifest.binds if _roots(cell.path)]
        paths |= {path for path in beside if os.path.basename(path) == f".adopted-{cell.id}"}
    if _roots(state_dir):  # and so holds what the role did not make, perhaps
        uids = {pwd.getpwnam(name).pw_uid for name in _users(config)} - {os.geteuid()}
        paths |= {path for path in _below(state_dir) if os.lstat(path).st_uid in uids}
    else:
        paths.add(state_dir)
    paths = {os.path.normpath(path) for path in paths | leave_collected.work(config)}
    tops = sorted(path for path in paths if not any(inside(path, other) for other in paths if other != path))
    budget_file = budget.path_of(config)
    ends = [_doomed(os.path.realpath(path)) for path in tops if os.path.islink(path) and not _leads_nowhere(path)]
    found = [each for path in tops for each in (_doomed(path), path)] + ends + [budget_file, f"{budget_file}.lock"]
    found.append(attempts.path_of(config))
    return list(dict.fromkeys(path for path in found if os.path.lexists(path)))


def _job_states(config: Settings) -> list[str]:
    """Where the jobs beside the cycle keep what they know, as far as the settings on the host name it."""
    found = [str(job.get("state", "")) for job in config.get("jobs", []) if isinstance(job, dict)]
    return [path for path in found if os.path.isabs(path) and os.path.normpath(path) == path != "/"]


def _cells(config: Settings) -> list[tuple[cells.Cell, cells.Manifest]]:
    """The kept cells with their manifests, oldest first."""
    return [one for one in cells.listing(config.runs_dir) if _roots(one[0].path) and one[1].is_kept]


def _kept_aside(config: Settings) -> list[Json]:
    """What an older layout has in its quarantine."""
    if not settings.celled(config):
        with contextlib.suppress(LoopError):
            return listing(f"{config.runs_dir}/.quarantine")
    return []


def _keep_work(plan: Leaving, config: Settings) -> None:
    aside, kept = len(_kept_aside(config)), len(_cells(config))
    for path in _work(config):
        plan.kept.append(f"{path} (work)")
    if aside:
        plan.kept.append(f"{aside} thing{'s' * (aside != 1)} in {config.runs_dir}/.quarantine (work)")
    if kept:
        plan.kept.append(
            f"{kept} kept cell{'s' * (kept != 1)} in {config.runs_dir} (work): where the role is applied again,"
            f" {cells.enter_command(config, 'ID')} opens one"
        )


def _leave_work(plan: Leaving, config: Settings) -> None:
    work = _work(config)
    refused = {path: why for path in work if (why := _no_work(path, config))}
    plan.kept += [f"{path}: {why}" for path, why in refused.items()]
    for thing in _kept_aside(config):
        if not any(inside(thing["to"], path) for path in refused):
            plan.go(f"for good: {thing['id']}, {thing.get('what', 'something')} from {thing.get('from', '?')}")
    for cell, manifest in _cells(config):
        if not any(inside(config.runs_dir, path) for path in refused):
            words = ", ".join(filter(None, (manifest.outcome, manifest.change_id, manifest.detail)))
            plan.go(f"for good: the kept cell {cell.id}: {words}")
    for path in work:
        if path in refused:
            continue
        if _leads_nowhere(path):
            plan.go(f"{path}, the link alone", partial(unlink, path))
            plan.kept.append(f"{os.path.realpath(path)}: {path} leads there, a link that is not root's")
            continue
        for part in _parts(path, config):
            plan.go(f"{part} ({_size(part)})")
        plan.go(path, partial(_remove, path))
        if os.path.basename(path).startswith(".adopted-"):
            plan.go(f"{os.path.dirname(path)}, where nothing else is in it", partial(_rmdir, os.path.dirname(path)))
    _leave_state_dir(plan, config, {*work} - {*refused})


def _leave_state_dir(plan: Leaving, config: Settings, going: set[str]) -> None:
    """Root's directory around it all goes where nothing else is in it."""
    state_dir = config.state_dir
    if not (_roots(state_dir) and os.path.isdir(state_dir)) or os.path.islink(state_dir):
        return
    others = [path for path in _below(state_dir) if not any(inside(each, path) for each in going)]
    if others:
        brought = f"{state_dir}/restored"
        plan.kept += [f"{path}: {'work that was brought out' if path == brought else 'not ours'}" for path in others]
    else:
        plan.go(f"{state_dir}, where nothing else is in it", partial(_rmdir, state_dir))


def _parts(path: str, config: Settings) -> list[str]:
    """What is in a directory of work; run by run and checkout by checkout."""
    deeper = {config.runs_dir, config.workspace_dir, f"{config.workspace_dir}/.quarantine"} - {""}
    found = []
    for below in _below(path):
        found += _parts(below, config) if below in deeper and os.path.isdir(below) else [below]
    return found


def _no_work(path: str, config: Settings) -> str:
    """Why a directory is not one of the loop's own, which alone are removed."""
    try:
        whose(os.path.dirname(path))
        if _leads_nowhere(path):
            return ""  # it alone goes
        real = _end_of(path)
    except LoopError as error:
        return f"{error}; remove it yourself"
    if real.count("/") < 2:
        return "too near to the root of the file system to be removed by anybody but you"
    if os.path.isdir(path) and _roots(real) and os.geteuid() == 0 and not _made(path, config):
        return "it belongs to root, and nothing in it says that it is the loop's: remove it yourself"
    return ""


def _made(path: str, config: Settings) -> bool:
    """Whether a directory of root's is one that the role makes: told by what is in it, or by its group."""
    names = [os.path.basename(below) for below in _below(path)]
    if path.endswith(".leaving") or os.path.basename(path).startswith(".adopted-") or not names:
        return True
    lessons = [config.memory_dir + beside for beside in ("", "-legacy", *BESIDE_MEMORY)]
    if path == f"{config.state_dir}/jobs":
        return all(jobs.NAME.fullmatch(name) and os.path.isdir(f"{path}/{name}") for name in names)
    if path in (*lessons, *_job_states(config)) or leave_collected.made(path, config):
        return _exists(grp.getgrnam, config.group) and os.stat(path).st_gid == grp.getgrnam(config.group).gr_gid != 0
    if path == config.cycles_dir:
        return all(re.fullmatch(r"\.?[0-9TZ]{16}-[0-9a-z]+\.(json|log|tar\.gz)(\.new)?", name) for name in names)
    # Cells, and what an older layout has left closed.
    return any(adopt.OURS_IN_RUNS.fullmatch(name) for name in names if name != "lost+found")


def _check_nesting(config: Settings, remove: Sequence[str], key_file: str) -> None:
    """Work is removed whole: nothing that is to stay may stand in it."""
    stays = {"install_dir": config.install_dir, "config_dir": config.config_dir, "lib_dir": config.lib_dir}
    if "secrets" not in remove:
        stays |= {"env_file": config.env_file, "the key": key_file}
    if "receipts" not in remove:
        stays["receipts_dir"] = config.receipts_dir
    for name, path in stays.items():
        for directory in _work(config):
            if _leads_nowhere(directory) or _no_work(directory, config):
                continue
            if path and os.path.lexists(path) and inside(os.path.realpath(path), os.path.realpath(directory)):
                raise LoopError(f"{path} ({name}) stands in {directory}, which is to be removed: move it away first")


def _leave_as_asked(plan: Leaving, asked: bool, name: str, paths: Sequence[str]) -> None:
    for path in filter(os.path.lexists, paths):
        if asked:
            plan.go(f"{path} ({_size(path)})" if os.path.isdir(path) else path, partial(_remove, path))
        else:
            plan.kept.append(f"{path} ({name})")


def _leave_secrets(plan: Leaving, config: Settings, asked: bool, key_file: str, unit_dirs: Sequence[str]) -> None:
    """With who writes them again, and what such a renderer brings beside them. What else is there is not ours."""
    install_dir, config_dir = config.install_dir, config.config_dir
    usual = [path for path in (config.env_file, key_file, f"{install_dir}/.env", targets.written(config)) if path]
    known = {*(f"{install_dir}/{name}" for name in older_layout.OURS), config.receipts_dir}
    known |= {config.policy_file, f"{config_dir}/loop.json"}
    beside = [path for home in (install_dir, config_dir) for path in _below(home)]
    names = {path: os.path.basename(path) for path in beside if path not in known}
    others = [
        path for path, name in names.items() if not (OURS_BESIDE.fullmatch(name) or WITH_RELEASES.fullmatch(name))
    ]
    for path in dict.fromkeys([*usual, *others]):
        there = os.path.lexists(path)
        writers = " and ".join(map(str, renderers.renderers_of(path, unit_dirs)))
        if (os.path.isdir(path) and not os.path.islink(path)) or (path not in usual and not writers):
            plan.kept.append(f"{path}: not ours")
        elif there and asked:
            plan.go(
                path + (f"; {writers} writes it again until you stop that" if writers else ""), partial(unlink, path)
            )
        elif there:
            plan.kept.append(f"{path} (secrets)" + (f", written by {writers}" if writers else ""))
        elif writers:
            plan.kept.append(f"{path} is not there, and comes as soon as {writers} writes it")


def _leave_user(plan: Leaving, config: Settings, work_goes: bool) -> None:
    users = _users(config)
    uids = {pwd.getpwnam(name).pw_uid for name in users}
    left = [
        path
        for path in (_work(config) if users else ())
        if not work_goes
        or _no_work(path, config)
        or (_leads_nowhere(path) and os.path.exists(path) and os.stat(path).st_uid in uids)
    ]
    if left:
        raise LoopError(
            f"the user {users[0]} cannot go while its files stay: a later user may get its number, and with it"
            f" {', '.join(left)}; add work to engineering_loop_leave_remove, or take these away first"
        )
    for name in users:
        if name == "root" or pwd.getpwnam(name).pw_uid >= 1000:
            plan.kept.append(f"the user {name}: no system user of the role's making")
            return
        crontab = f"{privileges.CRONTABS}/{name}"
        if os.path.lexists(crontab):
            plan.go(f"{crontab}, which it would run as whoever gets its number", partial(unlink, crontab))
        plan.go(f"the user {name}", partial(_delete_account, "userdel", name))
    for group in dict.fromkeys((config.group, config.gate_user)):
        if group and _exists(grp.getgrnam, group):
            plan.go(f"the group {group}", partial(_delete_account, "groupdel", group))


def _users(config: Settings) -> list[str]:
    """Those of the loop's users that exist."""
    return [name for name in dict.fromkeys((config.user, config.gate_user)) if name and _exists(pwd.getpwnam, name)]


def _at_work(config: Settings) -> str:
    """A process of the loop's users that would go on writing where everything is removed; sessions are ended."""
    found = (privileges.at_work(name, [f"{config.install_dir}/"]) for name in _users(config))
    return next(filter(None, found), "")


def _delete_account(program: str, name: str) -> None:
    if program == "groupdel" and not _exists(grp.getgrnam, name):
        return  # it went with its user
    done = subprocess.run([program, name], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise LoopError(f"{name} cannot be removed: {last}")


# --- small things -------------------------------------------------------------------------


def _exists(look: Callable[[str], object], name: str) -> bool:
    """Whether ``pwd.getpwnam`` or ``grp.getgrnam`` knows of one."""
    with contextlib.suppress(KeyError):
        return bool(look(name))
    return False


def _roots(path: str) -> bool:
    """Whether something stands there and is root's (or, where we are not root, ours)."""
    with contextlib.suppress(OSError):
        return os.stat(path).st_uid == os.geteuid()
    return False


def _leads_nowhere(path: str) -> bool:
    """Whether it is a link that is not root's: where that leads is no word of ours, and nothing there is touched."""
    return os.path.islink(path) and os.lstat(path).st_uid != os.geteuid()


def _end_of(path: str, links: int = 40) -> str:
    """Where ``path`` is in the end, by no link but root's on the whole way. LoopError otherwise."""
    place = os.path.join(whose(os.path.dirname(path))[0], os.path.basename(path))
    if not os.path.islink(place):
        return place
    if _leads_nowhere(place) or not links:
        raise LoopError(f"{place} is a link that root does not follow")
    return _end_of(os.path.normpath(os.path.join(os.path.dirname(place), os.readlink(place))), links - 1)


def _size(path: str) -> str:
    return f"{-(-size_of(path) // 1024)} KiB"


def _below(path: str) -> list[str]:
    try:
        return [f"{path}/{name}" for name in sorted(os.listdir(path))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _doomed(path: str) -> str:
    """Where a directory waits for its end, out of everybody's way."""
    return f"{os.path.dirname(path)}/.{os.path.basename(path)}.leaving"


def _rmdir(path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _remove(path: str) -> None:
    """A tree: out of the way by one rename, then whole; of a link of root's to another disk the tree there first."""
    if os.path.islink(path):
        if os.path.isdir(path) and not _leads_nowhere(path):
            _remove(_end_of(path))
    elif os.path.isdir(path) and not path.endswith(".leaving"):
        try:
            os.rename(path, _doomed(path))
            path = _doomed(path)
        except OSError as error:
            if error.errno != errno.EBUSY:  # a mount point is emptied in its place
                raise LoopError(f"{path} cannot be removed: {error.strerror}") from error
    try:
        remove_tree(path)
    except LoopError:
        if not os.path.ismount(path) or os.listdir(path):
            raise
