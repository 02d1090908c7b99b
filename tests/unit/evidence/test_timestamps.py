"""Time stamps of checkpoints by an authority of ours (OpenSSL's), asked over HTTP; also one that is down or lies."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.contracts.errors import TocsinError, Unreachable
from consumers.adapters.time_stamper import OVERDUE, STAMPS, Stamped, TimeStamper, asked_over_http
from consumers.evidence.commands import evidence
from consumers.evidence.faults import Malformed, NotProved
from consumers.evidence.proof import Extra, Proof
from consumers.evidence.reader import LogFolder
from consumers.evidence.timestamps import check_stamp, paths_of, read_roots, request_for, stamped_sizes
from consumers.evidence.verifier import LogReport, verify_log
from tests.unit.evidence.logs import KEY, OTHER_KEY, entries, write_log, writing
from tests.unit.evidence.test_commands import outcome

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed: no time stamp authority"
)

_CONFIG = """
[tsa]
default_tsa = authority
[authority]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


class Authority:
    """A time stamp authority with its own root, answering over HTTP. `answer` may be replaced by something worse."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root_name, name = _name("Test root"), _name("Test time stamps")
        root = _certificate(root_name, root_name, root_key, root_key, None)
        certificate = _certificate(
            name, root_name, key, root_key, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        )
        self.root_pem = root.public_bytes(Encoding.PEM)
        (folder / "root.pem").write_bytes(self.root_pem)
        (folder / "tsa.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (folder / "tsa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (folder / "serial").write_text("01")
        (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder))
        self.answer: Callable[[bytes], bytes | None] = self.stamp
        self.asked = 0
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                authority.asked += 1
                assert self.headers["Content-Type"] == "application/timestamp-query"
                answer = authority.answer(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(503 if answer is None else 200)
                self.end_headers()
                self.wfile.write(answer or b"")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name it has above
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/tsa"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stamp(self, request: bytes) -> bytes:
        query = self.folder / "query.tsq"
        query.write_bytes(request)
        return self._openssl("-reply", "-config", self.folder / "tsa.cnf", "-queryfile", query)

    def openssl_accepts(self, data: Path, answer: Path) -> bool:
        verified = self._openssl("-verify", "-data", data, "-in", answer, "-CAfile", self.folder / "root.pem")
        return b"Verification: OK" in verified

    def _openssl(self, *arguments: str | Path) -> bytes:
        return subprocess.run(["openssl", "ts", *arguments], capture_output=True, check=True).stdout

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    usage: x509.ExtendedKeyUsage | None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=usage is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    authority = Authority(tmp_path_factory.mktemp("tsa"))
    yield authority
    authority.close()


@pytest.fixture
def authority(running: Authority) -> Authority:
    running.answer = running.stamp
    return running


def stamper(folder: Path, authority: Authority) -> TimeStamper:
    return TimeStamper(folder, asked_over_http(authority.url), every_seconds=0.01, roots=read_roots(authority.root_pem))


def verified(folder: Path, roots: bytes | None) -> LogReport:
    return verify_log(LogFolder(folder), [KEY.verifier], tsa_roots=read_roots(roots) if roots else ())


def test_checkpoints_are_stamped_as_the_log_grows_and_verify_says_so(tmp_path: Path, authority: Authority) -> None:
    folder = write_log(tmp_path / "log", [0])
    stamping = stamper(folder, authority)
    assert not stamping.stamp_if_grown(), "an empty log says nothing"
    for size in (3, 300):
        with writing(folder) as writer:
            writer.append(entries(writer.size, size))
        assert stamping.stamp_if_grown()
        assert not stamping.stamp_if_grown(), "once is enough"
    with writing(folder) as writer:
        writer.append(entries(300, 301))
    assert sorted(file.name for file in (folder / "timestamps").iterdir()) == [
        "3.checkpoint", "3.tsr", "300.checkpoint", "300.tsr",
    ]  # fmt: skip
    report = verified(folder, authority.root_pem)
    assert report.problems == []
    (said,) = report.notes
    assert said.startswith("Proved by 2 time stamps: its first 3 entries existed by ")
    assert "its first 300 by " in said
    assert said.endswith("says the time stamp authority CN=Test time stamps.")
    assert (
        "Not proved by this: that what was logged is true, and that no newer checkpoint exists." in report.sentences()
    )
    assert "who made them was not checked" in verified(folder, None).notes[0]
    assert any("when it was signed" in sentence for sentence in verified(folder, None).sentences())
    # An auditor needs nothing of ours for this.
    assert authority.openssl_accepts(*(folder / path for path in paths_of(300)))


def test_an_authority_that_is_down_or_lies_is_counted_and_asked_again(tmp_path: Path, authority: Authority) -> None:
    folder = write_log(tmp_path / "log", [3])
    other = write_log(tmp_path / "other", [4])
    stamping = stamper(folder, authority)
    authority.answer = lambda request: None
    with pytest.raises(Unreachable, match="status 503"):
        stamping.stamp_if_grown()
    with pytest.raises(Unreachable, match="cannot be reached"):
        TimeStamper(folder, asked_over_http("http://127.0.0.1:9/"), every_seconds=1).stamp_if_grown()
    authority.answer = lambda request: b"not a stamp"
    with pytest.raises(Malformed, match="not an answer"):
        stamping.stamp_if_grown()
    of_another = authority.stamp(request_for((other / "checkpoint").read_bytes()).as_bytes())
    authority.answer = lambda request: of_another
    with pytest.raises(NotProved, match="other bytes"):
        stamping.stamp_if_grown()
    of_an_earlier_request = authority.stamp(request_for((folder / "checkpoint").read_bytes()).as_bytes())
    authority.answer = lambda request: of_an_earlier_request
    with pytest.raises(NotProved, match="another request"):
        stamping.stamp_if_grown()
    authority.answer = authority.stamp
    with pytest.raises(NotProved, match="not by an authority under"):
        TimeStamper(folder, asked_over_http(authority.url), every_seconds=1, roots=_other_roots()).stamp_if_grown()
    assert stamped_sizes(LogFolder(folder)) == []


def _other_roots() -> tuple[x509.Certificate, ...]:
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("Another root")
    return (_certificate(name, name, key, key, None),)


def test_the_stage_beside_it_neither_waits_nor_falls(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.adapters.time_stamper._FIRST_WAIT_SECONDS", 0.01)
    folder = write_log(tmp_path / "log", [3])
    failed, stamped = (STAMPS.labels(result)._value.get() for result in ("failed", "stamped"))
    done = threading.Event()
    tries = 0
    overdue: list[float] = []

    def answer(request: bytes) -> bytes | None:
        nonlocal tries
        tries += 1
        overdue.append(OVERDUE._value.get())
        if tries < 3:
            return None
        done.set()
        return authority.stamp(request)

    authority.answer = answer

    class Stage:
        def run(self, stop: threading.Event) -> None:
            assert done.wait(20)
            while not stamped_sizes(LogFolder(folder)):
                assert not stop.wait(0.01)
            raise TocsinError("what the stage raises is raised")

    with pytest.raises(TocsinError, match="is raised"):
        Stamped(Stage(), stamper(folder, authority)).run(threading.Event())
    assert not any(thread.name == "evidence-time-stamps" for thread in threading.enumerate())
    assert STAMPS.labels("failed")._value.get() == failed + 2
    assert STAMPS.labels("stamped")._value.get() == stamped + 1
    assert 0 < overdue[1] < overdue[2], "it is counted from the first try that failed"
    assert OVERDUE._value.get() == 0


def test_a_log_that_is_not_the_one_that_was_stamped_is_found_out(tmp_path: Path, authority: Authority) -> None:
    folder = write_log(tmp_path / "log", [3])
    assert stamper(folder, authority).stamp_if_grown()
    checkpoint, answer = (folder / path for path in paths_of(3))
    rewritten = tmp_path / "rewritten"
    with writing(rewritten) as writer:
        writer.append([b"another history", b"from the start", b"with the same key", b"and longer"])
    shorter = write_log(tmp_path / "shorter", [2])
    for other, said in ((rewritten, "the log was rewritten"), (shorter, "it was rolled back")):
        shutil.copytree(folder / "timestamps", other / "timestamps")
        assert any(said in problem for problem in verified(other, authority.root_pem).problems), verified(
            other, None
        ).sentences()
        assert any(said in problem for problem in verified(other, None).problems)
    whole = answer.read_bytes()
    for at in range(0, len(whole), 97):
        answer.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        problems = verified(folder, authority.root_pem).problems
        assert all("\n" not in problem for problem in problems)
    answer.write_bytes(whole[:50])
    assert any("cannot be read" in problem for problem in verified(folder, authority.root_pem).problems)
    answer.write_bytes(whole)
    checkpoint.unlink()
    assert any("checkpoint is missing" in problem for problem in verified(folder, authority.root_pem).problems)
    answer.unlink()
    assert verified(folder, authority.root_pem).problems == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_a_stamp_or_refused(noise: bytes) -> None:
    with pytest.raises((Malformed, NotProved)):
        check_stamp(noise, b"checkpoint", ())
    with pytest.raises(Malformed):
        read_roots(noise)


def test_a_stamp_is_for_whoever_holds_a_key_of_the_log(tmp_path: Path, authority: Authority) -> None:
    folder = write_log(tmp_path / "log", [3])
    assert stamper(folder, authority).stamp_if_grown()
    with writing(folder) as writer:
        writer.rotate(OTHER_KEY, datetime.now(UTC))
        writer.append(entries(4, 9))
    for key in (KEY, OTHER_KEY):
        report = verify_log(LogFolder(folder), [key.verifier], tsa_roots=read_roots(authority.root_pem))
        assert report.problems == []
        assert any("Proved by 1 time stamp:" in note for note in report.notes)


def test_the_command_takes_the_authoritys_roots_and_witnesses(tmp_path: Path, authority: Authority) -> None:
    folder = tmp_path / "log"
    with writing(folder) as writer:
        writer.append([outcome(1, "intended", 0)])
    assert stamper(folder, authority).stamp_if_grown()
    proof = tmp_path / "proof"
    signed = (folder / "checkpoint").read_bytes()
    proof.write_bytes(Proof(0, (), signed, Extra(outcome(1, "intended", 0)).encode()).encode())
    roots = authority.folder / "root.pem"
    witness = "witness.example/w1+09dcf0bd+BAu8NGpXZnw4ASC9nH/X5R0sX9/qN80vW/QFssa/by14"
    for target in (folder, proof):
        arguments = [
            "verify",
            str(target),
            "--vkey",
            str(KEY.verifier),
            "--tsa-roots",
            str(roots),
            "--witness",
            witness,
        ]
        done = CliRunner().invoke(evidence, arguments)
        assert done.exit_code == 0, done.output
        assert "The witness witness.example/w1 did not cosign this checkpoint." in done.output
        assert ("Proved by 1 time stamp: its first 1 entries existed by" in done.output) == (target == folder)
