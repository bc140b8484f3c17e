# Every target makes the environment it needs. Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The targets below are phony: none makes a file of its name.
.PHONY: env site demo weights benchmark package wheel test coverage test-slow test-wheel fuzz test-label label lint format clean

env: $(STAMP)

# torch goes first and alone: where a CPU build lies at hand pip takes it, and nothing else may pull another build in.
$(STAMP): constraints.txt pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

# Four minutes: the shipped weights on six painted cases, a training of a minute, and their reports.
demo: env
	$(BIN)/roi-fusion demo --output demo

# HEADS: packed label maps of heads (.npz). LESIONS: packed real lesion masks (.npz). All go on where they were interrupted.
HEADS ?= ../shared/data/head_labels.npz
LESIONS ?= ../shared/data/soop_lesions.npz
OUTPUT ?= build

weights: env
	$(BIN)/roi-fusion dev weights --output $(OUTPUT)/weights --label_maps $(HEADS) --lesions $(LESIONS)

benchmark: env
	for part in quality speed robustness; do \
	    $(BIN)/roi-fusion benchmark $$part --output $(OUTPUT)/benchmark --lesions $(LESIONS) || exit 1; \
	    cp $(OUTPUT)/benchmark/$$part.json bundle/docs/results/; done
	$(BIN)/roi-fusion dev documents

package: env
	$(BIN)/roi-fusion dev package

# The package for pip, with configs and weights inside. What an earlier build left would go into it.
wheel: env
	rm -rf build/lib build/bdist.*
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

# The documents as a web site in build/site; a dead link ends it.
site: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Installs the wheel into an empty environment outside of the repository, and runs help, a prediction and the demonstration.
test-wheel: wheel
	PYTHON="$(PYTHON)" sh tests/wheel.sh dist/roi_fusion-*.whl

# Each file is tested by one process of one thread.
JOBS ?= 2

test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

coverage: env
	$(BIN)/python -m pytest --cov --cov-report term:skip-covered

# TESTS: files or tests, where not all slow ones are to run.
TESTS ?=

test-slow: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses $(JOBS) --dist loadfile $(TESTS)

# MONAI Label has an environment of its own: it needs older packages. torch goes first here too; monailabel without its own
# requirements, because one of them (sam2) builds against a torch of its own choice and is not used; the extra lists the others.
LABEL := .venv-label
LABEL_STAMP := $(LABEL)/.installed

$(LABEL_STAMP): constraints-label.txt pyproject.toml setup.py
	test -x $(LABEL)/bin/python || $(PYTHON) -m venv $(LABEL)
	$(LABEL)/bin/pip install --quiet --constraint constraints-label.txt torch
	$(LABEL)/bin/pip install --quiet --constraint constraints-label.txt --no-deps monailabel
	$(LABEL)/bin/pip install --quiet --constraint constraints-label.txt --editable ".[label]"
	$(LABEL)/bin/python tests/torchvision_shim.py
	touch $(LABEL_STAMP)

STUDIES ?=
HOST ?= 127.0.0.1
PORT ?= 8000
# Names and addresses, with commas between, under which other machines reach it.
ALLOWED_HOSTS ?=

label: $(LABEL_STAMP)
	$(LABEL)/bin/roi-fusion label $(if $(STUDIES),--studies "$(STUDIES)") --host $(HOST) --port $(PORT) $(if $(ALLOWED_HOSTS),--allowed_hosts "$(ALLOWED_HOSTS)")

# Ten data sets of 300 malformed studies each through every door; the normal suite tries one.
fuzz: env
	FUZZ_SETS=10 FUZZ_SEED=$${FUZZ_SEED:-1} $(BIN)/python -m pytest tests/test_fuzz.py

test-label: $(LABEL_STAMP)
	$(LABEL)/bin/python -m pytest -m label tests/test_label_app.py

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint docker/Dockerfile docker/label.Dockerfile
	$(BIN)/mypy
	cd scripts/roi_fusion_tools/label_app && MYPYPATH=../../../bundle:../.. ../../../$(BIN)/mypy --config-file ../../../pyproject.toml --cache-dir ../../../.mypy_cache/label_app --exclude '^$$' *.py

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LABEL) demo build dist .pytest_cache .mypy_cache .ruff_cache
