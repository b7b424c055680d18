# One command each: `make demo`, `make test`. Python 3.11 or 3.12 and make are enough on a fresh clone.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first of these that is a Python we support.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
# Everything for work on the project, and what a user gets who only renders.
VENV ?= .venv
BASE_VENV ?= .venvs/base
OUT ?= out
# The torch that is tested; taken when pip finds a wheel of it, else what the extra allows.
TORCH_PIN ?= 2.13.0

# Two workers, one thread in each: more only gets in its own way on a small machine.
export OMP_NUM_THREADS := 1
export RAYON_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
PYTEST_FLAGS ?= -n auto --maxprocesses=2 --dist=worksteal

STAMP := $(VENV)/.installed
BASE_STAMP := $(BASE_VENV)/.installed

.PHONY: help venv lint types test check demo bench parity flags clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

venv: $(STAMP)  ## the environment for work on the project, in .venv

# pip learned --group in 25.1.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or 3.12 is needed; name it with make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	pin=; if $(VENV)/bin/python -m pip install --quiet --dry-run --no-deps "torch==$(TORCH_PIN)" >/dev/null 2>&1; \
		then pin="torch==$(TORCH_PIN)"; fi; \
	$(VENV)/bin/python -m pip install --quiet $$pin --editable ".[train,data]" --group dev
	touch $@

$(BASE_STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or 3.12 is needed; name it with make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(BASE_VENV)
	$(BASE_VENV)/bin/python -m pip install --quiet --editable .
	touch $@

lint: $(STAMP)  ## ruff: rules and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)  ## pyright, strict
	$(VENV)/bin/pyright

test: $(STAMP)  ## pytest
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

check: lint types test  ## all of the three; what CI runs

# Rendering needs only the base installation, no torch; training and sampling need the extra "train".
BASE := $(BASE_VENV)/bin
FULL := $(VENV)/bin
DEMO := $(OUT)/demo
DEMO_MODEL := fixtures/tiny-chat

demo: $(BASE_STAMP) $(STAMP)  ## render, verify, look, train an adapter, ask it, report
	rm -rf $(DEMO)
	mkdir -p $(DEMO)
	$(BASE)/render-jsonl fixtures/conversations/train_chat.jsonl --model $(DEMO_MODEL) --out $(DEMO)/shards
	$(BASE)/render-jsonl fixtures/conversations/heldout_chat.jsonl --model $(DEMO_MODEL) --out $(DEMO)/heldout --quiet
	$(BASE)/datumloom verify $(DEMO)/shards
	$(BASE)/datumloom inspect $(DEMO)/shards 0
	$(BASE)/datumloom report $(DEMO)/shards
	$(FULL)/train-from-shards $(DEMO)/shards --model $(DEMO_MODEL) --out $(DEMO)/run --config fixtures/demo.toml \
		eval_shards=$(DEMO)/heldout
	$(FULL)/datumloom sample $(DEMO)/run "Multiply 6 by 2." --temperature 0 --max-tokens 24
	@echo "pages to open: $(DEMO)/shards-report.html $(DEMO)/run/report.html"

bench: $(STAMP)  ## rendering speed; results in benchmarks/RESULTS.md
	$(VENV)/bin/python benchmarks/render.py

parity: $(STAMP)  ## the same tokens as other implementations, each in its own environment
	$(VENV)/bin/python benchmarks/parity.py

flags: $(STAMP)  ## write the frozen list of command line flags again
	$(VENV)/bin/python tests/cli/list_flags.py > tests/cli/flags.txt

clean:  ## remove environments, output and caches
	rm -rf $(VENV) .venvs $(OUT) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
