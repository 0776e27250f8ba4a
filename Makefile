# The two commands a newcomer needs: `make run` and `make test`. Everything else is a shorter way to say a longer thing.
PYTHON ?= python3
PORT ?= 8501
BIN := .venv/bin
export PYTHON

.PHONY: run stop test lint types tests lock clean bench-first-path

run:
	@.setup/install.sh
	@$(BIN)/python -m workers dashboard --port $(PORT)

stop:
	@$(BIN)/python -m workers stop

test:
	@.setup/install.sh dev
	@.setup/browser.sh
	@$(MAKE) --no-print-directory lint types tests

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

tests:
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest

# Writes the exact versions of this .venv down as the constraints every install uses.
lock:
	@.setup/install.sh dev
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/^torch==\([0-9.]*\).*/torch==\1/' > requirements.lock

# How much faster the winner of a two-minute search is, raced again several times. QUICK=1: one short run.
bench-first-path:
	@.setup/install.sh
	$(BIN)/python benchmarks/first_path.py $(if $(QUICK),--quick)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build
