"""Stage intake: takes alerts from AI monitors, over HTTP and from the topic `tocsin.leak-alerts`, and opens incidents.

An alert is never refused for its meaning: what cannot be understood opens a suspected incident all the same. Refused
are only strangers. HTTP answers, on `POST /alerts/<source>` with Standard Webhooks headers:

    202  {"incident_id": ..., "incident_ids": [...]}   taken; it is in the case store
    401  no or a wrong signature, or a timestamp outside the tolerance
    404  no such source (`intake.secrets` names them)
    409  this webhook id was taken before; {"incident_id": ...} says what it led to, and nothing was done
    411, 413  no length, or more than 1 MiB
    503  the case store does not answer: send it again

OpenLineage events come to `POST /api/v1/lineage` with `Authorization: Bearer <token>` (`intake.lineage_tokens`), plain or
gzipped; they become run and dataset facts in the case store. 201 taken, 400 no such event, 401 a stranger, 413 too large,
503 send it again. Sending one twice changes nothing.

On the topic the key is the source and the same headers sign; without them, and without `intake.trusted_topic_acl`, the
incident is marked `unsigned source`. What is neither signed nor readable there is a dead letter.
Not here: what an alert means (`consumers.case`), how payloads are read (an adapter), who is paged.
"""

import hashlib
import hmac
import json
import re
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Protocol

import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaError
from confluent_kafka import Message as _KafkaMessage
from confluent_kafka import TopicPartition as _TopicPartition

from bridge.contracts.errors import BadInput, Unreachable
from bridge.contracts.topics import LEAK_ALERTS
from bridge.runtime.clock import Clock
from bridge.runtime.consume import after_gap, on_gap
from bridge.runtime.dead_letters import DeadLetters, TooManyDeadLetters
from bridge.runtime.draining import DrainingServer
from bridge.runtime.kafka import RIGHTS_HINT, is_forbidden, new_consumer
from bridge.runtime.redrive import SENT_HEADER
from bridge.runtime.run_files import write_run_file
from bridge.runtime.settings import Intake, Kafka
from bridge.runtime.telemetry import Health, counter
from bridge.runtime.topic_ids import TopicIds
from consumers.case.alerts import JudgedScope, Known, KnownNames, ReadAlert, Unreadable, judge_scope
from consumers.case.intake_rules import Arrival, Taken, review_scopes, take
from consumers.case.records import Positions
from consumers.case.rewriting import ScopeRewriter
from consumers.case.scope_checks import check_scopes, doubtful_scopes
from consumers.case.store import CaseStore, CaseWork
from consumers.case.webhooks import BadSignature, Secrets
from consumers.domain.openlineage import RunFact, read_event
from consumers.domain.registry import RegistryMemory

log = structlog.get_logger()

STAGE = "intake"
MAX_BODY_BYTES = 1024 * 1024
MOST_PASSED_OVER_BYTES = 16 * 1024 * 1024
REVIEW_SECONDS = 5.0
KEPT_REVIEW_SECONDS = 60.0
"""How often names are compared again that a person was asked about: they may yet come."""
MAX_LINEAGE_BYTES = 4 * 1024 * 1024
LINEAGE_PATH = "/api/v1/lineage"
"""Where OpenLineage's own client sends to by default."""
_SOURCE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_REMEMBERED = timedelta(days=31)
"""Longer than the topic keeps alerts: no signed message can come back after its id was forgotten."""

ALERTS = counter(
    "tocsin_alerts_total",
    "messages from AI monitors by what became of them",
    question="do our monitors reach us, and does anybody try who should not?",
    labels={
        "way": ["http", "topic"],
        "outcome": [
            "opened",
            "repeated",
            "unreadable",
            "bad_signature",
            "replayed",
            "unknown_source",
            "too_large",
            "exercise",
        ],
    },
)


REGISTRY_LOOKS = counter(
    "tocsin_registry_looks_total",
    "looks at the model registry",
    question="do we still see the model registry, or is what we know of it getting old?",
    labels={"outcome": ["answered", "failed"]},
)


LINEAGE = counter(
    "tocsin_lineage_events_total",
    "OpenLineage events by what became of them",
    question="do pipelines report their runs, and can we read what they say?",
    labels={"outcome": ["kept", "nothing_new", "unreadable", "stranger", "too_large"]},
)


class LineageStore(Protocol):
    """Where run and dataset facts are kept."""

    def keep(self, fact: RunFact, source: str) -> bool:
        """Keep what an event says of a run; return whether anything in it was new. Raises Unreachable."""
        ...


class LineageIntake:
    """Takes OpenLineage events from pipelines that have a token."""

    def __init__(self, store: LineageStore, tokens: Mapping[str, bytes], on_change: Callable[[], None]) -> None:
        """`on_change` is called when an event told of something new; it must not take long."""
        self._store = store
        self._tokens = dict(tokens)
        self._on_change = on_change

    def answer(self, headers: Mapping[str, str], body: bytes) -> "_Answer":
        """Check who sends it, read it, keep it."""
        source = self._sender(headers.get("authorization", ""))
        if source is None:
            LINEAGE.labels("stranger").inc()
            return _Answer(401, {"error": "send Authorization: Bearer and a token that intake.lineage_tokens names"})
        if headers.get("content-encoding", "identity").lower() == "gzip":
            try:
                body = _inflated(body)
            except zlib.error:
                return _Answer(400, {"error": "the body is not gzip, as Content-Encoding says"})
            if len(body) > MAX_LINEAGE_BYTES:
                LINEAGE.labels("too_large").inc()
                return _Answer(413, {"error": f"at most {MAX_LINEAGE_BYTES} bytes when unpacked"})
        try:
            fact = read_event(json.loads(body))
        except (ValueError, RecursionError):
            LINEAGE.labels("unreadable").inc()
            return _Answer(400, {"error": "the body is not JSON"})
        except BadInput as error:
            LINEAGE.labels("unreadable").inc()
            log.warning("an OpenLineage event cannot be read", source=source, reason=str(error))
            return _Answer(400, {"error": str(error)})
        try:
            new = fact is not None and self._store.keep(fact, source)
        except Unreachable as error:
            log.error("an OpenLineage event is not kept", source=source, reason=str(error))
            return _Answer(503, {"error": "the case store does not answer; send it again"})
        LINEAGE.labels("kept" if new else "nothing_new").inc()
        if new:
            self._on_change()
        return _Answer(201, {"new": new})

    def _sender(self, authorization: str) -> str | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        found = None
        for source, own in self._tokens.items():
            # all are compared: the time taken tells nothing about which one came close
            if hmac.compare_digest(token.strip().encode("latin-1", "replace"), own):
                found = source
        return found


def _inflated(body: bytes) -> bytes:
    """Return what a gzipped body holds, at most one byte more than is allowed. Raises zlib.error."""
    return zlib.decompressobj(wbits=31).decompress(body, MAX_LINEAGE_BYTES + 1)


class AlertReader(Protocol):
    """Reads a monitor's payload by the source's mapping."""

    def read(self, source: str, body: bytes, headers: Mapping[str, str], arrived_at: datetime) -> Sequence[ReadAlert]:
        """Return the alerts in `body`, at least one. Raises Unreadable."""
        ...


class Replayed(Exception):
    """This webhook id was taken before."""

    def __init__(self, incident_id: str) -> None:
        super().__init__(incident_id)
        self.incident_id = incident_id


class Reception:
    """Takes one verified message into the case store, whichever way it came."""

    def __init__(
        self,
        store: CaseStore,
        reader: AlertReader,
        names: KnownNames,
        rewriter: ScopeRewriter | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._reader = reader
        self._names = names
        self._rewriter = rewriter or ScopeRewriter()
        self._check_due = 0.0
        self._monotonic = monotonic
        self._known: Known | None = None
        self._known_until = 0.0

    def read(
        self, source: str, body: bytes, headers: Mapping[str, str], arrived_at: datetime
    ) -> Sequence[tuple[ReadAlert, JudgedScope]]:
        """Return the alerts in `body` with their scopes judged; none if it cannot be read."""
        try:
            alerts = self._reader.read(source, body, headers, arrived_at)
        except Unreadable as error:
            log.warning("unreadable alert", source=source, reason=str(error))
            return ()
        known = self._known_names()
        return [(alert, judge_scope(alert.given, known, arrived_at, self._rewriter)) for alert in alerts]

    def _known_names(self) -> Known | None:
        """Return what the index knows. Alerts wait at most a tenth of the time for it: where it answers slowly, or not at all,
        what it said last serves for a while; what that lacks is compared later.
        """
        began = self._monotonic()
        if began < self._known_until:
            return self._known
        try:
            self._known = self._names.known_names()
        except Unreachable as error:
            log.warning("the index does not answer; names in the scope are taken as given", reason=str(error))
            self._known = None
        ended = self._monotonic()
        self._known_until = ended + 9 * (ended - began)
        return self._known

    def take(self, arrival: Arrival, *, webhook_id: str | None, positions: Positions | None = None) -> Sequence[Taken]:
        """Store `arrival` with its webhook id and position in one transaction. Raises Replayed and Unreachable."""

        def work(case: CaseWork) -> Sequence[Taken] | Replayed:
            if positions:
                case.move_positions(STAGE, positions)
            case.lock_intake(arrival.arrived_at.year)
            if webhook_id is not None:
                before = case.webhook_incident(arrival.source, webhook_id)
                if before is not None:
                    return Replayed(before)
            taken = take(case, arrival)
            if webhook_id is not None:
                case.remember_webhook(arrival.source, webhook_id, taken[0].incident_id, arrival.arrived_at)
                case.forget_webhooks(arrival.arrived_at - _REMEMBERED)
            return taken

        result = self._store.change(work)
        if isinstance(result, Replayed):
            raise result
        self._check_due = 0.0
        for each in result:
            log.info("alert taken", incident=each.incident_id, opened=each.opened, signed=arrival.signed)
        return result

    def review_scopes(self, now: datetime) -> None:
        """Propose another scope for open incidents whose words mean something else by what is known now."""
        proposed = review_scopes(self._store, self._rewriter, now)
        if proposed:
            log.info("registry or lineage know more; another scope is proposed", incidents=proposed)

    def check_scopes(self, now: datetime, *, at_once: bool = False) -> None:
        """Compare scopes whose names are in doubt with what the index knows now; rarely those that a person was asked about."""
        if not at_once and time.monotonic() < self._check_due:
            return
        self._check_due = time.monotonic() + KEPT_REVIEW_SECONDS
        doubtful = doubtful_scopes(self._store)
        if not doubtful:
            return
        try:
            known = self._names.known_names()
        except Unreachable:
            known = None
        done = check_scopes(self._store, doubtful, known, self._rewriter, now)
        if done.waiting:
            self._check_due = 0.0
        if done.known:
            log.info("the names in the scope are known; nobody needs to say what was meant", incidents=done.known)
        if done.wrong:
            log.warning("the index knows no such names as a scope has; a person is asked", incidents=done.wrong)
        if done.late:
            log.warning("the index could not say in time whether it knows a scope's names", incidents=done.late)

    def skip(self, positions: Positions) -> None:
        """Move the position past a message that left nothing here."""
        self._store.change(lambda case: case.move_positions(STAGE, positions))

    def positions(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        """Return where the topic was left off."""
        return self._store.positions(STAGE, partitions)


def _count(way: str, arrival: Arrival, taken: Sequence[Taken]) -> None:
    for each in taken:
        outcome = "unreadable" if not arrival.alerts else "opened" if each.opened else "repeated"
        outcome = "exercise" if each.exercise else outcome
        ALERTS.labels(way, outcome).inc()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: Mapping[str, Any]


class HttpIntake:
    """The HTTP endpoint, a thread a request. Its address goes to `run_file`."""

    def __init__(
        self,
        reception: Reception,
        secrets: Mapping[str, Secrets],
        settings: Intake,
        clock: Clock,
        run_file: Path | None,
        lineage: LineageIntake | None = None,
    ) -> None:
        self.lineage = lineage
        self._reception = reception
        self._secrets = dict(secrets)
        self._tolerance = timedelta(seconds=settings.tolerance_seconds)
        self._clock = clock
        self._server = DrainingServer((settings.host, settings.port), _handler_of(self))
        self.port: int = self._server.server_address[1]
        self.address = f"http://{settings.host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="intake-http", daemon=True)
        if run_file is not None:
            lineages = {} if lineage is None else {"lineage": self.address + LINEAGE_PATH}
            write_run_file(run_file, {"alerts": f"{self.address}/alerts", **lineages})

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests; return when those in flight are answered."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def knows(self, source: str) -> bool:
        """Return whether alerts of `source` are taken here."""
        return source in self._secrets

    def answer(self, source: str, headers: Mapping[str, str], body: bytes) -> _Answer:
        """Verify, store, and say what came of it."""
        now = self._clock.now()
        try:
            webhook_id = self._secrets[source].verify(headers, body, now=now, tolerance=self._tolerance)
        except BadSignature as error:
            ALERTS.labels("http", "bad_signature").inc()
            log.warning("alert refused", source=source, reason=str(error))
            return _Answer(401, {"error": str(error)})
        try:
            arrival = Arrival(
                source, f"webhook/{webhook_id}", body, now, signed=True,
                alerts=self._reception.read(source, body, headers, now),
            )  # fmt: skip
            taken = self._reception.take(arrival, webhook_id=webhook_id)
        except Replayed as replayed:
            ALERTS.labels("http", "replayed").inc()
            return _Answer(409, {"error": "this webhook-id was taken before", "incident_id": replayed.incident_id})
        except Unreachable as error:
            log.error("alert not taken", source=source, reason=str(error))
            return _Answer(503, {"error": "the case store does not answer; send it again"})
        _count("http", arrival, taken)
        ids = list(dict.fromkeys(each.incident_id for each in taken))
        return _Answer(202, {"incident_id": ids[0], "incident_ids": ids})


def _handler_of(intake: HttpIntake) -> type[BaseHTTPRequestHandler]:
    class _Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version = "tocsin"
        sys_version = ""

        def do_POST(self) -> None:
            path = self.path.partition("?")[0]
            source = path.removeprefix("/alerts/")
            lineage = intake.lineage if path == LINEAGE_PATH else None
            if lineage is None and not (path.startswith("/alerts/") and intake.knows(source)):
                ALERTS.labels("http", "unknown_source").inc()
                self._answer(_Answer(404, {"error": "no such source; intake.secrets names those that may send"}))
                return
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit()):
                self._answer(_Answer(411, {"error": "send a Content-Length"}))
                return
            most = MAX_BODY_BYTES if lineage is None else MAX_LINEAGE_BYTES
            if len(length) > 9 or int(length) > most:
                (ALERTS.labels("http", "too_large") if lineage is None else LINEAGE.labels("too_large")).inc()
                self._pass_over(int(length) if len(length) <= 9 else 0)
                self._answer(_Answer(413, {"error": f"at most {most} bytes"}))
                return
            body = self.rfile.read(int(length))
            if len(body) != int(length):
                self._answer(_Answer(400, {"error": "the body is shorter than its Content-Length"}))
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                answer = intake.answer(source, headers, body) if lineage is None else lineage.answer(headers, body)
            except Exception:
                log.exception("not taken", path=path)
                self._answer(_Answer(500, {"error": "not taken; send it again"}))
                return
            self._answer(answer)

        def do_GET(self) -> None:
            self._answer(_Answer(405, {"error": "POST /alerts/<source>"}))

        def _pass_over(self, length: int) -> None:
            """Read and forget a body of moderate length: a sender that is cut off while it sends never reads the answer."""
            left = min(length, MOST_PASSED_OVER_BYTES)
            while left > 0 and (chunk := self.rfile.read(min(left, 65_536))):
                left -= len(chunk)

        def _answer(self, answer: _Answer) -> None:
            content = json.dumps(answer.body).encode()
            # one request a connection: an unread body must not be taken for the next request
            self.close_connection = True
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing: what was taken or refused is logged above, without the address."""

    return _Handler


class TopicIntake:
    """Reads `tocsin.leak-alerts`: bytes, not events, since signatures and mappings need them."""

    def __init__(
        self,
        reception: Reception,
        secrets: Mapping[str, Secrets],
        settings: Intake,
        clock: Clock,
        dead_letters: DeadLetters,
        topic_ids: TopicIds | None = None,
    ) -> None:
        self._topic_ids = topic_ids
        self._reception = reception
        self._secrets = dict(secrets)
        self._trusted = settings.trusted_topic_acl is not None
        self._tolerance = timedelta(seconds=settings.tolerance_seconds)
        self._clock = clock
        self._dead_letters = dead_letters

    def run(self, kafka: Kafka, stop: threading.Event, health: Health) -> None:
        """Read until `stop`. Raises Unreachable when the topic does not exist."""
        consumer = new_consumer(kafka, STAGE, auto_offset_reset=on_gap(kafka))
        prefix = kafka.topic_prefix

        def assign(partitions: list[_TopicPartition], gone: _TopicPartition | None = None) -> None:
            if self._topic_ids is not None and self._topic_ids.ask():
                gone = None
            left_off = self._reception.positions([(LEAK_ALERTS.name, each.partition) for each in partitions])
            for each in partitions:
                each.offset = left_off.get((LEAK_ALERTS.name, each.partition), OFFSET_BEGINNING)
                if gone is not None and each.partition == gone.partition:
                    each.offset = after_gap(consumer, gone, LEAK_ALERTS.name)
                    # A crash before it tells of the same gap again, as each start would while nothing comes.
                    self._passed_gap({(LEAK_ALERTS.name, each.partition): each.offset})
            consumer.assign(partitions)

        def on_assign(_consumer: object, partitions: list[_TopicPartition]) -> None:
            assign(partitions)
            health.ready("assignment")
            health.ready("topic")

        health.missing("assignment", "waiting for partitions")
        consumer.subscribe([prefix + LEAK_ALERTS.name], on_assign=on_assign)
        try:
            while not stop.is_set():
                if self._topic_ids is not None and self._topic_ids.have_changed() and (held := consumer.assignment()):
                    assign(held)
                for message in consumer.consume(100, timeout=0.2):
                    error = message.error()
                    if error is None:
                        self._until_stored(message, stop, health)
                    elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise Unreachable(f"{error.str()}; run `tocsin topics apply` first")
                    elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                        place = (str(message.topic()), int(message.partition() or 0), int(message.offset() or 0))
                        assign(consumer.assignment(), _TopicPartition(*place))
                        break
                    elif is_forbidden(error):
                        # Alerts over HTTP are taken all the same.
                        health.missing("topic", f"{error.str()}; {RIGHTS_HINT}")
                        log.error("this account may not read the topic of alerts", reason=error.name())
                    elif error.code() == KafkaError._MAX_POLL_EXCEEDED:
                        log.warning("the topic was given to another intake: this one has waited for too long")
                    elif not error.retriable() and error.code() != KafkaError._PARTITION_EOF:
                        log.warning("kafka is not reachable; waiting", reason=error.name())
                    if stop.is_set():
                        break
        finally:
            consumer.close()

    def _passed_gap(self, positions: Positions) -> None:
        try:
            self._reception.skip(positions)
        except Unreachable as error:
            log.warning(
                "where reading goes on could not be kept: a next start tells of the gap again", reason=str(error)
            )

    def _until_stored(self, message: _KafkaMessage, stop: threading.Event, health: Health) -> None:
        while not stop.is_set():
            try:
                self.handle(
                    int(message.partition() or 0), int(message.offset() or 0), message.key(), message.value() or b"",
                    _pairs(message), message.timestamp()[1],
                )  # fmt: skip
            except Unreachable as error:
                health.missing("case store", str(error))
                log.warning("intake waits", reason=str(error))
                stop.wait(1.0)
                continue
            except TooManyDeadLetters as error:
                # whoever floods the topic must not end the taking of alerts over HTTP
                health.missing("dead letters", str(error))
                log.error("the topic waits: too many dead letters", reason=str(error))
                stop.wait(self._dead_letters.seconds_until_room())
                continue
            health.ready("case store")
            health.ready("dead letters")
            return

    def handle(
        self,
        partition: int,
        offset: int,
        key: bytes | None,
        body: bytes,
        headers: Sequence[tuple[str, bytes | None]],
        timestamp_ms: int,
    ) -> Sequence[Taken]:
        """Take one message; its position moves in the same transaction. A crash before it takes the message again."""
        now = self._clock.now()
        after = {(LEAK_ALERTS.name, partition): offset + 1}
        source = _source_of(key)
        texts = {name.lower(): (value or b"").decode("latin-1") for name, value in headers}
        webhook_id = self._signed_by(source, texts, body, timestamp_ms)
        alerts = self._reception.read(source, body, texts, now)
        signed = webhook_id is not None or self._trusted
        if not alerts and not signed:
            self._dead_letters.put_raw(
                LEAK_ALERTS.name, partition, offset, key, body, list(headers),
                "neither signed nor readable under the source's mapping", timestamp_ms=timestamp_ms,
            )  # fmt: skip
            self._dead_letters.flush()
            self._reception.skip(after)
            return ()
        # By its time: at the same place of a topic that was made anew lies another message, of whatever id it is known to be.
        place = f"topic/{partition}/{offset}/{timestamp_ms}"
        arrival = Arrival(source, place, body, now, signed=signed, alerts=alerts)
        try:
            taken = self._reception.take(arrival, webhook_id=webhook_id, positions=after)
        except Replayed:
            ALERTS.labels("topic", "replayed").inc()
            return ()
        _count("topic", arrival, taken)
        return taken

    def _signed_by(self, source: str, headers: Mapping[str, str], body: bytes, timestamp_ms: int) -> str | None:
        """Return the webhook id if the message is signed by its source. Measured against the time it was sent."""
        if source not in self._secrets or "webhook-signature" not in headers:
            return None
        # One that was put back is of when it was first sent; its writer says either time.
        first_ms = headers.get(SENT_HEADER, "")
        if first_ms.isascii() and first_ms.isdigit() and len(first_ms) <= 14:
            timestamp_ms = int(first_ms)
        sent_at = datetime.fromtimestamp(timestamp_ms / 1000, UTC) if timestamp_ms > 0 else self._clock.now()
        try:
            return self._secrets[source].verify(headers, body, now=sent_at, tolerance=self._tolerance)
        except BadSignature as error:
            ALERTS.labels("topic", "bad_signature").inc()
            log.warning("alert on the topic is not signed by its source", source=source, reason=str(error))
            return None


def _pairs(message: _KafkaMessage) -> list[tuple[str, bytes | None]]:
    pairs: Any = message.headers() or ()
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]


def _source_of(key: bytes | None) -> str:
    """Return the source that the key names; for a key that is none, a name made of it."""
    text = (key or b"").decode("latin-1")
    if _SOURCE.fullmatch(text):
        return text
    return f"unknown-{hashlib.sha256(key or b'').hexdigest()[:12]}"


class Registry(Protocol):
    """The model registry, watched."""

    def look(self, now: datetime) -> RegistryMemory: ...


class Lease(Protocol):
    """Of several intakes one looks."""

    def take(self) -> bool: ...
    def release(self) -> None: ...


class RegistryLooks:
    """Looks at the model registry now and then, in a thread of its own: alerts do not wait for a registry that hangs."""

    def __init__(self, registry: Registry, lease: Lease, clock: Clock, look_seconds: float) -> None:
        self._registry = registry
        self._lease = lease
        self._clock = clock
        self._look_seconds = look_seconds

    def run(self, stop: threading.Event, on_change: Callable[[], None]) -> None:
        """Look until `stop`; call `on_change` after each look that found something changed, and after the first."""
        fault: str | None = None
        revision: int | None = None
        while not stop.is_set():
            try:
                if self._lease.take():
                    memory = self._registry.look(self._clock.now())
                    (REGISTRY_LOOKS.labels("failed") if memory.fault else REGISTRY_LOOKS.labels("answered")).inc()
                    if memory.fault and memory.fault != fault:
                        log.warning(
                            "the model registry cannot be read; its last known state is used", reason=memory.fault
                        )
                    elif memory.revision != revision:
                        log.info("the model registry was read", revision=memory.revision)
                    if memory.revision != revision:
                        on_change()
                    fault, revision = memory.fault, memory.revision
            except Unreachable as error:
                log.warning("the model registry is not looked at", reason=str(error))
            except Exception:
                # whatever a registry answers, alerts go on being taken
                log.exception("a look at the model registry failed")
            stop.wait(self._look_seconds)
        with suppress(Unreachable):
            self._lease.release()


class IntakeStage:
    """Both ways in, until told to stop."""

    def __init__(
        self,
        *,
        store: CaseStore,
        reader: AlertReader,
        names: KnownNames,
        secrets: Mapping[str, Secrets],
        settings: Intake,
        kafka: Kafka,
        run_file: Path,
        clock: Clock,
        dead_letters: Callable[[], DeadLetters],
        health: Health,
        topic_ids: TopicIds | None = None,
        rewriter: ScopeRewriter | None = None,
        looks: RegistryLooks | None = None,
        lineage: LineageStore | None = None,
        lineage_tokens: Mapping[str, bytes] | None = None,
    ) -> None:
        unknown = sorted(set(settings.mappings) - set(secrets))
        if unknown and settings.trusted_topic_acl is None:
            raise BadInput(f"intake.mappings.{unknown[0]}: intake.secrets has no such source; give it a secret file")
        self._reception = Reception(store, reader, names, rewriter)
        self._looks = looks
        self._known_more = threading.Event()
        self._lineage = None
        if lineage is not None and lineage_tokens:
            self._lineage = LineageIntake(lineage, lineage_tokens, self._known_more.set)
        self._topic_ids = topic_ids
        self._secrets = secrets
        self._settings = settings
        self._kafka = kafka
        self._run_file = run_file
        self._clock = clock
        self._dead_letters = dead_letters
        self._health = health

    def run(self, stop: threading.Event) -> None:
        """Serve HTTP and read the topic until `stop`; then settle what is in flight. Raises what the topic's side does."""
        http = HttpIntake(
            self._reception, self._secrets, self._settings, self._clock, self._run_file, self._lineage
        )  # fmt: skip
        topic = TopicIntake(
            self._reception, self._secrets, self._settings, self._clock, self._dead_letters(), self._topic_ids
        )
        # of their own: where the topic's side fails, they end with it
        ended = threading.Event()
        beside = [threading.Thread(target=self._review, args=(ended,), name="review", daemon=True)]
        if self._looks is not None:
            beside.append(
                threading.Thread(
                    target=self._looks.run, args=(ended, self._known_more.set), name="registry", daemon=True
                )
            )
        for thread in beside:
            thread.start()
        http.start()
        self._health.ready()
        log.info("intake listens", address=http.address, sources=sorted(self._secrets))
        try:
            topic.run(self._kafka, stop, self._health)
        finally:
            http.stop()
            ended.set()
            self._known_more.set()
            for thread in beside:
                thread.join(5)

    def _review(self, stop: threading.Event) -> None:
        """Look at open incidents again, at most every few seconds: whenever registry or lineage have told of something new,
        and while the names in a scope are in doubt.
        """
        while not stop.is_set():
            more = self._known_more.wait(REVIEW_SECONDS)
            if stop.is_set():
                return
            if more:
                self._known_more.clear()
            try:
                if more:
                    self._reception.review_scopes(self._clock.now())
                self._reception.check_scopes(self._clock.now(), at_once=more)
            except Unreachable as error:
                log.warning("open incidents are looked at again later", reason=str(error))
                if more:
                    self._known_more.set()
            except Exception:
                # one incident's words must not end the taking of alerts
                log.exception("open incidents could not be looked at again")
            if more:
                stop.wait(REVIEW_SECONDS)
