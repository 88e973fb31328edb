# Two commands matter: `make demo` and `make test`. Both install what they need into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROMPT ?= The capital of the state containing Dallas is
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test check proof external bench web lint browser clean

demo: $(READY)  ## Trace a prompt of the embedded model and open the explorer.
	$(BIN)/glassworks trace "$(PROMPT)" --out artefacts/demo --open

test: $(READY) lint browser  ## Every check that CI must see.
	$(BIN)/python -m pytest

check: $(READY) lint  ## The fast subset, while you work.
	$(BIN)/python -m pytest -m "not slow and not browser"

proof: $(READY)  ## The long proofs; they write JSON to benchmarks/results.
	$(BIN)/python -m pytest proofs

external: $(READY)  ## Compare with the libraries whose files we read and write, in an environment of their own.
	$(BIN)/python tests/external/run.py

bench: $(READY)  ## Timings; they write JSON to benchmarks/results.
	$(BIN)/python benchmarks/trace.py
	$(BIN)/python benchmarks/coders.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/edits.py
	$(BIN)/python benchmarks/training.py --budget-minutes 120
	$(BIN)/python benchmarks/training_end_to_end.py

web: $(READY)  ## Fetch the explorer's libraries again.
	$(BIN)/python hatch_build.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python hatch_build.py --check

browser:
	scripts/browser

$(READY): pyproject.toml constraints.txt hatch_build.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	scripts/install $(BIN)/python
	touch $@

clean:
	rm -rf $(VENV) dist build artefacts
