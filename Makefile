# Both `make reproduce` and `make test` set everything up first; where that was done, it takes no time.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
PYTEST := $(PY) -m pytest

# Stages are started as `python -m stages.NAME`: the environment's Python must come first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test test-all lint data claims tables ui bench track doctor clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

reproduce: setup ## everything: set-up, sample data if there is none, all stages, the table of methods
	@$(PY) -m stages.commands.data ensure
	@$(PY) -m flows.reproduce

test: lint ## lint, types and every test that takes seconds
	@$(PYTEST)

test-all: lint ## the slow tests too: servers, kills, real clips
	@$(PYTEST) -m ""

lint: setup ## ruff (lint and format) and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

data: setup ## put another data set in place: make data FROM=/path/to/folder [NAME=name], or FROM=sample
	@test -n "$(FROM)" || { echo 'say which: make data FROM=/path/to/release, or make data FROM=sample'; exit 2; }
	@$(PY) -m stages.commands.data put "--from=$(FROM)" $(if $(NAME),"--name=$(NAME)")

claims: setup ## what a paper claims, put to the test over seeds (hours; adds runs to params.yaml): make claims PAPER=dang2018, gavrilyuk2018, ji2018 or rana2021
	@test -n "$(PAPER)" || { echo 'say which: make claims PAPER=dang2018, gavrilyuk2018, ji2018 or rana2021'; exit 2; }
	@$(PY) -m stages.commands.data ensure
	@$(PY) -m stages.commands.claims add "--paper=$(PAPER)"
	@$(PY) -m flows.reproduce
	@$(PY) -m stages.commands.claims show "--paper=$(PAPER)"

tables: setup ## a paper's tables and figures, computed here beside published: make tables PAPER=rana2021 [TABLE=1]
	@test -n "$(PAPER)" || { echo 'say which: make tables PAPER=dang2018, gavrilyuk2018 or rana2021'; exit 2; }
	@$(PY) -m stages.commands.paper_tables "--paper=$(PAPER)" $(if $(TABLE),"--table=$(TABLE)")

ui: setup ## Prefect server and worker and MLflow's pages, on this machine only
	@$(PY) -m flows.ui

bench: setup ## the speed ratios that the project claims
	@$(PY) -m benchmarks

track: setup ## bring MLflow up to date from the stages' output files
	@$(PY) -m stages.commands.track

doctor: setup ## check what the tools' traps need, and say how to mend it
	@$(PY) -m stages.commands.doctor

clean: ## remove caches of checks and tests; data, results and the environment stay
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	@find flows stages models tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

setup: ## only the set-up (Python 3.11, pip, gcc, git and make must be there)
	@"$(PYTHON)" .ci/setup
