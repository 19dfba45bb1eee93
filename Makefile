# make setup | demo | test | check | bench | soak | chaos | fuzz: each may be the first command in a fresh clone.
PYTHON ?= python3
VENV := .venv
KOD := $(VENV)/bin/kod
READY := $(VENV)/.ready
WORKERS ?= 2

.PHONY: setup demo test check bench soak chaos fuzz pins clean

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(VENV)/bin/python -m compileall -q node dispatcher serializers schemas # also where Python is told to keep none
	touch $@

demo: setup
	$(KOD) demo

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: check
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal

bench: setup
	$(VENV)/bin/python -m benchmarks

# Goes on where it was stopped (.soak.json); HISTORIES and the rest: python -m tests.cluster.soak --help.
soak: setup
	$(VENV)/bin/python -m tests.cluster.soak --histories $(or $(HISTORIES),100000) --workers $(WORKERS)

# Real daemons while everything breaks; as root it also fills a disk and cuts a cable. ROUNDS, SECONDS of each.
chaos: setup
	$(VENV)/bin/python -m tests.chaos --rounds $(or $(ROUNDS),4) --seconds $(or $(SECONDS),60)

# What comes from outside, altered byte by byte; SECONDS for each target. The fuzzer (atheris) is there for Linux on x86-64.
fuzz: setup
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/fuzz/requirements.txt
	$(VENV)/bin/python -m tests.fuzz --seconds $(or $(SECONDS),60)

# Needs uv; writes hashes without addresses.
pins:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements.txt

clean:
	rm -rf $(VENV) build dist *.egg-info
