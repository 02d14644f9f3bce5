# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""One cycle of an engineering loop: an approved issue in, a draft pull request out."""

__version__ = "0.1.0"
