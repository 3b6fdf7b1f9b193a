# The four commands of a newcomer: demo, test, bench, lint. CI calls the same.
# Variables: BENCH=comm (benchmarks whose name begins so), PRESET=release|dev, JOBS=n, CONVOY_VENV=folder.
SHELL := bash
CONVOY_VENV ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/convoy/venv
PRESET ?= release
BUILD := build/$(PRESET)
export CONVOY_VENV

.PHONY: help deps build test demo bench lint sanitize clean
help:
	@sed -n '1,2s/^# //p' Makefile; echo; echo "  make demo | test | bench [BENCH=comm] | lint | sanitize | build | deps | clean"

deps:
	@.ci/setup.sh

build: deps
	@cmake --preset $(PRESET) $(if $(wildcard $(BUILD)/CMakeCache.txt),> /dev/null,)
	@cmake --build $(BUILD) $(if $(JOBS),-j $(JOBS),)

test: build
	@ctest --preset $(PRESET)

bench: build
	@PYTHONPATH=$(BUILD)/python $(CONVOY_VENV)/bin/python tests/bench/run.py $(BENCH) --build $(BUILD) $(if $(QUICK),--quick,)

# 8 ranks on this machine train a small language model on the King James text. STEPS=, SECONDS= to change its length.
KJV := $(BUILD)/demo/kjv
$(KJV).train.tokens: examples/kjv_text.py | build
	@mkdir -p $(dir $@) && $(CONVOY_VENV)/bin/python examples/kjv_text.py $(KJV).txt
	@$(BUILD)/src/cli/convoy data prepare $(KJV).txt -o $(KJV) --split train=0.95,validation=0.05

demo: build $(KJV).train.tokens
	@$(BUILD)/src/cli/convoy run -n 8 --mesh tp=2,pp=2,dp=2 --no-prefix --output runs/demo-$(shell date +%Y%m%d-%H%M%S) -- \
	  $(BUILD)/examples/train_llama --config demo --sequence-parallel --data $(KJV).train.tokens \
	  --validation $(KJV).validation.tokens --seconds $(or $(SECONDS),120) $(if $(STEPS),--steps $(STEPS),)

lint:
	@.ci/lint.sh

# The programs that run in one process tree of our own; the launcher's tests start other programs, which sanitizers don't see.
# Leaks are not looked for: ranks that a test kills leave their memory behind.
ASAN_TESTS := test_(host|link_[cmfs]|mesh$$|shard|reshard|sampler|token|status|config|event|environment)
TSAN_TESTS := test_(host|link_[mf])
sanitize: deps
	@cmake --preset asan > /dev/null && cmake --build build/asan && ctest --preset asan -R '$(ASAN_TESTS)'
	@cmake --preset tsan > /dev/null && cmake --build build/tsan && ctest --preset tsan -R '$(TSAN_TESTS)'

clean:
	@rm -rf build
