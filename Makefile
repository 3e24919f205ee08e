# Everything that is done with a checkout. Needs make, git and Python 3.11 or newer with pip and venv.
# Another interpreter: make PYTHON=python3.12 demo        Another place for the environment: make VENV=/tmp/venv demo

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --quiet --quiet --disable-pip-version-check

# Where torch's CPU build is taken from when pip as it is set up here does not find it.
TORCH_INDEX := https://download.pytorch.org/whl/cpu

# PyPI has CUDA builds of these; with torch's CPU build they break vLLM, which needs them for images and sound only.
UNLOCKED := torchvision torchaudio torchcodec

# Debian packages that the tests marked `system` need.
SYSTEM_PACKAGES := chromium postgresql munge slurmctld slurmd slurm-client

# What only the tests marked `system` need of Ray, so that the lock does without its 80 MB.
RAY := ray==2.60.0 msgpack==1.2.4

# Two files of tests at once: most of what they wait for is the start of other processes, on one core each.
AT_ONCE := -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo test test-thorough test-all system-packages check ui lock schema clean

help:  ## Explain the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

install: $(VENV)/installed  ## Make .venv and install the locked CPU runtime, the tools and this project (minutes, once)

demo: $(VENV)/installed  ## Both arms on real vLLM on this machine's CPU, with report and MLflow store (5 minutes)
	@echo "Running python -m bi_experiments experiment=cpu_demo: 5 minutes on two cores."
	@$(RUN) -m bi_experiments experiment=cpu_demo

test: $(VENV)/installed  ## Every test that needs nothing but Python and pip, including real vLLM on the CPU
	@$(RUN) -m pytest $(AT_ONCE) -m "not system and not thorough"

test-thorough: $(VENV)/installed  ## The same on more models, and with compiled kernels (25 minutes)
	@$(RUN) -m pytest -m thorough

test-all: test system-packages $(VENV)/ray  ## The same and the tests that need system packages (installed when root and apt-get allow)
	@if grep --recursive --quiet --include='*.py' 'mark\.system' tests; then $(RUN) -m pytest $(AT_ONCE) -m system; \
	else echo "No test needs system packages."; fi

system-packages:
	@missing=; for package in $(SYSTEM_PACKAGES); do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then echo "There is no apt-get: tests that need these are skipped:$$missing"; \
	elif [ "$$(id -u)" != 0 ]; then echo "Only root may install: tests that need these are skipped:$$missing"; \
	else echo "Installing Debian packages:$$missing"; apt-get -qq update && \
	DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends install $$missing >/dev/null; fi

check: $(VENV)/installed  ## Lint, format and types: ruff and mypy --strict
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

ui: $(VENV)/installed  ## The MLflow UI on the store that runs started here have written
	@test -f mlflow.db || { echo "There is no mlflow.db here yet: run make demo first." >&2; exit 1; }
	@echo "In a minute, the most expensive experiment first: http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=cost&workflowType=machine_learning"
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(RUN) -m mlflow ui --backend-store-uri sqlite:///mlflow.db --workers 1

lock: $(RUN)  ## Resolve the newest versions that pyproject.toml allows into requirements.lock (minutes)
	@echo "Resolving, a few minutes. If torch's CPU build is not found: PIP_EXTRA_INDEX_URL=$(TORCH_INDEX) make lock"
	@$(PIP) install --dry-run --ignore-installed --report $(VENV)/resolution.json '.[cpu,dev,joblib,optuna,slurm]'
	@$(RUN) -c "$$LOCK" $(UNLOCKED) < $(VENV)/resolution.json > $(VENV)/requirements.lock
	@mv $(VENV)/requirements.lock requirements.lock

schema: $(VENV)/installed  ## The JSON schema of result.json, into docs/, after a change of records.py
	@$(RUN) -c "from bi_experiments.records import json_schema; print(json_schema(), end='')" > docs/result.schema.json

clean:  ## Remove .venv, builds and caches; results (outputs, multirun, mlflow.db) stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "$(PYTHON) is not Python 3.11\
	 or newer (found: $$($(PYTHON) --version 2>&1 | head -1)): run make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it (on Debian\
	 and Ubuntu: apt install python3-venv) or run make PYTHON=... with another interpreter" >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)."
	@$(PYTHON) -m venv $(VENV)

# --no-deps throughout: the lock is complete, and what it leaves out must not come in.
$(VENV)/installed: requirements.lock pyproject.toml | $(RUN)
	@test "$$(uname -sm)" = "Linux x86_64" || { echo "requirements.lock is for Linux on x86-64 (found: $$(uname -sm)):\
	 run $(RUN) -m pip install --extra-index-url $(TORCH_INDEX) --editable '.[cpu,dev]'" >&2; exit 1; }
	@echo "1 of 3: installing torch's CPU build (200 MB, loaded once)."
	@torch=$$(grep '^torch==' requirements.lock); $(PIP) install --no-deps $$torch 2>/dev/null || { \
	echo "$$torch is not where pip looks by default: taking it from $(TORCH_INDEX)."; \
	$(PIP) install --no-deps --index-url $(TORCH_INDEX) $$torch; }
	@echo "2 of 3: installing vLLM and the rest of requirements.lock (850 MB, 1 to 5 minutes the first time)."
	@$(PIP) install --no-deps --requirement requirements.lock
	@echo "3 of 3: installing this project."
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/ray: $(VENV)/installed
	@echo "Installing Ray, which only these tests need (80 MB)."
	@$(PIP) install --no-deps $(RAY)
	@touch $@

define LOCK
import json, sys
resolution = json.load(sys.stdin)
print("# The CPU runtime, the tests' and the checks' tools: everything that make installs, made by: make lock")
print("# Resolved for Python", resolution["environment"]["python_version"], "on", resolution["environment"]["platform_machine"])
print("# Left out, so install with --no-deps:", *sys.argv[1:])
packages = {item["metadata"]["name"].lower(): item["metadata"] for item in resolution["install"]}
for name in sorted(packages.keys() - {"bi_experiments", "bi-experiments", *sys.argv[1:]}):
    print(packages[name]["name"] + "==" + packages[name]["version"])
endef
export LOCK
