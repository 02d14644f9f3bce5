# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the stages of an apply do: each for the module of its own, and all for the look whether there is anything to do.

Options come in as the modules have them, results go out as they return them. It imports every room but the report.
"""
