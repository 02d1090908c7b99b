# Everything sets itself up: a fresh Debian with python3 and make is enough. See tests/README.md.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help demo test soak bench lint lock magento-check

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

magento-check: ## DIR=a Magento 2.4 to try the module on; it is changed (MAGENTO_PHP names another php)
	@.ci/venv dev
	@.venv/bin/python -m tests.magento.check "$(DIR)" $(ARGS)

lock: ## resolve the dependencies anew, with hashes
	@.ci/lock
