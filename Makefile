# The two commands of a newcomer are `make demo` and `make test`; both set up what they need.
SHELL := /bin/bash
PYTHON := .venv/bin/python
export OMP_WAIT_POLICY ?= passive

.PHONY: help setup setup-test demo up send test test-long lint format bench clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## Debian packages and the virtual environment (about two minutes, 3 GB)
	@tools/setup run

setup-test:  ## what the tests need on top: Chromium, OHIF, dcmqi, pixelmed, RabbitMQ, the FHIR peer
	@tools/setup test

demo: setup  ## three synthetic studies go in by C-STORE; results come back; everything stops again
	@.venv/bin/ai-node demo

up: setup  ## the same, kept running, with the OHIF viewer (fetched once)
	@tools/setup viewer
	@.venv/bin/ai-node demo --keep

lint: setup-test  ## format, lint, types, import floors
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format:  ## write the one format
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

test: setup-test  ## everything CI runs: lint, unit, component, system, realdata
	@tools/test

test-long: setup-test  ## the long ones too: 200 random kills, soak
	@tools/test --long

bench: setup-test  ## the figures of the README and the cards
	$(PYTHON) -m bench

clean:  ## remove what was built; data folders stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
