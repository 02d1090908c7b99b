"""Every benchmark still works, at toy size; and the runner says what it cannot do."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO

import pytest

from consumers.demo.typist import Typed
from tests.bench import run
from tests.bench.stand import processes, servers
from tests.processes import typist
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import MariaDbServer


def test_every_bench_runs_at_toy_size(
    subtests: pytest.Subtests,
    monkeypatch: pytest.MonkeyPatch,
    mariadb_server: MariaDbServer,
    kafka_server: KafkaServer,
) -> None:
    # this worker's, which has them for its other tests
    monkeypatch.setattr(servers, "small_servers", lambda: (mariadb_server, kafka_server))
    monkeypatch.setattr(processes, "start", _typed)
    for name in run.names():
        with subtests.test(name):
            assert run.run(name, "toy")


def _typed(
    command: Sequence[str], log: IO[bytes], *, folder: Path | None = None, more: Mapping[str, str] | None = None
) -> Typed:
    return typist().start(command, os.environ | dict(more or {}), log, folder=folder)


@pytest.fixture
def bench_without_peer(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("tests.bench.lonely")

    def main(size: str) -> dict[str, object]:
        raise run.PeerMissing("kafka-streams is not installed")

    monkeypatch.setattr(module, "main", main, raising=False)
    monkeypatch.setitem(sys.modules, "tests.bench.lonely", module)
    monkeypatch.setattr(run, "names", lambda: ["lonely"])
    return "lonely"


def test_a_missing_peer_ends_it_by_name(bench_without_peer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([bench_without_peer]) == 2
    assert capsys.readouterr().err == "lonely: kafka-streams is not installed\n"


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["nothing"]) == 2
    assert "nothing" in capsys.readouterr().err
