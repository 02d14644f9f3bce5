# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Every target sets up what it needs first, in .cache, and works on a fresh clone.

MAKEFLAGS += --no-builtin-rules --no-print-directory
BIN := $(CURDIR)/.cache/venv/bin
CHECK := $(BIN)/python tests/tools/check.py
FUZZ := $(CURDIR)/.cache/fuzz-venv/bin/python
MUTATE := $(CURDIR)/.cache/mutants-venv/bin/python
INPUTS ?= 200000
KILLS ?= 500
CYCLES ?= 300
CYCLE_KILLS ?= 200
RUNS ?= 5
MUTANTS ?= 120
TIMES ?= 10
LOAD ?= 1
export ENGINE FROM TO KEEP LOOP_HOST T S

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick lint sanity unit molecule kills cells attacks faults rollouts soak migration hosts versions upgrades bench fuzz renovate build importer release docs lock clean mutants again

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Debian packages and the Python environment that all the others share
	@tests/tools/setup

demo: setup ## the main job on a throwaway loop host; ENGINE=<url or bundle> FROM=<sha> TO=<sha>, KEEP=1, LOOP_HOST=user@address
	@$(BIN)/python tests/demo.py

test: setup ## every kind of check, what is long in its short form: lint, sanity, unit, molecule
	@$(CHECK) lint sanity unit molecule

again: setup ## the whole of it many times while LOAD other processes work: what fails now and then? TIMES=10, LOAD=1
	@$(BIN)/python tests/tools/again.py $(TIMES) $(LOAD) lint sanity unit molecule

quick: setup ## what most changes need, in a minute: quick linters, and the tests of what was changed
	@$(CHECK) quick

lint: setup ## ruff, mypy, yamllint, ansible-lint, shellcheck, changelog fragments, hygiene
	@$(CHECK) lint

sanity: setup ## ansible-test sanity, in full
	@LONG=1 $(CHECK) sanity

unit: setup ## unit tests with coverage; T=tests/unit/... for some of them
	@$(CHECK) unit

molecule: setup ## every scenario on booted hosts, in its long form: hours; S=default for one of them
	@LONG=1 $(CHECK) molecule

kills: setup ## healer and git killed at random moments; KILLS=500
	@LOOP_KILLS=$(KILLS) $(BIN)/pytest --quiet tests/unit/plugins/module_utils/worktrees/test_killed.py

cells: setup ## what an agent can leave, and cycles killed at random moments, on a booted host; CYCLE_KILLS=200
	@LONG=1 S=cells KILLS=$(CYCLE_KILLS) $(CHECK) molecule

attacks: setup ## what a hostile agent and engine can do, in full; ENGINE=<url or bundle> TO=<sha>
	@LONG=1 S=agent $(CHECK) molecule

faults: setup ## all that can go wrong in an apply, and applies killed at random moments; KILLS=3
	@LONG=1 S=faults $(CHECK) molecule

rollouts: setup ## all ways in which a rollout ends
	@LONG=1 S=rollout $(CHECK) molecule

soak: setup ## many cycles with faults at random; CYCLES=300, SEED= of an earlier run to repeat it, FAULTS="reboot,disk full"
	@LONG=1 S=soak CYCLES=$(CYCLES) SEED=$(SEED) $(CHECK) molecule

migration: setup ## from a user's own host to ours and away, every way to come; ENGINE=<url or bundle> FROM=<sha> TO=<sha>
	@LONG=1 S=migration $(CHECK) molecule

hosts: setup ## other Debians, booted: 12 is refused by its name, and 14 carries the loop (scenarios default and example)
	@SUITE=bookworm $(CHECK) hosts
	@SUITE=forky LONG=1 S="default example" $(CHECK) molecule

versions: setup ## the oldest and newest controllers and Pythons that can be had, against a booted host
	@$(BIN)/python tests/tools/versions.py

upgrades: setup ## from every version there was to this tree, on a booted host: VERSION=0.1.0 for one of them
	@$(BIN)/python tests/tools/upgrades.py $(VERSION)

bench: setup ## what it costs, as one table; RUNS=5, B="apply fleet" for some of them
	@BENCH_RUNS=$(RUNS) $(BIN)/python tests/tools/benchmarks.py $(B)

fuzz: setup ## many inputs for every reader of what others wrote; INPUTS=200000
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .cache/fuzz-venv
	@$(BIN)/uv pip install --quiet --python $(FUZZ) --require-hashes -r tests/fuzz/requirements.txt
	@$(FUZZ) tests/fuzz/run.py $(INPUTS)

mutants: setup ## does a test fail where the core is changed? MUTANTS=120 per room, SEED=1, F="policy/paths.py" for some files
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .cache/mutants-venv
	@$(BIN)/uv pip install --quiet --python $(MUTATE) --require-hashes -r tests/mutants/requirements.txt
	@nice -n 10 $(MUTATE) tests/mutants/mutate.py $(MUTANTS) $(or $(SEED),1) $(F)

build: setup ## the artifact that ansible-galaxy installs, in .cache/build: the same bits for everybody
	@$(BIN)/python tests/tools/build.py

importer: build ## what Galaxy itself says of the artifact (galaxy-importer)
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .cache/importer-venv
	@$(BIN)/uv pip install --quiet --python .cache/importer-venv/bin/python --require-hashes -r tests/importer/requirements.txt
	@.cache/importer-venv/bin/python tests/importer/run.py .cache/build/*.tar.gz

release: setup ## the changelog from its fragments, and the version everywhere: V=1.2.3
	@$(BIN)/python tests/tools/release.py prepare "$(V)"

docs: setup ## the documentation as a site, in .cache/docs/site, and the README of the role
	@$(BIN)/python tests/tools/reference.py
	@$(BIN)/python tests/tools/site.py

renovate: setup ## Renovate's own validator, fetched from npm, on the preset in docs/renovate.md
	@$(BIN)/python tests/tools/renovate.py

lock: setup ## requirements.txt from requirements.in, here and in tests/fuzz, tests/importer and tests/mutants
	@for folder in . tests/fuzz tests/importer tests/mutants; do $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-emit-find-links --upgrade $$folder/requirements.in \
		--output-file $$folder/requirements.txt || exit 1; done

clean: ## remove .cache
	@if [ -x $(BIN)/python ]; then $(BIN)/python tests/world/stage.py down .cache/demo; $(BIN)/python tests/loophost.py destroy --all; fi
	@rm -rf .cache
