# What a person does with a clone of medmoe. `make help` lists it; every target installs first when needed.

PYTHON ?= python3
OUT ?= runs/demo

# The demo: patients to learn from, to validate on and to be tested on (each of another seed, so none is shared), and
# the image side in pixels.
TRAIN_PATIENTS ?= 8000
VAL_PATIENTS ?= 300
TEST_PATIENTS ?= 900
SIZE ?= 64
TRAIN_FLAGS ?=
TASKS ?= routing,zeroshot_retrieval,zeroshot_classification,grounding

BIN := .venv/bin
READY := .venv/.installed
DATA := $(OUT)-data
# A data set counts as there once its stamp is, which bears its sizes: others make it anew.
TRAIN_READY := $(DATA)/train.$(TRAIN_PATIENTS)x$(SIZE).ready
VAL_READY := $(DATA)/val.$(VAL_PATIENTS)x$(SIZE).ready
TEST_READY := $(DATA)/test.$(TEST_PATIENTS)x$(SIZE).ready

# Two threads, and no process beside them that reads images: images are kept once read, and a reader would take turns
# with the second thread. glibc keeps what a step frees for the next one, instead of handing it back to the kernel.
RUN_ENV := OMP_NUM_THREADS=2 MKL_NUM_THREADS=2 \
  MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=2000000000 MALLOC_TOP_PAD_=67108864

# Two workers with one thread each: torch's own threads would fight over the cores.
TEST_ENV := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
WORKERS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test check fmt clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) (3.10 or newer), OUT=$(OUT) (the demo's run folder)"

install: $(READY) ## Create .venv and install medmoe with what its tests need

$(READY): pyproject.toml constraints.txt
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "medmoe needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo not found)."; \
	  echo "Name another one: make install PYTHON=python3.12"; exit 1; }
	@echo "Installing into .venv (several minutes the first time: torch is large)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(TRAIN_READY) $(VAL_READY) $(TEST_READY) ## Train, evaluate and report on phantoms (about four minutes on two cores)
	$(RUN_ENV) $(BIN)/medmoe train tiny --train-data $(DATA)/train --train-split all --val-data $(DATA)/val --val-split all \
	  --out $(OUT) --resume latest --workers 0 --set data.cache_mb=1000 $(TRAIN_FLAGS)
	$(RUN_ENV) $(BIN)/medmoe eval $(OUT) --data $(DATA)/test --split all --tasks $(TASKS) --json $(OUT)/summary.json
	@echo "Done: open $(OUT)/report.html; the figures are in $(OUT)/summary.json"

# Evaluation also writes the report.
# A phantom folder counts as there only once it is complete; an interrupted one is made again.
$(TRAIN_READY): | $(READY)
	rm -rf $(DATA)/train $(DATA)/train.*.ready
	$(BIN)/medmoe data phantom --out $(DATA)/train --patients $(TRAIN_PATIENTS) --size $(SIZE) --seed 1 --workers 2
	@touch $@

$(VAL_READY): | $(READY)
	rm -rf $(DATA)/val $(DATA)/val.*.ready
	$(BIN)/medmoe data phantom --out $(DATA)/val --patients $(VAL_PATIENTS) --size $(SIZE) --seed 3 --workers 2
	@touch $@

$(TEST_READY): | $(READY)
	rm -rf $(DATA)/test $(DATA)/test.*.ready
	$(BIN)/medmoe data phantom --out $(DATA)/test --patients $(TEST_PATIENTS) --size $(SIZE) --seed 2 --workers 2
	@touch $@

test: $(READY) ## Run every test, with branch coverage and no network
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term:skip-covered --cov-fail-under=90

check: $(READY) ## Lint, check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(READY) ## Format and apply the safe fixes
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## Remove caches and build output (.venv and runs/ stay)
	rm -rf build dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
