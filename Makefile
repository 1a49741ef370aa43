# `make demo`, `make test` and `make docs` set themselves up, in .venv. PYTHON chooses the interpreter; MINUTES, how long
# the demo may take.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check docs clean

demo: $(VENV)/installed
	$(BIN)/acmix-nas demo $(if $(MINUTES),--minutes $(MINUTES))

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
