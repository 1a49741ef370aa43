# `make demo`, `make test` and `make docs` set themselves up, in .venv. PYTHON chooses the interpreter; MINUTES, how long
# the demo may take.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test coverage check types contract docs clean FORCE

demo: $(VENV)/installed
	$(BIN)/acmix-nas demo $(if $(MINUTES),--minutes $(MINUTES))

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
	$(MAKE) types contract

# Types and the order of imports are checked in the layout of the wheel, where search_spaces and strategies lie inside.
build/tree: FORCE
	rm -rf $@
	mkdir -p $@
	cp -rp acmix_nas tests $@/
	cp -rp search_spaces strategies $@/acmix_nas/

types: $(VENV)/installed-dev build/tree
	cd build/tree && $(CURDIR)/$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache

# The rooms import one way.
contract: $(VENV)/installed-dev build/tree
	cd build/tree && $(CURDIR)/$(BIN)/lint-imports ../../pyproject.toml

# Pages must open without a network: nothing in them is loaded from elsewhere.
docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build --nitpicky --fail-on-warning --keep-going --quiet docs docs/_build/html
	! grep -rE --include='*.html' '<(script|link|img|iframe|object)[^>]+(src|href|data)="(https?:)?//' docs/_build/html
	! grep -rE --include='*.css' '(@import |url\()[^a-z]?(https?:)?//' docs/_build/html

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build docs/_build *.egg-info
