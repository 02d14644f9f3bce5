# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one door to the forge, run as a user of its own: who may ask, what is answered, what is received and judged.

It imports cell and what is below it.
"""
