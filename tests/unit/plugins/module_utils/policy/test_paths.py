# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths: what is denied, what a guard protects, and in what disguise it comes."""

from __future__ import annotations

import fnmatch
import posixpath

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.change import Change
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.paths import PROTECTED, protector
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.rules import (
    judge_changes,
)
from ansible_collections.as215932.engineering_loop.plugins.module_utils.policy.schema import (
    GUARD_KEYS,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from judged import POLICY, with_guards


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("config/.env", "denied_path_globs"),  # the engine matches .env at the top only
        ("docs/SERVER.KEY", "denied_path_globs"),  # ... and case by case
        ("docs/id_rsa", "denied_path_globs"),
        ("a/secrets/b", "denied_path_globs"),
        ("Secrets/b", "denied_path_globs"),
        ("/etc/passwd", "paths"),
        ("docs/../src/x", "paths"),
        ("docs//x", "paths"),
        ("docs/.GIT/hooks/pre-push", "paths"),
        (".github/workflows/ci.yml", "guards.ci"),
        ("docs/CODEOWNERS", "guards.codeowners"),
        ("sub/AGENTS.md", "guards.agent_instructions"),
        ("x/.claude/settings.json", "guards.agent_instructions"),
        ("pyproject.toml", "guards.dependency_manifests"),
        ("docs/requirements.txt", "guards.dependency_manifests"),
        ("uv.lock", "guards.lock_files"),
        ("docs/.gitattributes", "guards.git_settings"),
        (".vscode/mcp.json", "guards.agent_instructions"),
        (".vscode/mcp.json", "guards.workspace_settings"),
        # git's own directory in disguise: for macOS, for Windows
        ("docs/.g\u200cit/x", "paths"),
        ("docs/.g\ufe0fit/x", "paths"),
        ("docs/\uff0egit/x", "paths"),
        ("docs/GIT~1/x", "paths"),
        ("docs/.git /x", "paths"),
        ("docs/.git./x", "paths"),
        ("docs/.git . ./x", "paths"),
        ("docs/.git::$INDEX_ALLOCATION/x", "paths"),
        ("docs\\.git\\x", "paths"),
        ("docs\\..\\src\\x", "paths"),
        ("docs/.../x", "paths"),
        # other names in disguise
        ("docs/.env.", "denied_path_globs"),
        ("docs/server.key::$DATA", "denied_path_globs"),
        ("docs\\secrets\\x", "denied_path_globs"),
        ("AGENTS.md ", "guards.agent_instructions"),
        (".github./workflows/ci.yml", "guards.ci"),
        # what a reader does not see
        ("docs/a\nb.md", "names"),
        ("docs/a\x7f.md", "names"),
        ("docs/a\x9b.md", "names"),
        ("docs/a\u202egnp.md", "names"),
        ("docs/a\u2066.md", "names"),
        ("docs/a\u200b.md", "names"),
        ("docs/a\u00ad.md", "names"),
        ("docs/a\ufeff.md", "names"),
        ("docs/a\u3164.md", "names"),
        ("docs/a\ufe0f.md", "names"),
        ("docs/a\U000e0061.md", "names"),
        ("docs/a\u2028.md", "names"),
        ("docs/a\xa0.md", "names"),
        ("docs/a\udcff.md", "names"),
        ("docs/" + "a/" * 2100 + "x", "names"),
        # denied text
        ("docs/AKIA0123456789ABCDEF.md", "denied_content_patterns"),
        ("docs/AKIA0123456789ABCDEF/a.md", "denied_content_patterns"),
    ],
)
def test_paths_that_are_refused(path: str, rule: str) -> None:
    found = judge_changes(POLICY, "app", [Change(path)])
    assert rule in {violation.rule for violation in found}


@pytest.mark.parametrize(
    "path",
    [
        *("docs/a.md", "src/keys.py", "docs/environment.md", "secret/x", ".gitignore", "a/b c.md", "docs/a:b.md"),
        *("docs/é ü/日本語.md", "docs/.gitkeep", "docs/digit~1.md", "docs/git/x.md", "docs/😀.md", "docs/a..b.md"),
        *("docs/hooks/useful.ts", "docs/agent.md", "docs/building.md", "docs/make/it.md", "docs/rules.md", "x/ci.md"),
    ],
)
def test_paths_that_are_not(path: str) -> None:
    assert judge_changes(POLICY, "app", [Change(path)]) == []


@pytest.mark.parametrize(
    ("guard", "paths"),
    {
        "ci": """.gitlab-ci.yml .forgejo/workflows/a.yaml .gitea/workflows/a.yml .woodpecker/a.yml .drone.yml .build.yml
            sub/Jenkinsfile .cirrus.star .tekton/a.yaml azure-pipelines-nightly.yml .pre-commit-config.yaml netlify.toml
            .github/dependabot.yaml renovate.json5 .buildkite/pipeline.yml dangerfile.ts""",
        "agent_instructions": """agents.md docs/GEMINI.md opencode.json .opencode/agent/x.md .roo/rules/a.md .mcp.json
            .cursor/mcp.json .junie/guidelines.md .goosehints .kiro/steering/a.md .github/prompts/a.prompt.md
            .amazonq/rules/a.md crush.md .crush.json firebender.json .clinerules/a.md docs/.claude/skills/x/SKILL.md
            skills/x/SKILL.md .trae/rules/a.md .aider.conf.yml .openhands/microagents/repo.md .augment/rules/a.md""",
        "git_hooks": """.husky/pre-commit .githooks/pre-push lefthook.yml .lefthook-local.toml .config/lefthook.json
            .overcommit.yml .lintstagedrc.js .simple-git-hooks.cjs prek.toml""",
        "workspace_settings": """.envrc docs/.envrc .vscode/tasks.json .vscode/settings.json mise.toml
            .devcontainer/devcontainer.json .devcontainer.json .idea/runConfigurations/x.xml app.code-workspace
            .config/mise/config.toml .nvim.lua docs/.dir-locals.el .gitpod.yml .zed/tasks.json .run/a.run.xml""",
        "build_settings": """docs/conf.py .readthedocs.yaml docs/.readthedocs.yml mkdocs.yml mkdocs.en.yml docs/hooks.py
            docs/_ext/a.py docs/hooks/a.py .cargo/config.toml build.rs Makefile docs/Makefile docs/make.bat Dockerfile
            docker-compose.yml CMakeLists.txt justfile Taskfile.yml tox.ini noxfile.py conftest.py gradlew .mvn/x
            docusaurus.config.ts .eleventy.js .vitepress/config.mts _config.yml book.toml ansible.cfg .eslintrc.cjs
            Directory.Build.props gradle/wrapper/gradle-wrapper.properties .yarn/releases/yarn.cjs release.config.js""",
        "dependency_manifests": "global.json bunfig.toml .config/dotnet-tools.json pixi.toml docs/requirements.txt",
        "lock_files": "uv.lock bun.lockb .terraform.lock.hcl",
        "codeowners": ".github/CODEOWNERS docs/OWNERS",
        "git_settings": ".gitattributes docs/.gitmodules .lfsconfig .mailmap",
    }.items(),
)
def test_what_each_guard_protects(guard: str, paths: str) -> None:
    policy = with_guards(**{guard: False})
    for path in paths.split():
        found = judge_changes(POLICY, "app", [Change(path)])
        assert [violation.rule for violation in found] == [f"guards.{guard}"], path
        assert judge_changes(policy, "app", [Change(path)]) == [], path


@given(st.sampled_from(sorted(PROTECTED)), st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_looking_names_up_finds_what_fnmatch_does(guard: str, data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(PROTECTED[guard]))
    path = entry.replace("*", data.draw(st.sampled_from(["", "x", "a", "x/y", "."]))).rstrip("/")
    path = data.draw(st.sampled_from(["", "docs/", "x"])) + path + data.draw(st.sampled_from(["", "x", "/x", "l"]))
    parts = path.split("/")

    def named(glob: str) -> bool:
        if glob.endswith("/"):
            return glob[:-1] in parts
        return fnmatch.fnmatchcase(path if "/" in glob else parts[-1], glob)

    both = [glob.replace("y*ml", end) for glob in PROTECTED[guard] for end in ("yml", "yaml")]
    assert protector(guard)(path) == any(map(named, both))


@given(st.text("ab/*?[]!", min_size=1, max_size=5), st.text("ab/]", min_size=1, max_size=5))
@example("**/a", "b/a")
@example("*?a", "bba")
@example("a?", "ab")
@example("a?", "abb")
@example("?", "a")
@example("?a", "bba")
@example("*", "a")
@settings(max_examples=300)
def test_a_denied_glob_of_any_form_denies_what_fnmatch_matches(glob: str, path: str) -> None:
    policy = {**POLICY, "defaults": {**POLICY["defaults"], "denied_path_globs": [glob]}}
    found = [violation.rule for violation in judge_changes(policy, "app", [Change(path)])]
    name = path if "/" in glob else posixpath.basename(path)
    assert ("denied_path_globs" in found) == (fnmatch.fnmatchcase(path, glob) or fnmatch.fnmatchcase(name, glob))


def test_guards_are_what_a_policy_can_name_and_no_name_is_in_two() -> None:
    assert set(PROTECTED) <= set(GUARD_KEYS)
    entries = [entry for entries in PROTECTED.values() for entry in entries]
    assert sorted(entries) == sorted(set(entries))
    assert all(entry == entry.casefold() and "?" not in entry for entry in entries)
    for entry in entries:
        path = f"{entry}x" if entry.endswith("/") else entry.replace("y*ml", "yml").replace("*", "x")
        assert [guard for guard in PROTECTED if protector(guard)(path)] != [], entry
        if "/" not in entry.rstrip("/"):
            guards = [guard for guard in PROTECTED if protector(guard)(f"docs/{path}")]
            assert len(guards) == 1, entry


def test_prefixes() -> None:
    def allowed(path: str, *prefixes: str) -> bool:
        return judge_changes(POLICY, "app", [Change(path)], prefixes) == []

    assert allowed("docs/a", "docs") and allowed("docs/a", "docs/") and allowed("docs", "docs") and allowed("x", ".")
    assert not allowed("docs2/a", "docs") and not allowed("Docs/a", "docs") and not allowed("docs/a")
    for prefix in ("./docs", "docs/", "docs//", "././docs/."):
        assert allowed("docs/a", prefix) and not allowed("docs2/a", prefix), prefix
    assert allowed("docs/x/a", "docs//x") and not allowed("docs/y/a", "docs//x") and allowed("x", "./")
    for prefix in ("", "/docs", "../docs", "docs/../..", "docs\0"):
        with pytest.raises(LoopError, match="allowed paths"):
            allowed("docs/a", prefix)


def test_the_engine_takes_a_quoted_name_apart_and_so_do_we() -> None:
    def refused(path: str, *prefixes: str) -> list[str]:
        return [violation.rule for violation in judge_changes(POLICY, "app", [Change(path)], prefixes)]

    assert refused("docs/a b~/c", "docs/a b~") == []
    assert refused("docs/a -> src/x", "docs") == ["allowed_paths"]
    assert refused("docs/a -> docs/b -> src/x", "docs") == []  # once only
    assert refused("docs/a -> id_x", ".") == ["denied_path_globs"]


def test_a_path_is_as_long_as_linux_can_have_it() -> None:
    longest = "docs/" + "a/" * 2045 + "x"
    assert len(longest) == 4096
    assert judge_changes(POLICY, "app", [Change(longest)]) == []
    assert [one.rule for one in judge_changes(POLICY, "app", [Change(f"{longest}x")])] == ["names"]


def test_what_is_wrong_is_said() -> None:
    def said(path: str, *prefixes: str) -> str:
        return " ".join(violation.reason for violation in judge_changes(POLICY, "app", [Change(path)], prefixes))

    assert "has the byte 0x80, which is not UTF-8" in said("docs/a\udc80", ".")
    assert "has the byte 0xff, which is not UTF-8" in said("docs/a\udcff", ".")
    assert "(docs, src)" in said("x", "docs", "src") and "(nothing)" in said("x")
