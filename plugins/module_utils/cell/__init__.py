# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cycle works in and what is written of it: cell, pristine clones, sandbox, network, records and budget.

It imports release and what is below it.
"""
