# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lock may say of git dependencies, and what is refused by name."""

from __future__ import annotations

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import git_dependencies, git_sources
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.git_dependencies import GitDependency
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted

SHA = "0123456789abcdef0123456789abcdef01234567"
URL = "https://github.com/AS215932/agent-core"


def lock(source: str, name: str = "agent-core", version: str = 'version = "0.3.0"') -> bytes:
    return (
        f'version = 1\n[[package]]\nname = "{name}"\n{version}\nsource = {{ git = "{source}" }}\n'
        f'[[package]]\nname = "engine"\nsource = {{ editable = "." }}\ndependencies = [{{ name = "{name}" }}]\n'
    ).encode()


@pytest.mark.parametrize(
    ("source", "below"),
    [
        (f"{URL}?rev={SHA}#{SHA}", ""),
        (f"{URL}#{SHA}", ""),
        (f"{URL}?branch=main#{SHA}", ""),
        (f"{URL}?subdirectory=python%2Fcore&tag=v1#{SHA}", "python/core"),
    ],
)
def test_a_source_that_pins_a_commit(source: str, below: str) -> None:
    assert git_dependencies.in_lock(lock(source)) == [GitDependency("agent-core", "0.3.0", URL, SHA, below)]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (f"{URL}?rev=0123456#0123456", "pins no commit, which is 40"),
        (f"{URL}?branch=main", "pins no commit"),
        (f"{URL}#{SHA.upper()}", "pins no commit"),
        (f"ssh://git@github.com/AS215932/agent-core#{SHA}", "a user or password in it"),
        (f"ssh://github.com/AS215932/agent-core#{SHA}", "only https:// is fetched from"),
        (f"http://github.com/AS215932/agent-core#{SHA}", "only https:// is fetched from"),
        (f"file:///srv/agent-core#{SHA}", "only https:// is fetched from"),
        (f"git@github.com:AS215932/agent-core#{SHA}", "only https:// is fetched from"),
        (f"ext::sh -c id#{SHA}", "only https:// is fetched from"),
        (f"https://user:pw@github.com/AS215932/agent-core#{SHA}", r"https://\*\*\*@github.com.*a user or password"),
        (f"https://github.com@evil.example/AS215932/agent-core#{SHA}", "a user or password in it"),
        (f"https://127.0.0.1:99999999/x/y#{SHA}", "no address such as"),
        (f"https://git_hub.com/x/y#{SHA}", "no address such as"),
        (f"https://[::1/x#{SHA}", "no address"),
        (f"https://github.com/AS215932/../evil/agent-core#{SHA}", r"without \.\."),
        (f"https://github.com/AS215932/%2e%2e/agent-core#{SHA}", r"without \.\."),
        (f"https://github.com//agent-core#{SHA}", r"without \.\."),
        (f"{URL}?subdirectory=..%2Fx#{SHA}", r"subdirectory \.\./x must be a path inside"),
        (f"{URL}?subdirectory=%2Fetc#{SHA}", "subdirectory /etc must be a path inside"),
        (f"{URL}?subdirectory=a%0Ab#{SHA}", r"subdirectory a\\nb must be"),
        (f"{URL}?lfs=true#{SHA}", "`lfs` is not supported"),
    ],
)
def test_a_source_that_is_refused(source: str, why: str) -> None:
    with pytest.raises(LoopError, match=rf"dependency agent-core comes from .*{why}") as told:
        git_dependencies.in_lock(lock(source))
    assert "pw@" not in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lock(f"{URL}#{SHA}", name="../x"), r"\.\./x comes from .*no name of a package"),
        (lock(f"{URL}#{SHA}", name="-r"), "-r comes from .*no name"),
        (lock(f"{URL}#{SHA}", version='version = "1.0 --hash"'), "in the version 1.0 --hash, which is none"),
        (b"git [", "uv.lock cannot be understood"),
        (b"# git\n", "uv.lock cannot be understood"),
        (b"no lock at all", "uv.lock cannot be understood"),
        (b"package = 1 # git", "uv.lock cannot be understood"),
        (b'[[package]]\nname = "git"\nsource = { editable = "." }\ndependencies = 1', "cannot be understood"),
        (b"git\xff", "cannot be understood"),
        (
            lock(f"{URL}#{SHA}") + f'[[package]]\nname = "agent-core"\nsource = {{ git = "{URL}#{SHA}" }}\n'.encode(),
            "has agent-core from more than one commit",
        ),
    ],
)
def test_a_lock_that_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(LoopError, match=why):
        git_dependencies.in_lock(content)


LARGE = """
[[package]]
name = "engine"
source = { virtual = "." }
dependencies = [{ name = "a", extra = ["more"] }, { name = "gone" }]
[package.dev-dependencies]
dev = [{ name = "for-developers" }]
[[package]]
name = "a"
source = { registry = "packages" }
dependencies = [{ name = "b" }]
[package.optional-dependencies]
more = [{ name = "c" }]
less = [{ name = "d" }]
""" + "".join(
    f'[[package]]\nname = "{name}"\nsource = {{ git = "{URL}-{name}#{SHA}" }}\ndependencies = [{{ name = "a" }}]\n'
    for name in ("b", "c", "d", "for-developers")
)


def test_what_the_engine_is_installed_with_counts() -> None:
    assert [one.name for one in git_dependencies.in_lock(LARGE.encode())] == ["b", "c"]
    assert git_dependencies.in_lock(b"") == []


def test_names_are_compared_as_indexes_do() -> None:
    assert git_dependencies.in_lock(lock(f"{URL}#{SHA}", name="Agent_.Core"))[0].name == "agent-core"
    content = lock(f"{URL}#{SHA}", name="Agent_.Core").replace(b'{ name = "Agent_.Core" }', b'{ name = "agent-core" }')
    assert git_dependencies.in_lock(content)[0].name == "agent-core"


@pytest.mark.parametrize(
    ("plain", "otherwise"),
    [
        (b"{ git =", b'{ "g\\u0069t" ='),
        (b'{ editable = "." }', b'{ directory = "." }'),
        (b'source = { editable = "." }\n', b""),
    ],
)
def test_no_spelling_hides_one(plain: bytes, otherwise: bytes) -> None:
    content = lock("https://example.org/o/r#" + SHA)
    assert plain in content
    found = git_dependencies.in_lock(content.replace(plain, otherwise))
    assert [one.url for one in found] == ["https://example.org/o/r"]


@pytest.mark.parametrize(
    ("url", "prefix", "allowed"),
    [
        (URL, "https://github.com/AS215932", True),
        (f"{URL}.git", "https://github.com/AS215932/", True),
        (f"{URL}.git", URL, True),
        (URL, "https://GITHUB.com/AS215932", True),
        (URL, "https://github.com/AS21593", False),
        (URL, "https://github.com/AS215932/agent", False),
        ("https://github.com/AS215932evil/agent-core", "https://github.com/AS215932", False),
        ("https://github.com.evil.example/AS215932/x", "https://github.com/AS215932", False),
        ("https://github.com:444/AS215932/x", "https://github.com/AS215932", False),
        ("http://localhost/AS215932/x", "https://localhost/AS215932", False),
    ],
)
def test_an_address_below_another(url: str, prefix: str, allowed: bool) -> None:
    wanted = Wanted("/opt/x", git_sources=[prefix])
    if allowed:
        git_sources.judge(wanted, [GitDependency("x", "1", url, SHA)])
    else:
        with pytest.raises(LoopError, match=r"dependency x comes from .* and engineering_loop_git_sources allows"):
            git_sources.judge(wanted, [GitDependency("x", "1", url, SHA)])


@pytest.mark.parametrize(
    ("repo", "allowed"),
    [
        ("https://github.com/AS215932/engineering-loop.git", ["https://github.com/AS215932"]),
        ("https://git.example.org/group/sub/engine/", ["https://git.example.org/group/sub"]),
        ("https://git.example.org/engine", []),
        ("git@github.com:AS215932/engineering-loop", []),
        ("ssh://git@github.com/AS215932/engineering-loop", []),
        ("/srv/engine.bundle", []),
        ("", []),
    ],
)
def test_by_default_the_engines_owner_is_allowed(repo: str, allowed: list[str]) -> None:
    assert git_sources.allowed(Wanted("/opt/x", repo=repo)) == allowed


@pytest.mark.parametrize(
    "source", ["github.com/AS215932", "https://github.com", "http://github.com/x", "https://u:pw@h/x", "https://h/../x"]
)
def test_a_source_that_is_none(source: str) -> None:
    with pytest.raises(LoopError, match=r"engineering_loop_git_sources holds .*write https://HOST/OWNER") as told:
        git_sources.check(["https://github.com/AS215932", source])
    assert "pw" not in str(told.value)
