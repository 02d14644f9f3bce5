# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One cycle of the loop, in order: prepared by root, run in its cell, watched, settled; kept cells opened again.

It imports every room but lifecycle.
"""
