# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings that a test changes before somebody reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings


class Changing(Settings):
    """As the core has them, but they can be written."""

    def __setitem__(self, key: str, value: Any) -> None:
        self.__dict__[key] = value

    def update(self, other: Mapping[str, Any] | None = None, **more: Any) -> None:
        self.__dict__.update(other or {}, **more)

    def __delitem__(self, key: str) -> None:
        del self.__dict__[key]
