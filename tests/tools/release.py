# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release from the fragments: one command before the tag, and what the workflow asks of the tag.

release.py prepare 1.2.3   galaxy.yml and README.md name the version, CHANGELOG.md has what the fragments say
release.py check v1.2.3    fails where tag, galaxy.yml and CHANGELOG.md do not name one version
release.py notes v1.2.3    what CHANGELOG.md says of that version

check and notes need no more than Python itself: they run before anything is installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ.get("RELEASE_ROOT") or Path(__file__).resolve().parents[2])
VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?")
FIELD = re.compile(r"(?m)^version: (.+)$")
NAMED = re.compile(r"(as215932-engineering_loop-)[0-9][0-9A-Za-z.-]*?(\.tar\.gz)")


def in_galaxy() -> str:
    found = FIELD.search((ROOT / "galaxy.yml").read_text(encoding="utf-8"))
    return str(found[1]) if found else ""


def section(version: str) -> str:
    """What CHANGELOG.md says of a version, without its heading; empty where it has none."""
    path = ROOT / "CHANGELOG.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    parts: list[str] = re.split(r"(?m)^## v(\S+)\n", re.sub(r'(?m)^<a id="[^"]*"></a>\n', "", text))
    versions = [heading.replace("\\", "") for heading in parts[1::2]]  # as Markdown escapes its dots
    return dict(zip(versions, parts[2::2], strict=True)).get(version, "").strip()


def of_tag(tag: str) -> str:
    """The version that a tag names, if everything else names it as well."""
    version = tag.removeprefix("v")
    if not tag.startswith("v") or not VERSION.fullmatch(version):
        sys.exit(f"release: {tag} is no tag of a release, which is v and a version, as in v1.2.3")
    if in_galaxy() != version:
        sys.exit(f"release: galaxy.yml has version {in_galaxy()}, the tag is {tag}: make release V={version} first")
    if not section(version):
        sys.exit(f"release: CHANGELOG.md has nothing of {version}: make release V={version} first")
    return version


def prepare(version: str) -> None:
    if not VERSION.fullmatch(version):
        sys.exit(f"release: '{version}' is no version, as in 1.2.3: make release V=1.2.3")
    if section(version):
        sys.exit(f"release: CHANGELOG.md has {version} already: name the next one")
    if not [*(ROOT / "changelogs/fragments").glob("*.yml")]:
        sys.exit("release: changelogs/fragments is empty, so nothing was changed: there is nothing to release")
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, check=True).stdout:
        sys.exit("release: there are changes that are not committed: commit or stash them first")
    galaxy, readme = ROOT / "galaxy.yml", ROOT / "README.md"
    galaxy.write_text(FIELD.sub(f"version: {version}", galaxy.read_text(encoding="utf-8")), encoding="utf-8")
    readme.write_text(NAMED.sub(rf"\g<1>{version}\2", readme.read_text(encoding="utf-8")), encoding="utf-8")
    tools = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
    }
    command = [str(tools / "antsibull-changelog"), "release"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        subprocess.run(["git", "restore", "galaxy.yml", "README.md"], cwd=ROOT, check=True)
        sys.exit(f"release: {done.stderr.strip() or done.stdout.strip()}")
    print(
        f"Read CHANGELOG.md and `git diff`. Then:\n  git add -A && git commit -m 'Release {version}'\n"
        "and when that is merged, on the merged commit:\n"
        f"  git tag -s v{version} -m 'Release {version}' && git push origin v{version}\n"
        "The tag builds, checks and publishes it (.github/workflows/release.yml)."
    )


def main(words: list[str]) -> int:
    match words:
        case ["prepare", version]:
            prepare(version)
        case ["check", tag]:
            of_tag(tag)
        case ["notes", tag]:
            print(section(of_tag(tag)))
        case _:
            sys.exit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
