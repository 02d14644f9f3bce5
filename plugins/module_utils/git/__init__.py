# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""git as it is: the one way to run it, what its files say, which of them are damaged or locked.

It imports host and base.
"""
