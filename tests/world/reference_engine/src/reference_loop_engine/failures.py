# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a run ends other than well."""

from __future__ import annotations


class RunError(Exception):
    """The cycle failed; it does not count in the day's ledger."""


class NeedsTriage(Exception):
    """The run stops for a person, which is no failure of the cycle."""
