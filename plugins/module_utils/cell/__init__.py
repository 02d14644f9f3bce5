# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cycle works in, and what is written of it: the cell, what its checkouts borrow from, sandbox, network, records.

It imports release and what is below it.
"""
