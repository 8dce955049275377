# `make demo` and `make test` each set up what they need; CONTRIBUTING.md describes the rest.
# Everything made here lives in .venv, .envs, build and dist; `make clean` removes it.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -qq --disable-pip-version-check
SOURCES := $(shell find prodpool -name '*.py' -o -name py.typed -o -name '*.md' -o -name '*.json') $(wildcard dashboards/*.json) README.md LICENSE pyproject.toml
WHEEL := build/wheel.stamp
WEB := build/web
PYTEST_ARGS ?=
PYTHONS ?=
LONG ?=

.PHONY: help demo docs test test-lowest lint format bench coverage dashboards alerts tables incidents images constraints web web-lock clean FORCE

help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo ## Run the webhook service through its incidents (about a minute; ARGS="..." for options).
	@tools/system_packages.sh --demo
	@$(BIN)/python -m examples.webhook_service $(ARGS)

test: lint docs system web $(WHEEL) ## Lint, build the site, then test the built wheel (PYTHONS=all: on every CPython, LONG=1: all).
	@$(BIN)/python tools/run_tests.py $(if $(filter all,$(PYTHONS)),--all) $(if $(LONG),--long) $(PYTEST_ARGS)

test-lowest: system $(WHEEL) ## Test the built wheel with the oldest dependencies it allows.
	@$(BIN)/python tools/run_tests.py --lowest $(PYTEST_ARGS)

lint: $(VENV)/.dev ## Check style, types and that the oldest Python can have what is pinned.
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/python tools/pin.py --check

# -E: a page that has not changed has its warnings, too.
docs: $(VENV)/.dev ## Build the site into build/docs; a warning is an error.
	@$(BIN)/sphinx-build -q -E -W --keep-going -d build/docs-cache -b html docs build/docs

format: $(VENV)/.dev ## Rewrite the code in the house format.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## Measure against the bare executor, side by side (ARGS="..." for options).
	@$(BIN)/python -m benchmarks $(ARGS)

coverage: $(VENV)/.dev ## Measure branch coverage of the source tree.
	@$(BIN)/coverage run -m pytest -q $(PYTEST_ARGS)
	@$(BIN)/coverage report

dashboards: $(VENV)/.dev ## Make the dashboards' JSON anew from dashboards/*.py.
	@$(BIN)/python -m dashboards.build

alerts: $(VENV)/.dev ## Write alerts/ and runbook.md anew from prodpool/monitoring.
	@$(BIN)/prodpool export alerts alerts --force
	@$(BIN)/prodpool export runbook . --force

tables: $(VENV)/.dev ## Write the tables in the README and the reference anew from the code.
	@$(BIN)/python -m tools.backends_table
	@$(BIN)/python -m tools.reference_tables

incidents: $(VENV)/.dev system ## Replay the runbook's incidents against the alerts as shipped (about 45 minutes).
	@$(BIN)/python -m tools.incidents $(ARGS)
	@$(BIN)/prodpool export runbook . --force

images: $(VENV)/.dev system web ## Draw the dashboards, with live data, into docs/images (about four minutes).
	@$(BIN)/python -m tools.images $(ARGS)

constraints: $(VENV)/.python ## Pin the newest dependencies anew.
	@$(BIN)/python tools/pin.py constraints.txt

clean: ## Remove everything made here.
	rm -rf .venv .envs build dist .mypy_cache .pytest_cache .ruff_cache docs/.ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: system
system:
	@tools/system_packages.sh $(PYTHON)

FORCE:
# Looked at every time, rewritten only when the environment had to be made anew.
$(VENV)/.python: FORCE
	@tools/ensure_venv.sh $(PYTHON) $(VENV)

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	@echo "setting up $(VENV) for the demo"
	@$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	@echo "setting up $(VENV) for development"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.demo

# What checks and draws the dashboards: Grafana's published types and its UI library.
web: $(WEB)/.installed
web-lock: $(VENV)/.dev ## Pin the newest packages that tools/web/package.json allows.
	@tools/web_setup.sh "$(CURDIR)/$(BIN)/python" $(WEB) --relock

$(WEB)/.installed: $(VENV)/.dev tools/web/package.json tools/web/package-lock.json
	@echo "setting up $(WEB), which checks and draws the dashboards"
	@tools/web_setup.sh "$(CURDIR)/$(BIN)/python" $(WEB)

$(WHEEL): $(VENV)/.dev $(SOURCES)
	@mkdir -p build && rm -rf dist
	@$(BIN)/python -m build --no-isolation --wheel --outdir dist . >build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	@touch $@
