# make demo: everything, on a fresh machine, in one command.   make test: set up and run the tests.
# make soak: some 20,000 mutated files and 200 kills, SEED=n for others.
# make test-all: the tests, then those of the runtimes, the page in Chromium and the notebooks (what .ci/run calls).
PYTHON ?= python3
BIN := .venv/bin
RUNTIMES := mnn ncnn litert coreml

.PHONY: setup demo test test-all soak lint bench clean lock runtimes locks

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml .ci/system.py
	$(PYTHON) .ci/system.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/pip install -q "uv>=0.9"
	$(BIN)/uv pip install -q -p $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install -q -p $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/tristyle experiment=rendered-64

test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile

test-all: test runtimes
	$(BIN)/python -m pytest -m all

soak: setup
	SOAK=1100 SEED=$${SEED:-1} $(BIN)/python -m pytest tests/faults/test_fuzz.py
	KILLS=100 SEED=$${SEED:-1} $(BIN)/python -m pytest -m all tests/faults/test_kill9.py

lint: setup
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy && $(BIN)/lint-imports && $(BIN)/deptry .

bench: setup
	$(BIN)/python -m tests.bench.style
	$(BIN)/python -m tests.bench.sample
	$(BIN)/python -m tests.bench.pair
	$(BIN)/python -m tests.bench.write
	$(BIN)/python -m tests.bench.student
	$(BIN)/python -m tests.bench.page

# An interpreter for each runtime that `export=` names and this one lacks.
runtimes: $(RUNTIMES:%=.venv-%/ready)

.venv-%/ready: .ci/locks/%.lock | setup
	$(BIN)/uv venv -q --allow-existing -p $(BIN)/python $(@D)
	$(BIN)/uv pip install -q -p $(@D)/bin/python -r $<
	touch $@

clean:
	rm -rf .venv $(RUNTIMES:%=.venv-%) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache

COMPILE := $(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -p 3.11

lock: setup
	$(COMPILE) --extra onnx --extra video --extra launch --extra dev pyproject.toml -o requirements.lock

# Each runtime's own list in pyproject.toml, at the main lock's versions; litert-torch wants an older torch than that.
locks: setup
	for name in $(RUNTIMES); do \
	    $(BIN)/python .ci/extra.py $$name | $(COMPILE) --no-annotate \
	        $$(test $$name = litert || echo -c requirements.lock) - -o .ci/locks/$$name.lock || exit 1; \
	done
