# Two commands matter: `make demo` and `make test`. Both install what they need into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.tools
PYTEST := $(BIN)/python -m pytest
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal
PROMPT ?= The capital of the state containing Dallas is
UPGRADE ?=
NAME ?= smallworld-m
export PYTHON
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test check compat lock size smallworld proof external bench web lint browser clean

demo: $(INSTALLED)  ## Trace a prompt of the embedded model and open the explorer.
	$(BIN)/glassworks trace "$(PROMPT)" --out artefacts/demo --open

test: $(TOOLS) lint browser  ## Every check that CI must see.
	$(PYTEST) $(PARALLEL)

check: $(TOOLS) lint  ## The fast subset, while you work.
	$(PYTEST) $(PARALLEL) -m "not slow and not browser"

compat: $(TOOLS)  ## Models, coders, harvest and edits with the oldest and the newest libraries that pyproject.toml allows.
	$(BIN)/python scripts/compat.py

lock: $(TOOLS)  ## Pin every distribution again; UPGRADE="--upgrade-package NAME" lets a new release in.
	$(BIN)/python -m pip --quiet install --constraint constraints.txt uv
	scripts/lock $(VENV) $(UPGRADE)

size: $(INSTALLED)  ## A table of rooms: lines, statements, functions, classes, body share, public names.
	$(BIN)/python scripts/size.py

smallworld: $(INSTALLED)  ## Train an embedded model and its scope anew, NAME=smallworld-s; about an hour.
	$(BIN)/python -m recipes.smallworld $(NAME)

proof: $(TOOLS)  ## The long proofs; they write JSON to benchmarks/results.
	$(PYTEST) proofs

external: $(TOOLS)  ## Compare with the libraries whose files we read and write, in an environment of their own.
	$(BIN)/python tests/external/run.py

bench: $(TOOLS)  ## Timings; they write JSON to benchmarks/results.
	$(BIN)/python benchmarks/trace.py
	$(BIN)/python benchmarks/coders.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/edits.py
	$(BIN)/python benchmarks/training.py --budget-minutes 120
	$(BIN)/python benchmarks/training_end_to_end.py

web: $(TOOLS)  ## Fetch the explorer's libraries again.
	$(BIN)/python hatch_build.py

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python hatch_build.py --check

browser:
	scripts/browser

$(INSTALLED): pyproject.toml constraints.txt hatch_build.py scripts/install
	scripts/install $(VENV)
	touch $@

$(TOOLS): $(INSTALLED)
	scripts/install $(VENV) test
	touch $@

clean:
	rm -rf $(VENV) dist build artefacts
