# Everything sets itself up: a fresh Debian with python3 and make is enough. See tests/README.md.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help demo test soak bench golden dashboards lint lock magento-check mysql-check

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## the whole flow on this machine; ARGS='--exit --seed 7' and so on
	@.ci/venv runtime
	@.venv/bin/tocsin demo $(ARGS)

test: ## every check and every test, on real servers
	@.ci/packages
	@.ci/venv dev
	@.ci/mlflow
	@.venv/bin/python -m tests.servers.kafka
	@.ci/checks

lint: ## the checks alone
	@.ci/venv dev
	@.ci/checks --no-tests

soak: ## the tests' assertions at length: every kill point, thousands of mutations
	@.ci/packages
	@.ci/venv dev
	@.ci/mlflow
	@.venv/bin/python -m tests.servers.kafka
	@.venv/bin/python -m pytest -m 'soak or hypothesis' --hypothesis-profile=soak

mysql-check: ## URL=mysql+pymysql://root:...@host/ the store's contract on that MySQL, in databases of its own
	@.ci/venv dev
	@test -n "$(URL)" || { echo "make mysql-check URL=mysql+pymysql://ADMIN:PASSWORD@HOST:3306/ (MySQL 8.0 or later)" >&2; exit 2; }
	@TOCSIN_TEST_MYSQL_URL='$(URL)' .venv/bin/python -m pytest -q tests/integration/test_store_contract.py tests/integration/test_case_store.py -k mysql

bench: ## NAME=... one benchmark, without it all; BENCH_SIZE=middle takes less of everything
	@.ci/venv dev
	@.venv/bin/python -m tests.bench.run $(NAME)

golden: ## write the golden files of all notices anew; look at the difference
	@.ci/venv dev
	@.venv/bin/python -m tests.golden

dashboards: ## write the Grafana dashboards anew from deploy/grafana/generate.py
	@.ci/venv dev
	@.venv/bin/python -m deploy.grafana.generate

magento-check: ## DIR=a Magento 2.4 to try the module on; it is changed (MAGENTO_PHP names another php)
	@.ci/venv dev
	@.venv/bin/python -m tests.magento.check "$(DIR)" $(ARGS)

lock: ## resolve the dependencies anew, with hashes
	@.ci/lock
