# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine's git dependencies are built with: programs of an index, each in one version and by its digests."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence

from ..base.errors import LoopError
from ..base.untrusted import show
from .git_dependencies import NAME, canonical

VARIABLE = "engineering_loop_build_tools"
# Where the operator names none: the backends that most projects use, with all that they need. What
# `uv pip compile --universal --python-version 3.11 --generate-hashes` makes of hatchling, hatch-vcs, setuptools,
# setuptools-scm, wheel, editables, flit-core and poetry-core.
OURS = (
    "editables==0.6"
    " --hash=sha256:1163834902381c4613787951c5914800fdf155ae08848a373b8ea5006780977c"
    " --hash=sha256:d70e4698078a1d033e7786d9c64e5be070d058a67c21417024d38a58ac20aa43",
    "flit-core==4.2.0"
    " --hash=sha256:2bee22dc8ba89c2e35b4e1ad575e596aac945c85672dd8f3cad21b629036e044"
    " --hash=sha256:84e4e4d8fdd45ba2613800a3ebc6834de26d47ec9746efc3719f94181137b460",
    "hatch-vcs==0.5.0"
    " --hash=sha256:0395fa126940340215090c344a2bf4e2a77bcbe7daab16f41b37b98c95809ff9"
    " --hash=sha256:b49677dbdc597460cc22d01b27ab3696f5e16a21ecf2700fb01bc28e1f2a04a7",
    "hatchling==1.33.0"
    " --hash=sha256:415290b84f464d2884303fca8974d38e7b85579069fab02a15db0828fbb1446d"
    " --hash=sha256:4c422bd4d554fcff5de5b73e9596f85e41e9f97f7e553d8f7595ecb31a627bef",
    "packaging==26.4"
    " --hash=sha256:81383611a09c1bc0b08b76e0fd5829d7c6824c65b27a6aee339da133f4233ea2"
    " --hash=sha256:c4b671c41ddb9bf26e543c37723610d28fb6bf7affc4da17cf048d419d2c062a",
    "pathspec==1.1.1"
    " --hash=sha256:17db5ecd524104a120e173814c90367a96a98d07c45b2e10c2f3919fff91bf5a"
    " --hash=sha256:a00ce642f577bf7f473932318056212bc4f8bfdf53128c78bbd5af0b9b20b189",
    "pluggy==1.7.0"
    " --hash=sha256:7dd7b0d8832ba3cb632c306926ded123429211b83641b35dc5c41ad2d34f9bec"
    " --hash=sha256:d1eaa46ebb595891b860ab086b4d09c8588af65ebd4361b8e8f4bb8920b90ba8",
    "poetry-core==2.5.0"
    " --hash=sha256:81d04c9253b19d0604718268d781867c8f7b2128e5b25bbf1e84141eec6b89c4"
    " --hash=sha256:98ee465b66f7e14bb9fbe68fb5e00d0cff184f036993ec94610ae4b5612f3add",
    "setuptools==84.2.1"
    " --hash=sha256:3ff8b3b5492a0aa66960f4419365a86b84e013070d4313e4d4a6894f5d64d6bc"
    " --hash=sha256:ca140b45d5325a9478f880e351484f62fef15f336462e449ca0c03c873d589c2",
    "setuptools-scm==10.3.4"
    " --hash=sha256:82f34c3e3084fc2b57d397200637cc13f2338004052d2fee47baa5f0e902464e"
    " --hash=sha256:a69f28bfc245608781205e912faae437c2b2165773afa4e7b979d77447a69dd2",
    "tomlkit==0.15.2"
    " --hash=sha256:05562412163a3037b94497385fb7f9204c637bc605af7a48199e41cf2272f437"
    " --hash=sha256:83e32755ba1d20d9340bd069ee97e9f6232ba2346b63ffcba425de01f7e327a6",
    "trove-classifiers==2026.9.21.13"
    " --hash=sha256:0a9ebc8d4e2f3e8a22848c5258033035bec17a3012ac3fea16dbaa764489eb71"
    " --hash=sha256:8b1ff4f9c191b1040b71c37f1e445ab99732911e3cd91de52838453a854d7a17",
    "vcs-versioning==2.6.0"
    " --hash=sha256:22e9159288e2d8bca2fa6f6c31c34c9c66aec157f60e9e526f5d160d2516d60f"
    " --hash=sha256:f8bebd1302ebc12e67ceb30fc7dd698ec969414b6fa43b30c3f14ac9b1e72c41",
    "wheel==0.48.0"
    " --hash=sha256:3217dcc807155e45db462d7ef2431f5ddda0d7273b700d05a67b271ceb1287ab"
    " --hash=sha256:94800765601e9171bf5d58d066e640662842bcedcbab982b2c90787a2c987322",
)
_PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==[A-Za-z0-9.!+_-]+(\s*;[^\\]*?)?(\s+--hash=sha256:[0-9a-f]{64})+"
)
# A requirement by name, and whatever versions of it: no address, no option of pip's.
_ASKED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[A-Za-z0-9._, -]*\])?\s*[A-Za-z0-9.!+_*,<>=~ ()-]*(;[^@\n]*)?")


def pinned(given: Sequence[str]) -> dict[str, str]:
    """The line of each tool by its name, as the operator gave them or else ours.

    They are what a file of requirements holds, line by line: some may go on in the next one. LoopError where one does
    not say which bytes it means.
    """
    whole = re.sub(r"\\[ \t]*(\n|$)", " ", "\n".join(given))
    lines = [line.split(" #")[0].strip() for line in whole.splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, str] = {}
    for line in filter(None, lines):
        if not (match := _PINNED.fullmatch(line)):
            raise LoopError(
                f"{VARIABLE} holds {show(line, 120)}: it must be lines such as hatchling==1.2.3 --hash=sha256:…, as"
                " `uv pip compile --generate-hashes` makes them"
            )
        found[canonical(match["name"])] = line
    return found or {canonical(line.partition("==")[0]): line for line in OURS}


def wanted_by(pyproject: str, whose: str) -> list[str]:
    """What a project's ``pyproject.toml`` says that it is built with. LoopError where it asks for more than a name."""
    try:
        told = tomllib.loads(pyproject).get("build-system", {}).get("requires", ["setuptools"])
        asked = [str(one) for one in told]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LoopError(f"the pyproject.toml of {whose} cannot be understood: {show(error)}") from error
    for one in asked:
        match = _ASKED.fullmatch(one)
        if not match or not NAME.fullmatch(match[1]):
            raise LoopError(f"{whose} is built with {show(one)}: only packages of an index are installed for that")
    return asked


def chosen(tools: Mapping[str, str], names: Iterable[str], whose: str) -> list[str]:
    """The lines of the tools of these names. LoopError names one that nobody pinned."""
    named = [canonical(name) for name in names]
    if missing := sorted({*named} - {*tools}):
        raise LoopError(
            f"{whose} is built with {show(', '.join(missing))}, which {VARIABLE} does not pin: name there all that it"
            " is built with, each with its version and hashes"
        )
    return [tools[name] for name in named]
