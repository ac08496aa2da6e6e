# make demo | check | test | chaos | mutants | mutmut | nightly | agreement | gpu-check | lint | install | lock        (Linux, Python 3.11 to 3.13, no GPU needed)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo check test chaos mutants mutmut nightly agreement gpu-check lint install lock clean

demo: install
	$(BIN)/ultraif run demo

# The fast loop: all that starts neither Ray, nor vLLM, nor a browser, and is not slow.
check: lint
	$(BIN)/python -m pytest -n 2 -m "not (ray or vllm or browser or slow or long)"

# Lint and all tests of `check`, with all others. Two lanes for two cores: a third only makes them wait for each other.
# Tests of one group share an engine or a cluster, and a lane; the slowest come first, and those of `check` last.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 20 -m "not long"

# Some thirty kills of every kind at random moments, six of them on real vLLM, four in a run that trains, four on a
# store that is late and fails; then thirty runs whose folder fails.
chaos: install
	$(BIN)/python -m tests.chaos.campaign
	$(BIN)/python -m tests.chaos.store

# Faults put into the product by hand, one at a time; each must be noticed by the tests named beside it. They say
# something where `make test` is green.
mutants: install
	$(BIN)/python -m tests.mutants

# Every small fault that mutmut can think of in the rooms whose tests take seconds; an hour or more. It
# remembers what it has tried, and does not see that a test has changed: so it begins anew.
mutmut: install
	rm -rf mutants
	$(BIN)/mutmut run --max-children 1
	$(BIN)/mutmut results

# What takes too long for every push.
nightly: test
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m tests.mutants
	$(MAKE) chaos
	$(BIN)/ultraif run demo

# IFEval's figures of Google's GPT-4 answers, which are not shipped: make agreement DATA=FOLDER
agreement: install
	$(BIN)/python -m tests.agreement $(DATA)

# What no CPU can prove, by whatever PYTHON has: the CPU set is not for this. make gpu-check PYTHON=python3 ARGS="--json OUT"
gpu-check:
	PYTHONPATH=$(CURDIR) $(PYTHON) -m tests.gpu_check $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

install: $(STAMP)

# The pinned CPU set. torch comes by itself: pip as configured may have the CPU build at hand; if not, uv knows
# where PyTorch publishes it. PyPI's torch would be a CUDA build of several gigabytes.
$(STAMP): requirements/cpu.lock requirements/torch-cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  sys.exit(0 if (3, 11) <= v < (3, 14) else "Python 3.11 to 3.13 is needed, $(PYTHON) is %d.%d: make PYTHON=python3.11 install" % v)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-deps --require-hashes -r requirements/cpu.lock
	$(PIP) install --quiet --no-deps --require-hashes -r requirements/torch-cpu.txt || \
	  $(BIN)/uv pip install --python $(BIN)/python --torch-backend cpu --no-deps --require-hashes -r requirements/torch-cpu.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Names, versions and hashes for every platform; no addresses.
lock: install
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	  --extra cpu --extra train --extra eval --extra packaged --extra cloud --extra dev \
	  requirements/cpu.in --override requirements/overrides.txt --output-file requirements/cpu.lock
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	  --extra gpu --extra train --extra eval --extra packaged --extra cloud \
	  --override requirements/overrides-gpu.txt --output-file requirements/gpu.lock

clean:
	rm -rf $(VENV) mutants
