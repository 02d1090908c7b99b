"""The log served over HTTP: who gets what of it, by a real server on loopback."""

import gzip
import http.client
import os
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from bridge.contracts.errors import Unreachable
from bridge.runtime.telemetry import Health
from consumers.adapters.case_store import tables
from consumers.adapters.log_server import LogServer, PublishedLog, Readers, Served
from consumers.adapters.tile_store import TileFolder
from consumers.case.people import add_person
from consumers.case.permissions import Role
from consumers.case.store import CaseStore
from consumers.evidence.checkpoint import open_checkpoint
from consumers.evidence.log import LogWriter
from consumers.evidence.merkle import leaf_hash
from consumers.evidence.tiles import ENTRIES, TileName, decode_bundle, tiles_of
from tests.unit.case.cases import STAFF_KEY, Case
from tests.unit.evidence.logs import KEY, OTHER_KEY, entries, write_log

SIZE = 600


class Answered:
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


class Serving:
    """A log of SIZE entries, served; ada is an auditor, dan is not."""

    public: int

    def __init__(self, folder: Path, like: "Serving | None" = None) -> None:
        """With `like`, people and tokens are its: making them takes its time by design."""
        self.folder = write_log(folder / "log", [3, 250, SIZE])
        self.case = Case(folder)
        self.people = folder / "people.toml"
        if like is not None:
            self.people.write_bytes(like.people.read_bytes())
        self.tokens: dict[str, str] = like.tokens if like is not None else {
            "ada": add_person(self.people, "ada", "Ada", [Role.AUDITOR]),
            "dan": add_person(self.people, "dan", "Dan", [Role.DPO, Role.ADMIN]),
        }  # fmt: skip
        self.store_answers = True
        self.readers = Readers(self.people, lambda: STAFF_KEY, self._store, self.case.clock)
        self.servers: list[LogServer] = []
        self.private = self.serve(PublishedLog(self.folder, [KEY.verifier], self.readers))

    def _store(self) -> CaseStore:
        if not self.store_answers:
            raise Unreachable("the case store does not answer")
        return self.case.store

    def serve(self, published: PublishedLog) -> int:
        server = LogServer(published, "127.0.0.1", 0)
        server.start()
        self.servers.append(server)
        return server.port

    def get(
        self, path: str, who: str | None = None, *, port: int | None = None, method: str = "GET", **headers: str
    ) -> Answered:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if who is not None:
            sent["Authorization"] = f"Bearer {self.tokens.get(who, who)}"
        connection = http.client.HTTPConnection("127.0.0.1", port or self.private, timeout=10)
        try:
            connection.request(method, path, headers=sent)
            answer = connection.getresponse()
            return Answered(answer.status, dict(answer.headers), answer.read())
        finally:
            connection.close()

    def looks(self) -> list[dict[str, Any]]:
        return [row for row in self.case.rows(tables.act) if row["kind"] == "evidence.log_read"]

    def close(self) -> None:
        for server in self.servers:
            server.stop()
        self.case.database.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    serving = Serving(tmp_path_factory.mktemp("served"))
    serving.public = serving.serve(PublishedLog(serving.folder, [KEY.verifier], None))
    yield serving
    serving.close()


@pytest.fixture
def own(shared: Serving, tmp_path: Path) -> Iterator[Serving]:
    serving = Serving(tmp_path, shared)
    yield serving
    serving.close()


def test_the_checkpoint_is_everybodys_and_not_cached(shared: Serving) -> None:
    answer = shared.get("/checkpoint")
    assert answer.status == 200
    assert answer.body == (shared.folder / "checkpoint").read_bytes()
    assert open_checkpoint(answer.body, [KEY.verifier]).size == SIZE
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    head = shared.get("/checkpoint", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(answer.body))
    assert shared.get("/checkpoint", method="POST").status == 501


def test_an_auditor_reads_the_whole_log_and_that_is_written_down_once_an_hour(own: Serving) -> None:
    found: dict[TileName, bytes] = {}
    for name in tiles_of(SIZE):
        answer = own.get(f"/{name.path}", "ada")
        assert answer.status == 200, name
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        assert "Authorization" in answer.headers["Vary"]
        assert answer.body == (own.folder / name.path).read_bytes()
        found[name] = answer.body
    bundles = sorted(name for name in found if name.level == ENTRIES)
    read = [entry for name in bundles for entry in decode_bundle(found[name], name)]
    assert read == entries(0, SIZE)
    hashes = b"".join(found[name] for name in sorted(found) if name.level == 0)
    assert hashes == b"".join(map(leaf_hash, read))
    (look,) = own.looks()
    assert (look["person"], look["role"], look["incident_id"]) == ("ada", "auditor", None)
    (event,) = own.case.published("tocsin.case-events")
    assert (event["kind"], event["body"]) == ("evidence.log_read", {"log_size": SIZE})
    assert event["actor"] not in (None, "ada")

    own.case.clock.at += timedelta(hours=1)
    for _ in range(2):
        assert own.get("/tile/0/000", "ada").status == 200
    assert len(own.looks()) == 2


def test_bundles_are_compressed_for_who_asks(shared: Serving) -> None:
    plain = shared.get("/tile/entries/001", "ada", Accept_Encoding="br, gzip;q=0")
    packed = shared.get("/tile/entries/001", "ada", Accept_Encoding="br, gzip;q=0.5")
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Authorization, Accept-Encoding"


def test_a_partial_that_a_full_tile_has_replaced_is_its_beginning(shared: Serving) -> None:
    for name in (TileName(0, 0, 250), TileName(ENTRIES, 0, 250)):
        assert not (shared.folder / name.path).exists()
        answer = shared.get(f"/{name.path}", "ada")
        whole = (shared.folder / name.completed.path).read_bytes()
        assert answer.status == 200
        assert whole.startswith(answer.body)
        assert len(answer.body) < len(whole)
    assert len(decode_bundle(answer.body, TileName(ENTRIES, 0, 250))) == 250


def test_who_may_not_read_learns_nothing_of_what_is_there(shared: Serving) -> None:
    before = len(shared.looks())
    answers = {}
    for path in ("/tile/0/000", "/tile/entries/000", "/tile/0/999", "/tile/entries/001.p/7"):
        for who in (None, "tocsin_ada_wrong", "tocsin_nobody_wrong", "x" * 5000, "", "dan"):
            answers[path, who] = shared.get(path, who)
    for who in (None, "tocsin_ada_wrong", "tocsin_nobody_wrong", "x" * 5000, ""):
        assert len({answer.body for (_, whose), answer in answers.items() if whose == who}) == 1
        assert {answer.status for (_, whose), answer in answers.items() if whose == who} == {401}
        assert answers["/tile/0/000", who].headers["WWW-Authenticate"].startswith("Bearer ")
    assert {answer.status for (_, whose), answer in answers.items() if whose == "dan"} == {403}
    assert all(answer.headers["Cache-Control"] == "no-store" for answer in answers.values())
    assert shared.get("/tile/0/000", Authorization=f"Basic {shared.tokens['ada']}").status == 401
    assert len(shared.looks()) == before


@pytest.mark.parametrize(
    "path",
    [
        "/", "/edge", "/.lock", "/checkpoint?x", "/checkpoint/", "//checkpoint", "/%63heckpoint", "/Checkpoint",
        "/tile/0/../../checkpoint", "/tile/0/%2e%2e/000", "/tile/0/0", "/tile/00/000", "/tile/0/x000/001", "/tile/64/000",
        "/tile/0/000.p/0", "/tile/0/000.p/256", "/tile/0/000.p/03", "/tile/0/000/", "/tile/0/000?a=1", "/tile/0/000#a",
        "//tile/0/000", "tile/0/000", "http://127.0.0.1/tile/0/000", "/tile/entries/002", "/tile/entries/002.p/89",
        "/tile/0/003", "/tile/1/000", "/tile/1/000.p/3", "/tile/2/000.p/1", "/tile/0/" + "x999/" * 2000 + "999",
        "/timestamps/3.tsr", "/.writing/checkpoint", "/../log.signed",
    ],
)  # fmt: skip
def test_no_other_path_leads_anywhere(shared: Serving, path: str) -> None:
    answer = shared.get(path, "ada")
    assert answer.status == 404
    assert answer.body.startswith(b"not found")
    assert shared.get(path, port=shared.public).status == 404


def test_public_tiles_need_no_token_and_may_be_cached_by_anybody(shared: Serving) -> None:
    before = len(shared.looks())
    answer = shared.get("/tile/0/000", port=shared.public)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert "Vary" not in answer.headers
    assert len(shared.looks()) == before


def test_what_the_signed_checkpoint_does_not_cover_is_not_there(own: Serving) -> None:
    (own.folder / "tile" / "0" / "002.p" / "89").write_bytes(b"x" * 89 * 32)
    (own.folder / "tile" / "0" / "003").write_bytes(b"x" * 8192)
    for path in ("/tile/0/002.p/89", "/tile/0/003"):
        assert own.get(path, "ada").status == 404
    assert own.get("/tile/0/002.p/88", "ada").status == 200
    (own.folder / "checkpoint").unlink()
    for path in ("/checkpoint", "/tile/0/000"):
        assert own.get(path, "ada").status == 404


def test_links_and_what_is_no_file_are_not_followed(own: Serving, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 8192)
    tiles = own.folder / "tile" / "0"
    (tiles / "000").unlink()
    (tiles / "000").symlink_to(secret)
    (tiles / "001").unlink()
    os.mkfifo(tiles / "001")
    (tiles / "002.p" / "88").unlink()
    (tiles / "002.p" / "88").mkdir()
    other = own.folder / "tile" / "entries"
    other.rename(tmp_path / "elsewhere")
    other.symlink_to(tmp_path / "elsewhere")
    for path in ("/tile/0/000", "/tile/0/001", "/tile/0/002.p/88", "/tile/entries/000"):
        assert own.get(path, "ada").status == 404


def test_damage_is_not_handed_on(own: Serving) -> None:
    tile, bundle = own.folder / "tile" / "0" / "000", own.folder / "tile" / "entries" / "000"
    tile.write_bytes(tile.read_bytes()[:-1])
    bundle.write_bytes(bundle.read_bytes() + b"x")
    for path in ("/tile/0/000", "/tile/entries/000"):
        assert own.get(path, "ada").status == 500
    (own.folder / "checkpoint").write_bytes(open_other(own.folder))
    for path in ("/checkpoint", "/tile/0/001"):
        answer = own.get(path, "ada")
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "5"


def open_other(folder: Path) -> bytes:
    return open_checkpoint((folder / "checkpoint").read_bytes(), [KEY.verifier]).sign(OTHER_KEY)


def test_no_look_without_its_trace_and_nobody_who_was_taken_out(own: Serving) -> None:
    own.store_answers = False
    assert own.get("/tile/0/000", "ada").status == 503
    assert own.get("/checkpoint").status == 200
    own.store_answers = True
    assert own.get("/tile/0/000", "ada").status == 200
    assert len(own.looks()) == 1

    text = own.people.read_text()
    own.people.write_text(text.replace('"auditor"', '"viewer"'))
    assert own.get("/tile/0/000", "ada").status == 403
    own.people.write_text(text[text.index("[people.dan]") :])
    assert own.get("/tile/0/000", "ada").status == 401
    own.people.write_text("people = 7")
    assert own.get("/tile/0/000", "ada").status == 503
    own.people.unlink()
    assert own.get("/tile/0/000", "ada").status == 503
    assert own.get("/checkpoint").status == 200


def test_requests_are_counted_by_what_became_of_them(shared: Serving) -> None:
    def count(outcome: str) -> float:
        return REGISTRY.get_sample_value("tocsin_evidence_reads_total", {"outcome": outcome}) or 0.0

    outcomes = ("served", "not_found", "stranger", "forbidden")
    before = [count(outcome) for outcome in outcomes]
    for path, who in (("/checkpoint", None), ("/x", None), ("/tile/0/000", None), ("/tile/0/000", "dan")):
        shared.get(path, who)
    assert [count(outcome) for outcome in outcomes] == [number + 1 for number in before]


def test_the_stage_runs_beside_it_and_also_where_nobody_can_listen(shared: Serving) -> None:
    published = PublishedLog(shared.folder, [KEY.verifier], None)
    asked: list[int] = []

    class Asking:
        def __init__(self, port: Any) -> None:
            self.port = port

        def run(self, stop: threading.Event) -> None:
            asked.append(shared.get("/checkpoint", port=self.port()).status)

    opened: list[LogServer] = []

    def listen() -> LogServer:
        opened.append(LogServer(published, "127.0.0.1", 0))
        return opened[0]

    health = Health()
    health.ready()
    Served(Asking(lambda: opened[0].port), listen, health).run(threading.Event())
    assert (asked, health.reasons()) == ([200], {})
    with pytest.raises(ConnectionRefusedError):
        shared.get("/checkpoint", port=opened[0].port)

    taken = shared.private
    Served(
        Asking(lambda: shared.public), lambda: LogServer(published, "127.0.0.1", taken), health
    ).run(threading.Event())  # fmt: skip
    assert asked == [200, 200]
    assert "evidence.port" in health.reasons()["log server"]


def test_the_logs_files_are_their_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    LogWriter.open(TileFolder(folder), KEY).append(entries(0, 3))
    everything = [folder, tmp_path / "log.signed", *folder.rglob("*")]
    assert {path.name for path in everything} >= {"checkpoint", "edge", ".lock", "entries", "3"}
    assert [path.name for path in everything if path.stat().st_mode & 0o007] == []
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (folder / "tile").stat().st_mode & 0o777 == 0o700
    assert (folder / "checkpoint").stat().st_mode & 0o777 == 0o600
