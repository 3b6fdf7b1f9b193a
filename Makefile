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

lint:
	@.ci/lint.sh

sanitize: deps
	@for p in asan tsan; do cmake --preset $$p > /dev/null && cmake --build build/$$p && ctest --preset $$p -LE check || exit 1; done

clean:
	@rm -rf build
