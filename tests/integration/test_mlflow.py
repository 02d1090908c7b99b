"""The registry adapter on a real MLflow server with SQLite: versions, parents, aliases that move, and a server that is gone."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from bridge.contracts.errors import BadInput
from bridge.contracts.scope import AskedScope
from consumers.adapters.case_store.registry import RegistryTables
from consumers.adapters.mlflow_registry import MlflowRegistry
from consumers.case.registry import RegistryWatch
from consumers.case.rewriting import ScopeRewriter
from consumers.domain.registry import AliasUnknown, alias_at
from tests.conftest import missing
from tests.servers import mlflow
from tests.servers.local import Plug
from tests.unit.case.cases import NOW, Case


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Plug]]:
    if not mlflow.is_there():
        missing(
            "an MLflow server cannot be had: no .cache/mlflow-server (`make test` makes it, .ci/mlflow says why not)"
        )
    # the client reads these at its first call and would keep trying for minutes
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ExitStack() as stack:
        yield stack.enter_context(mlflow.mlflow_server())


def test_versions_parents_and_aliases_are_read_and_remembered(server: tuple[str, Plug], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    url, plug = server
    client = MlflowClient(url, url)
    for name, parent in (
        ("fraud-base", None), ("fraud-scorer", "models:/fraud-base/1"), ("fraud-scorer", None),
        ("credit-limit", "fraud-scorer@1"), ("credit-limit", "models:/fraud-scorer@champion"),
    ):  # fmt: skip
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        client.create_model_version(
            name, "s3://models/x", tags={"tocsin.derived_from": parent} if parent else None, await_creation_for=0
        )
    client.set_registered_model_alias("fraud-scorer", "champion", "1")
    case = Case(tmp_path)
    try:
        watch = RegistryWatch(MlflowRegistry(url), RegistryTables(case.database), look_seconds=60)
        watch.look(NOW)
        client.set_registered_model_alias("fraud-scorer", "champion", "2")
        watch.look(NOW + timedelta(minutes=1))
        client.delete_model_version("credit-limit", "1")
        watch.look(NOW + timedelta(minutes=2))
        plug.pull()
        memory = watch.look(NOW + timedelta(minutes=3))
        assert memory.fault is not None
        assert memory.fault.startswith("no answer since 2026-03-02 03:03 UTC: MLflow at registry.uri does not answer")
        assert "s3://" not in memory.fault

        assert memory.versions["fraud-scorer", "1"].parents == (("fraud-base", "1"),)
        assert memory.versions["credit-limit", "1"].gone
        assert "names an alias, which moves" in str(memory.versions["credit-limit", "2"].fault)
        assert alias_at(memory, "fraud-scorer", "champion", NOW) == ("1",)
        assert alias_at(memory, "fraud-scorer", "champion", NOW + timedelta(seconds=30)) == ("1", "2")
        assert alias_at(memory, "fraud-scorer", "champion", None) == ("2",)
        with pytest.raises(AliasUnknown, match="watched since"):
            alias_at(memory, "fraud-scorer", "champion", NOW - timedelta(days=1))

        asked = AskedScope(model_ids=("fraud-base",), model_versions=("1",), with_descendants=True)
        done = ScopeRewriter(watch).rewritten(asked)
        assert done.rewriting is not None
        assert done.rewriting.descendants == ("credit-limit@1", "fraud-scorer@1")
        assert done.rewriting.registry_fault == memory.fault
    finally:
        case.database.close()


@pytest.mark.parametrize(
    ("uri", "said"), [("sqlite:///x", "no scheme"), ("https://u:secret@h/", "holds credentials"), ("", "no scheme")]
)
def test_an_address_that_is_none_or_holds_a_password_is_refused(uri: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        MlflowRegistry(uri)
    assert "secret" not in str(caught.value)
