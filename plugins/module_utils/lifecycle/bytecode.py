# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our code on the host, compiled once, so that not every start of it does: what runs in a cycle may not write it.

Each compiled file names the digest of its source, and Python compares that at every start: it cannot go stale unseen.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import py_compile
from collections.abc import Iterator

from ..base.errors import LoopError

CACHE = "__pycache__"
# magic number, flags (a digest, and compared), digest of the source
CHECKED = importlib.util.MAGIC_NUMBER + b"\x03\0\0\0"


def bring(package: str, *, check: bool = False) -> bool:
    """Have all of ``package`` compiled for this Python, and nothing else in its caches. Whether that was not so."""
    wanted = {importlib.util.cache_from_source(path): path for path in _below(package, ".py")}
    late = [cache for cache, path in wanted.items() if not _fits(cache, path)]
    left = [path for path in _below(package, ".pyc", inside=True) if path not in wanted]
    if not check:
        try:
            for path in left:
                os.unlink(path)
            for cache in late:
                mode = py_compile.PycInvalidationMode.CHECKED_HASH
                py_compile.compile(wanted[cache], cache, doraise=True, invalidation_mode=mode)
        except (OSError, py_compile.PyCompileError) as error:
            raise LoopError(f"{package} cannot be compiled: {error}") from error
    return bool(late or left)


def _below(package: str, suffix: str, inside: bool = False) -> Iterator[str]:
    """The files of that name in the package, or ``inside`` its caches."""
    for base, _rooms, names in os.walk(package):
        if (os.path.basename(base) == CACHE) == inside:
            yield from (f"{base}/{name}" for name in names if name.endswith(suffix))


def _fits(cache: str, path: str) -> bool:
    """Whether the compiled file is one of this source, and says so."""
    with contextlib.suppress(OSError), open(cache, "rb") as compiled, open(path, "rb") as source:
        return compiled.read(16) == CHECKED + importlib.util.source_hash(source.read())
    return False
