# Every target does its own set-up: `make demo` on a fresh clone needs Python 3.11 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
LAB_STAMP := $(VENV)/.lab
ROOTS := proto/ceiba_protocol node/ceiba_node coordinator/ceiba_coordinator sdk/ceiba scenarios/ceiba_scenarios

.PHONY: setup demo test test-long test-fast mutants check proto vectors bench peers clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(LAB_STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lab]'
	touch $@

demo: $(LAB_STAMP)     ## start a space of four hospitals, ask, check, stop
	$(BIN)/ceiba-lab run health_sharing

test: setup            ## everything that CI runs
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long"  # a file's tests share a running space

test-long: setup       ## what `test` leaves out: most live attacks, most crashes, longer games
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long

test-fast: setup       ## without what starts processes or takes more than a few seconds
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

mutants: setup         ## does a test fail for every small change of the modules that decide? minutes
	$(BIN)/python -m tests.support.check_mutants

check: setup           ## style, types, layers, generated code, README
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.support.check_generated
	$(BIN)/python -m tests.support.check_readme

proto: setup           ## rebuild the generated wire schema
	cd proto && PATH="$(CURDIR)/$(BIN):$$PATH" python -m grpc_tools.protoc -I . --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. ceiba_protocol/v1/*.proto

vectors: setup         ## rebuild tests/vectors
	$(BIN)/python -m tests.vectors.rebuild

bench: setup           ## measure against named baselines; JSON and a table in bench/results
	test -x .psi/bin/python || $(PYTHON) -m venv .psi  # openmined-psi pins an old protobuf
	.psi/bin/python -m pip install --quiet --disable-pip-version-check 'openmined-psi>=2.0.6,<3'
	$(BIN)/python -m bench

peers: setup           ## the same questions to other systems, in an environment of their own
	test -x .peers/bin/python || $(PYTHON) -m venv .peers
	.peers/bin/python -m pip install --quiet --disable-pip-version-check 'mpyc>=0.11,<1' 'flwr>=1.42,<1.43'
	$(BIN)/python -m bench.peers

clean:
	rm -rf $(VENV) .peers .psi build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
