"""The leak search finds what is planted: in every kind of place, in every form, however wrapped; and nothing else."""

import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import sqlite3
import subprocess
import sys
import tarfile
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from confluent_kafka import Producer

from consumers.demo.shop import make_shop
from consumers.evidence.tiles import ENTRIES, TileName
from tests.e2e.leak_search import (
    Finding,
    Piece,
    Place,
    Unreadable,
    Value,
    folder_places,
    metrics_places,
    search,
    topic_places,
)

EMAIL = "Kvekre.Trytroozho.17+bounce@de.example.com"
PHONE = "+4915228817342"
NAME = "Kvekre Trytroozho"
ADDRESS = "Truwoze Vraebra 17"
VALUES: list[Value] = [("email", EMAIL), ("phone", PHONE), ("name", NAME), ("address", ADDRESS)]


def others(count: int) -> list[Value]:
    """Values of people who are nowhere, so that a needle is one of many."""
    return list(make_shop(count, 3, datetime(2026, 7, 1, tzinfo=UTC)).personal_values())


MANY = [*VALUES, *others(200)]


def _random_base64(seed: int, count: int) -> bytes:
    return base64.b64encode(random.Random(seed).randbytes(count))


def _digests(text: str) -> Iterator[tuple[str, bytes]]:
    for algorithm in ("md5", "sha1", "sha256"):
        yield algorithm, hashlib.new(algorithm, text.encode()).digest()


def _forms(value: str) -> Iterator[tuple[str, bytes]]:
    """Yield (form, bytes) for each form that the search must know."""
    plain = value.encode()
    yield "plain", plain
    yield "upper case", plain.upper()
    yield "lower case", plain.lower()
    for phase in range(3):
        inside = b"{\x01\x02"[:phase] + plain + b"}"
        yield f"base64 in phase {phase}", base64.b64encode(inside)
        yield f"base64url in phase {phase}", base64.urlsafe_b64encode(inside).rstrip(b"=")
        yield f"base64 of lower case in phase {phase}", base64.b64encode(inside.lower())
    yield "base64 in lines", base64.encodebytes(b"x" * 50 + plain)
    yield "base64 twice", base64.b64encode(base64.b64encode(b"{" + plain + b"}"))
    yield "hex", plain.hex().encode()
    yield "hex in upper case", plain.hex().upper().encode()
    yield "hex at an odd place", b"f" + plain.hex().encode()
    yield "percent", "".join(f"%{byte:02X}" for byte in plain).encode()
    yield "JSON escapes", "".join(f"\\u{byte:04x}" for byte in plain).encode()
    yield "JSON in JSON", json.dumps(json.dumps({"a": json.dumps("".join(f"\\u{b:04x}" for b in plain))})).encode()
    yield "UTF-16, little endian", value.encode("utf-16-le")
    yield "UTF-16, big endian", value.encode("utf-16-be")
    yield "base64 of gzip", base64.b64encode(gzip.compress(plain))
    hashed = {"": value, " of lower case": value.strip().lower()}
    if value.startswith("+"):
        hashed[" without +"] = value[1:]
    for note, text in hashed.items():
        for algorithm, digest in _digests(text):
            yield f"{algorithm}{note} in hex", digest.hex().encode()
            yield f"{algorithm}{note} in upper hex", digest.hex().upper().encode()
            yield f"{algorithm}{note} raw", digest
            yield f"{algorithm}{note} in base64", base64.b64encode(digest)
            yield f"{algorithm}{note} in base64url", base64.urlsafe_b64encode(digest).rstrip(b"=")
            yield f"{algorithm}{note} in JSON's base64", base64.b64encode(digest).replace(b"/", b"\\/")
            yield f"{algorithm}{note} of Python", repr(digest).encode()
            yield f"base64 of {algorithm}{note} in hex", base64.b64encode(digest.hex().encode())
            if algorithm == "md5":
                yield f"{algorithm}{note} as UUID", str(uuid.UUID(bytes=digest)).encode()


FORMS = [(what, form, content) for what, value in VALUES for form, content in _forms(value)]


def _place(*contents: bytes) -> Place:
    return Place("here", lambda: iter([Piece(f"{n}", [("", content)]) for n, content in enumerate(contents)]))


def _kinds(findings: Iterable[Finding]) -> set[str]:
    return {finding.what for finding in findings}


@pytest.mark.parametrize(("what", "form", "content"), FORMS, ids=[f"{what}: {form}" for what, form, _ in FORMS])
def test_a_value_is_found_in_each_form(what: str, form: str, content: bytes) -> None:
    before, after = _random_base64(1, 300), _random_base64(2, 300)
    assert what in _kinds(search([_place(before + b'","x":"' + content + b'","y":"' + after)], VALUES))


@pytest.mark.parametrize(
    "content",
    [
        b'{"firstname": "Kvekre", "middlename": null, "lastname": "TRYTROOZHO"}',
        b"Trytroozho, Kvekre",
        b"kvekre_trytroozho",
        b"firstname=Kvekre\nlastname=Trytroozho",
    ],
)
def test_a_name_in_two_parts_is_found_where_they_are_neighbours(content: bytes) -> None:
    assert _kinds(search([_place(content)], VALUES)) == {"name"}


def test_parts_of_a_name_that_stand_apart_are_no_person() -> None:
    assert not search([_place(b"Kvekre" + b" " * 100 + b"Trytroozho")], VALUES)


@pytest.mark.parametrize(
    "content", [b"+49 1522 8817342", b"0049 (1522) 881-73-42", b"+49.1522.88.17.342", b"004915228817342"]
)
def test_a_phone_number_is_found_however_it_is_grouped(content: bytes) -> None:
    assert _kinds(search([_place(b"tel: " + content + b", 17")], VALUES)) == {"phone"}


def test_digits_within_longer_digits_are_no_phone_number() -> None:
    assert not search([_place(b"offset 99491522881734200")], VALUES)


def test_an_address_is_found_over_two_lines() -> None:
    assert _kinds(search([_place(b"TRUWOZE\r\nVraebra, 17\r\n")], VALUES)) == {"address"}


def test_what_is_allowed_yields_nothing() -> None:
    """Random base64, hex, binary and UUIDs, keyed hashes, and digests of others: four megabytes."""
    noise = random.Random(5)
    keyed = [hashlib.blake2b(value.encode(), key=b"k" * 32, digest_size=32).hexdigest() for _, value in MANY]
    clean = [
        _random_base64(6, 1_500_000),
        noise.randbytes(500_000).hex().encode(),
        noise.randbytes(500_000),
        "\n".join(str(uuid.UUID(int=noise.getrandbits(128))) for _ in range(5000)).encode(),
        "\n".join(f"{noise.uniform(0, 1e12)} {noise.getrandbits(48)} 2026-07-01T{n:06d}" for n in range(9000)).encode(),
        "\n".join(keyed).encode(),
        hashlib.sha256(b"nobody@example.com").hexdigest().encode(),
    ]
    assert search([_place(*clean)], MANY) == []


def test_a_finding_says_where_and_never_the_value() -> None:
    row = Piece("customer row 7", [("id", b"7"), ("note", base64.b64encode(EMAIL.encode()))])
    place = Place(f"file {EMAIL}.txt", lambda: iter([Piece("row 6", [("id", b"6")]), row]))
    findings = search([place], VALUES)
    emails = [finding for finding in findings if finding.what == "email"]
    assert emails == [
        Finding("(a name that is itself a personal value)", "customer row 7 note", "email", "base64 > plain")
    ]
    assert not any(value.lower() in str(findings).lower() for _, value in VALUES)


def test_a_value_over_two_parts_is_found_in_their_whole() -> None:
    row = Piece("row 1", [("firstname", b"Kvekre"), ("lastname", b"Trytroozho")])
    assert [f.where for f in search([Place("table", lambda: iter([row]))], VALUES)] == ["row 1"]


def test_many_findings_of_one_kind_are_kept_short() -> None:
    assert len(search([_place(*[EMAIL.encode()] * 500)], [("email", EMAIL)])) == 5


def test_a_value_that_cannot_be_told_from_chance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"value 0 \(address\)"):
        search([], [("address", "Am 1")])


# --- kinds of places --------------------------------------------------------------------------------------------------

PLANTED = [
    ("email", EMAIL.encode()),
    ("email", base64.b64encode(b'{"contact": "' + EMAIL.upper().encode() + b'"}')),
    ("phone", PHONE.encode().hex().encode()),
    ("name", base64.urlsafe_b64encode(NAME.encode())),
    ("address", hashlib.sha1(ADDRESS.lower().encode()).hexdigest().encode()),
    ("email", base64.b64encode(hashlib.sha256(EMAIL.lower().encode()).digest())),
]
CLEAN = base64.b64encode(hashlib.sha512(b"sealed").digest())

planted = pytest.mark.parametrize(("what", "content"), PLANTED)


def found_in(folder: Path, what: str) -> list[Finding]:
    return [finding for finding in search(folder_places(folder), MANY) if finding.what == what]


@planted
def test_a_log_line(tmp_path: Path, what: str, content: bytes) -> None:
    log = tmp_path / "logs" / "relay.log"
    log.parent.mkdir()
    log.write_bytes(b'{"event": "clean", "key": "' + CLEAN + b'"}\n' * 1000)
    assert not search(folder_places(tmp_path), MANY)
    with log.open("ab") as file:
        file.write(b'{"event": "oh", "detail": "' + content + b'"}\n')
    assert [finding.place for finding in found_in(tmp_path, what)] == ["logs/relay.log"]


@planted
def test_a_duckdb_column(tmp_path: Path, what: str, content: bytes) -> None:
    """In a row that only DuckDB's own reader shows: many alike, so that they are stored compressed."""
    file = tmp_path / "partition-0.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE customer (id BIGINT, note VARCHAR, raw BLOB, nested STRUCT(a VARCHAR[]))")
        connection.execute("INSERT INTO customer SELECT i, 'x' || i, ''::BLOB, {a: ['y']} FROM range(3000) t(i)")
    assert not search(folder_places(tmp_path), MANY)
    with duckdb.connect(str(file)) as connection:
        connection.execute("UPDATE customer SET note = note || ?", [" " + content.decode()])
        connection.execute("CHECKPOINT")
    assert any("customer row" in finding.where for finding in found_in(tmp_path, what))


@pytest.mark.parametrize("column", ["raw", "nested"])
def test_a_duckdb_column_of_bytes_or_of_structures(tmp_path: Path, column: str) -> None:
    with duckdb.connect(str(tmp_path / "index")) as connection:
        connection.execute("CREATE TABLE t (raw BLOB, nested STRUCT(a BLOB[]))")
        digest = hashlib.md5(EMAIL.encode()).digest()
        row = {"raw": [digest, None], "nested": [None, {"a": [digest]}]}[column]
        connection.execute("INSERT INTO t VALUES (?, ?)", row)
    assert f"t row 0 {column}" in [finding.where for finding in found_in(tmp_path, "email")]


@planted
def test_a_duckdb_wal_of_a_process_that_still_runs(tmp_path: Path, what: str, content: bytes) -> None:
    """The owner holds the file's lock and has not checkpointed: the row is in the WAL alone."""
    with duckdb.connect(str(tmp_path / "index.duckdb")) as connection:
        connection.execute("SET wal_autocheckpoint = '1GB'")
        connection.execute("CREATE TABLE t (note VARCHAR)")
        assert not search(folder_places(tmp_path), MANY)
        connection.execute("INSERT INTO t VALUES (?)", [content.decode()])
        assert (tmp_path / "index.duckdb.wal").exists()
        places = {finding.place for finding in found_in(tmp_path, what)}
    assert places == {"index.duckdb", "index.duckdb.wal"}


@planted
def test_a_parquet_file_without_a_name_that_says_so(tmp_path: Path, what: str, content: bytes) -> None:
    file = tmp_path / "artefacts" / "ab" / "abcdef"
    file.parent.mkdir(parents=True)
    write = "COPY (SELECT i, {column} AS why FROM range(2000) t(i)) TO '{file}' (FORMAT parquet, COMPRESSION zstd)"
    duckdb.sql(write.format(column="'in scope'", file=file))
    assert not search(folder_places(tmp_path), MANY)
    duckdb.sql(write.format(column=f"CASE i WHEN 1999 THEN '{content.decode()}' END", file=file))
    assert "parquet row 1999 why" in [finding.where for finding in found_in(tmp_path, what)]


@planted
@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_case_store_column_and_its_wal(tmp_path: Path, what: str, content: bytes, checkpointed: bool) -> None:
    connection = sqlite3.connect(tmp_path / "case.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE person (id INTEGER PRIMARY KEY, note BLOB)")
    connection.commit()
    assert not search(folder_places(tmp_path), MANY)
    # longer than a page, so that the raw file has it in pieces
    connection.execute("INSERT INTO person (note) VALUES (?)", (b"- " * 2030 + content + b" -" * 3000,))
    connection.commit()
    if checkpointed:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    findings = found_in(tmp_path, what)
    connection.close()
    assert "person row 0 note" in [finding.where for finding in findings if finding.place == "case.db"]


def test_a_deleted_row_that_still_stands_in_the_file(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "case.db")
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute("CREATE TABLE person (note TEXT)")
    connection.execute("INSERT INTO person VALUES (?)", (EMAIL,))
    connection.commit()
    connection.execute("DELETE FROM person")
    connection.commit()
    connection.close()
    assert "raw bytes near 0" in [finding.where for finding in found_in(tmp_path, "email")]


def _bundle(entries: Iterable[bytes]) -> bytes:
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


@planted
def test_an_evidence_entry(tmp_path: Path, what: str, content: bytes) -> None:
    name = TileName(ENTRIES, 0, 3)
    file = tmp_path / "evidence" / name.path
    file.parent.mkdir(parents=True)
    file.write_bytes(_bundle([b'{"type": "x"}', b'{"hash": "' + CLEAN + b'"}', b"{}"]))
    assert not search(folder_places(tmp_path), MANY)
    file.write_bytes(_bundle([b'{"type": "x"}', b'{"hash": "' + content + b'"}', b"{}"]))
    assert "entry 1" in [finding.where for finding in found_in(tmp_path, what)]


@planted
def test_archives_in_archives(tmp_path: Path, what: str, content: bytes) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        entry = tarfile.TarInfo("notes.txt")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    with zipfile.ZipFile(tmp_path / "bundle", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.tgz", inner.getvalue())
    assert any("notes.txt" in finding.where for finding in found_in(tmp_path, what))


def test_a_file_name_and_a_folder_name(tmp_path: Path) -> None:
    (tmp_path / hashlib.sha256(EMAIL.encode()).hexdigest()).mkdir()
    (tmp_path / f"{PHONE}.tmp").touch()
    assert _kinds(search(folder_places(tmp_path), MANY)) == {"email", "phone"}


def test_a_value_across_the_border_of_two_reads(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"-" * ((4 << 20) - 7) + EMAIL.encode() + b"-" * 100)
    assert found_in(tmp_path, "email")


def test_temporary_files_and_what_is_excluded(tmp_path: Path) -> None:
    for name in ("tmp/a", "mailbox/deep/1.eml", "store.db", "store.db-wal"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(EMAIL)
    places = folder_places(tmp_path, ("mailbox", "store.db", "store.db-*"), label="temporary file ")
    assert {finding.place for finding in search(places, [("email", EMAIL)])} == {"temporary file tmp/a"}


@pytest.mark.parametrize(
    "content", [b"\x00" * 8 + b"DUCK" + b"\x00" * 600, b"PAR1" + b"x" * 600, b"SQLite format 3\x00" + b"y" * 600]
)
def test_a_file_that_cannot_be_read_is_no_clean_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(Unreadable, match="broken"):
        search(folder_places(tmp_path), VALUES)


@pytest.fixture
def metrics_page(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    """Serves a page of metrics; yields what sets its text and returns the folder with its address."""
    text = b""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = {"metrics": f"http://127.0.0.1:{server.server_port}/metrics"}
    (tmp_path / "dispatch.metrics.json").write_text(json.dumps(address))

    def show(page: bytes) -> Path:
        nonlocal text
        text = page
        return tmp_path

    yield show
    server.shutdown()
    thread.join()
    server.server_close()


@planted
def test_a_metric(metrics_page: Callable[[bytes], Path], what: str, content: bytes) -> None:
    assert not search(metrics_places(metrics_page(b"tocsin_notices_total 3\n")), MANY)
    folder = metrics_page(b'tocsin_notices_total{to="' + content + b'"} 3\n')
    assert {(f.place, f.where) for f in search(metrics_places(folder), MANY) if f.what == what} == {
        ("metrics of dispatch", "line 1")
    }


def test_metrics_of_a_process_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "x.metrics.json").write_text('{"metrics": "http://127.0.0.1:9/metrics"}')
    with pytest.raises(Unreadable, match=r"127\.0\.0\.1:9"):
        search(metrics_places(tmp_path), VALUES)


@pytest.fixture(scope="module")
def embedded_kafka() -> Iterator[str]:
    """The demo's Kafka, as the demo starts it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge.runtime.embedded_kafka"], stdout=subprocess.PIPE, env=dict(os.environ)
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["bootstrap_servers"]
    finally:
        process.terminate()
        process.wait(15)
        process.stdout.close()


Sent = tuple[bytes, bytes, dict[str, str | bytes | None]]


def _in_value(content: bytes) -> Sent:
    return b"customer/1", b'{"a": {"b": "' + content + b'"}}', {}


def _in_nested_value(content: bytes) -> Sent:
    inner = json.dumps({"contact": base64.b64encode(content).decode()})
    return b"x", json.dumps({"original": base64.b64encode(inner.encode()).decode()}).encode(), {}


def _in_key(content: bytes) -> Sent:
    return content, b"", {}


def _in_header(content: bytes) -> Sent:
    return b"x", b"{}", {"ce_subject": content}


@planted
@pytest.mark.parametrize("message", [_in_value, _in_nested_value, _in_key, _in_header])
def test_a_message(embedded_kafka: str, what: str, content: bytes, message: Callable[[bytes], Sent]) -> None:
    topic = f"t{uuid.uuid4().hex[:8]}."
    producer = Producer({"bootstrap.servers": embedded_kafka, "log_level": 2})
    key, value, headers = message(content)
    producer.produce(topic, key=key, value=value, headers=headers)
    producer.flush(10)
    findings = [finding for finding in search(topic_places(embedded_kafka, topic), MANY) if finding.what == what]
    assert findings
    assert {finding.place for finding in findings} == {f"topic {topic}"}


def test_a_topic_without_anybody(embedded_kafka: str) -> None:
    producer = Producer({"bootstrap.servers": embedded_kafka, "log_level": 2})
    for n in range(200):
        producer.produce("clean", key=f"customer/{n}", value=CLEAN, headers={"ce_id": CLEAN})
    producer.flush(10)
    assert search(topic_places(embedded_kafka, "clean"), MANY) == []
