# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""bubblewrap, which gives a program namespaces of its own: where it is, and the options for what we shut in."""

from __future__ import annotations

BWRAP = "/usr/bin/bwrap"
# For the engine: a PID namespace, and all else as it is.
NAMESPACE = (
    BWRAP, "--unshare-user", "--unshare-pid", "--die-with-parent", "--bind", "/", "/", "--dev-bind", "/dev", "/dev",
    "--proc", "/proc",
)  # fmt: skip
# For what runs generated code: it sees the host's files, and writes nothing of them.
ALONE = (
    "--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session",
    "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
    "--tmpfs", "/tmp", "--tmpfs", "/var/tmp",  # noqa: S108 - both are the sandbox's own
    "--tmpfs", "/run",
)  # fmt: skip
