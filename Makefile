# Everything runs in .venv, which is made on first use and rebuilt only when pyproject.toml, setup.py or constraints.txt change.
VENV   ?= .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
PYTHON ?= python3
# the public API as of the last release
BASELINE := proto/baseline.binpb
QUICK  := not slow and not gpu and not clients and not faults

# where it is set, each process compiles our sources anew, and pytest rewrites all tests
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help model-survey setup demo test static test-units test-deployments check test-cpus test-slow test-faults chaos test-clients test-gpu proto sync-client dashboards bench bench-cpus bench-handoff bench-overload bench-gpu docs clean proto-baseline

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# pip compiles 18,000 files on one core, this those on all of them that are likely to be imported; what else
# is imported is compiled then. Some are templates, and no Python
RARELY := (.*/)?tests?|(.*/)?testing|ray/(data|llm|rllib|train|tune)|torch/_inductor|transformers/models
RARELY := $(RARELY)|fontTools|graphql|mypyc?|networkx|pip|pygments/lexers|setuptools
compile_all = $(PY) -W ignore -m compileall -qq -j 0 -x 'site-packages/($(RARELY))/' $(VENV)/lib/python*/site-packages || true

$(STAMP): pyproject.toml setup.py constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --no-compile -c constraints.txt torch
	{ $(compile_all); } & \
	  $(PY) -m pip install -q --no-compile -c constraints.txt -e ".[dev]" --config-settings editable_mode=compat; \
	  code=$$?; wait; exit $$code
	$(compile_all)
	touch $@

setup: $(STAMP)  ## make .venv, install, fetch the default model
	@$(VENV)/bin/pdserve model pull smollm2-135m

demo: setup  ## one prefill and one decode worker answer four prompts at once
	@$(VENV)/bin/pdserve demo

check: static  ## ruff, mypy --strict, import contracts, the public API, links of the documents
	$(PY) -m pytest -q tests/unit/repository/test_links.py

static: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/buf lint
	$(VENV)/bin/buf breaking --against $(BASELINE)

# the model comes while the others run: only deployments need it
test: $(STAMP)  ## static checks and the test suite (CI runs this)
	$(MAKE) --no-print-directory -j3 static test-units test-deployments

# a deployment's tests run one behind the other, so these take what they leave of the CPU; less than 5, which
# is what common/low_priority.py lowers threads to, and its test has to see that
test-units: $(STAMP)
	nice -n 4 $(PY) -m pytest -q -m "$(QUICK) and not deployment" -n 2 --dist loadfile --no-loadscope-reorder

# mostly waits, so it runs beside the others; its output comes in one piece
test-deployments: setup
	@output=$$($(PY) -m pytest -q -m "$(QUICK) and deployment" tests/integration/served tests/faults 2>&1); \
	  code=$$?; echo "$$output"; exit $$code

# tests of kernels and engine, and the CPUs that they run as (LLVM's names); a CPU that this one cannot stand in
# for fails them, so name others: make test-cpus CPUS=haswell
CPUS ?= haswell skylake-avx512
CPU_TESTS := tests/unit/common/engine tests/integration/workers/test_handoff.py

test-cpus: setup  ## kernel and engine tests as other CPUs run them, and as this one does
	for cpu in $(CPUS); do echo "== $$cpu" && NUMBA_CPU_NAME=$$cpu NUMBA_CPU_FEATURES= \
	  $(PY) -m pytest -q -n 2 --dist loadfile -m "$(QUICK) and not deployment" $(CPU_TESTS) || exit 1; done
	$(PY) -m pytest -q -n 2 --dist loadfile -m "$(QUICK) and not deployment" $(CPU_TESTS)

test-slow: setup  ## tests that take minutes, and four times as many examples of each property
	$(PY) -m pytest -q -m slow
	EXAMPLES_TIMES=4 $(PY) -m pytest -q -m "hypothesis and $(QUICK) and not deployment"

test-faults: setup  ## every fault on real processes, and 1,000 simulated plans of faults
	$(PY) -m pytest -q -m "slow or not slow" tests/simulation
	$(PY) -m pytest -q -m "faults or not faults" tests/faults
	$(PY) -m pytest -q -m faults tests/integration/served

chaos: setup  ## ten minutes of random faults on a deployment, every answer compared
	$(VENV)/bin/pdserve chaos --minutes 10

# client libraries and load tools, each in an environment of its own; what cannot be installed here leaves
# its reason, with which its tests are skipped
CLIENTS := $(VENV)/clients
INSTALLED := $(patsubst %,$(CLIENTS)/%/.installed,libraries aiperf guidellm inference-perf javascript)
PYTHON312 ?= python3.12
install_tool = mkdir -p $(@D); { $(1) -m venv $(@D) && $(@D)/bin/python -m pip install -q -r $<; } \
  2> $(@D)/problem && touch $@ || cat $(@D)/problem

$(CLIENTS)/%/.installed: tests/integration/clients/tools/%.txt
	$(call install_tool,$(PYTHON))

$(CLIENTS)/inference-perf/.installed: tests/integration/clients/tools/inference-perf.txt
	$(call install_tool,$(PYTHON312))

$(CLIENTS)/javascript/.installed: tests/integration/clients/javascript/package.json
	mkdir -p $(@D) && cp $< $(@D)
	npm install --silent --prefix $(@D) 2> $(@D)/problem && touch $@ || cat $(@D)/problem

test-clients: setup $(INSTALLED)  ## client libraries, load tools and schemathesis, unmodified
	PDSERVE_CLIENTS=$(abspath $(CLIENTS)) $(PY) -m pytest -q -rs -m clients

test-gpu: setup  ## tests that need a CUDA device
	$(PY) -m pytest -q -m gpu

proto: $(STAMP)  ## regenerate pdserve/v1 from proto/
	$(PY) -m grpc_tools.protoc -Iproto --python_out=. --grpc_python_out=. \
	  --plugin=protoc-gen-mypy=$(VENV)/bin/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(VENV)/bin/protoc-gen-mypy_grpc \
	  --mypy_out=quiet:. --mypy_grpc_out=quiet:. proto/pdserve/v1/*.proto

sync-client: $(STAMP)  ## regenerate pdserve/sync_client.py from pdserve/client.py
	$(PY) -m scripts.make_sync_client

proto-baseline: $(STAMP)  ## after a release: what later changes of proto/ must not break
	$(VENV)/bin/buf build --exclude-source-info -o $(BASELINE)

model-survey: $(STAMP)  ## try every model type of transformers, tiny; writes docs/use/model-table.md
	OMP_NUM_THREADS=1 $(PY) -m scripts.survey

dashboards: $(STAMP)  ## write the Grafana boards of deploy/observability from scripts/dashboards
	$(PY) -m scripts.dashboards

helm-chart: $(STAMP)  ## write the templates of deploy/helm/pdserve from deploy/k8s
	$(PY) -m scripts.helm_chart

bench: setup  ## the benchmarks that need no extra install; writes benchmarks/results/
	$(PY) -m benchmarks.engine_step
	$(PY) -m benchmarks.peers

bench-cpus: setup  ## each level of CPU that this machine can run, float32 and bfloat16, kernels and torch
	$(PY) -m benchmarks.cpu_levels

bench-handoff: setup  ## hand-off, goodput, routing (PEER="--openai-url URL ...", BENCH_TRACES=FOLDER)
	$(PY) -m benchmarks.handoff $(PEER)
	$(PY) -m benchmarks.goodput $(PEER)
	$(PY) -m benchmarks.routing

bench-overload: setup  ## refusals, goodput, fairness and memory at ten times the capacity
	$(PY) -m benchmarks.overload

bench-gpu: setup  ## an 8B shape on a CUDA device: decode over memory, prefill over products, transformers
	$(PY) -m benchmarks.gpu

# the site's tools alone, from the extra `docs`: no torch is needed to build the documents
DOCS := $(VENV)/docs
PAGES := README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs proto benchmarks/*.md benchmarks/results deploy/k8s

$(DOCS)/.installed: pyproject.toml constraints.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -c "import tomllib; \
	  print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])" > $(DOCS)/extra
	$(DOCS)/bin/python -m pip install -q -c constraints.txt -r $(DOCS)/extra
	touch $@

docs: $(DOCS)/.installed  ## the documents as a site, in build/site
	rm -rf build/pages && mkdir -p build/pages
	cp -r --parents $(PAGES) build/pages
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html"

clean:  ## remove caches and build leftovers (keeps .venv)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
