# Every target sets up what it needs; `make setup` does only that.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.catchment-setup
KAFKA := .kafka/.fetched

DEMO_ARGS ?=
PYTEST_ARGS ?=
JOBS ?= 2

.PHONY: help setup kafka demo demo-kafka test proof conformance lint format chaos outage bench clean

help:
	@echo 'make setup   environment in .venv, afterwards .venv/bin/catchment is the CLI'
	@echo 'make kafka   fetch the broker that demo-kafka and the tests start (java, maven)'
	@echo 'make demo    a simulated fleet with an incident, and the proof that the numbers add up'
	@echo 'make demo-kafka   the same over a real Kafka broker, which is killed once, too'
	@echo 'make test    all tests but the proofs and the conformance suite (PYTEST_ARGS="-k name" for some, JOBS=1 for one at a time)'
	@echo 'make proof   the proofs on a real Kafka: chaos, the demo, a rollout; about four minutes'
	@echo 'make conformance   against SDKs of four languages, a Collector and other programs that we did not write'
	@echo 'make lint    ruff and mypy'
	@echo 'make chaos   kill everything on a real Kafka (ROUNDS=100 SEED=7)'
	@echo 'make outage  a broker, then a store away for minutes under load (MINUTES=4)'
	@echo 'make bench   measure, and write benchmarks/RESULTS.md'

setup: $(STAMP)

# The stamp is younger than what it depends on when the environment is up to date, so a second run costs nothing.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

kafka: $(KAFKA)

$(KAFKA): demo/local_kafka.pom.xml | $(STAMP)
	rm -rf .kafka/libs
	mvn -q -B -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.kafka/libs -DincludeScope=runtime
	$(BIN)/python -m demo.local_kafka
	touch $@

demo: $(STAMP)
	$(BIN)/catchment demo $(DEMO_ARGS)

# Over a real Kafka, which is started for it and ends with it.
demo-kafka: $(STAMP) $(KAFKA)
	$(BIN)/catchment demo --kafka local $(DEMO_ARGS)

test: $(STAMP) $(KAFKA)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not proof and not conformance' $(PYTEST_ARGS)

# What takes about a minute each: chaos, kills again and again, demos with all around them, a rollout in the wrong order.
proof: $(STAMP) $(KAFKA)
	$(BIN)/python -m pytest -m proof $(PYTEST_ARGS)

# Third-party senders, built from their registries into .conformance: minutes the first time, nothing later.
conformance: $(STAMP)
	$(BIN)/python -m pytest -m conformance $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Kills, zombies and broker deaths on a real Kafka for as many rounds as one likes; RECORD=1 writes the results down.
ROUNDS ?= 100
SEED ?=
RECORD ?=
chaos: $(STAMP) $(KAFKA)
	CATCHMENT_CHAOS_ROUNDS=$(ROUNDS) CATCHMENT_FAULT_SEED=$(SEED) CATCHMENT_CHAOS_RECORD=$(RECORD) \
		$(BIN)/python -m pytest -s tests/kafka/test_kafka_chaos.py

# A real broker, then a store away under load; the figures go into benchmarks/RESULTS.md.
MINUTES ?= 4
outage: $(STAMP) $(KAFKA)
	$(BIN)/python -m tests.kafka.outage --minutes $(MINUTES)

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
