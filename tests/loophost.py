# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throwaway loop hosts: a real Debian, 13 or the SUITE of the environment, booted with systemd in about two seconds.

One root file system is built once; a host is an overlay over it, booted by
systemd-nspawn in a mount namespace and a control group of its own. Every mount
lives in that namespace and every process in that group, so a host's end, however
it comes, leaves no mount behind, and its group finds all that still runs.

The root file system is bare on purpose: what a loop host needs beyond it is the
role's work. A host shares this machine's network, may make networks of its own and
filter what units say (which takes rights on this machine's network too, so whatever
would set that up by itself is masked), and is given what the machine knows about
reaching it: proxies, CA bundle, pip's index settings, resolver.
``UV_SYSTEM_CERTS`` is not set: real hosts do not have it either.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

REPO = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("LOOPHOST_CACHE") or REPO / ".cache").resolve()
HOSTS = CACHE / "hosts"
ARCHIVES = CACHE / "apt" / "archives"
KEY = CACHE / "ssh" / "id_ed25519"

NAME = re.compile(r"[a-z][a-z0-9-]{0,40}(?<!-)")
# Below the ports that the kernel hands out to clients, so that none of them takes ours meanwhile.
PORTS = range(20000, 30000)
SSH_FAILED = 255  # ssh's own status, if it is not the command's
BOOT_SECONDS = 60
ROOTFS_BYTES = 600_000_000
POWEROFF_SECONDS = 10

PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES = ("bookworm", "trixie", "forky")
INCLUDE = "systemd,systemd-sysv,dbus,python3,openssh-server,ca-certificates,iproute2,sudo"
# A host key shared by every host would be no key; what apt does on its own would hold its lock
# under a test; a getty has no terminal here.
CUSTOMIZE = """
rm -f "$1"/etc/ssh/ssh_host_*
for unit in apt-daily.timer apt-daily-upgrade.timer console-getty.service sshd-keygen.service; do
  ln -sfn /dev/null "$1/etc/systemd/system/$unit"
done
"""
# What a host must not do to the network that it shares.
NETWORK_UNITS = (
    "NetworkManager.service", "networking.service", "nftables.service", "systemd-networkd.service",
    "systemd-networkd.socket",
)  # fmt: skip
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
# The settings by which pip reaches an index; the rest of a user's configuration is a matter of taste.
PIP_SETTINGS = ("index-url", "extra-index-url", "find-links", "trusted-host", "cert", "proxy", "timeout")
CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"

# Both run in a mount namespace of their own, as `unshare --mount`. A machine without systemd has
# no cgroup2 in its usual place, or none at all: a mount over it there is seen by nobody else.
CGROUP2 = """
set -eu
groups=/sys/fs/cgroup
[ "$(stat -f -c %T $groups)" = cgroup2fs ] || mount -t cgroup2 cgroup2 $groups
"""
# systemd-nspawn ends with 133 to be started anew: its machine reboots. This shell stays out of
# the group that systemd-nspawn divides, since a divided group may hold no process itself.
BOOT = (
    CGROUP2
    + """
group=$groups/$1 name=$2 lower=$3
mkdir $group $group/keeper $group/machine
echo $$ >$group/keeper/cgroup.procs
mount -t overlay overlay -o "lowerdir=$lower,upperdir=upper,workdir=work" merged
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
status=133
while [ $status = 133 ]; do
  status=0
  sh -c 'echo $$ >"$0"; exec systemd-nspawn "$@"' $group/machine/cgroup.procs --quiet --keep-unit --register=no \
    --boot --directory="$PWD/merged" --machine="$name" --console=pipe --resolv-conf=copy-host --link-journal=no \
    --capability=CAP_NET_ADMIN,CAP_BPF --system-call-filter=bpf \
    || status=$?
done
exit $status
"""
)
LIVING = (
    CGROUP2
    + """
for group in $groups/$1-*; do
  if [ -d "$group" ] && grep -q 'populated 1' "$group/cgroup.events"; then echo "${group##*/}"; fi
done
"""
)
# Asked by SIGTERM, systemd-nspawn powers its machine off.
REAP = (
    CGROUP2
    + """
group=$groups/$1 tenths=$2
[ -d $group ] || exit 0
for pid in $(cat $group/machine/cgroup.procs $group/machine/supervisor/cgroup.procs 2>/dev/null); do
  [ "$(cat /proc/$pid/comm 2>/dev/null)" != systemd-nspawn ] || kill -TERM $pid || :
done
while grep -q 'populated 1' $group/cgroup.events; do
  if [ $tenths -le 0 ]; then find $group -name cgroup.procs -exec cat {} + | xargs -r kill -KILL 2>/dev/null || :; fi
  tenths=$((tenths - 1))
  [ $tenths -gt -100 ] || { echo "processes of $1 cannot be killed" >&2; exit 1; }
  sleep 0.1
done
find $group -depth -type d -exec rmdir {} +
"""
)


class HostError(Exception):
    """What stands in the way of a host, in one line."""


class PortTaken(HostError):
    """Somebody else listens on the port that was free a moment ago."""


def fail(message: str) -> NoReturn:
    raise HostError(" ".join(message.split()))


# --- the public door ---------------------------------------------------------------------------


def create(name: str) -> dict[str, Any]:
    """A booted host of this name: the running one, or a new one."""
    if os.geteuid():
        created: dict[str, Any] = json.loads(_as_root("create", name, "--json"))
        return created
    _check_name(name)
    _require()
    with _locked(HOSTS / f".{name}.lock"):
        if (host := _read(name)) and name in _living():
            return host
        _remove(name)
        lower = rootfs()
        try:
            return _boot_on_a_free_port(name, lower)
        except BaseException:
            with _uninterrupted():
                _remove(name)
            raise


def destroy(name: str) -> bool:
    """End the host and whatever a broken creation left of it; False if there was nothing."""
    _check_name(name)
    if name not in _known():
        return False
    if os.geteuid():
        _as_root("destroy", name)
        return True
    with _locked(HOSTS / f".{name}.lock"), _uninterrupted():
        _remove(name, POWEROFF_SECONDS)
    return True


def hosts() -> list[dict[str, Any]]:
    """Every host of this cache, the broken ones too, with its ``state``: running, creating or dead."""
    living = _living() if not os.geteuid() else None
    found = []
    for name in _known():
        host = _read(name)
        alive = name in living if living is not None else bool(host and _listens(host["port"]))
        state = "dead" if not alive else "running" if host else "creating"
        found.append({"name": name, "state": state, **(host or {})})
    return found


def _suite() -> str:
    """Which Debian the hosts run: 13, or what SUITE names, such as bookworm."""
    suite = os.environ.get("SUITE") or "trixie"
    if suite not in SUITES:
        fail(f"SUITE={suite} is none of {', '.join(SUITES)}")
    return suite


def rootfs() -> Path:
    """The root file system that hosts are laid over, built once for each recipe."""
    recipe = ["--mode=root", "--variant=minbase", f"--include={INCLUDE}", "--skip=cleanup/apt/lists"]
    recipe += [f"--aptopt={option}" for option in _apt_options()]
    recipe += ["--dpkgopt=force-unsafe-io", f"--customize-hook={CUSTOMIZE}", _suite()]
    done = CACHE / f"rootfs-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"
    if done.is_dir():
        return done
    with _locked(CACHE / ".rootfs.lock") as lock:
        if done.is_dir():
            return done
        building = CACHE / "rootfs.building"
        _delete(building)
        if shutil.disk_usage(CACHE).free < ROOTFS_BYTES:
            fail(f"the disk is full: {CACHE} needs {ROOTFS_BYTES / 1e9} GB for the root file system")
        print(f"Building the root file system of {recipe[-1]}, once (half a minute)...", file=sys.stderr, flush=True)
        # In a process namespace that dies with its first process: interrupted, mmdebstrap leaves
        # neither mounts nor children. It inherits the lock, so that nobody builds over it.
        command = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += ["mmdebstrap", *recipe, str(building)]
        try:
            built = _run(*command, pass_fds=[lock])
            if built.returncode:
                errors = [line for line in built.stderr.splitlines() if line.startswith(("E:", "W:", "Err:"))]
                fail(
                    f"mmdebstrap failed (is Debian's mirror in reach?): {' / '.join(errors[:3]) or built.stderr[-300:]}"
                )
            building.rename(done)
        except BaseException:
            with _uninterrupted():
                _delete(building)
            raise
    return done


# --- one host ----------------------------------------------------------------------------------


def _boot_on_a_free_port(name: str, lower: Path) -> dict[str, Any]:
    for port in (_free_port() for _attempt in range(5)):
        try:
            _prepare(name, lower, port)
            process = _start(name, lower)
            host = _describe(name, port)
            try:
                _await_running(host, process)
            except BaseException:
                process.kill()  # it may not have come as far as its group, where _remove finds all others
                process.wait()
                raise
            (HOSTS / name / "host.json").write_text(json.dumps(host, indent=2) + "\n", encoding="utf-8")
            return host
        except PortTaken:
            _remove(name)
    fail("no free port on 127.0.0.1 could be kept long enough for sshd to take it")


def _prepare(name: str, lower: Path, port: int) -> None:
    """Lay out what makes this host different from the root file system."""
    home = HOSTS / name
    for part in ("upper", "work", "merged"):
        (home / part).mkdir(parents=True)
    upper = home / "upper"
    upper.chmod(0o755)

    def put(path: str, text: str, mode: int = 0o644) -> None:
        _directory(upper, lower, Path(path).parent)
        file = upper / path
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    put("etc/hostname", f"{name}\n")
    put("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost\n")
    put("etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
    put(
        "etc/ssh/sshd_config.d/loophost.conf",
        f"Port {port}\nListenAddress 127.0.0.1\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n",
    )
    host_key = upper / "etc/ssh/ssh_host_ed25519_key"
    _keygen(host_key)
    put("root/.ssh/authorized_keys", _public_key(), 0o600)
    (upper / "root/.ssh").chmod(0o700)
    if bundle := _ca_bundle():
        put(CA_BUNDLE, bundle)
        put("usr/local/share/ca-certificates/this-machine.crt", bundle)  # for when somebody adds one of their own
    if pip := _pip_configuration(lower):
        put("etc/pip.conf", pip)
    if proxies := _proxies():
        put("etc/environment", "".join(f'{key}="{value}"\n' for key, value in proxies.items()))
        pairs = " ".join(f'"{key}={value}"' for key, value in proxies.items()).replace("%", "%%")
        put("etc/systemd/system.conf.d/proxies.conf", f"[Manager]\nDefaultEnvironment={pairs}\n")
    put("etc/locale.conf", "LANG=C.UTF-8\n")
    _directory(upper, lower, Path("etc/systemd/system"))
    for unit in NETWORK_UNITS:
        (upper / "etc/systemd/system" / unit).symlink_to("/dev/null")
    _directory(upper, lower, Path("var/log/journal"))  # its being there makes the journal outlive a reboot
    _directory(upper, lower, Path("var/cache/apt/archives/partial"))
    for package in ARCHIVES.glob("*.deb"):
        _link(package, upper / "var/cache/apt/archives" / package.name)
    public = host_key.with_suffix(".pub").read_text(encoding="utf-8")
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}", encoding="utf-8")


def _start(name: str, lower: Path) -> subprocess.Popen[bytes]:
    home = HOSTS / name
    with (home / "boot.log").open("wb") as log:
        # Relative paths: an overlay's options leave no room for the ',' and ':' of a path.
        return subprocess.Popen(
            _unshared(BOOT, _group(name), name, os.path.relpath(lower, home)),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _await_running(host: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    log = HOSTS / host["name"] / "boot.log"
    question = "systemctl is-system-running --wait; systemctl list-units --failed --plain --no-legend"
    while time.monotonic() < deadline:
        console = " / ".join(log.read_text(encoding="utf-8", errors="replace").split("\n")[-5:])
        if process.poll() is not None:
            fail(f"{host['name']} did not boot: {console}")
        if _listens(host["port"]):
            answer = _run(*host["ssh"], question, timeout=BOOT_SECONDS)
            if answer.returncode == SSH_FAILED:  # ours would have answered
                raise PortTaken(answer.stderr)
            state, *failed = answer.stdout.splitlines() or [answer.stderr]
            if state != "running" or failed:
                fail(f"{host['name']} is {state}: {'; '.join(unit.split()[0] for unit in failed)}")
            return
        time.sleep(0.03)
    fail(f"{host['name']}: no answer from sshd within {BOOT_SECONDS} s. {console}")


def _describe(name: str, port: int) -> dict[str, Any]:
    known_hosts = HOSTS / name / "known_hosts"
    options = {
        "Port": port,
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": f'"{known_hosts}"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": 10,
        "LogLevel": "ERROR",
    }
    ssh = ["ssh", "-F", "none", "-i", str(KEY), *(f"-o{key}={value}" for key, value in options.items())]
    return {
        "name": name,
        "address": "127.0.0.1",
        "port": port,
        "user": "root",
        "key": str(KEY),
        "known_hosts": str(known_hosts),
        "ssh": [*ssh, "root@127.0.0.1"],
    }


def _remove(name: str, patience: float = 0) -> None:
    """Whatever there is of a host: processes, group, files. What it downloaded stays, for the next one."""
    reaped = _run(*_unshared(REAP, _group(name), str(round(patience * 10))))
    if reaped.returncode:
        fail(f"{name} does not end: {reaped.stderr}")
    ARCHIVES.mkdir(parents=True, exist_ok=True)
    for package in (HOSTS / name / "upper/var/cache/apt/archives").glob("*.deb"):
        _link(package, ARCHIVES / package.name)
    _delete(HOSTS / name)


def _living() -> set[str]:
    """The names of the hosts of this cache that have a process."""
    prefix = _group("").removesuffix("-")
    found = _run(*_unshared(LIVING, prefix))
    if found.returncode:
        fail(f"cannot look at control groups: {found.stderr}")
    return {group.removeprefix(f"{prefix}-") for group in found.stdout.split()}


def _known() -> list[str]:
    """Names with files, and, as long as root asks, those whose files somebody deleted under them."""
    with_files = {path.name for path in HOSTS.iterdir() if path.is_dir()} if HOSTS.is_dir() else set()
    return sorted(with_files | (set() if os.geteuid() else _living()))


def _read(name: str) -> dict[str, Any] | None:
    try:
        host: dict[str, Any] = json.loads((HOSTS / name / "host.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return host


def _group(name: str) -> str:
    """A control group's name: caches of several checkouts share one machine."""
    return f"loophost-{hashlib.sha256(str(CACHE).encode()).hexdigest()[:8]}-{name}"


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        fail(f"{name!r} is no host name: lower-case letters, digits and '-', at most 41, a letter first")


# --- what the machine knows about its network --------------------------------------------------


def _apt_options() -> list[str]:
    """Quick installs (no translations, downloads kept), and this machine's ways round proxies and clocks."""
    options = ['Acquire::Languages "none"', 'Binary::apt::APT::Keep-Downloaded-Packages "true"']
    if _which("apt-config"):
        wanted = r'(Acquire::(?:https?::(?:Proxy|CaInfo)|Check-Valid-Until|Check-Date|Retries)\S* ".+");'
        options += re.findall(f"^{wanted}$", _run("apt-config", "dump", "Acquire").stdout, re.IGNORECASE | re.MULTILINE)
    return options


def _proxies() -> dict[str, str]:
    values = {key: os.environ.get(key) or os.environ.get(key.upper()) for key in PROXIES}
    return {form: value for key, value in values.items() if value for form in (key, key.upper())}


def _ca_bundle() -> str | None:
    for path in (os.environ.get("SSL_CERT_FILE"), f"/{CA_BUNDLE}"):
        if path and Path(path).is_file():
            return Path(path).read_text(encoding="utf-8")
    return None


def _pip_configuration(lower: Path) -> str | None:
    """How this machine's pip reaches an index, without the paths that the host does not have."""
    parser = configparser.RawConfigParser()
    files = ["/etc/xdg/pip/pip.conf", "/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf"]
    files.append(os.environ.get("PIP_CONFIG_FILE", os.devnull))
    parser.read([Path(file).expanduser() for file in files], encoding="utf-8")
    found = dict(parser["global"]) if parser.has_section("global") else {}
    for setting in PIP_SETTINGS:
        if value := os.environ.get("PIP_" + setting.upper().replace("-", "_")):
            found[setting] = value

    def there(word: str) -> bool:
        path = word.removeprefix("file://")
        return not path.startswith(("/", "~")) or (lower / path.lstrip("/")).exists()

    lines = []
    for setting in PIP_SETTINGS:
        if words := [word for word in found.get(setting, "").split() if there(word)]:
            lines.append(f"{setting} = {' '.join(words)}\n")
    return "[global]\n" + "".join(lines) if lines else None


# --- small parts -------------------------------------------------------------------------------


def _run(*command: str, timeout: float | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, **more)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"not done after {timeout} s")


def _unshared(script: str, *arguments: str) -> list[str]:
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "loophost", *arguments]


def _directory(upper: Path, lower: Path, path: Path) -> None:
    """Make a directory in the overlay; one that the root file system has keeps its mode."""
    for part in (*reversed(path.parents), path):
        target = upper / part
        if not target.is_dir():
            target.mkdir()
            source = lower / part
            target.chmod(source.stat().st_mode & 0o7777 if source.is_dir() else 0o755)
            if source.is_dir():
                os.chown(target, source.stat().st_uid, source.stat().st_gid)


def _link(source: Path, target: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.link(source, target)


def _keygen(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "loophost", "-f", str(path)]
    made = _run(*command, stdin=subprocess.DEVNULL)
    if made.returncode:
        fail(f"ssh-keygen: {made.stderr or made.stdout}")


def _public_key() -> str:
    """Of the one key pair of this cache; it is the user's who called sudo, for ssh to be used without it."""
    with _locked(CACHE / ".key.lock"):
        if not KEY.exists():
            new = KEY.parent.with_suffix(".new")
            _delete(new)
            new.mkdir()
            _keygen(new / KEY.name)
            new.rename(KEY.parent)
        if "SUDO_UID" in os.environ:
            os.chown(KEY, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))
    return KEY.with_suffix(".pub").read_text(encoding="utf-8")


def _free_port() -> int:
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    fail(f"no free port between {PORTS.start} and {PORTS.stop} on 127.0.0.1")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _delete(tree: Path) -> None:
    """Delete a tree in which something that was killed may still be writing its last."""
    for last in (False, False, True):
        try:
            # rm first: it copes with any depth, which what agents leave may have.
            subprocess.run(["rm", "-rf", "--one-file-system", "--", str(tree)], capture_output=True, check=False)
            shutil.rmtree(tree)
        except FileNotFoundError:
            if not tree.exists():
                return
        except OSError:
            if last:
                raise
            time.sleep(0.5)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold the lock file, and take it away afterwards; one that was taken away meanwhile counts for nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_there(path, os.fstat(descriptor)):
                try:
                    yield descriptor
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(descriptor)


def _is_there(path: Path, opened: os.stat_result) -> bool:
    """Whether the path leads to what was opened there still."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), opened)
    return False


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second ctrl-C must not stop the cleaning up after the first."""
    before = {}
    with contextlib.suppress(ValueError):  # not the main thread, which is where signals arrive
        before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- needs -------------------------------------------------------------------------------------


def missing() -> list[str]:
    """What this machine lacks, each as a sentence."""
    lacks = [f"package {package} is not installed" for package in _packages()]
    if os.geteuid():
        return lacks if _which("sudo") else [*lacks, "root is needed, and there is no sudo to become it"]
    for kind in ("overlay", "cgroup2"):
        known = f"\t{kind}\n" in Path("/proc/filesystems").read_text(encoding="utf-8")
        if not known and (not _which("modprobe") or _run("modprobe", kind).returncode):
            lacks.append(f"the kernel has no {kind} file system")
    if _which("unshare") and _run("unshare", "--mount", "true").returncode:
        lacks.append("root may not mount: this is a container without that privilege (CAP_SYS_ADMIN)")
    return lacks


def setup() -> None:
    """Install what is missing, and build the root file system."""
    if os.geteuid():
        _as_root("setup")
        return
    if packages := _packages():
        if not _which("apt-get"):
            fail(f"no apt-get: install {' '.join(packages)} in this system's own way")
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = _run("apt-get", "-q", *command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
            if done.returncode:
                fail(f"apt-get {' '.join(command)}: {done.stderr[-400:]}")
    _require()
    rootfs()


def _packages() -> list[str]:
    lacking = {package for program, package in PROGRAMS.items() if not _which(program)}
    return sorted(lacking if KEYRING.is_file() else {*lacking, "debian-archive-keyring"})


def _require() -> None:
    if lacks := missing():
        fail(f"{'; '.join(lacks)} (`python tests/loophost.py setup` installs packages)")


def _which(program: str) -> str | None:
    """Also where a user's PATH does not look."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _sudo(*arguments: str) -> list[str]:
    """This command for root, who gets the environment that matters and no more."""
    if not _which("sudo"):
        fail("root is needed, and there is no sudo to become it")
    CACHE.mkdir(parents=True, exist_ok=True)  # the user's, whoever fills it
    kept = {"LOOPHOST_CACHE": str(CACHE), **_proxies()}
    kept |= {key: value for key, value in os.environ.items() if key.startswith("PIP_") or key == "SSL_CERT_FILE"}
    return ["sudo", "env", *(f"{key}={value}" for key, value in kept.items()), sys.executable, __file__, *arguments]


def _as_root(*arguments: str) -> str:
    done = _run(*_sudo(*arguments))
    if done.returncode:
        fail((done.stderr.strip() or "sudo failed").splitlines()[-1].removeprefix("loophost: "))
    return done.stdout


# --- the command -------------------------------------------------------------------------------


def _create_command(arguments: argparse.Namespace) -> None:
    def show(host: dict[str, Any]) -> None:
        print(json.dumps(host) if arguments.json else f"{host['name']} runs: {shlex.join(host['ssh'])}", flush=True)

    _require()
    before = {host["name"] for host in hosts()}
    try:
        alone = len(arguments.names) == 1
        for host in map(create, arguments.names) if alone else _side_by_side(arguments.names, arguments.workers):
            show(host)
    except BaseException:
        with _uninterrupted():
            for name in set(arguments.names) - before:
                destroy(name)
        raise


def _side_by_side(names: Sequence[str], workers: int) -> Iterator[dict[str, Any]]:
    """A process for each: every one has its own signals, and cleans up after itself."""
    rootfs()
    waiting = [[sys.executable, __file__, "create", name, "--json"] for name in names]
    running: list[subprocess.Popen[str]] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(subprocess.Popen(waiting.pop(0), stdout=-1, stderr=-1, text=True))
            output, errors = running[0].communicate()
            if running.pop(0).returncode:
                fail(errors.strip().splitlines()[-1].removeprefix("loophost: "))
            yield json.loads(output)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.communicate()


def _destroy_command(arguments: argparse.Namespace) -> None:
    if not arguments.names and not arguments.all:
        fail("destroy what? a NAME, or --all")
    for name in _known() if arguments.all else arguments.names:
        print(f"{name} is gone" if destroy(name) else f"{name}: no such host", flush=True)


def _list_command(arguments: argparse.Namespace) -> None:
    for host in hosts():
        line = f"{host['name']}\t{host['state']}\t{shlex.join(host.get('ssh', []))}"
        print(json.dumps(host) if arguments.json else line)


def _ssh_command(arguments: argparse.Namespace) -> None:
    host = _read(arguments.name)
    if not host:
        fail(f"{arguments.name}: no such host")
    ssh = [word for word in host["ssh"] if arguments.command or not word.startswith("-oBatchMode")]
    os.execvp(ssh[0], [*ssh, *arguments.command])


def _doctor_command(_arguments: argparse.Namespace) -> None:
    _require()
    print("nothing is missing")


def _setup_command(_arguments: argparse.Namespace) -> None:
    setup()
    print("nothing is missing, and the root file system is there")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loophost.py", description="Throwaway loop hosts: a booted Debian 13 each.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    sub = command("create", _create_command, "boot hosts; one that runs already is returned as it is")
    sub.add_argument("names", nargs="+", metavar="NAME")
    sub.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="how many to boot at once")
    sub.add_argument("--json", action="store_true", help="one JSON object per host and line")
    sub = command("list", _list_command, "the hosts there are")
    sub.add_argument("--json", action="store_true", help="one JSON object per host and line")
    sub = command("destroy", _destroy_command, "power off and remove hosts, half-created ones too")
    sub.add_argument("names", nargs="*", metavar="NAME")
    sub.add_argument("--all", action="store_true")
    sub = command("ssh", _ssh_command, "a shell on a host, or a command: ssh NAME -- COMMAND...")
    sub.add_argument("name", metavar="NAME")
    sub.add_argument("command", nargs="*", metavar="COMMAND")
    command("doctor", _doctor_command, "say what this machine lacks")
    command("setup", _setup_command, "install what it lacks, and build the root file system")
    return parser


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    arguments = _parser().parse_args()
    try:
        if os.geteuid() and arguments.run in (_create_command, _destroy_command, _setup_command):
            os.execvp("sudo", _sudo(*sys.argv[1:]))
        arguments.run(arguments)
    except HostError as error:
        print(f"loophost: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        print(f"loophost: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("loophost: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
