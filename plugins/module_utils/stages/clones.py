# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The clones that cells are made from."""

from __future__ import annotations

from typing import Any

from ..cell import pristine
from ..forge import tokens
from ..host.settings import Settings
from .outcome import Done, How, Json, StageFailed

OPTIONS: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "repositories": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "repo": {"type": "str", "required": True},
            "dest": {"type": "str"},
            "version": {"type": "str", "default": "main"},
        },
    },
    "user": {"type": "str", "default": "loop-gate"},
    "git_url": {"type": "str", "default": "https://github.com"},
    "env_file": {"type": "path"},
    "github_app": tokens.OPTION,
}


def bring(given: Json, how: How) -> Done:
    """Bring all of them to what their remotes have; as the module ``pristine_clones`` has its options."""
    config = Settings(
        {},
        pristine_dir=given["root"],
        workspace_repositories=given["repositories"],
        gate_user=given["user"],
        git_url=given["git_url"],
    )
    token = tokens.token_for(given["env_file"], given["github_app"])
    found = pristine.refresh(config, token, check=how.check)
    failed = [one["dest"] for one in found if one["status"] == "failed"]
    result: Json = {
        "changed": any(one["status"] in ("cloned", "updated", "replaced") for one in found),
        "repositories": found,
        "failed_clones": failed,
    }
    done = "is damaged and would be" if how.check else "was damaged and is"
    told = [f"{one['dest']} {done} cloned anew: {one['detail']}" for one in found if one["status"] == "replaced"]
    if how.diff:
        result["diff"] = {"before": _lines(found, "before"), "after": _lines(found, "after")}
    if failed:
        details = "; ".join(f"{one['dest']}: {one['detail']}" for one in found if one["status"] == "failed")
        raise StageFailed(f"{len(failed)} of {len(found)} clones failed: {details}", result)
    return Done(result, told)


def _lines(found: list[Json], when: str) -> str:
    """Each clone and its commit, for the diff."""
    return "".join(f"{one['dest']}: {one[when] or '-'}\n" for one in found)
