# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be published: the gate policy as a file, and the judgement of changes by it.

``schema`` says what a policy may hold (read by ``strict_yaml``) and ``compose`` makes one for a host. A change is read
from a ``diff``, from ``commits`` or from what is ``uncommitted``, and judged by ``rules``: its ``paths``, its
``contents`` (with ``patterns``), and the rest. It imports git, host and base.
"""
