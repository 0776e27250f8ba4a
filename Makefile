# The two commands a newcomer needs: `make run` and `make test`. Everything else is a shorter way to say a longer thing.
PYTHON ?= python3
PORT ?= 8501
BIN := .venv/bin
export PYTHON

.PHONY: run stop test lint types tests lock clean bench-first-path bench-models bench-every-model bench-strategies bench-compile-depth bench-latent-attention bench-activation-plan bench-export-sizes bench-truth bench-search bench-search-tables

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
	OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Writes the exact versions of this .venv down as the constraints every install uses.
lock:
	@.setup/install.sh dev
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/^torch==\([0-9.]*\).*/torch==\1/' > requirements.lock

# How much faster the winner of a two-minute search is, raced again several times. QUICK=1: one short run.
bench-first-path:
	@.setup/install.sh
	$(BIN)/python benchmarks/first_path.py $(if $(QUICK),--quick)

# How good every shipped model is on all its held-out data, and what bfloat16 and int8 do to it. QUICK=1: 64 rows of each.
bench-models:
	@.setup/install.sh
	$(BIN)/python benchmarks/model_quality.py $(if $(QUICK),--quick)

# Sends every model of the registry through a whole run, started in a real browser. QUICK=1: 30 s for each.
bench-every-model:
	@.setup/install.sh dev
	@.setup/browser.sh
	$(BIN)/python benchmarks/every_model.py $(if $(QUICK),--quick)

# Every setting on every model at tiny and small, and the best ensemble of each; hours. QUICK=1: half an hour. RESUME=1 goes on.
bench-strategies:
	@.setup/install.sh
	$(BIN)/python benchmarks/strategies.py $(if $(QUICK),--quick) $(if $(RESUME),--resume)
	$(BIN)/python benchmarks/shipped_history.py

# What absorbing is worth on one attention of a DeepSeek decode, against an expanded cache. QUICK=1: one context, 20 rounds.
bench-latent-attention:
	@.setup/install.sh
	$(BIN)/python benchmarks/latent_attention.py $(if $(QUICK),--quick)

# What compiling costs at 4 and at 12 layers, whole and block by block. QUICK=1: 4 and 8.
bench-compile-depth:
	@.setup/install.sh
	$(BIN)/python benchmarks/compile_depth.py $(if $(QUICK),--quick)

# What a planned arena for all results would save of eager's peak memory, model by model. QUICK=1: three models.
bench-activation-plan:
	@.setup/install.sh
	$(BIN)/python benchmarks/activation_plan.py $(if $(QUICK),--quick)

# What it costs to export a model with open image sizes, for other runtimes. QUICK=1: one round.
bench-export-sizes:
	@.setup/install.sh
	$(BIN)/python benchmarks/export_sizes.py $(if $(QUICK),--quick)

# Whether the measurements themselves can be trusted, on this machine; two hours. QUICK=1: six minutes. RESUME=1 goes on.
bench-truth:
	@.setup/install.sh
	$(BIN)/python benchmarks/truth.py $(if $(QUICK),--quick) $(if $(RESUME),--resume)

# Which way of searching finds the best recipe, replayed from the checked-in tables; under five minutes. QUICK=1: ten seeds.
bench-search:
	@.setup/install.sh dev
	$(BIN)/python benchmarks/search/replay.py $(if $(QUICK),--quick)

# Measures every recipe of one subject for bench-search; up to an hour, goes on where it was ended. SUBJECT="convnet tiny forward"
SUBJECT ?= convnet tiny forward
bench-search-tables:
	@.setup/install.sh
	$(BIN)/python benchmarks/search/build_table.py $(SUBJECT)
	$(BIN)/python benchmarks/shipped_history.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build
