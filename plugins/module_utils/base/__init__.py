# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every room stands on: errors, files, time, sizes, the journal, and the one reader of what others wrote.

It imports nothing of ours.
"""
