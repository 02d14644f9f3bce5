# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a version of the engine comes from: fetched into a mirror on the host, its provenance verified, checked out."""

from __future__ import annotations

import fnmatch
import os
import tempfile
from typing import Any

from ..base.errors import LoopError, without_passwords
from ..base.files import discard, read_bytes, sha256
from ..base.untrusted import show
from ..git.command import ANY, credentials, git, rows, told_branch, told_refs
from ..host import programs
from .wanted_version import Wanted

NETWORK_SECONDS = 600.0
MAX_FILE = 64 * 1024 * 1024


def provenance(wanted: Wanted) -> dict[str, Any]:
    """What a release is let in by; another demand means to look again."""
    return {
        "repo": wanted.repo,
        "branches": sorted(wanted.branches),
        "signers": [_signers(path) for path in (wanted.allowed_signers, wanted.keyring)],
        "lock_sha256": wanted.lock_sha256,
    }


def _signers(path: str) -> str:
    """The digest of a file of signers, or nothing where none is demanded: other keys in it are another demand."""
    if not path:
        return ""
    content = read_bytes(path)
    if content is None:
        raise LoopError(f"{path}, which says who may have signed the engine, is missing on this host")
    status = os.lstat(path)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise LoopError(f"{path} says who may have signed the engine, but others than root can write it")
    return sha256(content)


def verify_provenance(wanted: Wanted, sha: str) -> str:
    """Fetch, and return the branch that ``sha`` is on. LoopError unless everything holds that is demanded of it."""
    mirror, repo = _mirror(wanted), wanted.repo
    _fetch(wanted)
    if git(mirror, ["cat-file", "-e", f"{sha}^{{commit}}"], ok=ANY)[0]:
        raise LoopError(f"{repo} has no commit {sha} on any branch: was it pushed, is it the right repository?")
    on = _branches(mirror, "--contains", sha)
    allowed_ones = wanted.branches or _default_branches(wanted)
    allowed = [name for name in on if any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed_ones)]
    if not allowed:
        raise LoopError(
            f"commit {sha} is not on {' or '.join(allowed_ones)} of {repo}, only on {', '.join(on[:5])}:"
            " merge it, or name the branch in engineering_loop_allowed_branches if it may come from there"
        )
    if wanted.allowed_signers or wanted.keyring:
        _check_signature(wanted, sha)
    return show(allowed[0])


def check_out(wanted: Wanted, sha: str, path: str) -> str:
    """Check ``sha`` out into ``path``, which this makes; the branch that it was found on.

    Without a repository it was judged when it was built, and comes from the mirror as that is. The mirror is a cache:
    where it turns out to be broken it is made again, once.
    """
    mirror = _mirror(wanted)
    try:
        return _export(wanted, sha, path)
    except LoopError:
        if not os.path.isdir(mirror) or git(mirror, ["fsck", "--connectivity-only"], ok=ANY)[0] == 0:
            raise
    discard(mirror)
    discard(path)
    return _export(wanted, sha, path)


def file_in_mirror(wanted: Wanted, sha: str, name: str) -> bytes:
    """A file as a commit has it that was fetched already; nothing where it was not, or has no such file."""
    mirror = _mirror(wanted)
    if not os.path.isdir(mirror):
        return b""
    status, text, _said = git(mirror, ["cat-file", "blob", f"{sha}:{name}"], ok=ANY, most=MAX_FILE)
    return text.encode("utf-8", "surrogateescape") if status == 0 else b""


def _export(wanted: Wanted, sha: str, path: str) -> str:
    branch = verify_provenance(wanted, sha) if wanted.repo else ""
    os.mkdir(path, 0o755)
    # An index of its own: `git archive` would leave out what .gitattributes marks as export-ignore.
    index = {"GIT_DIR": _mirror(wanted), "GIT_WORK_TREE": path, "GIT_INDEX_FILE": os.path.join(path, ".index")}
    git(path, ["read-tree", sha], environment=index)
    git(path, ["checkout-index", "--all"], environment=index)
    os.unlink(index["GIT_INDEX_FILE"])
    return branch


def _mirror(wanted: Wanted) -> str:
    return os.path.join(wanted.install_dir, "mirror.git")


def _fetch(wanted: Wanted) -> None:
    """All branches of the repository, as they are now, into the mirror."""
    mirror = _mirror(wanted)
    if not os.path.isdir(mirror):
        git(wanted.install_dir, ["init", "--quiet", "--bare", "--template=", mirror])
        os.chmod(mirror, 0o700)
    for directory, _below, files in os.walk(mirror):
        for name in files:
            if name.endswith(".lock"):  # of a killed run: whoever gets here is alone
                os.unlink(os.path.join(directory, name))
    refs = "+refs/heads/*:refs/heads/*"
    try:
        _ask(wanted, "fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--", wanted.repo, refs)
    except LoopError as error:
        raise LoopError(f"{wanted.repo} cannot be fetched: {without_passwords(str(error))}") from error


def _ask(wanted: Wanted, *arguments: str) -> str:
    """What git says where it goes to the repository; a stalled transfer ends."""
    environment, config = credentials(wanted.repo, wanted.token, wanted.git_url)
    config.update({"http.lowSpeedLimit": "1000", "http.lowSpeedTime": "30"})
    return git(_mirror(wanted), arguments, environment=environment, config=config, timeout=NETWORK_SECONDS)[1]


def _branches(mirror: str, *which: str) -> list[str]:
    return rows(git(mirror, ["for-each-ref", *which, "--format=%(refname:lstrip=2)", "refs/heads"])[1])


def _default_branches(wanted: Wanted) -> list[str]:
    """The branch that the repository calls its own; of a bundle, which only tells its commit, all that end there."""
    told = _ask(wanted, "ls-remote", "--symref", "--", wanted.repo, "HEAD")
    if branch := told_branch(told):
        return [branch]
    at = told_refs(told).get("HEAD")
    if at and (found := _branches(_mirror(wanted), "--points-at", at)):
        return found
    raise LoopError(
        f"{wanted.repo} does not say which branch is its default one (a bundle does if it was made with"
        " `git bundle create FILE HEAD main`): name those that may hold the engine in engineering_loop_allowed_branches"
    )


def _check_signature(wanted: Wanted, sha: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        if wanted.keyring:
            # Without an agent, which only secret keys need, and which would outlive us.
            command = ["gpg", "--batch", "--quiet", "--no-autostart", "--homedir", home, "--import", wanted.keyring]
            done = programs.run(command, wanted.timeout)
            if done.returncode:
                raise LoopError(f"the keyring {wanted.keyring} cannot be read: {programs.last_words(done.stderr)}")
        # Without signers a file of none: git must never look for another one.
        signers = wanted.allowed_signers or os.devnull
        config = {"gpg.ssh.allowedSignersFile": signers, "gpg.minTrustLevel": "undefined"}
        status, _out, said = git(
            _mirror(wanted), ["verify-commit", sha], environment={"GNUPGHOME": home}, config=config, ok=ANY
        )
    if status:
        by = wanted.allowed_signers or wanted.keyring
        raise LoopError(f"commit {sha} is not signed by anyone in {by}: {programs.last_words(said)}")
