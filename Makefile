# make demo | make test | make lint. Each makes .venv and installs when something is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# two workers, the tests of a file on either of them
PYTEST_ARGS ?= -n 2 --dist worksteal

# mkdocs-material tells of mkdocs 2, which is not used, in a box at every run
docs: export NO_MKDOCS_2_WARNING = 1

.PHONY: help demo docs test test-fast test-slow fuzz lint format install clean
help:
	@echo "make demo       train on the mini corpus, score zero-shot, write a report (minutes)"
	@echo "make test       all tests but the slow ones"
	@echo "make test-fast  unit tests only (a minute or so)"
	@echo "make test-slow  the slow ones"
	@echo "make fuzz       the fuzz tests with many more examples (minutes)"
	@echo "make docs       the site, into build/site"
	@echo "make lint       ruff and mypy"
	@echo "make install    only the environment, .venv"

demo: $(VENV)/.demo
	egs/mini/cwcl1/run.sh

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build --strict

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS) tests/unit

fuzz: $(VENV)/.test
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest $(PYTEST_ARGS) tests/fuzz

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.demo

# A stamp a set of extras: an interrupted installation leaves none and is done again.
$(VENV)/.%: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -e ".[$*]"
	@touch $@

# the site alone: no PyTorch
$(VENV)/.docs: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python docs/needs.py | $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -r /dev/stdin
	@touch $@

clean:
	rm -rf $(VENV) egs/*/*/exp egs/*/*/dump egs/*/*/data
