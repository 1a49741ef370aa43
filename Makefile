# `make demo` and `make test` set themselves up, in .venv. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test coverage check clean

demo: $(VENV)/installed
	$(BIN)/acmix-nas demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Apart from `test`, since it costs 43 % more processor time: tests/test_blocks.py and tests/test_derive.py took 20.0 s
# instead of 14.0 s with Python 3.11 on two cores, 2026-11-25.
coverage: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(shell find acmix_nas -name '*.[ch]')
	$(BIN)/mypy

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
