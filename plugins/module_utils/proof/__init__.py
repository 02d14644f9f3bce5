# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may run on the timer: the canary, its receipts, and the way back to what was proven.

It imports gateway, cell and what is below them.
"""
