# Everything a developer does here, one target each. What is not in `make help` is not supported.

.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules

# A checkout keeps to itself; state goes to /run/vc unless KATA_STATE_DIR says otherwise.
# Set but empty counts as not set, as in bin/kata.
export KATA_DATA_DIR := $(or $(KATA_DATA_DIR),$(CURDIR)/.kata/data)

PYTEST := .venv/bin/python -I -m pytest

.PHONY: help
help: ## Show this text
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo "What is not listed here is not supported. To use kata itself: bin/kata --help"

.PHONY: setup
setup: ## Install what is missing: Debian packages, .venv (other targets do it by themselves)
	@tools/setup.sh dev

.PHONY: assets
assets: setup ## Get the guest kernel and build the guest image, where they are missing
	@bin/kata setup

.PHONY: run
run: ## Run a busybox container in a VM and show what happened
	@bin/kata demo

.PHONY: check
check: ## Say what this host can and cannot do
	@bin/kata check

.PHONY: test
test: assets ## Run all tests: linters, unit, wire, fuzz, kernel, vm, attacks, faults, containerd, budget
	@$(PYTEST) -m "not soak" tests

.PHONY: soak
soak: assets ## Run what takes an hour: many containers, a stress, kills at random moments
	@$(PYTEST) -m soak tests

.PHONY: fuzz
fuzz: ## Fuzz what reads bytes of strangers, guided by coverage; TARGET="qmp oci_spec" SECONDS=60 each
	@tools/setup.sh fuzz
	@.venv/bin/python -I tests/fuzz/__main__.py $(addprefix --target ,$(TARGET)) $(if $(SECONDS),--seconds $(SECONDS))

.PHONY: lint
lint: setup ## Run the linters alone: style, types, import contracts, scripts, sizes, docs
	@$(PYTEST) tests/linters

.PHONY: format
format: setup ## Rewrite the sources in the project's format
	@.venv/bin/ruff format
	@.venv/bin/ruff check --fix

BENCH := .venv/bin/python -I tools/bench/__main__.py

.PHONY: bench
bench: setup ## Measure against the same without a VM; PARTS="start density" RUNS= SANDBOXES= BASE=revision
	@$(BENCH) $(if $(PARTS),--parts $(PARTS)) $(if $(RUNS),--runs $(RUNS)) \
		$(if $(SANDBOXES),--sandboxes $(SANDBOXES)) $(if $(BASE),--base '$(BASE)')

.PHONY: bench-help
bench-help: setup ## List the parts of the benchmark and its options
	@$(BENCH) --help

.PHONY: bench-docs
bench-docs: setup ## Bring the last benchmark's figures into docs/: tables, pictures
	@$(BENCH) --docs

.PHONY: reliability-docs
reliability-docs: setup ## Bring what the last runs have recorded into docs/: attacks, kills, fuzzing, faults
	@.venv/bin/python -I tools/reliability.py

.PHONY: protos
protos: setup ## Generate the message classes from protos/
	@.venv/bin/python -I tools/protos.py

.PHONY: settings
settings: setup ## Generate docs/configuration.md and the default configuration file
	@.venv/bin/python -I tools/settings.py

.PHONY: lock
lock: setup ## Choose newer versions of the Python packages and write requirements/*.txt
	@tools/lock.sh

.PHONY: clean
clean: ## Remove all that was made here: .venv, .kata (guest assets, images), caches
	@flock . rm -rf .venv .kata build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
