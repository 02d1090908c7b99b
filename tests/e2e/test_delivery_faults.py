"""Whatever is killed, cut off or ill: everybody with one working channel is reached, and nobody is told twice too often.

One run of delivery's real processes on Apache Kafka, MariaDB and the AWS sandbox. Each fault is done to an incident of
its own, one after the other, while what the earlier ones left behind settles; then the oracle judges all of them.
"""

import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from confluent_kafka import KafkaException

from bridge.contracts.topics import DELIVERY_COMMANDS
from consumers.adapters.aws import client
from consumers.adapters.case_store import tables
from consumers.bootstrap import aws_config
from tests.e2e.delivery_parts import Delivery, delivery_running
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import StoreDatabase

WELL = {"email": "delivered"}
BY_SMS = {"email": "bounce", "sms": "delivered"}
EVERY_FATE: Sequence[Mapping[str, str]] = [
    WELL, BY_SMS,
    *({"email": fate} for fate in ("complaint", "delay", "spam", "throttle", "bounce", "refuse")),
    *({"email": fate, "sms": "delivered"} for fate in ("softbounce", "refuse", "reject", "silent")),
    *({"email": "bounce", "sms": fate} for fate in ("bounce", "softbounce", "reject", "refuse", "throttle", "delay")),
    {"sms": "delivered"}, {"sms": "silent"},
]  # fmt: skip
SEND = "SendBulkEmail"


@pytest.fixture
def delivery(
    tmp_path: Path, kafka_server: KafkaServer, topic_prefix: str, empty_mariadb_database: StoreDatabase
) -> Iterator[Delivery]:
    with delivery_running(
        tmp_path, kafka_server, topic_prefix, empty_mariadb_database,
        # a receipt comes within a second; what has none by then has none, and an unknown one is repeated then
        receipt_timeout_seconds=12, belt_seconds=5, aws_timeout_seconds=3,
        circuit={"open_seconds": 1, "in_a_row": 3},
    ) as running:  # fmt: skip
        yield running


def test_everybody_is_reached_whatever_happens(
    delivery: Delivery, kafka_server: KafkaServer, empty_mariadb_database: StoreDatabase
) -> None:
    delivery.incident(EVERY_FATE)
    delivery.until(delivery.rows, "the first attempts begin")
    T = time.monotonic()
    P = lambda w: print(f"@@ {w} {time.monotonic() - T:.1f}", flush=True)
    dispatch_killed_at_each_step(delivery)
    P("kill")
    providers_ill(delivery)
    P("ill")
    receipts_redelivered(delivery)
    P("redel")
    servers_restarted(delivery, kafka_server, empty_mariadb_database)
    P("servers")
    commands_topic_deleted(delivery)
    P("topic")
    held_in_the_middle(delivery)
    P("held")
    delivery.until(delivery.is_over, "everybody has an end", 120)
    P("over")
    delivery.until_judged()


def dispatch_killed_at_each_step(delivery: Delivery) -> None:
    """Before the intent is written; after it, before the call; the call in flight; after it, before the report; after that."""
    dispatch = delivery.dispatcher
    delivery.until(lambda: any(m["channel"] == "sms" for m in delivery.mailbox()), "dispatch is at work")

    dispatch.send(signal.SIGSTOP)
    first = delivery.incident([WELL, BY_SMS] * 3, disturbed=["email"])
    delivery.until(partial(delivery.all_in, first, "commanded"), "the commands are out")
    with delivery.locked(first):
        dispatch.send(signal.SIGCONT)
        delivery.until(delivery.somebody_waits, "dispatch wants to write its intents")
        dispatch.kill()
    assert delivery.all_in(first, "commanded")

    # the next one reads the same commands; it has to ask SES about the sender before its first call
    delivery.control("faults", {"sesv2": {"answer": "hold", "operation": "GetEmailIdentity"}})
    dispatch.start()
    delivery.until(delivery.held, "dispatch is between intent and call")
    dispatch.kill()
    assert delivery.all_in(first, "intended")

    delivery.control("faults", {"sesv2": {"answer": "hold", "operation": SEND}})
    second = delivery.incident([WELL, BY_SMS] * 3, disturbed=["email"])
    dispatch.start()
    delivery.until(delivery.held, "a call is in flight")
    dispatch.kill()
    assert delivery.all_in(second, "intended")

    # the request arrives at SES although its sender is dead, and its receipts settle it
    delivery.control("faults", {"sesv2": {"answer": "hold_after", "operation": SEND}})
    third = delivery.incident([WELL, BY_SMS] * 3, disturbed=["email"])
    dispatch.start()
    delivery.until(delivery.held, "a call was taken and is not answered")
    with delivery.frozen("receipts"), delivery.frozen("release"), delivery.locked(third):
        delivery.control("faults", {})
        delivery.until(delivery.somebody_waits, "dispatch wants to report")
        dispatch.kill()
    dispatch.start()

    fourth = delivery.incident([WELL, BY_SMS] * 3, disturbed=["email", "sms"])
    delivery.until(partial(delivery.any_in, fourth, "handed_over", "delivered", "bounced"), "something is reported")
    dispatch.kill()
    dispatch.start()


def providers_ill(delivery: Delivery) -> None:
    """SES says 429, 500, nothing for too long, or is cut off after it took all; half of a bulk fails; SNS is down."""
    for answer, calls in (("429", 2), ("500", 1), ("reset", 1), ("reset_after", 1)):
        delivery.control("faults", {"sesv2": {"answer": answer, "calls": calls, "operation": SEND}})
        ill = delivery.incident(
            [WELL, {"email": "throttle1"}, {"email": "refuse", "sms": "delivered"}], disturbed=["email"]
        )
        delivery.until(partial(delivery.rows, ill), "it begins")
        delivery.until(lambda ill=ill: not delivery.any_in(ill, "planned", "commanded", "intended"), "SES was called")
    delivery.control("faults", {"sesv2": {"answer": "hold_after", "operation": SEND, "calls": 1}})
    late = delivery.incident([WELL] * 3, disturbed=["email"])
    delivery.until(delivery.held, "SES does not answer")
    delivery.until(partial(delivery.all_in, late, "unknown", "handed_over", "delivered"), "the call has timed out")
    delivery.control("faults", {"sns": "500"})
    down = delivery.incident([{"sms": "delivered"}] * 6, disturbed=["sms"])
    delivery.until(partial(delivery.any_in, down, "unknown"), "SNS is down")
    delivery.control("faults", {})


def receipts_redelivered(delivery: Delivery) -> None:
    """SQS delivers what it delivered before."""
    sqs = client(aws_config(delivery.settings), "sqs", may_repeat=True)
    url = sqs.get_queue_url(QueueName=delivery.settings.delivery.receipts_queue)["QueueUrl"]
    with delivery.frozen("receipts"):
        delivery.incident([WELL, BY_SMS, {"email": "complaint"}, {"email": "spam"}])
        messages: list[str] = []

        def lent_out() -> bool:
            lent = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
            messages.extend(message["Body"] for message in lent.get("Messages", ()))
            return len({json.loads(body)["MessageId"] for body in messages}) >= 7

        delivery.until(lent_out, "SES has reported")
        for body in {json.loads(body)["MessageId"]: body for body in messages}.values():
            for _ in range(2):
                sqs.send_message(QueueUrl=url, MessageBody=body)


def servers_restarted(delivery: Delivery, kafka: KafkaServer, database: StoreDatabase) -> None:
    """The case store and Kafka are gone for a moment, in the middle of work."""
    assert database.server.plug is not None
    delivery.incident([WELL, BY_SMS] * 20, disturbed=["email", "sms"])
    delivery.until(lambda: any(row.attempt.channel == "sms" for row in delivery.rows()), "it is under way")
    database.server.plug.pull()
    database.server.plug.put_back()
    delivery.incident([WELL, BY_SMS] * 20, disturbed=["email", "sms"])
    kafka.plug.pull()
    kafka.plug.put_back()


def commands_topic_deleted(delivery: Delivery) -> None:
    """The belt is lost with everything on it, and made anew."""
    admin, name = delivery.admin(), delivery.settings.kafka.topic_prefix + DELIVERY_COMMANDS.name
    delivery.dispatcher.send(signal.SIGSTOP)
    lost = delivery.incident([WELL, BY_SMS] * 3, disturbed=["email"])
    delivery.until(partial(delivery.all_in, lost, "commanded"), "the commands are out")
    admin.delete_topics([name])[name].result()

    def gone() -> bool:
        try:
            return name not in admin.list_topics(timeout=5).topics
        except KafkaException:
            return False

    delivery.until(gone, "the topic is gone")
    delivery.dispatcher.send(signal.SIGCONT)
    delivery.tocsin("topics", "apply")


def held_in_the_middle(delivery: Delivery) -> None:
    """A hold stops whom it covers within two seconds, and nobody else."""
    held = delivery.incident([{"sms": "delivered"}] * 250, residence="US-CA")
    delivery.until(partial(delivery.any_in, held, "delivered"), "it is under way")
    with delivery.database.write() as connection:
        connection.execute(
            sa.insert(tables.gate).values(
                gate_id="g", incident_id=held, kind="law_enforcement_hold", covers=["US-CA"], set_at=sa.func.now(),
                set_by="dora",
            )
        )  # fmt: skip
        # what dispatch has in hand already is recalled by the epoch
        connection.execute(sa.update(tables.incident).where(tables.incident.c.incident_id == held).values(epoch=2))
    time.sleep(2)
    before = len(delivery.mailbox())
    others = delivery.incident([WELL] * 3)
    delivery.until(partial(delivery.all_in, others, "delivered"), "others go on")
    told = {message["to"] for message in delivery.mailbox()[before:]}
    assert not [person for person in delivery.people if person.incident_id == held and person.addresses["sms"] in told]
    assert delivery.any_in(held, "planned"), "the hold came too late to prove anything"
    with delivery.database.write() as connection:
        connection.execute(sa.update(tables.gate).values(lifted_at=sa.func.now()))
