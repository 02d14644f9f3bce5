# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""``loop status`` on the host, for root: the same status as on the controller, as a table or as JSON."""

from __future__ import annotations

import json
import os
import sys

from . import status, table

USAGE = "usage: loop status [--json]"
WELL, NEEDS_A_PERSON, WRONG = 0, 2, 1


def main(config_path: str, *words: str) -> int:
    """Print the status; 0 where the host is well, 2 where it needs a person, 1 where nothing could be told."""
    if words not in ((), ("--json",)):
        sys.stderr.write(f"{USAGE}\n")
        return WRONG
    if os.geteuid() != 0:
        sys.stderr.write(f"loop status is for root: sudo {sys.argv[0]} status\n")
        return WRONG
    found = table.for_host(status.of_host(config_path), os.uname().nodename)
    if words:
        text = json.dumps(found, indent=1)
    else:
        text = table.draw({os.uname().nodename: found}, colour=sys.stdout.isatty() and not table.is_dumb())
    sys.stdout.write(f"{text}\n")
    return WELL if found["well"] else NEEDS_A_PERSON
