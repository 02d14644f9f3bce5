# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Worktrees and checkouts outside of cells: healed, swept, put into quarantine, restored.

What is in the way is first read (``leftovers``), then it is decided what goes (``heal`` for one worktree, ``sweep`` for
a workspace), then it goes: its commits are kept reachable (``salvage``), it is described (``manifests``) and moved
(``quarantine``, ``moves``) as its owner (``owners``). ``restore`` is the way back, ``retention``
the end. ``repairs`` puts right what stops git in a whole repository; ``checkouts`` are what the worktrees hang on.

It imports git, host and base.
"""
