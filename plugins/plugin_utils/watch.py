# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show that a task still runs: every few seconds what it does and for how long.

A module is silent until it ends. So one thread tells the time, and another asks the host, by a connection of its own,
what the module says that it does (``module_utils/base/progress.py``). Two threads, so that a host that does not answer
is seen as well. A task that is over within FIRST seconds costs nothing of this.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.utils.display import Display
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base import progress
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.untrusted import show

display = Display()

FIRST = 3.0  # seconds until the first line
EVERY = 4.0  # ... and between two: a reader who sees nothing for longer wonders whether it hangs
SILENT = 10.0  # without an answer for so long, the host is said not to answer
MAX_SHOWN = 160  # characters of what the host says
AGAIN = (
    "What was begun there goes on to its end. Run the same playbook again as soon as the host can be reached: it waits"
    " for that, and goes on where it ended."
)


class Watch:
    """One task on one host, while it runs. ``look`` asks the host what happens there; it may block, or fail."""

    def __init__(self, host: str, name: str, look: Callable[[], str] | None = None, quiet: bool = False) -> None:
        self.host, self.name, self.quiet = host, name, quiet
        self.last, self.reached = "", False
        self._look = look or (lambda: "")
        self._asks = look is not None
        self._began = self._shown = self._heard = time.monotonic()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Watch:
        for work in (self._tell, self._ask) if self._asks else (self._tell,):
            # What Ansible knows of the task is in context variables, which a new thread does not have.
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(work,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_unused: object) -> None:
        self._over.set()
        # Whoever shows a line must have shown it: the process ends next. The one that asks may hang in the connection.
        self._threads[0].join()
        for thread in self._threads[1:]:
            thread.join(1.0)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def say(self, line: str) -> None:
        """Show a line of the task's own; the next sign of life is due as long after it as after any other."""
        with self._lock:
            self._shown = time.monotonic()
            if not self.quiet:
                display.display(f"{self.host} | {line}")

    def _tell(self) -> None:
        due = self._began + FIRST
        while not self._over.wait(max(due - time.monotonic(), 0.0)):
            if self._shown == self._began or time.monotonic() - self._shown >= EVERY:
                self.say(f"{self.name}, {self.seconds:.0f} s{self._doing()}")
            due = self._shown + EVERY

    def _doing(self) -> str:
        silent = time.monotonic() - self._heard
        if self._asks and silent >= SILENT:
            return f": no answer from the host for {silent:.0f} s"
        return f": {self.last}" if self.last else ""

    def _ask(self) -> None:
        pause = FIRST - 0.5  # in time for the first line
        while not self._over.wait(pause):
            with contextlib.suppress(Exception):  # not heard: told by _tell
                self.last = show(self._look(), MAX_SHOWN) or self.last
                self._heard, self.reached = time.monotonic(), True
            pause = EVERY / 2


def host_of(task_vars: dict[str, Any] | None) -> str:
    return str((task_vars or {}).get("inventory_hostname", ""))


def name_of(task: Any) -> str:
    """As it stands in the playbook, without the role that it is of."""
    return str(task.get_name()).rpartition(" : ")[2]


@contextlib.contextmanager
def watched(action: Any, task_vars: dict[str, Any] | None, look: str = "") -> Iterator[Watch]:
    """Watch ``action``: show what its module says that it does, or else the last line that ``look`` prints there.

    ``look`` is a shell command; it runs as the task's user, every other second. Where the connection is lost meanwhile,
    the error says what was under way.
    """
    path = f"/run/engineering-loop-{secrets.token_hex(8)}.progress"
    host, task, asking = host_of(task_vars), action._task, _beside(action)
    command = look or f"tail -n 1 {path} 2>/dev/null || true"

    def ask() -> str:
        answer: str = asking._low_level_execute_command(command)["stdout"]
        return (answer.strip().splitlines() or [""])[-1]

    environment = task.environment
    task.environment = [*(environment or []), *([] if look else [{progress.VARIABLE: path}])]
    try:
        with Watch(host, name_of(task), ask, quiet=bool(task.no_log)) as watch:
            yield watch
    except AnsibleConnectionFailure as error:
        if not watch.reached:
            raise
        at = f"{watch.seconds:.0f} s of '{watch.name}'" + (f" ({watch.last})" if watch.last else "")
        raise AnsibleConnectionFailure(
            f"the connection to {host} was lost after {at}: {error.message} {AGAIN}"
        ) from None
    finally:
        task.environment = environment


def _beside(action: Any) -> Any:
    """A copy of the action plugin with a connection of its own: one of Ansible's carries one command at a time.

    With ssh's ControlPersist, as is usual, it is a channel of the same session.
    """
    other = copy.copy(action)
    other._connection = copy.copy(action._connection)
    if other._connection.become:
        # It keeps the prompt that the command under way may still wait for.
        other._connection.set_become_plugin(copy.copy(other._connection.become))
    return other
