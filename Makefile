# Every target sets up its own environment in .venv, and again only when requirements.txt changes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export TOKENIZERS_PARALLELISM ?= true

.PHONY: venv demo test test-slow lint bench

venv: $(READY)

$(READY): requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: venv
	$(BIN)/python launch/demo.py --output demo

test: venv
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: venv
	$(BIN)/python -m pytest -m slow

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	$(BIN)/python bench/gd_step.py
