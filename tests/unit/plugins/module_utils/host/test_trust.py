# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Authorities that the host trusts: ours by their first line, all others left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host import trust
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.managed_files import converge

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def bring(top: Path, wanted: dict[str, str]) -> list[str]:
    return [change.path for change in converge(trust.entries(wanted, str(top)))]


def test_what_is_wanted_is_there_and_alone(tmp_path: Path) -> None:
    one, other, theirs = (str(tmp_path / name) for name in ("one.crt", "other.crt", "theirs.crt"))
    Path(theirs).write_text("theirs")
    assert bring(tmp_path, {one: PEM}) == [one] and bring(tmp_path, {one: PEM}) == []
    assert Path(one).read_bytes() == trust.MARK + PEM.encode()
    assert bring(tmp_path, {one: f"{PEM}{PEM}"}) == [one]
    assert sorted(bring(tmp_path, {other: PEM})) == [one, other]
    assert trust.ours(str(tmp_path)) == [other]
    assert bring(tmp_path, {}) == [other] and trust.ours(str(tmp_path)) == [] and Path(theirs).read_text() == "theirs"
    assert trust.ours(str(tmp_path / "none")) == []


def test_the_same_of_somebody_elses_stays_theirs(tmp_path: Path) -> None:
    path = tmp_path / "ca.crt"
    path.write_text(PEM.strip())
    assert bring(tmp_path, {str(path): PEM}) == [] and trust.ours(str(tmp_path)) == []
    assert bring(tmp_path, {str(path): f"{PEM}{PEM}"}) == [str(path)]


def test_what_is_not_in_force_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, links = tmp_path / "given", tmp_path / "links"
    path, other = f"{directory}/a.crt", PEM.replace("MIIB", "MIIC")
    directory.mkdir()
    links.mkdir()

    def stale(wanted: dict[str, str]) -> bool:
        converge(trust.entries(wanted, str(directory)))
        return trust.stale(wanted, str(links), str(directory))

    def brought_into_force() -> None:
        (links / "a.pem").unlink(missing_ok=True)
        (links / "a.pem").symlink_to(path)
        (links / trust.BUNDLE).write_bytes(b"".join(one.read_bytes() for one in directory.iterdir()))

    assert not stale({}) and stale({path: PEM})
    brought_into_force()
    assert not stale({path: PEM})
    assert stale({path: other}) and stale({path: other})  # renewed by an apply that was killed before the rest of it
    brought_into_force()
    assert not stale({path: other})
    (links / "theirs.pem").symlink_to("/nowhere/theirs.crt")
    assert stale({}) and stale({})  # its file is gone; Debian's program lets the link stay where it adds nothing
    (tmp_path / "update-ca-certificates").write_text("#!/bin/sh\n")
    (tmp_path / "update-ca-certificates").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    trust.refresh(str(links), str(directory))
    assert not stale({}) and sorted(os.listdir(links)) == [trust.BUNDLE, "theirs.pem"]
