# Rehearsal. `make repro` runs everything; `make test` proves it. Both do their own set-up.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup repro flow test check learning bench nightly nightly-once clean

UV_VERSION := 0.13.8
UV := .tools/bin/uv
# The first interpreter that runs and is one of 3.11, 3.12, 3.13; `make PYTHON=...` decides otherwise.
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
PRESET ?=

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export UV_PYTHON_DOWNLOADS := never
# The certificates of the system: behind a proxy of one's own, those that uv brings are not enough.
export UV_SYSTEM_CERTS := 1
# Without byte code every process would compile TensorFlow anew, which doubles the time of an import.
unexport PYTHONDONTWRITEBYTECODE
# No library of ours reports home.
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export GX_ANALYTICS_ENABLED := false

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .setup-done  ## the locked environment in .venv (skipped when nothing changed)

.setup-done: pyproject.toml uv.lock
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; name one with make PYTHON=..." >&2; exit 2; }
	@test -x $(UV) || $(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
		--target .tools uv==$(UV_VERSION)
	$(UV) sync --frozen --quiet --python $(PYTHON)
	@touch $@

repro: setup  ## the whole experiment; PRESET=smoke|default|full switches the preset
ifneq ($(PRESET),)
	@python -m pipelines.params --preset $(PRESET)
else
	@python -m pipelines.params
endif
	@rm -rf work/scratch  # what a killed stage left aside, if DVC restores its outputs instead of running it again
	dvc repro
	@echo "report: reports/index.html"

flow: setup  ## the same stages as a Prefect flow: live logs, retries, independent stages side by side
	python -m flows.repro

nightly: setup  ## every night on the schedule of params.yaml: window, training, promotion, commit
	python -m flows.nightly --serve

nightly-once: setup  ## the night of now, without Prefect
	python -m flows.nightly --plain

test: setup  ## everything but learning and bench
	python -m pytest -n 2 --dist worksteal -m "not learning and not bench and not serial" tests
	python -m pytest -n 2 --dist loadfile -m "serial and not learning and not bench" tests

check: setup  ## lint, format, types, the three rooms
	ruff check .
	ruff format --check .
	mypy
	lint-imports

learning: setup  ## long training runs against stated bars; figures go to benchmarks/results
	python -m pytest -m learning tests

bench: setup  ## timings; wants a quiet machine; figures go to benchmarks/results
	for script in benchmarks/*.py; do echo "== $$script"; PYTHONPATH=. python "$$script"; done

clean:  ## everything that was made here but the environment and the store of fetched candles
	rm -rf data artifacts results reports work .dvc/tmp .dvc/cache .pytest_cache .hypothesis .mypy_cache .ruff_cache
