# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be published: the gate policy as a file, and the judgement of a change by it.

It imports git, host and base.
"""
