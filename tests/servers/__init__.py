"""Real servers for tests: Apache Kafka and MariaDB, from Docker where there is a daemon, else as local processes.

Tests use the fixtures in `tests/conftest.py` and see no difference. Not for anything that a demo or an installation runs.
"""
