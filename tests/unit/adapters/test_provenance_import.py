"""History on its way into the store: every row is recorded once or named by its line, however often a run is cut off."""

import json
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput, TocsinError, Unreachable
from bridge.runtime.clock import Clock, SetClock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Paths, Settings, Store
from consumers.adapters.commands import index
from consumers.adapters.history_files import HistoryRow, Reading, read_history
from consumers.adapters.provenance_import import Progress, RestProvenance, read_store_token, send_history

NOW = datetime(2026, 11, 20, tzinfo=UTC)
ROW = {
    "record_id": "old-1", "entity_type": "customer", "entity_id": 42, "attribute": "fraud_score", "model_id": "scorer",
    "model_version": "6", "generated_at": "2025-03-01T10:00:00+01:00", "kind": "inferred", "sensitivity": "high",
}  # fmt: skip


class Shop:
    """The module's service as far as its contract goes: ids once, unknown entities refused, retiring once."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.deleted: dict[str, str] = {}
        self.calls: list[str] = []
        self.failing: list[int] = []
        self.token = "t0ken"
        shop = self

        class _Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                path = self.path.removeprefix("/rest/V1/tocsin/provenance")
                shop.calls.append(path)
                status = 200
                if self.headers["Authorization"] != f"Bearer {shop.token}":
                    status, answer = 401, {"message": "The consumer isn't authorized."}
                elif shop.failing:
                    status, answer = shop.failing.pop(0), {"message": "later"}
                elif path == "/bulk":
                    answer = shop.record(body["records"])
                elif path == "":
                    answer = {"record_id": shop.keep(body["record"])[0], "status": "recorded"}
                else:
                    record_id = path.split("/")[1]
                    if shop.deleted.setdefault(record_id, body["deletedAt"]) != body["deletedAt"]:
                        status, answer = 400, {"message": "another time is set already"}
                    else:
                        answer = {"record_id": record_id}
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def keep(self, record: dict[str, Any]) -> tuple[str, bool]:
        content = json.dumps(record, sort_keys=True)
        record_id = record.get("record_id") or f"content-{abs(hash(content))}"
        new = record_id not in self.records
        self.records.setdefault(record_id, record)
        return record_id, new

    def record(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        refused = []
        counts = [0, 0]
        for position, each in enumerate(records):
            if each["entity_id"] == 99:
                errors = [{"field": "entity_id", "reason": "there is no customer 99"}]
                refused.append({"position": position, "record_id": None, "errors": errors})
                continue
            counts[not self.keep(each)[1]] += 1
        return {"recorded_count": counts[0], "repeated_count": counts[1], "refused": refused}


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    yield made
    made.server.shutdown()
    made.server.server_close()


def run(folder: Path, shop: Shop, *arguments: str, token: str = "t0ken") -> tuple[Any, str]:
    """Type `tocsin index import-provenance`; return what it raised and what it said."""
    parts = Parts()
    parts.provide(Settings, lambda: Settings(paths=Paths(data=folder / "data"), store=Store(base_url=shop.url)))
    parts.provide(Clock, lambda: SetClock(NOW))
    done = CliRunner().invoke(
        index, ["import-provenance", *arguments], obj=parts, env={"TOCSIN_STORE_TOKEN": token}, catch_exceptions=True
    )
    return done.exception, done.output


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_is_recorded_once_and_again_changes_nothing(tmp_path: Path, shop: Shop) -> None:
    rows = [ROW | {"record_id": f"old-{n}", "entity_id": n} for n in range(1, 5)]
    rows[1]["deleted_at"] = "2025-06-01T00:00:00Z"
    del rows[3]["record_id"]
    rows[3]["deleted_at"] = "2025-07-01T00:00:00Z"
    file = write_lines(tmp_path / "history.ndjson", *rows)
    raised, said = run(tmp_path, shop, str(file))
    assert raised is None
    assert "4 recorded, 0 were there already, 2 marked as removed, 0 refused" in said
    assert shop.records["old-1"]["generated_at"] == "2025-03-01T09:00:00Z"
    assert sorted(shop.deleted.values()) == ["2025-06-01T00:00:00Z", "2025-07-01T00:00:00Z"]
    raised, said = run(tmp_path, shop, str(file))
    assert "imported before" in str(raised)
    before = dict(shop.records)
    raised, said = run(tmp_path, shop, str(file), "--again")
    assert raised is None
    assert "3 were there already" in said
    assert shop.records == before


def test_each_refused_row_is_named_by_its_line_with_what_to_do(tmp_path: Path, shop: Shop) -> None:
    file = tmp_path / "history.csv"
    file.write_text(
        "\ufeffentity_type,entity_id,attribute,model_id,version,when,kind,note\n"
        "customer,1,fraud_score,scorer,6,2025-03-01T10:00:00,inferred,x\n"
        'customer,2,"fraud\n_score",scorer,6,2025-03-01T10:00:00,inferred,x\n'
        "customer,99,fraud_score,scorer,6,2025-03-01T10:00:00,inferred,x\n"
        "customer,0,fraud_score,scorer,,1025-03-01T10:00:00,guessed,x\n"
        "customer,5\n"
        "customer,6,fraud_score,scorer,6,2027-03-01T10:00:00,inferred,x\n"
        "customer,7,fraud_score,scorer,6,2025-03-01T10:00:00,INFERRED,x\n"
    )
    options = ["--map", "model_version=version", "--map", "generated_at=when", "--set", "sensitivity=high"]
    raised, said = run(tmp_path, shop, str(file), *options, "--zone", "Europe/Berlin")
    assert "no field 'note'" in str(raised)
    assert "--skip note" in str(raised)
    kept = tmp_path / "refused.ndjson"
    raised, said = run(tmp_path, shop, str(file), *options, "--skip", "note", "--dry-run")
    assert "5 rows would be refused" not in said
    assert "has no time zone" in said
    assert shop.calls == []
    options += ["--skip", "note", "--zone", "Europe/Berlin", "--refused", str(kept)]
    raised, said = run(tmp_path, shop, str(file), *options)
    assert "5 rows are refused" in str(raised)
    refused = [json.loads(line) for line in kept.read_text().splitlines()]
    faults = {each["line"]: [fault.partition(":")[0] for fault in each["faults"]] for each in refused}
    assert faults == {
        3: ["attribute"],
        5: ["entity_id"],
        6: ["model_version", "entity_id", "kind", "generated_at"],
        7: ["row"],
        8: ["generated_at"],
    }
    assert "line 5: entity_id: there is no customer 99" in said
    assert [record["entity_id"] for record in shop.records.values()] == [1, 7]
    assert {record["generated_at"] for record in shop.records.values()} == {"2025-03-01T09:00:00Z"}


def test_parquet_of_a_warehouse_is_read_with_its_own_types(tmp_path: Path, shop: Shop) -> None:
    file = tmp_path / "history.parquet"
    duckdb.sql(
        f"""COPY (SELECT 'old-' || n AS record_id, 'order' AS entity_type, n AS entity_id, 'risk' AS attribute,
        'scorer' AS model_id, 6 AS model_version, TIMESTAMPTZ '2025-03-01 10:00:00+00' AS generated_at,
        'derived' AS kind, 'low' AS sensitivity, 0.5::DECIMAL(5,4) AS confidence, ['financial'] AS categories
        FROM range(1001, 3501) t(n)) TO '{file}' (FORMAT parquet)"""
    )
    raised, said = run(tmp_path, shop, str(file))
    assert raised is None, said
    assert len(shop.records) == 2500
    assert shop.calls == ["/bulk"] * 3
    assert shop.records["old-1007"] == {
        "record_id": "old-1007", "entity_type": "order", "entity_id": 1007, "attribute": "risk", "model_id": "scorer",
        "model_version": "6", "generated_at": "2025-03-01T10:00:00Z", "kind": "derived", "sensitivity": "low",
        "confidence": 0.5, "categories": ["financial"],
    }  # fmt: skip


def test_a_store_that_falls_silent_loses_nothing_and_the_next_run_goes_on(tmp_path: Path, shop: Shop) -> None:
    rows = [HistoryRow(n, ROW | {"record_id": f"old-{n}"}) for n in range(1, 8)]
    waits: list[float] = []
    service = RestProvenance(shop.url, "t0ken", wait=waits.append)
    progress, saved = Progress(), []
    shop.failing = [503]
    send_history(rows[:3], service, progress, save=lambda: saved.append(progress.line), refused=print, at_once=3)
    assert (progress.line, progress.recorded, waits) == (3, 3, [1.0])
    progress.finished = False
    shop.failing = [500, 503, 502, 429]
    with pytest.raises(Unreachable, match="after 4 tries"):
        send_history(rows[3:], service, progress, save=lambda: saved.append(progress.line), refused=print, at_once=2)
    assert (progress.line, progress.finished) == (3, False)
    send_history(rows[3:], service, progress, save=lambda: saved.append(progress.line), refused=print, at_once=2)
    assert (progress.recorded, progress.finished, len(shop.records)) == (7, True, 7)
    assert saved == [3, 3, 5, 7, 7]


def test_a_run_that_was_cut_off_goes_on_behind_what_was_acknowledged(tmp_path: Path, shop: Shop) -> None:
    rows = [ROW | {"record_id": f"old-{n}"} for n in range(1, 1501)]
    file = write_lines(tmp_path / "history.ndjson", *rows)
    shop.failing = [200]  # an answer that is no receipt: as from something else at that address
    raised, _ = run(tmp_path, shop, str(file))
    assert "check --url" in str(raised)
    real, shop.record = shop.record, _second_time_gone(shop)  # type: ignore[method-assign]
    raised, _ = run(tmp_path, shop, str(file))
    assert isinstance(raised, TocsinError)
    assert len(shop.records) == 1000
    shop.record = real  # type: ignore[method-assign]
    before = len(shop.calls)
    raised, said = run(tmp_path, shop, str(file))
    assert raised is None
    assert "going on behind line 1,000" in said
    assert (len(shop.records), len(shop.calls) - before) == (1500, 1)


def _second_time_gone(shop: Shop) -> Any:
    real, seen = shop.record, []

    def record(records: list[dict[str, Any]]) -> dict[str, Any]:
        seen.append(records)
        if len(seen) > 1:
            return {"nothing": "of the kind"}
        return real(records)

    return record


def test_a_token_is_needed_is_never_an_argument_and_is_not_sent_in_clear(tmp_path: Path, shop: Shop) -> None:
    file = write_lines(tmp_path / "history.ndjson", ROW)
    raised, _ = run(tmp_path, shop, str(file), token="wrong")
    assert isinstance(raised, BadInput)
    assert "provenance_record_bulk" in str(raised)
    raised, _ = run(tmp_path, shop, str(file), token="")
    assert "make an integration" in str(raised)
    with pytest.raises(BadInput, match="in clear"):
        RestProvenance("http://shop.example.com/", "t0ken")
    secret = tmp_path / "token"
    secret.write_text("t0ken\n")
    assert read_store_token({"TOCSIN_STORE_TOKEN_FILE": str(secret)}, None) == "t0ken"


@given(
    st.lists(
        st.dictionaries(st.sampled_from([*ROW, "categories", "confidence"]), st.none() | st.text() | st.integers())
    )
)
def test_whatever_stands_in_a_row_becomes_a_record_or_a_fault(rows: list[dict[str, Any]]) -> None:

    with tempfile.TemporaryDirectory() as folder:
        file = write_lines(Path(folder) / "f.ndjson", *rows)
        found = list(read_history(file, "ndjson", Reading(), NOW))
    assert [each.line for each in found] == list(range(1, len(rows) + 1))
    assert all((each.record is None) == bool(each.faults) for each in found)
