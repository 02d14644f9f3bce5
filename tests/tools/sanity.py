# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ``ansible-test sanity`` on a copy of this checkout, without leaving anything in the user's home.

In full where LONG is in the environment, else without what takes longest: pylint, and the Pythons that are not ours.

ansible-test wants to stand in ``.../ansible_collections/NAMESPACE/NAME``, keeps its environments in
``~/.ansible``, and downloads a script that brings pip into them. So the copy and a home of its own are
in ``.cache/sanity``, and the script is a few lines of ours around a pip from the package index.
"""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from ansible_test._internal.python_requirements import get_venv_packages

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache" / "sanity"
COPY = WORK / "ansible_collections" / "as215932" / "engineering_loop"
HOME = WORK / "home"
OURS = f"{sys.version_info.major}.{sys.version_info.minor}"

GET_PIP = """\
import runpy
import sys

sys.path.insert(0, {wheel!r})
ours = ("--no-setuptools", "--no-wheel")
sys.argv[1:] = ["install", "--ignore-installed"] + [word for word in sys.argv[1:] if word not in ours]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def run(*command: str) -> str:
    """What a command prints; ends the program with what it complains of where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"sanity: {' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def copy_checkout() -> None:
    """Copy what git tracks or would track. .collections leads back here and would never end."""
    shutil.rmtree(COPY, ignore_errors=True)
    for name in run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        source, target = ROOT / name, COPY / name
        if name and not name.startswith(".collections/") and os.path.lexists(source):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    # Else ansible-test asks the checkout around it, which ignores .cache, and finds nothing to test.
    run("git", "init", "--quiet", str(COPY))


def pip_settings() -> None:
    """Take the user's pip settings along: ansible-test drops the environment, and HOME is not theirs."""
    settings = configparser.RawConfigParser()
    settings.read_dict({"global": {}})
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, value = line.split("=", 1)
        section, key = name.replace(":env:", "global").rsplit(".", 1)
        if not settings.has_section(section):
            settings.add_section(section)
        settings.set(section, key, " ".join(ast.literal_eval(value).split()))
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if bundle and not settings.has_option("global", "cert"):
        settings.set("global", "cert", bundle)
    target = HOME / ".config" / "pip" / "pip.conf"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch(mode=0o600)
    with target.open("w", encoding="utf-8") as handle:
        settings.write(handle)


def pip_bootstrap() -> None:
    """Leave the script that ansible-test would download where it looks for it first."""
    wheels = WORK / "wheels"
    version = importlib.metadata.version("pip")
    if not list(wheels.glob(f"pip-{version}-*.whl")):
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), f"pip=={version}")
    wheel = next(wheels.glob(f"pip-{version}-*.whl"))
    wanted = get_venv_packages(SimpleNamespace(version=OURS))["pip"]
    script = HOME / ".ansible" / "test" / "cache" / f"get_pip_{wanted.replace('.', '_')}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(GET_PIP.format(wheel=str(wheel)), encoding="utf-8")


def real_path() -> str:
    """PATH with this environment and its interpreter first, and real interpreters in the place of a manager's shims."""
    entries = [Path(sys.executable).parent, Path(sys.base_prefix) / "bin"]
    for entry in map(Path, os.get_exec_path()):
        entries += sorted(entry.parent.glob("versions/3.*/bin")) if entry.name == "shims" else [entry]
    return os.pathsep.join(map(str, dict.fromkeys(entries)))


def main() -> int:
    copy_checkout()
    pip_settings()
    pip_bootstrap()
    extent = ["--python", "default"] if os.environ.get("LONG") else ["--python", OURS, "--skip-test", "pylint"]
    command = ["ansible-test", "sanity", *extent, "--junit", *sys.argv[1:]]
    environment = {**os.environ, "HOME": str(HOME), "PATH": real_path()}
    environment.pop("XDG_CONFIG_HOME", None)
    return subprocess.run(command, cwd=COPY, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
