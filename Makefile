PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo fleet test check simulate simulate-fleet chaos chaos-fleet bench bench-durable bench-fleet bench-middleware soak format clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

ifeq ($(origin PYTHON),command line) # asked for another Python than the one in .venv: that is made anew
ifneq ($(shell $(BIN)/python -V 2>&1),$(shell $(PYTHON) -V 2>&1))
.PHONY: .venv/.installed
endif
endif

setup: .venv/.installed ## Make .venv with all that is needed (another Python: make setup PYTHON=python3.13)

demo: setup ## Replay four years of a help desk through its rules
	@$(BIN)/python -m examples.helpdesk

fleet: setup ## The same on several workers over Redis, of which one is killed now and then
	@$(BIN)/python -m examples.fleet

test: setup ## Run all tests, the examples and the code in the docs, with branch coverage
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: setup ## What CI runs: format, lint, types, layers, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@$(MAKE) --no-print-directory test

simulate: setup ## Run the engine in SEEDS simulated worlds (FIRST is the first seed), on all cores
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0)

simulate-fleet: setup ## The same for many workers on a store that they share
	@$(BIN)/python -m tests.simulation --fleet --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0)

chaos: setup ## Kill a service under load KILLS times, and look at what it leaves (SEED draws the moments)
	@$(BIN)/python -m tests.chaos --kills $(or $(KILLS),500) $(and $(SEED),--seed $(SEED))

chaos-fleet: setup ## The same with workers on real servers: an hour; ONLY=kills is one part of it (SEED draws)
	@$(BIN)/python -m tests.chaos.fleet $(and $(ONLY),--only $(ONLY)) $(and $(SEED),--seed $(SEED))

bench: setup ## Measure the speed
	$(BIN)/python -m benchmarks

bench-durable: setup ## Measure the SQLite store, next to what the disk can do
	$(BIN)/python -m benchmarks.durable

bench-fleet: setup ## Measure workers over Redis, next to peers and a hand-written loop
	$(BIN)/python -m benchmarks.fleet

bench-middleware: setup ## Measure what each middleware adds to an event
	$(BIN)/python -m benchmarks.middleware

soak: setup ## Ten minutes of a mixed load on a file, to see whether anything grows
	$(BIN)/python -m benchmarks.durable.soak

format: setup ## Format, and fix what can be fixed
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## Remove .venv and all that was made
	rm -rf .venv .bench .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml constraints.txt
	@[ "$$($(BIN)/python -V 2>/dev/null)" = "$$($(PYTHON) -V)" ] || rm -rf .venv
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	"onwhen needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another: make setup PYTHON=python3.13" % v[:2])'
	@echo "Installing into .venv (a minute, the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,dev]' -c constraints.txt
	@touch $@
