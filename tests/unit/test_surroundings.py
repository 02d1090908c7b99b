"""What keeps a stage that is idle from being ready: each thing that it works with is asked, and named when it is gone."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from bridge.runtime.telemetry import Health
from consumers.bootstrap.parts import parts_for
from consumers.bootstrap.stages import STAGES
from consumers.commands import initialise
from consumers.surroundings import SURROUNDINGS, watch_surroundings
from tests.servers.local import free_port


def reasons(folder: Path, stage: str) -> dict[str, str]:
    health = Health()
    health.ready()
    watch_surroundings(parts_for(folder / "tocsin.toml"), stage, health)
    return health.reasons()


def test_every_stage_says_what_it_works_with() -> None:
    assert set(SURROUNDINGS) == set(STAGES)


def test_an_idle_stage_names_what_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    folder = tmp_path / "installed"
    broker, database = f"127.0.0.1:{free_port()}", f"mysql+pymysql://root@127.0.0.1:{free_port()}/tocsin"
    initialise(folder, admin_id="admin", admin_name="Admin", changes={"kafka": {"bootstrap_servers": broker}})
    monkeypatch.chdir(folder)
    evidence = folder / "data" / "evidence"
    evidence.mkdir(parents=True, exist_ok=True)
    assert reasons(folder, "clock") == {}
    assert list(reasons(folder, "evidence")) == ["kafka"]
    assert reasons(folder, "index")["kafka"].startswith("Kafka does not answer: ")
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(5 * 2**20))
    assert reasons(folder, "evidence")["evidence folder"].startswith("5 MB are left")
    shutil.rmtree(evidence)
    assert reasons(folder, "evidence")["evidence folder"].startswith("there is no folder")
    monkeypatch.setenv("TOCSIN_CASE_STORE__URL", database)
    assert reasons(folder, "clock") == {
        "case store": "the case store does not answer; check case_store.url and that the server runs"
    }
