# Commands for people; everything longer than a line is in scripts/.
# "make" alone lists them.

.DEFAULT_GOAL := help
.PHONY: help root setup tools lab lint fix unit test ipvs bench clean

# Options for the program behind a target: make lab ARGS=--once
ARGS ?=
JOBS ?= 2

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' Makefile

# Said before minutes are spent on installing.
root:
	@[ "$$(id -u)" = 0 ] || { echo "needs root for network namespaces: sudo make $(MAKECMDGOALS)" >&2; exit 4; }

setup: ## install what is missing and make .venv/bin/kpctl
	@scripts/setup

lab: root setup ## run the lab: Services, pods and traffic without a cluster (root)
	@.venv/bin/kpctl lab run $(ARGS)

lint: setup ## style, types and import layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

fix: setup ## let ruff correct and format the code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

unit: setup ## tests that need neither root nor a kernel feature
	.venv/bin/pytest -n $(JOBS) -m "not kernel" $(ARGS)

# What only tests need, apart from what kpctl itself does.
tools: root setup
	@scripts/setup --tests

test: tools lint ## everything, packets included (root); a skipped test is a failure
	.venv/bin/pytest -n $(JOBS) --no-skips $(ARGS)
	.venv/bin/python -m tests.uml.run -- pytest --no-skips tests/ipvs

ipvs: tools ## tests of IPVS mode alone, on a kernel that has it: user-mode Linux (root)
	.venv/bin/python -m tests.uml.run -- pytest --no-skips $(or $(ARGS),tests/ipvs)

bench: root setup ## start, change, memory and CPU at several sizes (root)
	.venv/bin/python -m tests.benchmarks.run $(ARGS)

clean: ## remove .venv and everything that was generated
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
	find kpctl proxy diagnostics checks tests -name __pycache__ -type d -prune -exec rm -rf {} +
