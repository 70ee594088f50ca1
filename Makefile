# Thin: each line calls a real tool. every target sets up what it needs by itself.
PYTHON ?= python3
BIN := .venv/bin
RUN := PYTHONDONTWRITEBYTECODE=1 $(BIN)
SEEDS ?= 20000
SMOKE := $(patsubst %,tests/simulation/test_%_simulation.py,lease failover regions)

.PHONY: demo bootstrap test-tools test check lint lock up down simulate mutants bench-failover bench-controller bench-noise bench-witness bench-metrics bench-events faults event-faults hostile fuzz clean

bootstrap:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("farside needs Python 3.11 or later: install it, then make PYTHON=python3.11 ...")'
	@$(PYTHON) infra/local/bootstrap.py

test-tools: bootstrap
	@$(PYTHON) infra/local/bootstrap.py --tests

demo: bootstrap
	@$(BIN)/farside demo $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) $(if $(REPORT),--report $(REPORT)) $(if $(STORY),--story $(STORY))

lint: bootstrap
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports --no-cache

check: lint
	$(RUN)/pytest tests/core tests/test_tidy.py $(SMOKE) -m "not full and not servers and not torch" -n 2

test: lint test-tools
	$(RUN)/pytest tests -m "not servers and not torch and not alone" -n 2
	$(RUN)/pytest tests -m "(servers or torch) and not alone" -n 2 --dist loadfile
	$(RUN)/pytest tests -m alone

up down: bootstrap
	@$(BIN)/farside $@

simulate: bootstrap
	$(RUN)/python -m tests.simulation --seeds $(SEEDS) $(if $(WORLD),--world $(WORLD)) $(if $(MINUTES),--minutes $(MINUTES))

mutants: bootstrap
	$(RUN)/python -m tests.mutants

bench-failover: bootstrap
	$(RUN)/python -m tests.benchmarks.failover $(if $(KILLS),--kills $(KILLS)) $(if $(PROFILE),--profile $(PROFILE))

faults: bootstrap
	$(RUN)/python -m tests.integration.fault_rounds $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json) $(if $(LOGS),--logs $(LOGS))

event-faults: bootstrap
	POINTS=all CUT_S=$(or $(CUT_S),60) $(RUN)/pytest tests/integration/test_event_faults.py --durations=0

hostile: bootstrap
	@$(RUN)/python -m tests.hostile $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json)

bench-controller: bootstrap
	$(RUN)/python -m tests.benchmarks.controller --runs $(or $(RUNS),1000)

bench-noise: bootstrap
	$(RUN)/python -m tests.benchmarks.noisy_links $(if $(HOURS),--hours $(HOURS))

bench-witness: bootstrap
	$(RUN)/python -m tests.benchmarks.witness $(if $(OUTAGES),--seconds $(OUTAGES))

fuzz: bootstrap
	$(RUN)/python -m tests.fuzz --count $(or $(COUNT),1000000) $(if $(SEED),--seed $(SEED))

bench-metrics: bootstrap
	$(RUN)/python -m tests.benchmarks.metrics_batch

bench-events: bootstrap
	$(RUN)/python -m tests.benchmarks.events $(if $(QUICK),--quick)

lock: bootstrap
	sh infra/local/lock.sh "$$(ls -d $${FARSIDE_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/farside}/uv-*/bin/uv | tail -1)"

clean:
	rm -rf .venv .mypy_cache .ruff_cache
