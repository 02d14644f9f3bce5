# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator is told of a host: its status and what it needs, as table, page, metrics, notices, and the history
of its cycles. It reads and changes nothing.
"""
