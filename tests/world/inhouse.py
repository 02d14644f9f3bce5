# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make this host one that runs an engine from a checkout in place, as users have it before they come to the collection.

    inhouse.py build SETTINGS.json      {"engine", "sha", "url"}, and "token" or "rendered": true; on the host, as root
    inhouse.py save FILE                every file that must survive, with digest, mode and owner
    inhouse.py missing FILE [--still]   what is nowhere to be found any more; with --still what is not exactly as it was

With "rendered" another program writes the secrets and the App's key: nothing of them is written here.
It has what such hosts collect: a hotfix in the checkout, dirty workspaces, lessons inside a workspace, the worktree
of a crashed run, one that waits for a person, a unit's drop-in, a second unit that starts the same engine.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

HOME = Path("/opt/engineering-loop")
ETC = Path("/etc/engineering-loop")
VAR = Path("/var/lib/engineering-loop")
LIB = Path("/usr/local/lib/engineering-loop")
UNITS = Path("/etc/systemd/system")
UNIT = "hyrule-engineering-loop"
MEMORY = VAR / "workspace/hyrule-infra/memory"
WRAPPERS = [LIB / "run-daemon", Path("/usr/local/sbin/run-engineering-loop")]  # where the role says, where a user did
REPOS = {"AS215932/network-operations": "hyrule-infra", "AS215932/hyrule-cloud": "hyrule-cloud"}
CRASHED, WAITING = "ISSUE_NETWORK_OPERATIONS_7", "ISSUE_HYRULE_CLOUD_9"
# A run works in these, and an apply brings checkouts up to date: their git directories are judged by their commits.
ROOTS = [HOME, ETC, VAR, LIB, WRAPPERS[1], *(UNITS / f"{UNIT}.{kind}" for kind in ("service", "timer", "service.d"))]
ROOTS += [UNITS / "hyrule-reliability-governor.service", UNITS / "hyrule-reliability-governor.timer"]

RUN_DAEMON = f"""\
#!/bin/sh
set -eu
export GIT_ASKPASS={LIB}/git-askpass
[ -n "${{GH_TOKEN:-}}" ] || GH_TOKEN=$({LIB}/github-app-token)
export GH_TOKEN
exec {HOME}/.venv/bin/hyrule-engineering-loop daemon --once \\
  {" ".join(f"--repo {repo}" for repo in REPOS)} \\
  --workspace-root {VAR}/workspace --output-root {VAR}/runs --state-dir-path {VAR}/state --memory-dir {MEMORY} \\
  --max-runs-per-day 20 --max-cost-usd-per-day 10
"""
ASKPASS = '#!/bin/sh\ncase "$1" in Username*) echo x-access-token ;; *) echo "$GH_TOKEN" ;; esac\n'
APP_TOKEN = """\
#!/bin/sh
set -eu
part() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
app=$ENGINEERING_LOOP_GITHUB_APP_ID now=$(date +%s)
said=$(printf '{"alg":"RS256","typ":"JWT"}' | part)
said=$said.$(printf '{"iat":%s,"exp":%s,"iss":"%s"}' $((now - 60)) $((now + 540)) "$app" | part)
key=$ENGINEERING_LOOP_GITHUB_APP_PRIVATE_KEY_FILE
said=$said.$(printf %s "$said" | openssl dgst -sha256 -sign "$key" -binary | part)
api=${ENGINEERING_LOOP_GITHUB_API_URL:-https://api.github.com}
curl -fsS -X POST -H "Authorization: Bearer $said" -H 'Accept: application/vnd.github+json' \\
  "$api/app/installations/$ENGINEERING_LOOP_GITHUB_APP_INSTALLATION_ID/access_tokens" |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])'
"""
SERVICE = f"""\
[Unit]
Description=Hyrule engineering loop (one cycle)
After=network-online.target vault-agent-engineering-loop.service

[Service]
Type=oneshot
User=loop
Group=loop
WorkingDirectory={HOME}
Environment=HOME={VAR}
Environment=HYRULE_MODEL_POLICY_FILE={HOME}/configs/loop/model-policy.production.yml
EnvironmentFile={HOME}/.env
ExecStart=WRAPPER
TimeoutStartSec=3600
"""
# Monthly, so that no test meets a full hour.
TIMER = """\
[Unit]
Description=Hyrule engineering loop schedule

[Timer]
OnCalendar=monthly
RandomizedDelaySec=300

[Install]
WantedBy=timers.target
"""
GOVERNOR = f"""\
[Service]
Type=oneshot
User=loop
WorkingDirectory={HOME}
ExecStart={LIB}/run-reliability-governor
"""
RUN_GOVERNOR = f"""\
#!/bin/sh
exec {HOME}/.venv/bin/hyrule-engineering-loop reliability-governor --once \
  {" ".join(f"--repo {repo}" for repo in REPOS)} --registry {HOME}/configs/loop/capability-registry.yml \
  --state-dir-path {VAR}/state/reliability-governor --limit 20
"""


def loop(*command: str, cwd: Path = VAR) -> str:
    """Run something as the loop's user."""
    return run("runuser", "-u", "loop", "--", *command, cwd=cwd)


def run(*command: str, cwd: Path = Path("/")) -> str:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, cwd=cwd, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


def put(path: Path, text: str, owner: str, mode: int) -> None:
    path.write_text(text, encoding="utf-8")
    run("chown", owner, str(path))
    path.chmod(mode)


def build(settings: dict[str, Any]) -> None:
    run("apt-get", "-q", "update")
    run("apt-get", "-qy", "install", "--no-install-recommends", "git", "python3-venv", "curl", "openssl")
    run("useradd", "--system", "--user-group", "--home-dir", str(VAR), "--shell", "/usr/sbin/nologin", "loop")
    for path, owner in ((HOME, "loop:loop"), (VAR, "loop:loop"), (ETC, "root:loop"), (LIB, "root:loop")):
        run("install", "-d", "-o", owner.split(":", maxsplit=1)[0], "-g", "loop", "-m", "0750", str(path))
    for name in ("workspace", "runs", "state", "memory"):
        run("install", "-d", "-o", "loop", "-g", "loop", "-m", "0750", str(VAR / name))
    engine(settings)
    if not settings.get("rendered"):
        put(ETC / "github-app.private-key.pem", "a key that only root should read\n", "root:loop", 0o640)
        put(HOME / ".env", f'GH_TOKEN="{settings["token"]}"\nANTHROPIC_API_KEY=not-a-key\n', "loop:loop", 0o640)
    wrapper = WRAPPERS[0 if settings.get("rendered") else 1]
    put(wrapper, RUN_DAEMON, "root:loop", 0o750)
    scripts = {"git-askpass": ASKPASS, "github-app-token": APP_TOKEN, "run-reliability-governor": RUN_GOVERNOR}
    for name, text in scripts.items():
        put(LIB / name, text, "root:loop", 0o750)
    workspaces(settings["url"])
    put(UNITS / f"{UNIT}.service", SERVICE.replace("WRAPPER", str(wrapper)), "root:root", 0o644)
    put(UNITS / f"{UNIT}.timer", TIMER, "root:root", 0o644)
    put(UNITS / "hyrule-reliability-governor.service", GOVERNOR, "root:root", 0o644)
    put(UNITS / "hyrule-reliability-governor.timer", TIMER, "root:root", 0o644)
    (UNITS / f"{UNIT}.service.d").mkdir()
    put(UNITS / f"{UNIT}.service.d" / "memory.conf", "[Service]\nMemoryMax=4G\n", "root:root", 0o644)
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", f"{UNIT}.timer", "hyrule-reliability-governor.timer")


def engine(settings: dict[str, Any]) -> None:
    """The checkout in place, its environment, and a hotfix that nobody has committed."""
    loop("git", "clone", "--quiet", settings["engine"], str(HOME))
    loop("git", "checkout", "--quiet", settings["sha"], cwd=HOME)
    loop("python3", "-m", "venv", str(HOME / ".venv"))
    loop(str(HOME / ".venv/bin/pip"), "install", "--quiet", "--editable", str(HOME))  # as uv sync does
    put(HOME / "hotfix.sh", "#!/bin/sh\n# keeps the loop alive\n", "loop:loop", 0o755)
    readme = HOME / "README.md"
    put(readme, readme.read_text(encoding="utf-8") + "\nHand-made note.\n", "loop:loop", 0o644)


def workspaces(url: str) -> None:
    for repo, name in REPOS.items():
        loop("git", "clone", "--quiet", f"{url}/{repo}.git", str(VAR / "workspace" / name))
    infra, cloud = VAR / "workspace/hyrule-infra", VAR / "workspace/hyrule-cloud"
    for checkout in (infra, cloud):
        loop("git", "config", "user.name", "loop", cwd=checkout)
        loop("git", "config", "user.email", "loop@localhost", cwd=checkout)
    readme = infra / "README.md"
    put(readme, readme.read_text(encoding="utf-8") + "half a thought\n", "loop:loop", 0o644)
    put(infra / "notes.txt", "untracked\n", "loop:loop", 0o640)
    loop("mkdir", "-p", str(infra / "memory/2026"))
    put(infra / "memory/lessons.md", "# Learned\n", "loop:loop", 0o640)
    put(infra / "memory/2026/one.md", "Check the MTU.\n", "loop:loop", 0o640)
    for checkout, change in ((infra, CRASHED), (cloud, WAITING)):
        tree = VAR / "runs" / change.lower() / "worktrees" / f"{checkout.name}-{change}"
        loop("git", "worktree", "add", "--quiet", "-b", f"hyrule-feature/{change}/{checkout.name}", str(tree),
             cwd=checkout)  # fmt: skip
        loop("mkdir", "-p", str(tree / "docs"))
        put(tree / "docs/half.md", f"half a page of {change}\n", "loop:loop", 0o640)
    loop("mkdir", str(VAR / "runs" / WAITING.lower() / "state"))
    put(VAR / "runs" / WAITING.lower() / "state" / f"{WAITING}.json", "{}\n", "loop:loop", 0o640)
    put(VAR / "state/ledger-2026-01-01.json", '{"runs": 1}\n', "loop:loop", 0o640)
    loop("mkdir", str(VAR / "state/reliability-governor"))
    put(VAR / "state/reliability-governor/decisions.json", '{"1": "ready"}\n', "loop:loop", 0o640)


# --- what must survive ------------------------------------------------------------------------


def files() -> dict[str, list[str]]:
    """Path -> digest, mode and owner of every file, but git's own in workspaces and the lock."""
    found = {}
    for root in ROOTS:
        for path in [root, *root.rglob("*")] if root.exists() else []:
            inner = path.relative_to(VAR / "workspace").parts[1:2] if path.is_relative_to(VAR / "workspace") else ()
            if inner == (".git",) or path.name == "daemon.lock" or not (path.is_symlink() or path.is_file()):
                continue
            status = path.lstat()
            content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[str(path)] = [
                hashlib.sha256(content).hexdigest(),
                oct(stat.S_IMODE(status.st_mode)),
                f"{status.st_uid}:{status.st_gid}",
            ]
    return found


def missing(before: dict[str, list[str]], still: bool) -> list[str]:
    """What of ``before`` is no longer there: as it was, or (unless ``still``) anywhere under its own name."""
    now = files()
    if still:
        return sorted(path for path, was in before.items() if now.get(path) != was)
    kept = {(os.path.basename(path), digest) for path, (digest, _mode, _owner) in now.items()}
    # The secrets may have got another name.
    digests = {digest for digest, _mode, _owner in now.values()}
    return sorted(
        path
        for path, (digest, _mode, _owner) in before.items()
        if (os.path.basename(path), digest) not in kept and not (path.endswith(".env") and digest in digests)
    )


def main(words: list[str]) -> None:
    match words:
        case ["build", file]:
            build(json.loads(Path(file).read_text(encoding="utf-8")))
        case ["save", file]:
            Path(file).write_text(json.dumps(files()), encoding="utf-8")
        case ["missing", file, *flags] if flags in ([], ["--still"]):
            before = json.loads(Path(file).read_text(encoding="utf-8"))
            print(json.dumps({"of": len(before), "missing": missing(before, bool(flags))}))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
