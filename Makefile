# Every target does its own set-up: `make test` or `make demo` on a fresh clone is enough.
#
# The pinned environment holds only the dependencies and lies outside the clone, under SIVAE_ENVS, in a folder named
# after its pins; clones with the same pins share it. Each clone has a thin environment of its own on top, with `sivae`,
# so that the command always runs the code of its clone.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.PHONY: help env pinned check programs unit slow test lint format pinned-bin reference demo faults bench bench-checkpoint bench-communication bench-counts bench-engines bench-evaluation bench-gpu bench-iteration bench-loader bench-peers bench-plan bench-prepare bench-scale bench-toy bench-verify bench-weak-scaling sivae wheel clean

home := $(or $(HOME),$(shell getent passwd "$$(id -u)" | cut -d: -f6))
SIVAE_ENVS ?= $(home)/.cache/sivae
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2
ARGS ?=

# A Python of at least 3.11; 3.11 first, since constraints.txt was resolved with it. SIVAE_PYTHON overrides.
PYTHON := $(shell for p in $(SIVAE_PYTHON) python3.11 python3 python3.12 python3.13; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then command -v $$p; break; fi; done)
version := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))

# The environment depends on the pins and the dependency lists (not on the linters' settings).
dependency_part := sed -n '/^dependencies = \[/,/^\]/p; /^\[project.optional-dependencies\]/,/^\[project.scripts\]/p' pyproject.toml
key := $(shell { cat constraints.txt; $(dependency_part); } | sha256sum | cut -c1-12)
ENV := $(SIVAE_ENVS)/py$(version)-$(key)
BIN := $(ENV)/bin
CLONE_ENV := $(SIVAE_ENVS)/clone-$(notdir $(CURDIR))-$(shell printf %s "$(CURDIR)" | sha256sum | cut -c1-8)

export PYTHONPATH := $(CURDIR)
pytest = env OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE "$(BIN)/python" -m pytest

help:
	echo 'make env     set up everything and print the folder that holds sivae: export PATH="$$(make env):$$PATH"'
	echo "make check   ruff, mypy and the unit tests, for every edit (7 minutes on 2 cores)"
	echo "make test    ruff, mypy and all tests (45 minutes; PYTEST_ARGS='-k name' narrows the tests)"
	echo "make lint    ruff and mypy only          make format   format the sources with ruff"
	echo "make reference   write docs/settings.md from the code"
	echo "make demo    train a small Soft-IntroVAE on drawn faces"
	echo "make faults  kill, signal, fill disks and damage files, and print the table (40 minutes; ARGS='--help' lists the options)"
	echo "make bench   run all benchmarks; bench-loader, -prepare, -scale, -verify, -checkpoint, -evaluation, -engines,"
	echo "             -counts, -iteration, -toy, -plan, -communication, -weak-scaling, -gpu: one (ARGS='--help')"
	echo "make sivae   run the command: make sivae ARGS='train --help'"
	echo "make wheel   build dist/sivae-*.whl      make clean    remove files that the tools left in the clone"
	echo "The environment lies under SIVAE_ENVS (now $(SIVAE_ENVS)), about 7 GB; delete that folder to remove it."

# The clone's own environment: sivae, and further commands for its users. pip installs here and leaves the pinned
# environment unchanged.
env: pinned
	made="$(CLONE_ENV)/made-from"
	if [ "$$(cat "$$made" 2>/dev/null)" != "$(BIN) $(CURDIR)" ]; then
		"$(BIN)/python" -m venv --clear --without-pip "$(CLONE_ENV)" >&2
		packages() { "$$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
		printf '%s\n' "import site; site.addsitedir('$$(packages "$(BIN)/python")')" "$(CURDIR)" \
			> "$$(packages "$(CLONE_ENV)/bin/python")/sivae.pth"
		while read -r name module; do
			printf '#!/bin/sh\nexec "%s" -P -m %s "$$@"\n' "$(CLONE_ENV)/bin/python" "$$module" > "$(CLONE_ENV)/bin/$$name"
			chmod 755 "$(CLONE_ENV)/bin/$$name"
		done <<-'END'
			sivae launch.cli
			tensorboard tensorboard.main
			torchrun torch.distributed.run
			pip pip
		END
		echo "$(BIN) $(CURDIR)" > "$$made"
	fi
	echo "$(CLONE_ENV)/bin"

# .ready is written last, so an interrupted build is started again; the lock excludes a second make.
pinned:
	if [ -z "$(PYTHON)" ]; then
		echo "error: no Python 3.11 or newer found; install one (Debian: apt-get install python3) or set SIVAE_PYTHON" >&2
		exit 1
	fi
	ready() { [ -e "$(ENV)/.ready" ] && "$(BIN)/python" -c '' 2>/dev/null; }
	if ! ready; then
		mkdir -p "$(SIVAE_ENVS)"
		exec 9>"$(SIVAE_ENVS)/.$(notdir $(ENV)).lock"
		flock --nonblock 9 || { echo "waiting for another make to finish $(ENV)" >&2; flock 9; }
		if ! ready; then
			unset PYTHONPATH PYTHONHOME
			if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then
				if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
					echo "error: $(PYTHON) cannot make virtual environments; install its venv package (Debian: apt-get install python3-venv)" >&2
					exit 1
				fi
				echo "installing python3-venv" >&2
				{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-venv; } >&2
			fi
			echo "building $(ENV) (a few minutes, about 7 GB)" >&2
			rm -rf "$(ENV)"
			"$(PYTHON)" -m venv "$(ENV)" >&2
			"$(BIN)/python" - > "$(ENV)/requirements.txt" <<-'END'
				import tomllib
				project = tomllib.load(open("pyproject.toml", "rb"))["project"]
				extras = project["optional-dependencies"]
				print("\n".join(project["dependencies"] + extras["dali"] + extras["dev"]))
			END
			"$(BIN)/python" -m pip install --quiet --quiet --no-input --disable-pip-version-check \
				-r "$(ENV)/requirements.txt" -c constraints.txt >&2
			unpinned=$$("$(BIN)/python" -m pip freeze | grep -vixFf constraints.txt || true)
			[ -z "$$unpinned" ] || echo "warning: installed but not pinned in constraints.txt:" $$unpinned >&2
			touch "$(ENV)/.ready"
		fi
	fi

# For the hooks of pre-commit.
pinned-bin: pinned
	echo "$(BIN)"

check: lint unit

# Stages, the quick ones first; chosen tests are one stage.
ifeq ($(PYTEST_ARGS),)
test: lint unit slow
else
test: lint programs
	exec $(pytest) $(PYTEST_ARGS)
endif

# Tests of the layers' kernels compile them, and those of snapshots of the code copy files.
programs:
	missing=""
	command -v g++ clang++ >/dev/null || missing+=" g++"
	command -v rsync >/dev/null || missing+=" rsync"
	[ -e "$$("$(PYTHON)" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] \
		|| missing+=" python$(version)-dev"
	if [ -n "$$missing" ]; then
		if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
			echo "error: tests need programs that are missing; install them (Debian: apt-get install$$missing)" >&2
			exit 1
		fi
		echo "installing$$missing" >&2
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y$$missing; } >&2
	fi

# What a test file shares is made once: a file is the work of one process.
unit: pinned programs
	echo "== unit tests"
	exec $(pytest) --numprocesses $(TEST_PROCESSES) -m "not slow"

slow: pinned programs
	echo "== slow tests: processes, kills, clusters, trainings"
	exec $(pytest) --numprocesses $$(($(TEST_PROCESSES) + 1)) -m slow # half of their time they wait for others

lint: pinned
	echo "== ruff and mypy"
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"

format: pinned
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

# Writes docs/settings.md and the keys for shell completion from the code; a test fails when they are out of date.
reference: pinned
	exec "$(BIN)/python" -m sivae_dist.config.reference

demo: env
	exec "$(CLONE_ENV)/bin/python" -m launch.demo

faults: pinned
	export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
	exec "$(BIN)/python" -m tests.faults $(ARGS)

bench: bench-loader bench-prepare bench-scale bench-verify bench-checkpoint bench-evaluation bench-engines bench-counts bench-iteration bench-communication bench-toy bench-weak-scaling bench-plan $(if $(wildcard /dev/nvidia0),bench-gpu)

bench-checkpoint bench-communication bench-counts bench-engines bench-evaluation bench-gpu bench-iteration bench-plan bench-prepare bench-scale bench-toy bench-verify bench-weak-scaling: bench-%: pinned
	exec "$(BIN)/python" -m benchmarks.$(subst -,_,$*) $(ARGS)

# Other loaders are installed into an environment on top of the pinned one, which they must not change. The table names
# those that are missing, for example without a network.
PEERS := $(ENV)-peers-$(shell sha256sum benchmarks/peers.txt | cut -c1-8)

bench-peers: pinned
	if [ ! -e "$(PEERS)/.ready" ]; then
		echo "building $(PEERS) (a minute, about 100 MB)" >&2
		unset PYTHONPATH
		"$(PYTHON)" -m venv --clear "$(PEERS)"
		"$(BIN)/python" -c 'import site; print(site.getsitepackages()[0])' \
			> "$$("$(PEERS)/bin/python" -c 'import site; print(site.getsitepackages()[0])')/pinned.pth"
		"$(PEERS)/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-deps -r benchmarks/peers.txt \
			|| { echo "warning: the other loaders could not be installed" >&2; exit 0; }
		touch "$(PEERS)/.ready"
	fi

bench-loader: bench-peers
	exec "$(PEERS)/bin/python" -m benchmarks.loader $(ARGS)

sivae: pinned
	exec "$(BIN)/python" -m launch.cli $(or $(ARGS),--help)

wheel: pinned
	"$(BIN)/python" -m build --wheel --no-isolation --outdir dist .

clean:
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
