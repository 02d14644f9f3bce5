# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation as a site: site.py

Its pages are those of docs/ as they are, the reference that antsibull-docs reads from the plugins and the role, and two
that are written from the source: every error message, and the variables as a form asks for them. All is laid out in
.cache/docs/source; Sphinx makes .cache/docs/site of it, and a warning, such as a link that leads nowhere, is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]

from tools import messages, survey  # noqa: E402

SOURCE, SITE = ROOT / ".cache/docs/source", ROOT / ".cache/docs/site"
BIN = Path(sys.executable).parent
COLLECTION = "as215932.engineering_loop"
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/img/*",
    "examples/README.md",
    "roles/engineering_loop/README.md",
)


def run(*command: str | Path) -> None:
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")}
    environment["PATH"] = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"docs: {Path(command[0]).name} failed:\n{done.stdout[-2000:]}{done.stderr[-6000:]}")


def for_sphinx(text: str, page: Path) -> str:
    """A page of the checkout as one of the site: mermaid stays text, and what has no page leads to the repository."""

    def lead(found: re.Match[str]) -> str:
        target, _hash, anchor = found[2].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        there = (page.parent / target).resolve()
        if there.suffix == ".md" or not there.exists():
            return found[0]
        if there.suffix in {".png", ".svg"}:
            return found[0]
        own = there.relative_to(ROOT)
        return (
            f"{found[1]}(https://github.com/AS215932/engineering_loop/blob/main/{own}{'#' + anchor if anchor else ''})"
        )

    return re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", lead, text.replace("```mermaid", "```text"))


def lay_out() -> None:
    shutil.rmtree(SOURCE, ignore_errors=True)
    for pattern in PAGES:
        for page in sorted(ROOT.glob(pattern)):
            target = SOURCE / page.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            if page.suffix == ".md":
                target.write_text(for_sphinx(page.read_text(encoding="utf-8"), page), encoding="utf-8")
            else:
                shutil.copy2(page, target)
    for name in ("conf.py", "index.md"):
        shutil.copy2(ROOT / "docs/site" / name, SOURCE / name)
    (SOURCE / "messages.md").write_text(messages.page(messages.everything(), messages.mends()), encoding="utf-8")
    (SOURCE / "variables.md").write_text(survey.page(), encoding="utf-8")
    reference = SOURCE / "reference"
    reference.mkdir()
    reference.chmod(0o755)  # antsibull-docs refuses one that others may write
    run(
        BIN / "antsibull-docs", "collection", "--use-current", "--squash-hierarchy", "--fail-on-error",
        "--no-add-antsibull-docs-version", "--dest-dir", reference, COLLECTION,
    )  # fmt: skip


def main() -> int:
    complaints = messages.check(messages.everything(), messages.mends())
    if complaints:
        sys.exit("\n".join(complaints))
    lay_out()
    run(BIN / "sphinx-build", "--quiet", "-W", "--keep-going", "-j", "2", "-b", "html", SOURCE, SITE)
    print(f"docs: open {SITE.relative_to(ROOT)}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
