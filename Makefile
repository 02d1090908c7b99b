# Everything sets itself up: a fresh Debian with python3 and make is enough. See tests/README.md.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help demo test soak bench lint lock

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## the whole flow on this machine; ARGS='--exit --seed 7' and so on
	@.ci/venv runtime
	@.venv/bin/tocsin demo $(ARGS)

test: ## every check and every test, on real servers
	@.ci/packages
	@.ci/venv dev
	@.ci/checks

lint: ## the checks alone
	@.ci/venv dev
	@.ci/checks --no-tests

soak: ## the tests' assertions at length: every kill point, thousands of mutations
	@.ci/packages
	@.ci/venv dev
	@.venv/bin/python -m pytest -m 'soak or hypothesis' --hypothesis-profile=soak

bench: ## NAME=... one benchmark; without it all
	@.ci/venv dev
	@.venv/bin/python -m tests.bench.run $(NAME)

lock: ## resolve the dependencies anew, with hashes
	@.ci/lock
