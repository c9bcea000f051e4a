# Two commands matter: `make demo` tells the whole story on a CPU, `make test` proves it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format bench clean

demo: .venv/installed
	$(BIN)/python -m data.demo.story

test: .venv/installed-test
	$(BIN)/python -m pytest

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-test
	$(BIN)/python -m bench.prepare
	$(BIN)/python -m bench.train_step
	$(BIN)/python -m bench.torture_crawl
	@echo 'On a GPU: python -m bench.gpu_session; python -m bench.train_step config/rizospastis.py --compare'
	@echo 'On text of your own: python -m bench.clean FOLDER, bench.dedup FILES, bench.extract FOLDER'

clean:
	rm -rf out/demo out/demo-chat out/demo-dpo data/demo/chat*.jsonl data/demo/preferences.jsonl data/demo/raw data/demo/prepared data/demo/corpus.jsonl data/demo/rejects.jsonl data/demo/datacard.* .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "nanoOracle needs Python 3.10 or newer; this is " + sys.version.split()[0] + ": run make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-test: .venv/bin/python requirements.txt requirements-serve.txt requirements-test.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-test.txt
	touch $@ .venv/installed
