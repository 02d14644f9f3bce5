# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show what a canary does while it does it.

A module is silent until it ends, and a cycle takes minutes. So the module runs in the
background on the host, where a lost connection does not end it, and writes what happens to
a file there; that file is read here and shown line by line, and while nothing is written, that it goes on.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.as215932.engineering_loop.plugins.plugin_utils.watch import Watch, host_of, name_of

PAUSE = 1.0  # between two looks at the host
# Beyond the cycle's own time: what is asked of a slow forge before and after it.
MARGIN = 1800
AFTERWARDS = "Its cycle is in the host's journal; if it was proven, there is a receipt: run the playbook again."
JOB_KEYS = frozenset(
    {"ansible_job_id", "finished", "started", "results_file", "stdout", "stdout_lines", "stderr", "stderr_lines"}
)


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible's plugins have no types
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        if self._task.async_val:  # whoever sends it to the background follows it
            return self._module(task_vars, wrap_async=True)
        with Watch(host_of(task_vars), name_of(self._task), quiet=bool(self._task.no_log)) as self._watch:
            told = self._ask(task_vars)
            if self._task.check_mode or told.get("failed") or not told.get("changed"):
                return told
            # The task's own headline may come after its result, as with display_skipped_hosts=false.
            self._watch.say(f"{self._watch.name}: {told.get('reason', '')}")
            progress = f"/run/loop-canary-{secrets.token_hex(8)}.log"
            try:
                return self._follow(self._begin(progress, task_vars), progress, task_vars)
            finally:
                with contextlib.suppress(AnsibleConnectionFailure):
                    self._shell("rm -f", progress)

    def _module(self, task_vars: dict[str, Any] | None, wrap_async: bool = False, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._execute_module(
            module_args={**self._task.args, **options}, task_vars=task_vars, wrap_async=wrap_async
        )
        return found

    def _ask(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """What the canary would do: most runs of a playbook find it proven."""
        check_mode, self._task.check_mode = self._task.check_mode, True
        try:
            return self._module(task_vars)
        finally:
            self._task.check_mode = check_mode

    def _begin(self, progress: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Start the module in the background; its job, or why there is none."""
        self._task.async_val = int(self._task.args.get("timeout") or 3600) + MARGIN
        try:
            return self._module(task_vars, wrap_async=True, progress=progress)
        finally:
            self._task.async_val = 0

    def _follow(self, job: dict[str, Any], progress: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Show the lines as they come; the module's own result when it has ended."""
        if job.get("failed") or "ansible_job_id" not in job:
            return job
        give_up = time.monotonic() + float(self._task.args.get("timeout") or 3600) + MARGIN
        shown, there, lost = 0, False, False
        while time.monotonic() < give_up:
            time.sleep(PAUSE)
            try:
                # In this order: what was written before the end is read after it.
                status = self._job(job, "status", task_vars)
                lines = self._lines(progress, shown)
                for line in lines or ():
                    self._watch.say(line)
                shown += len(lines or ())
                if status.get("finished"):
                    self._job(job, "cleanup", task_vars)
                    return {key: value for key, value in status.items() if key not in JOB_KEYS}
                if there and lines is None:
                    raise AnsibleError(f"the canary is gone from the host: was it restarted? {AFTERWARDS}")
                there, lost = there or lines is not None, False
            except AnsibleConnectionFailure:
                if not lost:
                    self._watch.say("the connection is lost; the canary goes on there, trying again")
                lost = True
                with contextlib.suppress(AnsibleConnectionFailure):
                    self._connection.reset()
        raise AnsibleError(f"the canary did not end in time, or the host cannot be reached any more. {AFTERWARDS}")

    def _job(self, job: dict[str, Any], mode: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        found: dict[str, Any] = self._execute_module(
            module_name="ansible.legacy.async_status",
            module_args={
                "jid": job["ansible_job_id"],
                "mode": mode,
                "_async_dir": self._remote_expand_user(self.get_shell_option("async_dir", default="~/.ansible_async")),
            },
            task_vars=task_vars,
        )
        return found

    def _lines(self, progress: str, shown: int) -> list[str] | None:
        """What stands in the file after the lines that were shown; None where there is no file."""
        done = self._shell(f"tail -n +{shown + 1}", progress)
        if done["rc"] != 0:
            return None
        lines = done["stdout"].splitlines(keepends=True)
        return [line.rstrip("\r\n") for line in lines if line.endswith("\n")]  # the last one may be half written

    def _shell(self, command: str, path: str) -> dict[str, Any]:
        done: dict[str, Any] = self._low_level_execute_command(f"{command} {self._connection._shell.quote(path)}")
        return done
