# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a version comes from: branches, signatures, bundles, and a mirror that is broken."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import releases, store
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted
from commands import sh
from engines import Source, memory, mine, says


def test_a_commit_that_is_not_there(wanted: Wanted) -> None:
    with pytest.raises(LoopError, match=r"has no commit 0000.*was it pushed"):
        releases.present(wanted, "0" * 40)
    assert mine(wanted) == set() and store.active(wanted.install_dir) is None


def test_a_commit_must_be_on_the_default_branch_unless_told(wanted: Wanted, source: Source, shas: list[str]) -> None:
    sh(source.path, "git", "checkout", "-q", "-b", "feature/one")
    sha = source.commit("not merged")
    sh(source.path, "git", "checkout", "-q", "main")
    with pytest.raises(LoopError, match=rf"commit {sha} is not on main of .*only on feature/one: merge it"):
        releases.present(wanted, sha)
    assert mine(wanted) == set()
    with pytest.raises(LoopError, match=r"is not on release/\* or main of"):
        releases.present(dataclasses.replace(wanted, branches=["release/*", "main"]), sha)
    done = releases.present(dataclasses.replace(wanted, branches=["feature/*"]), sha)
    assert done["activated"] and done["release"]["branch"] == "feature/one"
    # Back to the default: what is active came from elsewhere, and its provenance does not hold any more.
    with pytest.raises(LoopError, match="is not on main"):
        releases.present(wanted, sha)
    assert says(wanted) == "not merged"


def test_a_commit_on_no_branch_is_refused(wanted: Wanted, source: Source, shas: list[str]) -> None:
    # Only reachable by a tag: what GitHub serves of forks and pull requests is like that.
    orphan = sh(source.path, "git", "commit-tree", "-m", "orphan", f"{shas[0]}^{{tree}}")
    sh(source.path, "git", "tag", "-f", "orphan", orphan)
    with pytest.raises(LoopError, match="has no commit"):
        releases.present(wanted, orphan)
    sh(source.path, "git", "tag", "-d", "orphan")


def test_other_demands_on_a_built_release_are_judged_again(wanted: Wanted, source: Source, shas: list[str]) -> None:
    releases.present(wanted, shas[0])
    with pytest.raises(LoopError, match="not on release"):
        releases.present(dataclasses.replace(wanted, branches=["release"]), shas[0])
    with pytest.raises(LoopError, match="SHA-256"):
        releases.present(dataclasses.replace(wanted, lock_sha256="0" * 64), shas[0])
    assert releases.present(dataclasses.replace(wanted, branches=["main"]), shas[0])["changed"]
    assert not releases.present(dataclasses.replace(wanted, branches=["main"]), shas[0])["changed"]


def test_a_signature_can_be_demanded(anywhere: Wanted, source: Source, shas: list[str], tmp_path: Path) -> None:
    for name in ("key", "other"):
        sh(tmp_path, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name)
    sh(source.path, "git", "checkout", "-q", "-b", "signed")
    ssh = ["-c", "gpg.format=ssh", "-c", f"user.signingKey={tmp_path}/key"]
    sh(source.path, "git", *ssh, "commit", "-q", "--allow-empty", "-S", "-m", "signed")
    sha = sh(source.path, "git", "rev-parse", "HEAD")
    sh(source.path, "git", "checkout", "-q", "main")
    signers, others = tmp_path / "signers", tmp_path / "others"
    signers.write_text(f"someone@example.org {(tmp_path / 'key.pub').read_text()}")
    others.write_text(f"someone@example.org {(tmp_path / 'other.pub').read_text()}")
    for wrong in (others, signers):
        with pytest.raises(LoopError, match="is not signed by anyone in"):
            demanded = dataclasses.replace(anywhere, allowed_signers=str(wrong))
            releases.present(demanded, sha if wrong == others else shas[0])
    demanded = dataclasses.replace(anywhere, allowed_signers=str(signers))
    assert releases.present(demanded, sha)["activated"] and not releases.present(demanded, sha)["changed"]
    # Another key in the same file is another demand.
    signers.write_text(others.read_text())
    with pytest.raises(LoopError, match="is not signed by anyone in"):
        releases.present(demanded, sha)
    signers.chmod(0o666)
    with pytest.raises(LoopError, match="others than root can write it"):
        releases.present(demanded, sha)
    signers.unlink()
    with pytest.raises(LoopError, match="is missing on this host"):
        releases.present(demanded, sha)


def test_an_openpgp_signature_can_be_demanded(
    anywhere: Wanted, source: Source, shas: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory() as home:  # a short path: the agent's socket is in it
        home.chmod(0o700)
        monkeypatch.setenv("GNUPGHOME", str(home))
        rings = [tmp_path / f"{name}.asc" for name in ("one", "other")]
        for ring in rings:
            mail = f"{ring.stem}@example.org"
            generate = ["--passphrase", "", "--quick-generate-key", mail, "ed25519", "default", "never"]
            sh(tmp_path, "gpg", "--batch", "--quiet", *generate)
            ring.write_text(sh(tmp_path, "gpg", "--export", "--armor", mail))
        sh(source.path, "git", "checkout", "-q", "-b", "openpgp")
        sh(
            source.path,
            "git",
            "-c",
            "user.signingKey=one@example.org",
            "commit",
            "-q",
            "--allow-empty",
            "-S",
            "-m",
            "one",
        )
        sha = sh(source.path, "git", "rev-parse", "HEAD")
        sh(source.path, "git", "checkout", "-q", "main")
        sh(tmp_path, "gpgconf", "--kill", "all")
    for ring, version in ((rings[1], sha), (rings[0], shas[0])):
        with pytest.raises(LoopError, match="is not signed by anyone in"):
            releases.present(dataclasses.replace(anywhere, keyring=str(ring)), version)
    assert releases.present(dataclasses.replace(anywhere, keyring=str(rings[0])), sha)["activated"]
    rings[0].write_text("no keys")
    with pytest.raises(LoopError, match=r"cannot be read: .*no valid OpenPGP data"):
        releases.present(dataclasses.replace(anywhere, keyring=str(rings[0])), sha)


def test_passwords_in_urls_and_odd_sources_are_refused(wanted: Wanted, shas: list[str]) -> None:
    for repo in ("https://user:secret@example.org/x.git", "ext::sh -c true", "--upload-pack=x", ""):
        with pytest.raises(LoopError) as failure:
            releases.present(dataclasses.replace(wanted, repo=repo), shas[0])
        assert "secret" not in str(failure.value)


def test_a_bundle_is_a_source(wanted: Wanted, source: Source, shas: list[str], tmp_path: Path) -> None:
    sh(source.path, "git", "bundle", "create", "-q", str(tmp_path / "engine.bundle"), "HEAD", "main")
    releases.present(dataclasses.replace(wanted, repo=str(tmp_path / "engine.bundle")), shas[1])
    assert says(wanted) == "release 1"
    sh(source.path, "git", "bundle", "create", "-q", str(tmp_path / "headless.bundle"), "main")
    headless = dataclasses.replace(wanted, repo=str(tmp_path / "headless.bundle"))
    with pytest.raises(LoopError, match="does not say which branch is its default one"):
        releases.present(headless, shas[2])
    assert releases.present(dataclasses.replace(headless, branches=["main"]), shas[2])["activated"]


def test_a_broken_mirror_is_made_again(wanted: Wanted, shas: list[str]) -> None:
    releases.present(wanted, shas[0])
    mirror = Path(wanted.install_dir, "mirror.git")
    for entry in (mirror / "objects").rglob("*"):
        if entry.is_file():
            entry.unlink()
    (mirror / "packed-refs.lock").write_text("")
    assert releases.present(wanted, shas[1])["built"]
