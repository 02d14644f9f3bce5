# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a scenario tells, chapter by chapter: in short, as `make test` runs it, or in its long form (``LONG=1``)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Sequence

LONG = bool(os.environ.get("LONG"))


def tell(chapters: Sequence[Callable[[], None]], long: Collection[Callable[[], None]] = ()) -> None:
    """Try each, or those that the command line names; say how long it took, or where it went wrong.

    Those in ``long`` are left out of the short form: nothing that comes after them needs them.
    """
    wanted = sys.argv[3:] or [one.__name__ for one in chapters if LONG or one not in long]
    for one in chapters:
        if one.__name__ not in wanted:
            continue
        began = time.monotonic()
        try:
            one()
        except BaseException:
            print(f"WRONG in: {one.__name__}", flush=True)
            raise
        print(f"{one.__name__}: {time.monotonic() - began:.0f} s", flush=True)
