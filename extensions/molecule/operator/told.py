# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is told, on a loop host, of what, and that no secret shows: run there as root.

``told.py targets`` prints the URLs to tell; ``told.py listen`` receives what they are told, as the services behind them
would, with one that never answers and one that is not there; ``told.py try`` has something to tell and looks at it.
"""

from __future__ import annotations

import http.server
import json
import random
import re
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNIT = "hyrule-engineering-loop"
INSTALL, ETC = Path("/opt/engineering-loop"), Path("/etc/engineering-loop")
CYCLES = Path("/var/lib/engineering-loop/cycles")
PROM = Path("/var/lib/prometheus/node-exporter/engineering_loop.prom")
HERE = Path("/var/lib/told")
GOT, CA, CERT, KEY = HERE / "got.jsonl", HERE / "ca.pem", HERE / "cert.pem", HERE / "key.pem"
ADDRESS, PLAIN, HANGS, NOBODY, MAIL = "127.77.0.1", 8901, 8902, 8903, 8904
# Of services that have one address in the world, this host is told another.
ELSEWHERE = ("hooks.slack.com", "discord.com")
SECRETS = ("s3cret", "T1JJ3T3L2", "TIiajkdnlazkcOXrIdevi7FQ", "wHd15c0rdT0ken", "hunter2")
TARGETS = (
    f"json://{ADDRESS}:{PLAIN}/hook/s3cret-path",
    f"ntfy://{ADDRESS}:{PLAIN}/s3cret-topic",
    "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
    "https://discord.com/api/webhooks/123456789012345678/wHd15c0rdT0ken-abcdefghijklmnopqrstuvwxyz",
    f"matrix://robot:hunter2@{ADDRESS}:{PLAIN}/!s3cretroom:example.org",
    f"mmost://{ADDRESS}:{PLAIN}/s3crettoken0123456789abcd",
    f"mailto://localhost:{MAIL}?smtp={ADDRESS}&from=loop@example.org&to=ops@example.org",
)
DOWN = (f"json://{ADDRESS}:{HANGS}/s3cret-hangs", f"json://{ADDRESS}:{NOBODY}/s3cret-nobody")


class Wrong(Exception):
    """Something is not as it must be."""


def must(holds: object, what: object) -> None:
    if not holds:
        raise Wrong(what)


def sh(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


# --- the services behind the targets ---------------------------------------------------------------------


def note(kind: str, text: str) -> None:
    with GOT.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps({"kind": kind, "text": text}) + "\n")


class Receiver(http.server.BaseHTTPRequestHandler):
    """What Slack, Discord, ntfy, Mattermost, a Matrix server and a webhook answer, as far as a client looks at it."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode("utf-8", "replace")
        host = self.headers.get("Host", "").split(":")[0]
        if self.path.startswith("/_matrix"):
            kind = "matrix" if "/send/" in self.path else ""
            reply = json.dumps(
                {
                    "access_token": "t",
                    "home_server": "example.org",
                    "user_id": "@r:example.org",
                    "room_id": "!s3cretroom:example.org",
                    "event_id": "$1",
                    "joined_rooms": [],
                }
            )
        else:
            kind = {"hooks.slack.com": "slack", "discord.com": "discord"}.get(host, "")
            kind = kind or ("json" if self.path.startswith("/hook/") else "mmost" if "/hooks/" in self.path else "ntfy")
            reply = "ok" if kind in ("slack", "mmost") else "{}"
        if kind:
            note(kind, body)
        content = reply.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if reply.startswith("{") else "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_GET = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said: what came is in the file."""


class Hangs(socketserver.StreamRequestHandler):
    """Takes all and answers with a byte now and then, so that no time-out between two bytes ends it."""

    def handle(self) -> None:
        while True:
            time.sleep(1)
            self.wfile.write(b"H")


class Mail(socketserver.StreamRequestHandler):
    """An SMTP server, as far as a client of it looks."""

    def handle(self) -> None:
        self.wfile.write(b"220 localhost\r\n")
        for line in self.rfile:
            word = line.strip().upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                text = b""
                for part in self.rfile:
                    if part.strip() == b".":
                        break
                    text += part
                note("mail", text.decode("utf-8", "replace"))
            if word == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 localhost\r\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


def authority() -> None:
    """A certificate for the services' names, which this host trusts from now on."""
    names = ",".join(f"DNS:{name}" for name in ELSEWHERE)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=told", "-keyout",
         str(KEY), "-out", str(CERT), "-addext", f"subjectAltName={names}"],
        check=True, capture_output=True,
    )  # fmt: skip
    Path("/usr/local/share/ca-certificates/told.crt").write_bytes(CERT.read_bytes())
    subprocess.run(["update-ca-certificates"], check=True, capture_output=True)
    hosts = Path("/etc/hosts")
    if ELSEWHERE[0] not in hosts.read_text(encoding="utf-8"):
        hosts.write_text(f"{hosts.read_text(encoding='utf-8')}\n{ADDRESS} {' '.join(ELSEWHERE)}\n", encoding="utf-8")


def listen() -> None:
    """Until somebody ends it."""
    HERE.mkdir(exist_ok=True)
    GOT.touch()
    authority()
    plain, secure = Server((ADDRESS, PLAIN), Receiver), Server((ADDRESS, 443), Receiver)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERT, KEY)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    for server in (plain, secure, Server((ADDRESS, HANGS), Hangs), Server((ADDRESS, MAIL), Mail)):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


# --- what is told ----------------------------------------------------------------------------------------


def got() -> list[dict[str, str]]:
    return [json.loads(line) for line in GOT.read_text(encoding="utf-8").splitlines()]


def told() -> dict[str, Any]:
    known: dict[str, Any] = json.loads((INSTALL / "told.json").read_text(encoding="utf-8"))
    return known


def idle() -> None:
    """No look is under way."""
    while sh("systemctl", "show", "--value", "--property=ActiveState", f"{UNIT}-tell.service").strip() == "activating":
        time.sleep(0.5)


def look() -> float:
    """One look at the host, waited for; how long it took."""
    idle()
    began = time.monotonic()
    subprocess.run(["systemctl", "start", f"{UNIT}-tell.service"], check=True)
    return time.monotonic() - began


def metrics() -> dict[str, str]:
    lines = PROM.read_text(encoding="utf-8").splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def record(number: int, outcome: str, **more: Any) -> str:
    """A cycle that ended so, as settle writes it."""
    cycle = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + number)) + f"-{number:08x}"
    known = {"cycle": cycle, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "outcome": outcome,
             "detail": "", "seconds": 3.0, **more}  # fmt: skip
    (CYCLES / f"{cycle}.json").write_text(json.dumps(known), encoding="utf-8")
    return cycle


def fresh() -> str:
    """A word that was not told before, and without digits, which do not tell two refusals apart."""
    return "".join(random.choices("ghijklmnopqrstuvwxyz", k=12))


def everybody_is_told_what_a_stranger_cannot_bend() -> str:
    (ETC / "notify").write_text("\n".join([*TARGETS, ""]), encoding="utf-8")
    look()
    before = len(got())
    evil = f"{fresh()} <!channel> @everyone [pay](https://evil.example) \x1b[31m\u202e" + "x" * 65536
    record(1, "needs_triage", detail=evil, issue={"repo": "AS215932/hyrule-cloud", "number": 9, "title": evil})
    look()
    new = got()[before:]
    kinds = {one["kind"] for one in new}
    must(kinds == {"json", "ntfy", "slack", "discord", "matrix", "mmost", "mail"}, f"only {kinds} were told")
    for one in new:
        text = one["text"]
        must("a cycle needs a person" in text.replace("=\r\n", ""), f"{one['kind']}: {text[:500]}")
        for bad in ("<!channel>", "@everyone", "](http", "https://evil.example", "\x1b", "\u202e", "x" * 1500):
            must(bad not in text, f"{one['kind']} was sent {bad[:20]}: {text[:800]}")
        escaped = one["kind"] != "mail" and re.search(r"(?<!\\)\\u(001b|202e)", text)  # as JSON writes them
        must(not escaped, f"{one['kind']}: {text[:800]}")
    look()
    must(len(got()) == before + len(new), "the same was told again")
    return f"{len(kinds)} services are told once, and nothing of a stranger's is a mention, a link or markup"


def a_target_that_is_down_delays_nobody() -> str:
    path = ETC / "notify"
    path.write_text("\n".join([*DOWN, *TARGETS, ""]), encoding="utf-8")
    record(2, "error", detail=fresh())
    before, took = len(got()), look()
    must(took < 75, f"one look took {took:.0f} s")
    must(len(got()) == before + len(TARGETS), "the others were not told")
    failing = {one["shown"]: one["why"] for one in told()["targets"].values() if one["failures"]}
    must(len(failing) == 2, failing)
    again = look()
    must(again < 20, f"it was asked again at once: {again:.0f} s")
    for number in range(3, 120):
        record(number, "error", detail=fresh())
    look()
    must(len(told()["queue"]) <= 50, "the queue grows without end")
    must(metrics()["engineering_loop_notify_targets_failing"] == "2.0", metrics())
    return f"one that hangs and one that is not there: {took:.0f} s, then {again:.1f} s; the queue is bounded"


def a_pause_is_told_by_itself() -> str:
    """Nobody starts the look: systemd sees the file."""
    (ETC / "notify").write_text(f"{TARGETS[0]}\n", encoding="utf-8")
    idle()
    before, paused = len(got()), INSTALL / "paused.json"
    new = INSTALL / ".paused.json.new"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    new.write_text(json.dumps({"why": "moving @everyone", "since": since, "by": "eva"}), encoding="utf-8")
    new.rename(paused)
    try:
        end = time.monotonic() + 60
        while len(got()) == before and time.monotonic() < end:
            time.sleep(0.5)
        must(any("(by eva): moving (at)everyone" in one["text"] for one in got()[before:]), got()[before:])
        idle()  # what changes while it looks is seen by the next look
    finally:
        paused.unlink()
    end = time.monotonic() + 60
    while "resumed" not in str(got()[before:]) and time.monotonic() < end:
        time.sleep(0.5)
    must("resumed" in str(got()[before:]), got()[before:])
    return "paused and resumed are told as soon as the file is there and gone"


def a_cycle_is_not_held_up() -> str:
    idle()
    path = INSTALL / "told.json"
    known = told()
    for one in known["targets"].values():
        one.update(next=0, sent=[])
    path.write_text(json.dumps(known), encoding="utf-8")
    subprocess.run(["systemctl", "start", "--no-block", f"{UNIT}-tell.service"], check=True)
    time.sleep(2)
    began = time.monotonic()
    subprocess.run(["systemctl", "start", UNIT], check=False, timeout=120)
    took = time.monotonic() - began
    state = sh("systemctl", "show", "--value", "--property=ActiveState", f"{UNIT}-tell.service").strip()
    must(state == "activating", f"the look was over before the cycle: {state} after {took:.1f} s")
    return f"a cycle of {took:.1f} s began and ended while a target hung"


def no_secret_shows() -> str:
    """While something is sent: arguments and environments; after that: journal, unit, state, metrics."""
    record(200, "refused", detail=fresh())
    known = told()
    for one in known["targets"].values():
        one.update(next=0, sent=[])
    (INSTALL / "told.json").write_text(json.dumps(known), encoding="utf-8")
    subprocess.run(["systemctl", "start", "--no-block", f"{UNIT}-tell.service"], check=True)
    seen, sender, end = "", "", time.monotonic() + 60
    while time.monotonic() < end and (not sender or len(seen) < 2_000_000):
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                words = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if f"{UNIT}" not in words and "loop" not in words:
                    continue
                seen += words + (directory / "environ").read_bytes().decode(errors="replace") + "\n"
                if "loop send" in words and "systemd-run" not in words:
                    status = (directory / "status").read_text(encoding="utf-8")
                    sender = re.findall(r"Uid:\s+(\d+)", status)[0] + re.findall(r"CapEff:\s+(\w+)", status)[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
        time.sleep(0.2)
        if sender:
            break
    must(re.fullmatch(r"6[1-5]\d{3}0{16}", sender), f"what sends has the uid and rights {sender}")
    idle()
    places = {
        "arguments and environment": seen,
        "the journal": sh("journalctl", "--no-pager", "--output=json", "--since=-2h"),
        "told.json": (INSTALL / "told.json").read_text(encoding="utf-8"),
        "metrics": PROM.read_text(encoding="utf-8"),
        "loop.json": (ETC / "loop.json").read_text(encoding="utf-8"),
        "units": sh("sh", "-c", "cat /etc/systemd/system/hyrule-engineering-loop*"),
    }
    for where, text in places.items():
        for secret in SECRETS:
            must(secret not in text, f"{where} has {secret}: {text[max(0, text.find(secret) - 200) :][:400]}")
    loop = subprocess.run(["setpriv", "--reuid=loop", "--regid=loop", "--clear-groups", "cat", str(ETC / "notify")],
                          capture_output=True, check=False)  # fmt: skip
    must(loop.returncode, "the loop's user can read the targets")
    return f"no URL in {', '.join(places)}; what sends has no right (uid {sender[:5]})"


def a_broken_host_is_told_as_well() -> str:
    idle()
    settings, before = ETC / "loop.json", len(got())
    whole = settings.read_bytes()
    try:
        settings.write_text("{", encoding="utf-8")
        look()
        known = told()
        must("broken" in known["needs"], known["needs"])
        known["needs"]["broken"]["since"] -= 3600
        for one in known["targets"].values():
            one.update(next=0, sent=[])
        (INSTALL / "told.json").write_text(json.dumps(known), encoding="utf-8")
        (ETC / "notify").write_text(f"{TARGETS[0]}\n", encoding="utf-8")
        look()
        texts = [one["text"] for one in got()[before:]]
        must(any("broken" in text and "apply" in text for text in texts), texts)
        must(metrics()['engineering_loop_state{state="broken"}'] == "1.0", metrics())
    finally:
        settings.write_bytes(whole)
    return "settings that nobody can read are told, and in the metrics"


def metrics_are_whole() -> str:
    look()
    found = metrics()
    timer = float(sh("systemctl", "is-active", f"{UNIT}.timer").strip() == "active")
    must(found["engineering_loop_timer_active"] == str(timer) and "engineering_loop_proof_valid" in found, found)
    must(abs(float(found["engineering_loop_look_timestamp_seconds"]) - time.time()) < 60, found)
    must(PROM.stat().st_mode & 0o777 == 0o644, oct(PROM.stat().st_mode))
    must(not any("evil" in name or "\\u" in name for name in found), found)
    return f"{len(found)} series, readable by node_exporter"


def no_scheme_of_debians_library_is_refused() -> str:
    """What the controller takes, which has no such library, is what this host's can send to."""
    import apprise

    sys.path.insert(0, "/usr/local/lib/engineering-loop")
    from engineering_loop_core.host import targets  # type: ignore[import-not-found]

    services = apprise.Apprise().details()["schemas"]
    known = {name for one in services for kind in ("protocols", "secure_protocols") for name in one[kind] or ()}
    must(known <= targets.SCHEMES, known - targets.SCHEMES)
    return f"{len(known)} of them, in version {apprise.__version__}"


TRIED: tuple[Callable[[], str], ...] = (
    no_scheme_of_debians_library_is_refused,
    metrics_are_whole,
    a_pause_is_told_by_itself,
    everybody_is_told_what_a_stranger_cannot_bend,
    a_target_that_is_down_delays_nobody,
    no_secret_shows,
    a_cycle_is_not_held_up,
    a_broken_host_is_told_as_well,
)


def main(order: str) -> int:
    if order == "targets":
        print(json.dumps(TARGETS))
        return 0
    if order == "listen":
        listen()
        return 0
    whole = (ETC / "notify").read_bytes()
    try:
        for each in TRIED:
            print(f"{each.__name__}: {each()}", flush=True)
    finally:
        (ETC / "notify").write_bytes(whole)
        for path in CYCLES.glob("*.json"):
            if re.fullmatch(r"[\dTZ]+-000000[0-9a-f]{2}\.json", path.name):
                path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
