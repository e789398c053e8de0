# Two verbs matter: `make reports` runs the main job, `make test` checks everything.
PYTHON ?= python3
BIN := .venv/bin
SCALE ?= demo
PROFILE ?= demo
KILLS ?= 200

.PHONY: reports test setup jupyter lint bench chaos clean

reports: setup            ## demo corpora, every notebook for every tenant, reports/index.html
	@$(BIN)/lab data make --scale $(SCALE)
	@$(BIN)/lab run --profile $(PROFILE)

test: setup               ## the whole test suite
	@$(BIN)/python -m pytest -n auto --dist loadgroup

setup: .venv/.installed   ## .venv with the packages pinned in constraints.txt

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed, got $$($(PYTHON) --version); set PYTHON=..."; exit 1; }
	@echo "Installing into .venv (about 3 GB with torch); the first time this takes some minutes."
	@$(PYTHON) -m venv .venv || { echo "python3 lacks venv; on Debian: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[demo,test,train]"
	@touch $@

jupyter: setup            ## JupyterLab on the notebooks
	@$(BIN)/jupyter lab --notebook-dir=. notebooks

lint: setup               ## style, floors, notebooks without outputs
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports
	@$(BIN)/nbstripout --verify notebooks/*.ipynb

bench: setup              ## the figures that the README claims, measured here
	@$(BIN)/python tests/benchmarks/bench_lab.py

chaos: setup              ## writers to the ledger and whole runs killed 200 times (hours): what is lost, doubled, repeated
	@LAB_KILLS=$(KILLS) $(BIN)/python -m pytest -q -s tests/test_ledger.py -k killed
	@LAB_RUN_KILLS=$(KILLS) $(BIN)/python -m pytest -q -s tests/test_chaos.py

clean:                    ## everything that was made, except .venv and your own data
	@rm -rf .cache reports/*/ reports/*.html .ruff_cache .import_linter_cache
