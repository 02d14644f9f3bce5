# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets that a test has planted, looked for wherever they must not be.

    hits(needles, roots, allowed)   a file for each place below ``roots`` that has one, here
    on_host(ssh, needles, allowed)  the same on a loop host, as root: all files that changed since it was made, what is
                                    packed in them, the journal, git's objects, and the arguments of what runs
    sampler()                       a program that notes the arguments of all that runs on a host, until it is stopped

A secret is looked for by its longest run of letters and digits, which neither JSON nor a URL writes otherwise; and as
base64, wherever in it that stands, and as hex. This file needs nothing but Python: it runs on the host as it is.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import os
import re
import stat
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

SAMPLES = "/run/planted-samples"
CHUNK, SHORTEST = 1 << 22, 8
Needles = dict[str, list[bytes]]


def needle(value: str) -> str:
    """The part of a secret that stands in a text whatever the text is written in."""
    found = max(re.findall(r"[A-Za-z0-9]+", value), key=len, default="")
    assert len(found) >= SHORTEST, "what is planted must have 8 letters or digits in a row"
    return found


def secret_line(pem: str) -> str:
    """A line of an RSA private key that only the private key has: its first third is the public key as well."""
    return pem.splitlines()[-4]


def forms(value: str) -> list[bytes]:
    """The needle as it is, as hex, and what base64 makes of it at each of the three places where it may begin."""
    raw = needle(value).encode()
    shifted = [base64.b64encode(b"\0" * at + raw)[(8 * at + 5) // 6 : (8 * (at + len(raw))) // 6] for at in range(3)]
    return [raw, raw.hex().encode(), raw.hex().upper().encode(), *shifted]


def needles(secrets: Mapping[str, str]) -> Needles:
    return {name: forms(value) for name, value in secrets.items()}


def named(data: bytes, wanted: Needles) -> list[str]:
    """Which of them stand in it."""
    return [name for name, ways in wanted.items() if any(way in data for way in ways)]


def _unpacked(path: str, head: bytes) -> Iterator[bytes]:
    """What a packed file holds, as far as it can be read."""
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open, b"BZh": bz2.open}
    for magic, opener in openers.items():
        if head.startswith(magic):
            try:
                with opener(path, "rb") as handle:
                    while chunk := handle.read(CHUNK):
                        yield chunk
            except (OSError, EOFError, lzma.LZMAError, zlib.error):
                return
    if head[:1] == b"\x78":  # git's loose objects
        try:
            yield zlib.decompress(Path(path).read_bytes())
        except (OSError, zlib.error):
            return


def in_chunks(chunks: Iterable[bytes], wanted: Needles) -> set[str]:
    longest = max(len(way) for ways in wanted.values() for way in ways)
    found: set[str] = set()
    before = b""
    for chunk in chunks:
        found.update(named(before + chunk, wanted))
        before = chunk[-longest:]
    return found


def _plain(path: str) -> Iterator[bytes]:
    with open(path, "rb") as handle:
        while chunk := handle.read(CHUNK):
            yield chunk


def in_file(path: str, wanted: Needles) -> set[str]:
    """What a file has, in its name as well."""
    found = set(named(os.fsencode(path), wanted))
    try:
        with open(path, "rb") as handle:
            head = handle.read(8)
        return found | in_chunks(_plain(path), wanted) | in_chunks(_unpacked(path, head), wanted)
    except OSError:
        return found


def files(roots: Sequence[str], since: float) -> Iterator[str]:
    """Every file and link below them that changed since then; nothing that the kernel makes up."""
    for root in roots:
        for place, folders, names in os.walk(root):
            folders[:] = [one for one in folders if os.path.join(place, one) not in ("/proc", "/sys", "/dev/pts")]
            for name in (*folders, *names):
                path = os.path.join(place, name)
                try:
                    seen = os.lstat(path)
                except OSError:
                    continue
                if stat.S_ISREG(seen.st_mode) and seen.st_ctime >= since:
                    yield path
                elif stat.S_ISLNK(seen.st_mode) and seen.st_ctime >= since:
                    yield f"{path} -> {os.readlink(path)}"


def repositories(paths: Iterable[str]) -> set[str]:
    """The object stores of git among them."""
    return {path.split("/objects/")[0] for path in paths if path.endswith(".pack") and "/objects/pack/" in path}


def in_packs(repository: str, wanted: Needles) -> set[str]:
    command = ["git", "-c", "safe.directory=*", f"--git-dir={repository}", "cat-file", "--batch-all-objects", "--batch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        return in_chunks(iter(lambda: process.stdout.read(CHUNK), b""), wanted)  # type: ignore[union-attr]


def hits(wanted: Needles, roots: Sequence[str], allowed: Sequence[str] = (), since: float = 0.0) -> list[str]:
    """A line for each place that has one and is not where it may be."""
    seen = list(files(roots, since))
    found = {path: in_file(path, wanted) for path in seen}
    found |= {f"{one} (packed by git)": in_packs(one, wanted) for one in repositories(seen)}
    return [
        f"{path}: {name}"
        for path, names in found.items()
        for name in sorted(names)
        if not any(fnmatchcase(path, pattern) for pattern in allowed)
    ]


def _here(order: Mapping[str, object]) -> list[str]:
    """On the host: its files, its journal, what runs."""
    wanted = {name: [bytes.fromhex(way) for way in ways] for name, ways in dict(order["needles"]).items()}  # type: ignore[call-overload]
    # What was there before it booted is Debian's; ctime is the one time that nobody sets.
    since = os.stat("/etc/machine-id").st_ctime - 60
    found = hits(wanted, ["/"], [*order["allowed"]], since)  # type: ignore[misc]
    with subprocess.Popen(["journalctl", "--output=export", "--all", "--no-pager"], stdout=subprocess.PIPE) as journal:
        assert journal.stdout
        found += [f"the journal: {name}" for name in in_chunks(iter(lambda: journal.stdout.read(CHUNK), b""), wanted)]  # type: ignore[union-attr]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [f"arguments of process {path.parent.name}: {name}" for name in named(path.read_bytes(), wanted)]
        except OSError:
            continue
    return found


def on_host(ssh: Sequence[str], wanted: Needles, allowed: Sequence[str]) -> list[str]:
    """Look on a host; what is looked for goes there on stdin, so it is in nobody's arguments."""
    order = {"needles": {name: [way.hex() for way in ways] for name, ways in wanted.items()}, "allowed": [*allowed]}
    program = f"{Path(__file__).read_text(encoding='utf-8')}\nprint(json.dumps(_here({order!r})))\n"
    done = subprocess.run([*ssh, "python3", "-I", "-"], input=program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def sampler() -> str:
    """Shell: note the arguments of everything that runs from now on, each once, in SAMPLES."""
    program = (
        "import glob, time\n"
        f"seen, out = set(), open('{SAMPLES}', 'ab', 0)\n"
        "while True:\n"
        "    for path in glob.glob('/proc/[0-9]*/cmdline'):\n"
        "        try: said = open(path, 'rb').read()\n"
        "        except OSError: continue\n"
        "        if said and said not in seen: seen.add(said); out.write(said + b'\\n')\n"
        "    time.sleep(0.05)\n"
    )
    return f'systemd-run --quiet --unit=planted-sampler /usr/bin/python3 -c "{program}"'


if __name__ == "__main__" and sys.argv[0] != "-":
    sys.exit(__doc__)
