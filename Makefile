# Two commands do everything: `make demo` and `make test`. Each creates .venv on first use and installs what it needs.
# In an environment of your own:  pip install -e '.[dense,export,notebooks,tests]' && make demo VENV=   (an empty VENV installs nothing)

PYTHON ?= python3
VENV ?= .venv

ifeq ($(VENV),)
RUN := $(PYTHON)
else
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
DOCS_INSTALLED := $(VENV)/docs-installed
endif

.PHONY: demo test test-long test-slow test-all test-faults test-fuzz reliability bench gpu docs check format clean
demo: $(INSTALLED)
	$(RUN) -m mmadclr demo $(ARGS)

# One process per core; whole files are distributed in the order of the folders, the longest first.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	$(PYTEST) $(ARGS)

# Whole programs, several processes, compilers, notebooks and the wheel.
test-long: $(INSTALLED)
	$(PYTEST) -m 'long and not slow' $(ARGS)

test-slow: $(INSTALLED)
	$(RUN) -m pytest -m slow $(ARGS)

test-all: $(INSTALLED)
	$(RUN) -m pytest -m '' $(ARGS)

# Real faults in real runs; `make reliability` tries those at random moments more often, and writes the results into docs/.
test-faults: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/faults -m '' -n auto $(ARGS)

# Thousands of damaged images, lists, masks, annotations, checkpoints and overrides; `make test` runs a few of them, always
# the same. For other ones: ARGS='--hypothesis-seed=1'.
test-fuzz: $(INSTALLED)
	$(RUN) -m pytest tests/fuzz -m '' --hypothesis-profile=long $(ARGS)

reliability: $(INSTALLED)
	RELIABILITY_REPORT=docs $(RUN) -m pytest tests/faults -m '' $(ARGS)

bench: $(INSTALLED)
	$(RUN) benchmarks/run.py $(ARGS)

# On a machine with a CUDA GPU: correctness, speed, profile and learning results, written to docs/gpu.md.
gpu: $(INSTALLED)
	$(RUN) benchmarks/gpu.py $(ARGS)

# The pages of docs/ as a site in site/; a warning is an error. It builds and opens without network access.
docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict $(ARGS)

check: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(INSTALLED)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) site data/shapes data/scenes work_dirs/demo

$(VENV)/installed: setup.py pyproject.toml $(wildcard requirements/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -e '.[dense,export,notebooks,tests]'
	touch $@

# The API pages are generated from the source, without importing torch or other dependencies.
$(VENV)/docs-installed: requirements/docs.txt requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -r requirements/docs.txt
	touch $@
