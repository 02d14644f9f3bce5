# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forge's REST API as a client sees it, what its refusals mean, and the tokens of a GitHub App.

It imports git, host and base.
"""
