# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network beyond the host: a server for pages and packages, one for pages by TLS, and a proxy that knows them.

Each says to the journal what it is asked for.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import socket
import socketserver
import ssl
import threading
import zipfile

ADDRESS = "198.51.100.2"
WHEEL = "far_package-1.0-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: far-package\nVersion: 1.0\n"
TAG = "Wheel-Version: 1.0\nGenerator: far\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def wheel() -> bytes:
    files = {"far_package.py": "FAR = 'yes'\n"}
    files |= {"far_package-1.0.dist-info/METADATA": METADATA, "far_package-1.0.dist-info/WHEEL": TAG}
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        record += f"{name},sha256={digest},{len(text)}\n"
    files["far_package-1.0.dist-info/RECORD"] = f"{record}far_package-1.0.dist-info/RECORD,,\n"
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return whole.getvalue()


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = {
            "/page": (b"far away", "text/plain"),
            "/simple/far-package/": (f'<a href="/{WHEEL}">{WHEEL}</a>'.encode(), "text/html"),
            f"/{WHEEL}": (wheel(), "application/zip"),
        }
        print("asked for", self.headers["Host"], self.path, flush=True)
        body, kind = found.get(self.path, (b"", "text/plain"))
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def copy(one: socket.socket, other: socket.socket) -> None:
    while chunk := one.recv(65536):
        other.sendall(chunk)
    other.shutdown(socket.SHUT_WR)


class Proxy(socketserver.StreamRequestHandler):
    """Whatever the name, and the password: it is the operator's, and ours is before it."""

    rbufsize = 0

    def handle(self) -> None:
        method, target, version = self.rfile.readline().decode().split()
        host, port = target.removeprefix("http://").partition("/")[0].rsplit(":", 1)
        head = b""
        while (line := self.rfile.readline()).strip():
            head += line
        login = base64.b64encode(b"u:hunter2").decode()
        print("through the proxy", host, port, "let in" if f"Basic {login}" in head.decode() else "unknown", flush=True)
        try:
            there = socket.create_connection((ADDRESS, int(port)), timeout=5)
        except OSError:
            self.wfile.write(b"HTTP/1.1 502 Not there\r\n\r\n")
            return
        there.settimeout(None)  # on a busy machine either end may think for longer than a connection takes
        if method == "CONNECT":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            path = target.removeprefix(f"http://{host}:{port}")
            there.sendall(f"{method} {path} {version}\r\nConnection: close\r\n".encode() + head + b"\r\n")
        back = threading.Thread(target=copy, args=(there, self.request))
        back.start()
        copy(self.request, there)
        back.join()


def main() -> None:
    plain = http.server.ThreadingHTTPServer((ADDRESS, 8080), Pages)
    secure = http.server.ThreadingHTTPServer((ADDRESS, 8443), Pages)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("/usr/local/lib/loop-world/far.pem", "/srv/far.key")
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    proxy = socketserver.ThreadingTCPServer((ADDRESS, 8888), Proxy)
    for server in (plain, secure, proxy):
        threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
