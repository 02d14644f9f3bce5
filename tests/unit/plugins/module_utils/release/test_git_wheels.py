# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines with dependencies from repositories: fetched from a web server, built by uv, installed by their digests."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import git_wheels, releases, store
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.git_dependencies import GitDependency
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release.wanted_version import Wanted
from commands import sh
from dependencies import Dependency, Forge, engine_with, forge_in, project, tool_wheel
from engines import Source, mine, says


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    with forge_in(tmp_path / "forge") as found:
        yield found


@pytest.fixture
def engine(tmp_path: Path) -> Source:
    return Source(tmp_path / "engine")


@pytest.fixture
def host(wanted: Wanted, engine: Source, forge: Forge) -> Wanted:
    return dataclasses.replace(wanted, repo=str(engine.path), git_sources=[f"{forge.address}/hyrule"])


def at(dependency: Dependency, more: str = "") -> str:
    return f"{dependency.name} @ git+{dependency.forge.url(dependency.name)}@{dependency.sha}{more}"


def test_a_dependency_is_built_from_the_commit_that_the_lock_pins(host: Wanted, engine: Source, forge: Forge) -> None:
    core = Dependency(forge, "agent-core")
    sha = engine_with(engine, at(core))
    pinned = core.sha
    core.write("agent_core.py", "WORD = 'later'\n")
    core.commit()
    done = releases.present(host, sha)["release"]
    assert says(host) == "from agent-core 1.0"
    (told,) = done["git_dependencies"]
    wheel = Path(done["path"]) / ".venv/wheels" / told["wheel"]
    assert told == {
        "name": "agent-core", "version": "1.0", "url": forge.url("agent-core"), "commit": pinned, "subdirectory": "",
        "wheel": "agent_core-1.0-py3-none-any.whl", "wheel_sha256": sh(Path("/"), "sha256sum", str(wheel)).split()[0],
        "built_with": [],
    }  # fmt: skip
    assert not releases.present(host, sha)["changed"]
    assert [name for name in os.listdir(done["path"]) if name.startswith(".git-")] == []
    # Built again, the same bytes come of it, and nobody is asked once more.
    forge.asked.clear()
    (Path(done["path"]) / "new").write_text("by hand")
    again = releases.present(host, sha)
    assert again["damaged"] == ["new"] and again["release"]["git_dependencies"] == [told] and forge.asked == []


def test_what_comes_from_elsewhere_is_refused_by_name(host: Wanted, engine: Source, forge: Forge) -> None:
    sha = engine_with(engine, at(Dependency(forge, "agent-core")))
    other = dataclasses.replace(host, git_sources=["https://example.org/hyrule", f"{forge.address}/hyr"])
    with pytest.raises(LoopError, match=rf"dependency agent-core comes from {forge.url('agent-core')}, and .*hyr: add"):
        releases.present(other, sha)
    with pytest.raises(LoopError, match="allows nothing, as the engine does not come from the web: add"):
        releases.present(dataclasses.replace(host, git_sources=[]), sha)
    assert mine(host) == set() and not Path(host.install_dir, "cache/git").exists()
    # The engine was fetched meanwhile, so check mode knows its lock.
    with pytest.raises(LoopError, match="dependency agent-core comes from"):
        releases.present(other, sha, check=True)
    assert releases.present(host, sha, check=True)["built"]
    releases.present(host, sha)
    for check in (True, False):
        with pytest.raises(LoopError, match="dependency agent-core comes from"):
            releases.present(other, sha, check=check)
    assert says(host) == "from agent-core 1.0"


def test_the_owner_of_the_engine_is_allowed_by_default(host: Wanted, engine: Source, forge: Forge) -> None:
    sha = engine_with(engine, at(Dependency(forge, "agent-core")))
    forge.serve(engine.path, "engine")
    releases.present(dataclasses.replace(host, repo=forge.url("engine"), git_sources=[], branches=["main"]), sha)
    assert says(host) == "from agent-core 1.0"


def test_the_token_goes_to_the_engines_forge_and_nowhere_else(host: Wanted, engine: Source, forge: Forge) -> None:
    sha = engine_with(engine, at(Dependency(forge, "agent-core")))
    with_token = dataclasses.replace(host, token="s3cret", git_url=forge.address)
    for told, wanted in ((True, with_token), (False, dataclasses.replace(with_token, git_url="https://example.org"))):
        forge.asked.clear()
        releases.absent(wanted)
        releases.present(wanted, sha)
        assert {bool(header) for _path, header in forge.asked} == {told}
    releases.absent(host)
    forge.asked.clear()
    releases.present(dataclasses.replace(with_token, git_url=""), sha)
    assert {header for _path, header in forge.asked} == {""}  # the engine is a path: nobody knows whose token it is


def test_a_host_without_a_network_builds_from_bundles(
    host: Wanted, engine: Source, forge: Forge, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    line = tool_wheel(wheels)
    core = Dependency(forge, "agent-core", requires='"tinybuild>=1"', below="python/core")
    sha = engine_with(engine, at(core, "#subdirectory=python/core"))
    forge.server.shutdown()
    away = dataclasses.replace(host, wheels=str(wheels), build_tools=[line])
    with pytest.raises(LoopError, match=rf"{wheels}/agent-core.bundle is missing: make it with `git bundle create"):
        releases.present(away, sha)
    with pytest.raises(LoopError, match=r"agent-core\.bundle is missing"):
        releases.present(away, sha, check=True)
    sh(core.repo, "git", "bundle", "create", "-q", str(wheels / "agent-core.bundle"), "--all")
    done = releases.present(away, sha)["release"]
    assert says(host) == "from agent-core 1.0"
    assert done["git_dependencies"][0]["built_with"] == ["tinybuild==1.5"]
    assert done["git_dependencies"][0]["subdirectory"] == "python/core"
    # An older release that has to be built again, as a rollback does it: from the host's own mirrors.
    (wheels / "agent-core.bundle").unlink()
    (Path(done["path"]) / "new").write_text("by hand")
    releases.back_to(dataclasses.replace(away, repo="", git_sources=[forge.address + "/hyrule"]), sha)
    assert store.damage(host.install_dir, sha) == []


def test_a_release_is_gone_back_to_though_its_sources_are_allowed_no_more(
    host: Wanted, engine: Source, forge: Forge
) -> None:
    sha = engine_with(engine, at(Dependency(forge, "agent-core")))
    path = releases.present(host, sha)["release"]["path"]
    none = dataclasses.replace(host, repo="", git_sources=[])
    assert releases.back_to(none, sha)["release"]["sha"] == sha  # it is there, and is what was proven
    (Path(path) / "new").write_text("by hand")
    with pytest.raises(LoopError, match="agent-core comes from"):
        releases.back_to(none, sha)  # but what has to be built is judged


def test_build_tools_are_installed_by_their_digests(
    host: Wanted, engine: Source, forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = tool_wheel(tmp_path / "tools")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "tools"))
    sha = engine_with(engine, at(Dependency(forge, "agent-core", requires='"tinybuild"')))
    with pytest.raises(
        LoopError, match=r"agent-core at .* is built with tinybuild, which engineering_loop_build_tools"
    ):
        releases.present(host, sha)
    name, _space, digest = line.partition(" ")
    named = dataclasses.replace(host, build_tools=["# by uv", f"{name} \\", f"    {digest}", "    # via agent-core"])
    tool_wheel(tmp_path / "tools", text="raise SystemExit('another one')")
    with pytest.raises(
        LoopError, match=r"agent-core at .*: what it is built with cannot be installed: .*Expected: .*Computed: "
    ):
        releases.present(named, sha)
    tool_wheel(tmp_path / "tools")
    releases.present(named, sha)
    assert says(host) == "from agent-core 1.0"


LOOK = """
import os, pathlib, socket, sys
seen = [place for place in ("/etc/hostname", "/home", "/var", {secret!r}) if os.path.exists(place)]
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
    seen.append("network")
except OSError:
    pass
for place in ("/x", "/usr/x", sys.prefix + "/x", "/etc/x"):
    try:
        pathlib.Path(place).write_text("x")
        seen.append(place)
    except OSError:
        pass
seen += [name for name, value in os.environ.items() if "s3cret" in value]
raise SystemExit(f"saw {{seen}}")
"""


def test_a_build_is_shut_in(
    host: Wanted, engine: Source, forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_INDEX_URL", "https://me:s3cret@index.example.org/simple")
    (tmp_path / "key.pem").write_text("s3cret")
    core = Dependency(forge, "agent-core")
    look = LOOK.format(secret=str(tmp_path / "key.pem"), port=forge.server.server_port)
    core.write("look.py", look)
    core.commit()
    monkeypatch.setenv("UV_OFFLINE", "0")
    sha = engine_with(engine, at(core))
    with pytest.raises(LoopError, match=r"agent-core at .* cannot be built: .*saw \[\]"):
        releases.present(host, sha)
    assert mine(host) == set()


@pytest.mark.parametrize(
    ("look", "why"),
    [
        ("open('NAME', 'w').write('agent_core 2.0')", None),
        ("import os; os.symlink('/etc/passwd', out + '/agent_core-1.0-py3-none-any.whl'); os._exit(0)", "failed|left"),
        ("open(out + '/evil_name-1.0-py3-none-any.whl', 'w').close()", "left"),
        ("import os, time; os.fork() or time.sleep(600)", "cannot be built: .* took longer than 20 s"),
    ],
)
def test_what_a_build_leaves_is_one_wheel_of_that_package(
    host: Wanted, engine: Source, forge: Forge, look: str, why: str | None
) -> None:
    core = Dependency(forge, "agent-core")
    core.write("look.py", look)
    core.commit()
    sha = engine_with(engine, at(core))
    host = dataclasses.replace(host, timeout=20)
    if why is None:  # what it had read was read
        releases.present(host, sha)
        assert says(host) == "from agent-core 1.0"
    else:
        with pytest.raises(LoopError, match=why):
            releases.present(host, sha)
        assert mine(host) == set()


@pytest.mark.parametrize(("name", "said"), [("agent_core 2.0", "agent_core-2.0"), ("other 1.0", "other-1.0")])
def test_a_wheel_that_is_another_than_the_lock_says_is_refused(
    host: Wanted, engine: Source, forge: Forge, name: str, said: str
) -> None:
    core = Dependency(forge, "agent-core")
    core.write("NAME", name)
    core.write("other.py", "WORD = 'other'\n")
    core.commit()
    sha = engine_with(engine, at(core))
    with pytest.raises(
        LoopError, match=rf"uv.lock has agent-core 1.0 at .*is {said}-py3-none-any.whl: lock it anew|{said}"
    ):
        releases.present(host, sha)
    assert mine(host) == set()


def test_a_commit_on_no_branch_or_tag_is_refused(host: Wanted, engine: Source, forge: Forge) -> None:
    core = Dependency(forge, "agent-core")
    sh(core.repo, "git", "checkout", "-q", "-b", "fork")
    core.write("agent_core.py", "WORD = 'a fork'\n")
    core.commit()
    sha = engine_with(engine, at(core))
    sh(core.repo, "git", "checkout", "-q", "main")
    sh(core.repo, "git", "branch", "-q", "-D", "fork")
    forge.serve(core.repo, "agent-core")
    with pytest.raises(LoopError, match=rf"has no commit {core.sha} on any branch or tag.*was its branch deleted"):
        releases.present(host, sha)
    sh(core.repo, "git", "tag", "v1", core.sha)
    forge.serve(core.repo, "agent-core")
    releases.present(host, sha)
    assert says(host) == "a fork"


def test_a_repository_that_is_not_there(host: Wanted, engine: Source, forge: Forge) -> None:
    core = Dependency(forge, "agent-core")
    sha = engine_with(engine, at(core))
    shutil.rmtree(forge.top / "www/hyrule/agent-core.git")
    with pytest.raises(
        LoopError, match=rf"agent-core at {core.sha[:12]} of .* cannot be fetched: .*not found.*stays active"
    ):
        releases.present(host, sha)
    assert mine(host) == set()


def test_submodules_are_refused(host: Wanted, engine: Source, forge: Forge) -> None:
    core = Dependency(forge, "agent-core")
    engine_with(engine, at(core))
    old = core.sha
    sh(core.repo, "git", "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendored/x")
    sh(core.repo, "git", "commit", "-q", "-m", "submodule")
    new = sh(core.repo, "git", "rev-parse", "HEAD")
    forge.serve(core.repo, "agent-core")
    files = {name: (engine.path / name).read_text().replace(old, new) for name in ("pyproject.toml", "uv.lock")}
    sha = engine.commit("submodule", **{name.replace(".", "__"): text for name, text in files.items()})
    with pytest.raises(LoopError, match="has the submodule vendored/x: those are not fetched"):
        releases.present(host, sha)


def test_a_mirror_that_is_broken_is_made_anew(host: Wanted, engine: Source, forge: Forge) -> None:
    core = Dependency(forge, "agent-core")
    sha = engine_with(engine, at(core))
    path = releases.present(host, sha)["release"]["path"]
    (mirror,) = Path(host.install_dir, "cache/git").iterdir()
    for pack in (mirror / "objects").rglob("*"):
        if pack.is_file():
            pack.unlink()
    (Path(path) / "new").write_text("by hand")
    assert releases.present(host, sha)["built"] and says(host) == "from agent-core 1.0"


def test_a_lock_that_does_not_match_fetches_nothing(host: Wanted, engine: Source, forge: Forge) -> None:
    core = Dependency(forge, "agent-core")
    engine_with(engine, at(core))
    text = (engine.path / "pyproject.toml").read_text()
    core.write("agent_core.py", "WORD = 'later'\n")
    old, new = core.sha, core.commit()
    sha = engine.commit("other", pyproject__toml=text.replace(old, new))
    forge.asked.clear()
    with pytest.raises(LoopError, match="lock --check` ended with"):
        releases.present(host, sha)
    assert forge.asked == []


def test_what_its_developers_need_is_not_built(host: Wanted, engine: Source, forge: Forge) -> None:
    core, tests = Dependency(forge, "agent-core"), Dependency(forge, "test-kit")
    sha = engine_with(engine, at(core), extra=f'[dependency-groups]\ndev = ["{at(tests)}"]\n')
    done = releases.present(host, sha)["release"]
    assert [one["name"] for one in done["git_dependencies"]] == ["agent-core"]


def test_dependencies_of_dependencies_and_markers(host: Wanted, engine: Source, forge: Forge) -> None:
    inner = Dependency(forge, "inner")
    core = Dependency(forge, "agent-core")
    text = project("agent-core", "1.0", "", "backend")
    needs = f"dependencies = [\"{at(inner)} ; python_version > '3'\"]\n"
    core.write("pyproject.toml", text.replace("[build-system]", needs + "[build-system]"))
    core.commit()
    sha = engine_with(engine, at(core), at(inner))
    done = releases.present(host, sha)["release"]
    assert [one["name"] for one in done["git_dependencies"]] == ["agent-core", "inner"]
    assert says(host) == "from agent-core 1.0\nfrom inner 1.0"


BUILT = git_wheels.Built(GitDependency("agent-core", "1.0", "https://h/o/n", "1" * 40), "/w.whl", "2" * 64, "1.0", ())


def test_lines_become_wheels() -> None:
    line = f"agent-core @ git+https://h/o/n@{'1' * 40}"
    whole = f"# by uv\nidna==1 \\\n    --hash=sha256:{'3' * 64}\n{line} ; python_version > '3'\n    # via engine\n"
    assert git_wheels.in_their_places(whole, [BUILT]) == whole.replace(line, "agent-core @ file:///w.whl").replace(
        "> '3'", f"> '3' --hash=sha256:{'2' * 64}"
    )
    for other in (f"other @ git+https://h/o/n@{'1' * 40}\n", f"agent-core @ git+https://h/o/n@{'4' * 40}\n"):
        with pytest.raises(LoopError, match=r"which the engine's uv\.lock does not have as that"):
            git_wheels.in_their_places(other, [BUILT])
    with pytest.raises(LoopError, match="a line that is not understood: -e git"):
        git_wheels.in_their_places("-e git+https://h/o/n\n", [BUILT])


def test_the_record_is_plain(host: Wanted) -> None:
    assert json.loads(json.dumps(BUILT.record()))["commit"] == "1" * 40
