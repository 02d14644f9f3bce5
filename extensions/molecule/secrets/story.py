# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every secret that a host is given is planted, and then looked for: story.py STAGE INVENTORY.

All that an operator does is done, with -vvvv, and all that a cycle may come to. What was said, what was kept here and
on the host, what went to the forge and what ran with which arguments is searched at the end, by tests/world/planted.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(TOP / "extensions/molecule/operator"), str(TOP / "tests/world")]
import at_work  # noqa: E402
import planted  # noqa: E402
from at_work import UNIT, forge, host, must, on_host, stage  # noqa: E402
from chapters import tell  # noqa: E402

REPO, ISSUE = "AS215932/network-operations", 235
ETC, OPT, STATE = "/etc/engineering-loop", "/opt/engineering-loop", "/var/lib/engineering-loop"
ENV, KEY, RENDERED = f"{OPT}/.env", f"{ETC}/github-app.private-key.pem", f"{ETC}/env"
CANARY = ("-e", "engineering_loop_canary_run=true")
# Where a secret rightly is, all of it root's alone. HABITS are the host's own.
HABITS = ("/etc/pip.conf", "/etc/environment")
ALLOWED = (ENV, KEY, RENDERED, f"{ETC}/notify", *HABITS)
HERE = Path(tempfile.mkdtemp(prefix="planted-"))


SEED = stage["token"].encode()
NAMES = (
    "provider", "webhook", "icinga", "another", "proxy", "hook", "ntfy", "topic", "index", "way", "repo", "clone",
)  # fmt: skip
# Values that are nowhere else, the same for each run of chapters in one world.
PLANTED: dict[str, str] = {name: f"{name}{hashlib.sha256(SEED + name.encode()).hexdigest()[:16]}" for name in NAMES}
PLANTED["forge token"] = stage["token"]
VAULT = {
    "GH_TOKEN": stage["token"],
    "OPENAI_API_KEY": f"sk-{PLANTED['provider']}",
    "HYRULE_DISCORD_WEBHOOK": f"https://discord.invalid/api/webhooks/1/{PLANTED['webhook']}",
    "HYRULE_ICINGA_PASSWORD": f'a "b" \\c /d? ä {PLANTED["icinga"]}',
    "HTTPS_PROXY": f"http://operator:{PLANTED['proxy']}@127.0.0.1:9",
}
NOTIFY = [
    f"json://127.0.0.1:9/{PLANTED['hook']}",
    f"ntfy://robot:{PLANTED['ntfy']}@127.0.0.1:9/{PLANTED['topic']}",
]
KNOWN: dict[str, Any] = {
    **yaml.safe_load(at_work.pins.read_text(encoding="utf-8")),
    "engineering_loop_environment": VAULT,
    "engineering_loop_notify": NOTIFY,
    "engineering_loop_egress_local": [9],
}


def know(**more: Any) -> None:
    """What stands in the inventory from now on."""
    KNOWN.update(more)
    at_work.pins.write_text(yaml.safe_dump(KNOWN), encoding="utf-8")


def run(playbook: str, *words: str, fails: bool | None = False) -> str:
    """A playbook with all that Ansible can tell, which is kept for the search. ``fails``: None where it may."""
    status, said = at_work.play(playbook, *words, "-vvvv")
    number = len([*(HERE / "said").glob("*")])
    (HERE / "said" / f"{number:02}-{playbook}").write_text(said, encoding="utf-8")
    assert fails in (None, status != 0), re.sub(r"\\n", "\n", said)[-5000:]
    return said


def outcome() -> str:
    record = json.loads(must(f"cat $(ls {STATE}/cycles/*.json | sort | tail -n 1)"))
    return str(record["outcome"])


def work(expected: str, *orders: str, meanwhile: str = "") -> None:
    """One cycle on an issue with these orders, which ends so."""
    arrange(*orders)
    on_host(f"systemctl start {UNIT}.service & {meanwhile or ':'}; wait")
    ended = f"systemctl show --value -p ActiveState {UNIT}.service | grep -qE '^(inactive|failed)$'"
    must(f"for n in $(seq 1200); do {ended} && exit 0; sleep 0.1; done; exit 1")
    on_host(f"systemctl reset-failed {UNIT}.service")
    assert outcome() == expected, must(f"cat $(ls {STATE}/cycles/*.json | sort | tail -n 1)")


def arrange(*orders: str) -> None:
    words = [sys.executable, str(TOP / "extensions/molecule/canary/arrange.py"), sys.argv[1]]
    subprocess.run([*words, json.dumps({"orders": orders})], check=True)


# --- the chapters


def begin() -> None:
    """Everything that runs on the host is noted from now on, and a crash may leave its memory."""
    (HERE / "said").mkdir()
    for name in ("tmp", "home", "facts"):
        (HERE / name).mkdir()
    at_work.SHELL.update(
        TMPDIR=str(HERE / "tmp"), HOME=str(HERE / "home"), ANSIBLE_LOCAL_TEMP=str(HERE / "tmp"),
        ANSIBLE_LOG_PATH=str(HERE / "ansible.log"), ANSIBLE_CACHE_PLUGIN="jsonfile",
        ANSIBLE_CACHE_PLUGIN_CONNECTION=str(HERE / "facts"),
    )  # fmt: skip
    know()
    cores = "/etc/systemd/system.conf.d"
    must(f"mkdir -p {cores} && printf '[Manager]\\nDefaultLimitCORE=infinity\\n' >{cores}/cores.conf"
         " && systemctl daemon-reexec")  # fmt: skip
    on_host("systemctl stop planted-sampler.service")
    must(planted.sampler())


def applied() -> None:
    """Applies: foretold, done, with nothing to do, and foretold again with another secret."""
    arrange("pi: run env >&2")
    run("apply", "--check", "--diff")
    at_work.SHELL["ANSIBLE_PIPELINING"] = "0"  # so that modules come to the host as files, with what they are given
    run("apply", "--diff", *CANARY)
    at_work.SHELL["ANSIBLE_PIPELINING"] = "1"
    said = run("apply", *CANARY)
    assert " changed=0 " in said, said[-1000:]
    before = dict(VAULT)
    VAULT["HYRULE_ICINGA_PASSWORD"] = f"'{PLANTED['another']}'"
    know()
    run("apply", "--check", "--diff")
    VAULT.update(before)
    know()


def failed() -> None:
    """Applies that fail: index and proxy have a password and do not answer, and repositories have one in their URLs."""
    index = f"http://operator:{PLANTED['index']}@127.0.0.1:9/simple"
    way = f"http://operator:{PLANTED['way']}@127.0.0.1:9"
    for path in HABITS:
        must(f"cp -a {path} {path}.before 2>/dev/null || touch {path}.before")
    must(f"printf '[global]\\nindex-url = {index}\\n' >/etc/pip.conf; rm -rf {OPT}/cache {OPT}/uv {OPT}/uv-*")
    know(engineering_loop_version=stage["to"])
    said = run("apply", fails=True)
    assert "uv" in said and "cannot be installed" in said, said[-3000:]
    must(f"mv /etc/pip.conf.before /etc/pip.conf; echo https_proxy={way} >>/etc/environment")
    for kept in (HERE / "home/.ansible/cp").iterdir():  # a new connection has the new environment
        kept.unlink()
    said = run("apply", fails=True)
    must("mv /etc/environment.before /etc/environment")
    assert "reaches its package index: ProxyError" in said, said[-3000:]
    know(engineering_loop_version=stage["from"])
    ours = KNOWN["engineering_loop_repo"]
    know(engineering_loop_repo=f"https://operator:{PLANTED['repo']}@127.0.0.1:9/a/b.git")
    run("apply", fails=True)
    know(engineering_loop_repo=ours)
    clone = {"repo": f"https://operator:{PLANTED['clone']}@127.0.0.1:9/a/b.git", "dest": "b", "version": "main"}
    know(engineering_loop_workspace_repositories=[clone])
    run("apply", fails=True)
    del KNOWN["engineering_loop_workspace_repositories"]
    know(engineering_loop_forbidden_environment=["HYRULE_ICINGA_*"])
    run("apply", fails=True)
    del KNOWN["engineering_loop_forbidden_environment"]
    know()


def cycles() -> None:
    """Cycles: published by an agent that prints its environment, for a person, crashed, refused by the gateway."""
    work("published", "pi: run env >&2")
    work("needs_triage", "engine: needs-triage", "pi: run env >&2")
    work("error", "engine: outside-docs", "pi: run env >&2")
    # The engine and the agent die together, in the middle of the work, and could leave their memory.
    page = f"ls {STATE}/runs/*/runs/*/worktrees/*/docs/mark.md"
    at = f"for n in $(seq 600); do {page} 2>/dev/null | grep -q . && break; sleep 0.1; done"
    orders = ("pi: write docs/mark.md here", "pi: sleep 60")
    work("interrupted", *orders, meanwhile=f"{at}; systemctl kill --signal=SEGV {UNIT}.service")
    assert on_host(page)[0] == 0, "the agent had not begun"
    work("published")


def operated() -> None:
    """What an operator does all day."""
    run("status", "-e", f"page={HERE}/page.html", fails=True)  # an issue asks for a person
    run("cycles", "-e", f"csv={HERE}/costs.csv")
    run("cycles", "-e", "cycle=last", "-e", f"fetch={HERE}/fetched")
    run("sbom", "-e", f"to={HERE}/sbom")
    said = run("restore")
    for cell in sorted(set(re.findall(r"\b\d{8}T\d{6}Z-[0-9a-f]{8}\b", said))):
        run("restore", "-e", f"what={cell}")
    run("pause", "-e", "why=planted")
    run("resume")
    run("notify_test", fails=True)
    must(f"systemctl start {UNIT}-tell.service || :")


def rolled() -> None:
    """Another version, and back."""
    arrange()
    know(engineering_loop_version=stage["to"])
    run("apply", *CANARY)
    run("rollback")
    know(engineering_loop_version=stage["from"])
    run("apply")


def rendered() -> None:
    """The secrets are rendered by another program, with a GitHub App; and that is applied and proven."""
    made = forge("POST", "apps", {"app_id": 12, "installation_id": 345})
    PLANTED["App's key"] = planted.secret_line(made["private_key"])
    VAULT.pop("GH_TOKEN")
    text = "".join(f"{key}={json.dumps(value, ensure_ascii=False)}\n" for key, value in VAULT.items())
    for path, content in ((RENDERED, text), (KEY, made["private_key"])):
        done = subprocess.run([*at_work.login(), f"umask 077; cat >{path}"], input=content, text=True, check=False)
        assert done.returncode == 0
    know(
        engineering_loop_environment={}, engineering_loop_env_file=RENDERED, engineering_loop_github_app_id=12,
        engineering_loop_github_app_installation_id=345,
    )  # fmt: skip
    arrange("pi: run env >&2")
    run("apply", "--diff", *CANARY)
    run("status", fails=None)
    work("published")


def found() -> None:
    """None is anywhere but where it belongs."""
    must("systemctl stop planted-sampler.service")
    wanted = planted.needles(PLANTED)
    samples = must(f"wc -c <{planted.SAMPLES}")
    assert int(samples) > 10000, samples
    # What finds nothing may be looking badly: each secret is found where it rightly is.
    there = planted.on_host(at_work.login(), wanted, [])
    for name in ("forge token", "provider", "webhook", "icinga", "proxy"):
        assert f"{ENV}: {name}" in there, there
    assert f"{KEY}: App's key" in there and f"{ETC}/notify: hook" in there, there
    written = must(f"grep -rhE '^OPENAI_API_KEY=' {STATE}/runs/*/runs/*/handoff/transcript.txt").split()
    assert written and not {*"".join(written).replace("OPENAI_API_KEY=", "")} - {"*"}, written
    hits = [one for one in there if one.rpartition(": ")[0] not in ALLOWED]
    hits += planted.hits(wanted, [str(HERE), str(Path(sys.argv[1]).parent / "forge/git")])
    said = json.dumps(forge("GET", "state"), ensure_ascii=False).encode()
    hits += [f"what the forge shows: {name}" for name in planted.named(said, wanted)]
    assert not hits, "\n".join(["secrets are where they must not be:", *hits])
    print(f"{len(wanted)} secrets, {samples} bytes of arguments, {len([*(HERE / 'said').glob('*')])} playbooks")


if __name__ == "__main__":
    assert host()
    try:
        tell((begin, applied, failed, cycles, operated, rolled, rendered, found))
    finally:
        if not sys.argv[3:]:
            shutil.rmtree(HERE)
