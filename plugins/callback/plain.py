# Copyright: (c) 2026, AS215932
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: plain
type: stdout
short_description: Ansible's own output, with each error once
version_added: "0.2.0"
author: AS215932 (@AS215932)
description:
  - Ansible's default output, but for a task that failed. Of that, Ansible 2.19 and later shows the message, lines of
    the playbook, and the message again among all that the task returned. Here it is the message alone, as it is.
  - With C(-v) all of it is shown.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

import contextlib
from collections.abc import Iterator, MutableMapping
from typing import Any

from ansible.plugins.callback.default import CallbackModule as Default


class CallbackModule(Default):  # type: ignore[misc]  # Ansible's plugins have no types
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "as215932.engineering_loop.plain"

    _failing = False

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        with self._shortly():
            super().v2_runner_on_failed(result, ignore_errors)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        with self._shortly():
            super().v2_runner_item_on_failed(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        with self._shortly():
            super().v2_runner_on_unreachable(result)

    @contextlib.contextmanager
    def _shortly(self) -> Iterator[None]:
        self._failing = self._display.verbosity < 1
        try:
            yield
        finally:
            self._failing = False

    def _handle_exception(self, result: MutableMapping[str, Any], use_stderr: bool = False) -> None:
        if self._message(result):
            result.pop("exception", None)
        else:
            super()._handle_exception(result, use_stderr)

    def _dump_results(self, result: MutableMapping[str, Any], *args: Any, **kwargs: Any) -> str:
        return self._message(result) or str(super()._dump_results(result, *args, **kwargs))

    def _message(self, result: MutableMapping[str, Any]) -> str:
        """What a failed task says, where it is to stand alone; empty otherwise."""
        told = result.get("msg")
        # Of a program that failed, its output says why; of a task with items, each of them says it.
        alone = isinstance(told, str) and not {"stderr", "module_stderr", "results"} & set(result)
        return str(told) if self._failing and alone else ""
