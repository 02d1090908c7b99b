"""OpenLineage events from its own client, over real HTTP: a scope by dataset finds what records name by their run alone."""

import gzip
import json
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import Dataset, InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import dataset_version_dataset, error_message_run, parent_run
from openlineage.client.transport.http import ApiKeyTokenProvider, HttpCompression, HttpConfig, HttpTransport

from bridge.contracts.scope import AskedScope, Scope
from bridge.runtime.settings import Intake
from consumers.adapters.alert_mappings import AlertMappings
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.lineage import LineageTables
from consumers.case.alerts import Known
from consumers.case.rewriting import ScopeRewriter
from consumers.case.webhooks import Secrets
from consumers.stages.intake import LINEAGE_PATH, MAX_LINEAGE_BYTES, HttpIntake, LineageIntake, Reception
from tests.unit.case.cases import KNOWN, NOW, Case

TOKEN = "a-token-of-the-scoring-pipeline"
PRODUCER = "https://shop.example/scoring"
TEMPLATES = Path(__file__).parents[2] / "templates" / "alert-mappings"
DATASET = "warehouse/customers@2026-03-01"


class Names:
    def known_names(self) -> Known:
        return KNOWN


class Endpoint:
    """Intake with lineage on a case store of its own."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.told = threading.Event()
        self.lineage = LineageTables(case.database)
        self.rewriter = ScopeRewriter(None, self.lineage)
        self.reception = Reception(case.store, AlertMappings(TEMPLATES, {}), Names(), self.rewriter)
        taking = LineageIntake(self.lineage, {"scoring": TOKEN.encode()}, self.told.set)
        self.http = HttpIntake(
            self.reception, {"monitor": Secrets((b"s" * 32,))}, Intake(port=0), case.clock, None, taking
        )
        self.http.start()

    def client(self, *, token: str = TOKEN, compression: HttpCompression | None = None) -> OpenLineageClient:
        config = HttpConfig(
            url=self.http.address, auth=ApiKeyTokenProvider({"apiKey": token}), compression=compression,
            retry={"total": 0},
        )  # fmt: skip
        return OpenLineageClient(transport=HttpTransport(config))

    def post(self, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        connection = HTTPConnection("127.0.0.1", self.http.port, timeout=20)
        try:
            given = {"Authorization": f"Bearer {TOKEN}"} | {
                name.replace("_", "-"): text for name, text in headers.items()
            }
            connection.request("POST", LINEAGE_PATH, body, given)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    case = Case(tmp_path)
    made = Endpoint(case)
    yield made
    made.http.stop()
    case.database.close()


def versioned(kind: type[Dataset], name: str, version: str) -> Any:
    facet = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)
    return kind(namespace="warehouse", name=name, facets={"version": facet})


def run_event(
    run_id: str, state: RunState = RunState.COMPLETE, *, minutes: int = 0, parent: str | None = None, **datasets: Any
) -> RunEvent:
    facets: dict[str, Any] = {
        "errorMessage": error_message_run.ErrorMessageRunFacet(
            message="failed for jo@mail.example", programmingLanguage="x"
        )
    }
    if parent is not None:
        facets["parent"] = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=parent), job=parent_run.Job(namespace="airflow", name="dag")
        )
    return RunEvent(
        eventTime=(NOW + timedelta(minutes=minutes)).isoformat(), eventType=state, run=Run(runId=run_id, facets=facets),
        job=Job(namespace="scoring", name="score_customers"), producer=PRODUCER, **datasets,
    )  # fmt: skip


def test_a_scope_by_dataset_names_the_runs_that_read_it_and_whoever_started_them(endpoint: Endpoint) -> None:
    run, parent, other = (str(uuid.uuid4()) for _ in range(3))
    client = endpoint.client()
    start = run_event(run, RunState.START, parent=parent)
    complete = run_event(
        run, minutes=5, inputs=[versioned(InputDataset, "customers", "2026-03-01")],
        outputs=[versioned(OutputDataset, "scores", "s1")],
    )  # fmt: skip
    # late, doubled, and the end before the start
    for event in (complete, start, complete):
        client.emit(event)
    endpoint.client(compression=HttpCompression.GZIP).emit(
        run_event(other, inputs=[versioned(InputDataset, "customers", "2026-02-01")])
    )
    done = endpoint.rewriter.rewritten(AskedScope(dataset_versions=(DATASET,)))
    assert done.scope == Scope(
        all_of=(
            Scope(any_of=(Scope(dataset_versions=(DATASET,)), Scope(run_ids=tuple(sorted((run, parent)))))),
        )
    )  # fmt: skip
    assert done.rewriting is not None
    assert (done.rewriting.run_count, done.rewriting.datasets) == (2, (DATASET,))
    by_run = endpoint.rewriter.rewritten(AskedScope(run_ids=(parent,))).scope
    assert by_run == Scope(run_ids=tuple(sorted((run, parent))))
    onward = endpoint.rewriter.rewritten(AskedScope(dataset_versions=("customers@2026-03-01",), with_descendants=True))
    assert onward.rewriting is not None
    assert "warehouse/scores@s1" in onward.rewriting.datasets
    [row] = [row for row in endpoint.case.rows(tables.lineage_run) if row["run_id"] == run]
    assert (row["state"], row["parent_run_id"], row["source"]) == ("COMPLETE", parent, "scoring")
    assert row["first_event_at"] == NOW
    assert "mail.example" not in str(endpoint.case.rows(tables.lineage_run))


def test_an_event_that_comes_while_an_incident_is_open_leads_to_a_proposal(endpoint: Endpoint) -> None:
    client, first, late = endpoint.client(), str(uuid.uuid4()), str(uuid.uuid4())
    client.emit(run_event(first))
    body = json.dumps({"fingerprint": "d", "scope": {"dataset_versions": [DATASET]}}).encode()
    signed = Secrets((b"s" * 32,)).sign("m1", NOW, body)
    assert endpoint.http.answer("monitor", signed, body).status == 202
    assert endpoint.case.rows(tables.incident)[0]["scope"] == {"dataset_versions": [DATASET]}
    client.emit(run_event(first, minutes=8, inputs=[versioned(InputDataset, "customers", "2026-03-01")]))
    endpoint.reception.review_scopes(NOW)
    assert len(endpoint.case.rows(tables.scope_proposal)) == 1
    endpoint.told.clear()
    client.emit(run_event(first, minutes=9, inputs=[versioned(InputDataset, "customers", "2026-03-01")]))
    assert not endpoint.told.is_set()
    client.emit(run_event(late, inputs=[versioned(InputDataset, "customers", "2026-03-01")]))
    assert endpoint.told.is_set()
    endpoint.reception.review_scopes(NOW)
    proposals = endpoint.case.rows(tables.scope_proposal)
    assert [each["scope"] for each in proposals] == [{"dataset_versions": [DATASET]}] * 2


def test_strangers_and_what_is_no_event_are_refused_and_leave_nothing(endpoint: Endpoint) -> None:
    with pytest.raises(Exception, match="401"):
        endpoint.client(token="somebody-else's-token-of-some-length").emit(run_event(str(uuid.uuid4())))
    assert endpoint.post(b"{}", Authorization="Basic x")[0] == 401
    assert endpoint.post(b"not json")[0] == 400
    assert endpoint.post(b"[]")[0] == 400
    status, said = endpoint.post(json.dumps({"run": {"runId": "jo@mail.example"}}).encode())
    assert (status, "mail.example" in str(said)) == (400, False)
    assert endpoint.post(b"x", Content_Encoding="gzip")[0] == 400
    bomb = gzip.compress(b" " * (MAX_LINEAGE_BYTES + 1))
    assert endpoint.post(bomb, Content_Encoding="gzip")[0] == 413
    assert endpoint.post(b" " * (MAX_LINEAGE_BYTES + 1))[0] == 413
    assert endpoint.case.rows(tables.lineage_run) == []


def test_events_about_a_dataset_or_a_job_are_taken_and_facets_of_any_form_pass(endpoint: Endpoint) -> None:
    common = {
        "eventTime": NOW.isoformat(),
        "producer": PRODUCER,
        "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json",
    }
    dataset = {"namespace": "warehouse", "name": "customers"}
    assert endpoint.post(json.dumps({**common, "dataset": dataset}).encode()) == (201, {"new": False})
    job = {"namespace": "n", "name": "j"}
    assert endpoint.post(json.dumps({**common, "job": job, "inputs": [dataset]}).encode()) == (201, {"new": False})
    run_id = str(uuid.uuid4())
    odd = {**common, "job": job, "run": {"runId": run_id.upper(), "facets": {"parent": 7, "mine": {"deep": [1]}}},
           "inputs": [{**dataset, "facets": {"version": "none"}}], "eventType": "RUNNING", "extra": 1}  # fmt: skip
    assert endpoint.post(json.dumps(odd).encode()) == (201, {"new": True})
    assert endpoint.lineage.readers(["warehouse/customers"]) == {run_id}
