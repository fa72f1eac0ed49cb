# `make up` and `make test` are all that a newcomer needs: both do the set-up that they need themselves.
PYTHON ?= $(shell tools/find-python)
VENV   := .venv
BIN    := $(VENV)/bin
NAME   ?= podwire
STAMP  := $(VENV)/.installed

.PHONY: help setup up down test unit lint bench clean lock

help:            ## Show this list
	@grep -E '^[a-z]+: .*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## Install what is missing: Debian packages and .venv (PYTHON= chooses the interpreter)

$(STAMP): pyproject.toml requirements.lock tools/install-packages
	@tools/install-packages
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

up: setup        ## Bring a cluster up (NAME=podwire)
	@$(BIN)/podwire up --name $(NAME)

down: setup      ## End it
	@$(BIN)/podwire down --name $(NAME)

test: setup lint ## Everything: lint, types, contracts, all tests
	@$(BIN)/python -m pytest tests

unit: setup      ## The pure tests only: seconds
	@$(BIN)/python -m pytest tests/unit tests/golden

lint: setup      ## Style, types and the house's import contracts
	@$(BIN)/ruff check src tests
	@$(BIN)/ruff format --check --quiet src tests
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: setup     ## Measure, and print JSON
	@$(BIN)/podwire bench up -o json

lock:            ## Renew requirements.lock from pyproject.toml
	@tools/lock

clean:           ## Remove what make made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
