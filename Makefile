# Each target does its own set-up in .venv; nothing outside the checkout is touched.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test bench results clean

demo: .venv/installed
	$(BIN)/python -m tasks.demo

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

bench: .venv/installed-bench
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.encoders
	$(BIN)/python -m benchmarks.scan
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.playlist
	$(BIN)/python -m benchmarks.factors
	$(BIN)/python -m benchmarks.radio
	$(BIN)/python -m benchmarks.votes
	$(BIN)/python -m benchmarks.index

results: .venv/installed
	$(BIN)/python -m benchmarks.results
	$(BIN)/python -m benchmarks.thumbs
	$(BIN)/python -m benchmarks.curves
	$(BIN)/python -m benchmarks.harmony

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
