# The four commands of a newcomer: demo, test, bench, lint. CI calls the same.
# Variables: BENCH=comm (benchmarks whose name begins so), PRESET=release|dev, JOBS=n, CONVOY_VENV=folder.
SHELL := bash
CONVOY_VENV ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/convoy/venv
PRESET ?= release
BUILD := build/$(PRESET)
export CONVOY_VENV

.PHONY: help deps build test demo bench chaos gpu-check lint sanitize clean
help:
	@sed -n '1,2s/^# //p' Makefile; echo; echo "  make demo | test | bench [BENCH=comm] | chaos [SEED=1 FAULTS=6 STEPS=4000] | lint | sanitize | gpu-check | build | deps | clean"

deps:
	@.ci/setup.sh

build: deps
	@cmake --preset $(PRESET) $(if $(wildcard $(BUILD)/CMakeCache.txt),> /dev/null,)
	@cmake --build $(BUILD) $(if $(JOBS),-j $(JOBS),)

test: build
	@ctest --preset $(PRESET)

bench: build
	@PYTHONPATH=$(BUILD)/python $(CONVOY_VENV)/bin/python tests/bench/run.py $(BENCH) --build $(BUILD) $(if $(QUICK),--quick,)

# A small language model on the King James text: 8 ranks train and checkpoint, one is killed, 4 go on. STEPS= to change its length.
KJV := $(BUILD)/demo/kjv
$(KJV).train.tokens: examples/kjv_text.py | build
	@mkdir -p $(dir $@) && $(CONVOY_VENV)/bin/python examples/kjv_text.py $(KJV).txt
	@$(BUILD)/src/cli/convoy data prepare $(KJV).txt -o $(KJV) --split train=0.95,validation=0.05

demo: build $(KJV).train.tokens
	@python3 examples/demo.py $(BUILD)/src/cli/convoy $(BUILD)/examples/train_llama $(KJV) $(if $(STEPS),--steps $(STEPS),)

# Faults that a seed draws, into jobs of 8 ranks, until FAULTS are survived.
chaos: build
	@python3 tests/chaos/campaign.py $(BUILD)/src/cli/convoy $(BUILD)/examples/train_llama --seed $(or $(SEED),1) \
	  --faults $(or $(FAULTS),6) --steps $(or $(STEPS),4000)

# What only a GPU can show; on a machine that has one.
gpu-check: build
	@PYTHONPATH=$(BUILD)/python $(CONVOY_VENV)/bin/python tests/gpu/check.py --build $(BUILD) --out $(BUILD)/gpu

lint:
	@.ci/lint.sh

# The address and undefined sanitizers see every test program, the command line and the workers it starts, leaks included (of a
# forked rank too, tests/exit_rank.h). The thread sanitizer sees the engines, whose tests alone are built for it;
# gRPC, which the aggregator's threads are, is not instrumented.
ASAN_TESTS := ^(test|cli|launch_under_convoy)
TSAN_TESTS := test_(host|link_[mf]|standin_[so])
sanitize: deps
	@cmake --preset asan > /dev/null && cmake --build build/asan && ctest --preset asan -j 2 -R '$(ASAN_TESTS)'
	@cmake --preset tsan > /dev/null
	@cmake --build build/tsan --target $$(ctest --preset tsan -N -R '$(TSAN_TESTS)' | sed -n 's/.*#[0-9]*: //p')
	@ctest --preset tsan -R '$(TSAN_TESTS)'

clean:
	@rm -rf build
