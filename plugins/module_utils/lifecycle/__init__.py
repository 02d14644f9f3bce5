# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host comes, is looked at, and goes: variables judged, our code installed, a take-over, the way back.

It imports every room.
"""
