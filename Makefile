PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
VERSIONS ?= 2.6.0 2.15.0
# pinned by torch itself, to other versions by other torches
OF_TORCH := torch|sympy|networkx|mpmath|fsspec|filelock|Jinja2|MarkupSafe|typing_extensions

.PHONY: help train test test-all test-torch lint bench clean

help:  ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

train: $(STAMP)  ## Set up, then compare PUB, plain Adam and single-task models on a simulated log
	$(BIN)/python -m equipoise.study.first_run

test: $(STAMP)  ## Set up, then run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(STAMP)  ## Every test, the slow ones too; then the fast ones on the torch versions of VERSIONS (gigabytes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
	@for v in $(VERSIONS); do $(MAKE) --no-print-directory test-torch V=$$v || exit 1; done

test-torch:  ## The fast tests on torch V, in .versions/V; says so where that torch cannot be installed
	@mkdir -p .versions && grep -vE '^($(OF_TORCH))==' constraints.txt > .versions/constraints.txt
	@if [ -f .versions/$(V)/.ready ] || { rm -rf .versions/$(V) && $(PYTHON) -m venv .versions/$(V) && \
		.versions/$(V)/bin/pip install --quiet --disable-pip-version-check -c .versions/constraints.txt \
		'torch==$(V)' -e '.[dev]' && touch .versions/$(V)/.ready; }; then \
		OMP_NUM_THREADS=1 .versions/$(V)/bin/python -m pytest -n 2 -m "not slow"; \
	else echo "torch $(V) cannot be installed here: not tested"; fi

lint: $(STAMP)  ## Format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)  ## Two of the single benchmarks of docs/results.md (needs DATA=folder)
	$(BIN)/python benchmarks/kuairand.py --data $(DATA)/kuairand_pure
	$(BIN)/python benchmarks/census.py --data $(DATA)/census_income

clean:  ## Remove what was made
	rm -rf .venv .versions runs .pytest_cache .mypy_cache .ruff_cache
