"""From receipts in the queue to ends in the ledger, outcomes and ends in the evidence log, and metrics: SES events in signed
SNS envelopes (2,048-bit RSA, checked), one for each of so many messages that were handed over.

`BENCH_PEOPLE` says how many, `BENCH_RECEIPTS` how many processes settle. At toy size the same envelopes are settled into a
ledger on SQLite, without servers: proof that they are receipts of these messages, and no more.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import CaseDatabase, insert_many
from consumers.adapters.sqs_receipts import parse_notification
from consumers.domain.ledger import attempt_id_of
from consumers.sandbox.envelopes import Notification, Signer
from tests.bench.stand import delivery, measure, servers
from tests.bench.stand.delivery import INCIDENT, RELEASE, Office
from tests.unit.adapters.ledger_case import EMAIL_LANE, Case

_PEOPLE = {"full": 50_000, "middle": 10_000, "toy": 60}
_PER_SECOND = 5000
_ROWS = 2000
_ACCOUNT = "123456789012"


def main(size: str) -> dict[str, object]:
    """Return receipts per second, CPU by process, and whether the goal holds. Raises PeerMissing."""
    people = int(os.environ.get("BENCH_PEOPLE", _PEOPLE[size]))
    if size == "toy":
        return _without_servers(people)
    with (
        servers.stand(small=False, binary_log=False) as stand,
        delivery.go_stand_in() as aws,
        delivery.office(stand, aws, people, certificate_hosts=["127.0.0.1"]) as office,
    ):
        _hand_over(office)
        signer = Signer.load(None, datetime.now(UTC))
        aws.post(f"/certificate?path={signer.certificate_path}", signer.certificate_pem)
        for lines in _envelopes(signer, aws.url, people):
            aws.post("/queue", "\n".join(lines).encode())
        settling = ["receipts"] * int(os.environ.get("BENCH_RECEIPTS", "1"))
        pids = {**stand.pids, "aws": aws.process.pid}
        before, began = measure.cpu_seconds(pids), time.monotonic()
        office.start("outbox", "evidence", *settling)
        office.wait("the first receipt is settled", lambda: _reached(office) > 0)
        first, began_at = _reached(office), time.monotonic()
        office.wait("every receipt is settled", lambda: _reached(office) >= people, every=0.1)
        seconds = time.monotonic() - began_at
        office.wait("everything is logged", lambda: office.leaves() >= 2 * people)
        logged = time.monotonic() - began_at
        after = measure.cpu_seconds({**pids, **office.pids})
        office.stop()
    rate = (people - first) / seconds
    used = {name: round((cpu - before.get(name, 0.0)) / people * 1e6, 1) for name, cpu in after.items()}
    return {
        "receipts": people,
        f"receipts/s (at least {_PER_SECOND})": f"{rate:.0f} {'holds' if rate >= _PER_SECOND else 'MISSED'}",
        "logged/s": round((people - first) / logged),
        "us of CPU a receipt, start included": used,
        "start, s": round(began_at - began, 1),
    }


def _without_servers(people: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder:
        case = Case(CaseDatabase(f"sqlite:///{folder}/case.db"))
        for number in range(1, people + 1):
            case.person(number)
        case.hand_over(case.claim(EMAIL_LANE))
        texts = [
            line
            for lines in _envelopes(Signer.load(None, datetime.now(UTC)), "http://127.0.0.1", people)
            for line in lines
        ]
        receipts = [
            receipt
            for text in texts
            for receipt in parse_notification(json.loads(text), hashlib.sha256(text.encode()).hexdigest())
        ]
        case.ledger.settle_receipts(receipts)
        reached = case.ledger.counts(INCIDENT).reached
        case.database.close()
    if reached != people:
        raise RuntimeError(f"{reached} of {people} were reached")
    return {"receipts": people}


def _reached(office: Office) -> int:
    with office.database.read() as connection:
        count = sa.select(sa.func.count()).select_from(tables.recipient).where(
            (tables.recipient.c.incident_id == INCIDENT) & (tables.recipient.c.final_state == "reached")
        )  # fmt: skip
        return int(connection.execute(count).scalar_one())


def _attempt(number: int) -> str:
    return attempt_id_of(f"{INCIDENT}:customer/{number}", 1)


def _hand_over(office: Office) -> None:
    """Write what dispatch would have written of everybody."""
    office.release()
    now = datetime.now(UTC).replace(microsecond=0)
    with office.database.read() as connection:
        (bundle,) = connection.execute(sa.select(tables.segment.c.bundle_sha256)).scalars()
    for start in range(0, office.people, _ROWS):
        rows = [
            {
                "attempt_id": _attempt(number), "recipient_id": f"{INCIDENT}:customer/{number}", "number": 1,
                "incident_id": INCIDENT, "release_id": RELEASE, "channel": "email", "provider": "ses",
                "state": "handed_over", "state_at": now, "epoch": 1, "commanded_at": now, "intended_at": now,
                "dispatcher": "bench", "handed_over_at": now, "expires_at": now + timedelta(hours=4), "send_count": 1,
                "provider_message_id": f"message-{number}", "message_salt": "s" * 32, "body_sha256": "b" * 64,
                "bundle_sha256": bundle, "fallback": False, "due_at": now + timedelta(hours=72), "priority": 1,
            }
            for number in range(start + 1, min(start + _ROWS, office.people) + 1)
        ]  # fmt: skip
        with office.database.write() as connection:
            insert_many(connection, tables.attempt, rows)


def _envelopes(signer: Signer, url: str, people: int) -> Iterator[list[str]]:
    """Yield the envelopes of all receipts, hundreds at once."""
    now = datetime.now(UTC)
    topic = f"arn:aws:sns:eu-central-1:{_ACCOUNT}:tocsin-ses-events"
    at = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for start in range(0, people, _ROWS):
        lines = []
        for number in range(start + 1, min(start + _ROWS, people) + 1):
            tags = {"attempt": [_attempt(number)], "incident": [INCIDENT]}
            mail = {"timestamp": at, "messageId": f"message-{number}", "destination": ["x@example.com"], "tags": tags}
            event = {
                "eventType": "Delivery",
                "mail": mail,
                "delivery": {"timestamp": at, "recipients": ["x@example.com"]},
            }
            notification = Notification(
                message_id=f"n-{number}", topic_arn=topic, subscription_arn=f"{topic}:1", subject=None,
                message=json.dumps(event), published_at=now,
            )  # fmt: skip
            lines.append(signer.envelope(notification, "2", url))
        yield lines
