# `make run` and `make test` set everything up by themselves; a second call does not install again.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# `make run TORCH=cpu` takes PyTorch's build without CUDA, which its own index calls the newer one.
TORCH ?= default
INDEX := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)
INSTALLED := $(VENV)/.installed

.PHONY: help run results test lint format viz ui explore browser assets settings notebooks docs clean

help:  ## show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(INDEX) --constraint constraints.txt --editable ".[pipeline,dev]"
	@touch $@

run: $(INSTALLED)  ## the whole chain on digits: distil, compose, classify, report
	$(BIN)/kedro run

results: $(INSTALLED)  ## measure the released students again, digits and MNIST (needs the assets)
	$(BIN)/kedro run --pipelines results
	for variant in colored double_colored wildlife; do \
		$(BIN)/kedro run --env mnist --pipelines results --params variant=$$variant || exit 1; \
	done

test: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

viz: $(INSTALLED)  ## the chain in the browser, on localhost
	$(BIN)/kedro viz run --host 127.0.0.1

ui: $(INSTALLED)  ## the MLflow UI, on localhost
	$(BIN)/kedro ui

explore: $(INSTALLED)  ## teacher, students and classifiers side by side in the browser, on localhost
	$(BIN)/kedro explore

browser:  ## install Chromium for the browser tests (Debian's package)
	.ci/install_chromium

assets: $(INSTALLED)  ## download MNIST, the published teachers and the textures
	$(BIN)/kedro run --env mnist --pipelines fetch

settings: $(INSTALLED)  ## write the tables of settings in docs/ anew
	$(BIN)/python tools/settings_pages.py

notebooks: $(INSTALLED)  ## run the notebooks and write their pages in docs/ anew
	$(BIN)/python notebooks/render.py

docs: settings  ## the documentation, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove the environment; data and results stay
	rm -rf $(VENV)
