# make demo     see what this is: makes .venv, installs into it, runs `vionet demo`
# make test     everything that must hold: linters, types, tests in three lanes, real peers
# make bench    measure everything: bench/results/DATE.json and docs/performance.md
# make lint     linters and types only
# make format   rewrite the sources as the linters want them
#
# PYTHON=...          the interpreter for .venv (3.11 or newer)
# BENCH=...           options of `vionet bench all`: --quick, --only peers, --realtime
# COVERAGE_FLOOR=90   percent of engine, vhost_user and config that unit tests must reach

VENV := .venv
COVERAGE_FLOOR ?= 90
export COVERAGE_FLOOR

.PHONY: demo test bench lint format packages clean

demo: $(VENV)/.installed
	$(VENV)/bin/vionet demo

test: packages $(VENV)/.installed-test
	scripts/run-tests

bench: packages $(VENV)/.installed-bench
	$(VENV)/bin/vionet bench all $(BENCH)

lint: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -q tests/repo/test_lint.py

format: $(VENV)/.installed-test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

packages:
	scripts/debian-packages tests/debian-packages.txt
	scripts/guest-kernel .cache/guest-kernel

$(VENV)/.installed: pyproject.toml src/vionet/__init__.py
	scripts/environment $(VENV)
	touch $@

$(VENV)/.installed-test: pyproject.toml src/vionet/__init__.py
	scripts/environment $(VENV) test
	touch $@ $(VENV)/.installed $(VENV)/.installed-bench

$(VENV)/.installed-bench: pyproject.toml src/vionet/__init__.py
	scripts/environment $(VENV) bench
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
