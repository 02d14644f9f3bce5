# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which paths a change may touch: what a guard protects, what lies below the allowed prefixes, what is in disguise.

docs/gate-policy.md says where the lists come from.
"""

from __future__ import annotations

import fnmatch
import functools
import pathlib
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from ..base.errors import LoopError
from ..base.files import inside
from ..base.untrusted import show
from .change import Change, Violation, encoded
from .diff import ESCAPES
from .schema import Policy

MAX_PATH = 4096  # no host could check a longer one out


def _words(text: str) -> list[str]:
    return text.split()


# By guard. Matched without regard to case. A name without a slash stands for the file in any directory, one that
# ends with a slash for a directory anywhere and all that is in it; with a slash elsewhere it begins at the top.
# No name is in two of them, so that one exception is enough to allow it.
PROTECTED: dict[str, list[str]] = {
    "ci": _words("""
        .github/workflows/* .github/actions/* .github/dependabot.y*ml .github/settings.y*ml .github/mergify.y*ml
        .gitlab-ci.y*ml .gitlab/ci/* .circleci/ .buildkite/ .woodpecker/ .woodpecker.y*ml .crow/ .forgejo/ .gitea/
        .drone.* .travis.yml .ci/* jenkinsfile* azure-pipelines*.y*ml .azure-pipelines/ .azuredevops/ .vsts-ci.yml
        bitbucket-pipelines.yml .pre-commit-config.yaml renovate.json* .renovaterc* appveyor.yml .appveyor.yml
        .cirrus.* .semaphore/ .teamcity/ .builds/ .build.yml .zuul.d/ zuul.d/ .zuul.yaml zuul.yaml cloudbuild*.y*ml
        buildspec*.y*ml bitrise.y*ml codemagic.y*ml wercker.yml screwdriver.y*ml .tekton/ .harness/ .mergify.y*ml
        .prow.yaml .packit.y*ml .launchpad.yaml .lpci.yaml .onedev-buildspec.yml *.gocd.y*ml .cd4pe.yaml .asf.yaml
        netlify.toml vercel.json amplify.y*ml render.yaml wrangler.toml wrangler.json* firebase.json dangerfile*
        .releaserc* .goreleaser*.y*ml goreleaser.y*ml .mega-linter.yml sonar-project.properties
        .sonarcloud.properties"""),
    "codeowners": ["codeowners", "owners", "owners_aliases"],
    "agent_instructions": _words("""
        agents.md agents.override.md claude.md claude.local.md codex.md crush.md gemini.md qwen.md replit.md warp.md
        skill.md copilot-instructions.md *.instructions.md *.prompt.md *.chatmode.md *.agent.md .cursorrules
        .windsurfrules .clinerules* .roorules* .roomodes .kilocodemodes .continuerules .goosehints
        .augment-guidelines .openhands_instructions .rules .airules .aider* .mcp.json mcp.json mcp_config.json
        opencode.json* .opencode.json* crush.json .crush.json firebender.json gemini-extension.json .pr_agent.toml
        .coderabbit.y*ml greptile.json .sourcery.y*ml sweep.yaml .sweep.yaml
        .github/agents/* .github/instructions/* .github/prompts/* .github/chatmodes/* .github/copilot/*
        .github/skills/* .github/hooks/*
        .agent/ .agents/ .aiassistant/ .amazonq/ .amp/ .antigravity/ .augment/ .claude/ .claude-plugin/ .cline/
        .clinerules/ .codebuddy/ .codeium/ .codex/ .continue/ .copilot/ .crush/ .cursor/ .devin/ .factory/
        .firebender/ .forge/ .gemini/ .goose/ .grok/ .iflow/ .jules/ .junie/ .kilo/ .kilocode/ .kimi/ .kiro/
        .lingma/ .opencode/ .openhands/ .pi/ .qoder/ .qodo/ .qwen/ .roo/ .rovodev/ .ruler/ .rulesync/ .serena/
        .specify/ .tabnine/ .taskmaster/ .trae/ .vibe/ .warp/ .windsurf/ .zencoder/"""),
    "git_hooks": _words("""
        .husky/ .huskyrc* .githooks/ .git-hooks/ githooks/ git-hooks/ .hooks/ lefthook*.y*ml
        lefthook*.toml lefthook*.json* .lefthook* .lefthook/ .lefthook-local/ .overcommit.yml .overcommit/ .git_hooks/
        .pre-commit-hooks.yaml prek.toml hk.pkl captainhook.json grumphp.y*ml grumphp.yml.dist .simple-git-hooks.*
        simple-git-hooks.* .lintstagedrc* .commitlintrc* .trunk/"""),
    "workspace_settings": _words("""
        .envrc .autoenv* mise.toml mise.*.toml .mise.toml .mise.*.toml .mise/ .config/mise* .config/mise/* .rtx.toml
        .tool-versions devbox.json devenv.nix devenv.yaml shell.nix default.nix .vscode/ *.code-workspace
        .devcontainer/ .devcontainer.json devcontainer.json .idea/ .run/ *.run.xml .fleet/ .zed/ .vs/ .nova/ .theia/
        .settings/ .project *.sublime-project .nvim.lua .nvimrc .exrc .vimrc .lvimrc .dir-locals*.el .gitpod.y*ml
        .idx/ .replit replit.nix .codesandbox/ .stackblitzrc .gdbinit .lldbinit .pdbrc* .irbrc
        .pryrc .rprofile .renviron .iex.exs .ipython/ .jupyter/ jupyter_*config.* .tmuxinator.y*ml .tmuxp.*"""),
    "build_settings": _words("""
        .readthedocs.y*ml readthedocs.y*ml conf.py _ext/ _exts/ _extensions/ _hooks/ _plugins/ hooks.py
        hooks/*.py */hooks/*.py mkdocs_hooks.py mkdocs*.y*ml properdocs*.y*ml zensical.toml pelicanconf.py
        publishconf.py book.toml book.json .gitbook.y*ml sidebars.js sidebars.ts sidebars.cjs sidebars.mjs
        .vitepress/ .vuepress/ .storybook/ .eleventy.* gatsby-config.* gatsby-node.* gatsby-browser.* gatsby-ssr.*
        _config*.y*ml antora*.y*ml doxyfile* hugo.toml hugo.y*ml hugo.json _quarto*.y*ml _pkgdown.y*ml
        _bookdown.y*ml myst.y*ml make.jl latexmkrc .latexmkrc .jsdoc.* jsdoc.* typedoc.* .typedoc.*
        .markdownlint* .remarkrc* .textlintrc* .vale.ini _vale.ini
        makefile gnumakefile bsdmakefile makefile.* *.mk *.mak make.bat cmakelists.txt *.cmake cmakepresets.json
        configure configure.ac autogen.sh meson.build meson_options.txt meson.options sconstruct sconscript wscript
        justfile .justfile *.just taskfile*.y*ml rakefile* *.rake magefile* magefiles/ earthfile tiltfile snakefile
        skaffold.y*ml dockerfile* *.dockerfile containerfile* docker-compose*.y*ml compose.y*ml compose.*.y*ml
        docker-bake.* vagrantfile procfile* ansible.cfg
        build build.bazel workspace workspace.bazel module.bazel *.bzl .bazelrc .buckconfig pants.toml
        noxfile.py tox.ini tox.toml pytest.ini .pytest.ini pytest.toml conftest.py dodo.py fabfile.py hatch_build.py
        sitecustomize.py usercustomize.py *.pth .coveragerc pylintrc .pylintrc mypy.ini .mypy.ini .flake8
        *.config.js *.config.cjs *.config.mjs *.config.ts *.config.cts *.config.mts *.conf.js *.conf.ts gulpfile*
        gruntfile* .babelrc* .eslintrc* .prettierrc* .stylelintrc* .mocharc* .postcssrc* .swcrc .nycrc* .pnpmfile.*
        .pnp.* .yarn/ nx.json turbo.json angular.json
        build.rs .cargo/ rust-toolchain rust-toolchain.toml .golangci.* .air.toml
        gradlew gradlew.bat gradle.properties init.gradle* buildsrc/ gradle/* mvnw mvnw.cmd .mvn/ build.xml *.sbt
        .sbtopts .jvmopts build.sc build.mill directory.build.* directory.solution.* *.targets *.rsp
        .rubocop*.yml .rspec guardfile capfile fastlane/ .simplecov phpunit.xml* phpstan*.neon* psalm.xml* phpcs.xml*
        .phpcs.xml* .php-cs-fixer* rector.php robofile.php castor.php deploy.php .formatter.exs .credo.exs
        .tflint.hcl .terraformrc .checkov.y*ml trivy.yaml"""),
    "dependency_manifests": _words("""
        pyproject.toml setup.py setup.cfg requirements*.txt requirements*.in requirements/*.txt */requirements/*.txt
        requirements.y*ml constraints*.txt pipfile uv.toml pip.conf pip.ini .condarc environment.y*ml pixi.toml
        poetry.toml pdm.toml .pdm.toml hatch.toml package.json .npmrc .yarnrc* pnpm-workspace.yaml bunfig.toml
        .bunfig.toml deno.json* jsr.json bower.json go.mod go.work cargo.toml gemfile *.gemspec brewfile
        composer.json pom.xml build.gradle* settings.gradle* *.csproj *.fsproj *.vbproj *.vcxproj packages.config
        nuget.config directory.packages.props global.json dotnet-tools.json paket.dependencies mix.exs rebar.config
        pubspec.yaml package.swift podfile cartfile conanfile.* vcpkg.json vcpkg-configuration.json flake.nix
        project.clj deps.edn shard.yml dune-project *.opam stack.yaml *.cabal elm.json cpanfile chart.yaml"""),
    "lock_files": _words("""
        *.lock *.lockb *.lockfile package-lock.json npm-shrinkwrap.json pnpm-lock.yaml go.sum go.work.sum
        packages.lock.json package.resolved cartfile.resolved pylock*.toml *.lock.hcl"""),
    "git_settings": [".gitattributes", ".gitmodules", ".lfsconfig", ".gitconfig", ".mailmap"],
}


@functools.cache
def protector(guard: str) -> Callable[[str], bool]:
    """Whether a path is one of those that ``guard`` protects."""
    entries = [entry.replace("y*ml", end) for entry in PROTECTED[guard] for end in ("yml", "yaml")]
    folders = {entry[:-1] for entry in entries if entry.endswith("/")}
    is_name = _any_of([entry for entry in entries if "/" not in entry])
    is_path = _any_of([entry for entry in entries if "/" in entry[:-1]])

    def match(path: str) -> bool:
        low = path.casefold()
        parts = low.split("/")
        return bool(is_name(parts[-1])) or not folders.isdisjoint(parts) or bool(is_path(low))

    return match


Matcher = Callable[[str], str]
SPECIAL = re.compile(r"[*?\[]")


def _any_of(globs: Iterable[str]) -> Matcher:
    """A function from a text to the first of the globs that it matches, '' for none.

    Most are names with a star at one end at most: to compile them all would take longer than to judge a small change.
    """
    rules = [glob for glob in globs if glob]
    exact, starts, ends, others = set(), [], [], []
    for glob in rules:
        if not SPECIAL.search(glob):
            exact.add(glob)
        elif glob[-1] == "*" and not SPECIAL.search(glob[:-1]):
            starts.append(glob[:-1])
        elif glob[0] == "*" and not SPECIAL.search(glob[1:]):
            ends.append(glob[1:])
        else:
            others.append(glob)
    heads, tails = tuple(starts), tuple(ends)
    other = re.compile("|".join(map(fnmatch.translate, others)) or "(?!)").match

    def match(text: str) -> str:
        if text in exact or text.startswith(heads) or text.endswith(tails) or other(text):
            return next(glob for glob in rules if fnmatch.fnmatchcase(text, glob))
        return ""

    return match


# --- what may be changed at all --------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def normal_prefix(prefix: str) -> str:
    """An allowed prefix as paths have it: ``./docs//x/`` is docs/x. LoopError where it names nothing inside."""
    if not prefix or "\0" in prefix or prefix.startswith("/") or ".." in prefix.split("/"):
        raise LoopError(f"allowed paths: found {prefix!r}, allowed: a path inside the repository ('.' for all)")
    return posixpath.normpath(prefix)


def is_below(path: str, prefixes: Sequence[str]) -> bool:
    """Whether a path is one of the allowed ``prefixes`` or lies below one."""
    return any(top == "." or inside(path, top) for top in map(normal_prefix, prefixes))


# --- disguises -------------------------------------------------------------------------------------------

# Unicode's default-ignorable characters that Python calls printable: nothing of them is seen.
UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
GIT_ITSELF = re.compile(r"(\.git|git~\d+)", re.IGNORECASE)
WINDOWS = re.compile(r"[\\:]|[ .](/|$)")


def odd_character(text: str) -> str:
    """The first character that a reader of a name would not see as it is, in words; '' where there is none."""
    if text.isascii() and text.isprintable():
        return ""
    for char in text:
        if "\udc80" <= char <= "\udcff":
            return f"the byte 0x{ord(char) - 0xDC00:02x}, which is not UTF-8"
        if not char.isprintable() or UNSEEN.match(char):
            return f"U+{ord(char):04X}, which is not seen as it is"
    return ""


def on_windows(path: str) -> str:
    """The path as Windows takes it: ``\\`` separates, what follows a colon is a stream, dots and spaces end no name."""
    if not WINDOWS.search(path):
        return path
    return "/".join(part.split(":")[0].rstrip(" .") for part in path.replace("\\", "/").split("/"))


def is_inside(path: str) -> bool:
    """Whether this is a path that a commit can have, on Windows too."""
    parts = {*path.split("/"), *on_windows(path).split("/")}
    return "\0" not in path and parts.isdisjoint(("", ".", ".."))


def is_git_itself(path: str) -> bool:
    """Whether a part of the path is git's own directory: for Windows, and for macOS, which leaves characters out."""
    seen = "".join(char for char in path if char.isprintable() and not UNSEEN.match(char))
    plain = unicodedata.normalize("NFKC", seen)
    return any(GIT_ITSELF.fullmatch(part) for part in on_windows(plain).split("/"))


# --- the judgement -------------------------------------------------------------------------------------


def _denier(globs: Sequence[str]) -> Matcher:
    """A function from a path to the first of the denied globs that matches it, '' for none.

    Like the engine, a star crosses slashes. Beyond it case is ignored as well, and a glob without a slash also matches
    a name in any directory.
    """
    whole = _any_of(globs)
    folded = _any_of(glob.casefold() for glob in globs)
    bare = _any_of(glob.casefold() for glob in globs if "/" not in glob)

    def match(path: str) -> str:
        low = path.casefold()
        return whole(path) or folded(low) or bare(posixpath.basename(low))

    return functools.lru_cache(maxsize=1024)(match)


def spares(switch: bool | list[str], path: str) -> bool:
    """Whether a guard leaves a path alone."""
    if isinstance(switch, bool):
        return not switch
    return any(fnmatch.fnmatchcase(path, glob) for glob in switch)


def _readings(path: str) -> list[str]:
    """The path, and what the engine makes of it: it reads git's quoted form and takes it apart by hand."""
    if re.fullmatch(r"[!#-\[\]-~]+", path):
        return [path]
    names = {code: letter for letter, code in ESCAPES.items()}
    quoted = "".join(
        f"\\{names[byte]}" if byte in names else chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
        for byte in encoded(path)
    )
    status = f'"{quoted}"'.split(" -> ", 1)[-1].strip().strip('"')
    return [path, str(pathlib.PurePosixPath(status))]


def _oddities(path: str) -> list[Violation]:
    """What no honest name has."""
    name = show(path)
    found: list[Violation] = []
    if not is_inside(path):
        found.append(Violation("paths", name, "not a path inside the repository"))
    if is_git_itself(path):
        found.append(Violation("paths", name, "git's own directory"))
    odd = odd_character(path)
    if odd:
        found.append(Violation("names", name, f"has {odd}"))
    if len(path) > MAX_PATH:
        found.append(Violation("names", name, f"has {len(path)} characters, allowed: {MAX_PATH}"))
    return found


def path_judge(engine: Policy, ours: Policy, prefixes: Sequence[str] | None) -> Callable[[Change], list[Violation]]:
    """A function that finds what is wrong with the names of a change. ``prefixes`` of None ask nothing."""
    denied = _denier(engine.get("denied_path_globs", []))
    protectors = {guard: protector(guard) for guard in PROTECTED if ours[guard] is not False}

    def judge(change: Change) -> list[Violation]:
        found: list[Violation] = []
        for path in filter(None, (change.path, change.origin)):
            found += _oddities(path)
            name, disguised = show(path), on_windows(path)
            for reading in dict.fromkeys((*_readings(path), disguised)):
                glob = denied(reading)
                if glob:
                    found.append(Violation("denied_path_globs", name, f"denied by {glob}"))
                if prefixes is not None and not is_below(reading, prefixes):
                    allowed = ", ".join(prefixes) or "nothing"
                    found.append(Violation("allowed_paths", name, f"outside of what may be changed ({allowed})"))
            for guard, match in protectors.items():
                if (match(path) or (disguised != path and match(disguised))) and not spares(ours[guard], path):
                    found.append(Violation(f"guards.{guard}", name, f"is protected ({guard.replace('_', ' ')})"))
        return found

    return judge
