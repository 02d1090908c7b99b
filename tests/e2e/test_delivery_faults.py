"""Whatever is killed, cut off or ill: everybody with one working channel is reached, and nobody is told twice too often.

One run of delivery's real processes on Apache Kafka, MariaDB and the AWS sandbox. Each fault is done to an incident of
its own, one after the other, while what the earlier ones left behind settles; then the oracle judges all of them.
"""

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from aiosmtpd.smtp import SMTP, Envelope, Session
from confluent_kafka import KafkaException

from bridge.contracts.topics import DELIVERY_COMMANDS
from consumers.adapters.aws import client
from consumers.adapters.case_store import tables
from consumers.bootstrap.providers import aws_config
from consumers.domain.simulators import SIMULATED_PHONE
from tests.contract.test_delivery_reports import report
from tests.contract.test_smtp import Inbox, Server
from tests.e2e.delivery_parts import OWN_MAILBOX, Delivery, delivery_running
from tests.servers.kafka import KafkaServer
from tests.servers.local import free_port
from tests.servers.mariadb import StoreDatabase

WELL = {"email": "delivered"}
BY_SMS = {"email": "bounce", "sms": "delivered"}
EVERY_FATE: Sequence[Mapping[str, str]] = [
    WELL, BY_SMS,
    *({"email": fate} for fate in ("complaint", "delay", "spam", "throttle", "bounce", "refuse")),
    *({"email": fate, "sms": "delivered"} for fate in ("softbounce", "refuse", "reject", "transient")),
    *({"email": "bounce", "sms": fate} for fate in ("bounce", "softbounce", "reject", "refuse", "throttle", "delay")),
    {"sms": "delivered"},
    # delivered, and taken back; never tried; and where nobody sends anything
    *({"email": fate, "sms": "delivered"} for fate in ("latebounce", "ooto", "suppressed")),
    *({"email": fate} for fate in ("latebounce", "suppressed")),
    {"email": "bounce", "sms": "suppressed"},
    {"account_notice": "read"}, {"email": "latebounce", "sms": "bounce", "account_notice": "read"},
    {"letter": "posted"}, {"letter": "returned"}, {"email": "bounce", "letter": "posted"},
    {"email": "softbounce", "sms": "softbounce", "letter": "returned"},
]  # fmt: skip
UNHEARD: Sequence[Mapping[str, str]] = [
    {"email": "silent", "sms": "delivered"}, {"email": "silent"}, {"sms": "silent"}, {"email": "timeout"},
    {"email": "lost"}, {"email": "lost", "sms": "delivered"}, {"sms": "lost"}, {"email": "silent", "letter": "posted"},
]  # fmt: skip
BOTH = ("email", "sms")
SEND = "SendBulkEmail"


class ReportingServer(Inbox):
    """An SMTP server that mails back what became of each message, as its recipient's plus tag says."""

    def __init__(self, maildir: Path) -> None:
        super().__init__()
        self._maildir = maildir
        for name in ("new", "cur", "tmp"):
            (maildir / name).mkdir(parents=True)

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        # whom SES refuses, this one refuses too, when a circuit has opened
        if "+refuse@" in address:
            return "550 5.1.1 no such user"
        if "+transient@" in address:
            return "451 4.3.0 not now"
        return await super().handle_RCPT(server, session, envelope, address, options)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        answer = await super().handle_DATA(server, session, envelope)
        bounces = "+bounce@" in envelope.rcpt_tos[0]
        fields = "Action: failed\nStatus: 5.1.1" if bounces else "Action: delivered\nStatus: 2.0.0"
        name = f"{len(self.mails):04}.example"
        (self._maildir / "tmp" / name).write_text(report(fields, to=envelope.mail_from), encoding="utf-8")
        (self._maildir / "tmp" / name).rename(self._maildir / "new" / name)
        return answer

    def taken(self) -> list[dict[str, Any]]:
        """Return what it took, as the sandbox's mailbox lists it; the attempt is the tag of the return path."""
        return [
            {"to": each.rcpt_tos[0], "channel": "email", "attempt_id": str(each.mail_from)[7:39]}
            for each in self.envelopes
        ]


@pytest.fixture
def smtp(tmp_path: Path) -> Iterator[tuple[ReportingServer, int]]:
    handler = ReportingServer(tmp_path / "reports")
    server = Server(handler, hostname="127.0.0.1", port=free_port())
    server.start()
    yield handler, server.port
    server.stop()


def test_everybody_is_reached_whoever_dies_or_is_ill(
    tmp_path: Path,
    kafka_server: KafkaServer,
    topic_prefix: str,
    empty_mariadb_database: StoreDatabase,
    smtp: tuple[ReportingServer, int],
) -> None:
    with delivery_running(
        tmp_path / "installation", kafka_server, topic_prefix, empty_mariadb_database,
        # a receipt comes within a second; what has none by then has none, and an unknown one is repeated then
        receipt_timeout_seconds=12, belt_seconds=5, aws_timeout_seconds=3, email_per_second=10_000,
        letter_batch_seconds=1,
        circuit={"open_seconds": 1, "in_a_row": 3},
        smtp={
            "host": "127.0.0.1", "port": smtp[1], "encryption": "none",
            "return_path": "bounce@shop.example.com",
            "reports_maildir": str(tmp_path / "reports"),
        },
        canary_messages={"every_minutes": 60, "email_to": OWN_MAILBOX, "sms_to": SIMULATED_PHONE},
    ) as delivery:  # fmt: skip
        delivery.taken_elsewhere = smtp[0].taken
        # nothing is done to the first: whatever is scripted for its people, one message by each channel is all
        unheard = delivery.incident(UNHEARD, disturbed=BOTH)
        undisturbed = delivery.incident(EVERY_FATE)

        def attended(incident_id: str) -> bool:
            for each in (undisturbed, unheard):
                delivery.attend(each)
            return delivery.has_ended(incident_id)

        delivery.until(partial(attended, undisturbed), "everybody of the first incident has an end")
        delivery.until(partial(delivery.none_in, unheard, "planned", "commanded", "intended"), "the others are sent")
        canaries_arrive(delivery)
        dispatch_killed_in_the_middle_of_packs(delivery)
        dispatch_killed_around_its_intents(delivery)
        dispatch_killed_before_its_report(delivery)
        the_second_takes_over(delivery, smtp[0])
        receipts_killed_in_the_middle(delivery)
        receipts_redelivered(delivery)
        held_in_the_middle(delivery)
        providers_ill(delivery)
        delivery.until(partial(attended, unheard), "whom nothing else reached is written to")
        delivery.until_judged()
        assert delivery.arrived_without_text() == 0, "whoever died before saying what it had handed over left it behind"
        assert delivery.called_without_number() == 0, "nor is a number lost with its dispatcher"
        assert delivery.receipts_waiting() == 0, "what the killed ones had read has come again, and is known"


@pytest.mark.soak
def test_everybody_is_reached_whatever_server_is_away(
    tmp_path: Path, kafka_server: KafkaServer, topic_prefix: str, empty_mariadb_database: StoreDatabase
) -> None:
    with delivery_running(
        tmp_path, kafka_server, topic_prefix, empty_mariadb_database,
        receipt_timeout_seconds=40, belt_seconds=5, aws_timeout_seconds=3, circuit={"open_seconds": 1, "in_a_row": 3},
    ) as delivery:  # fmt: skip
        dispatch_killed_in_a_call_and_after_it(delivery)
        servers_restarted(delivery, kafka_server, empty_mariadb_database)
        commands_topic_deleted(delivery)
        frozen_and_replaced(delivery)
        delivery.until_judged(240)


@pytest.mark.soak
def test_a_slow_dispatcher_takes_up_what_comes_in_time_and_what_is_urgent_first(
    tmp_path: Path, kafka_server: KafkaServer, topic_prefix: str, empty_mariadb_database: StoreDatabase
) -> None:
    """Nobody's command is called back as lost before its turn, and an urgent incident comes past a huge one."""
    with delivery_running(
        tmp_path, kafka_server, topic_prefix, empty_mariadb_database,
        receipt_timeout_seconds=60, belt_seconds=10, sms_per_second=40,
    ) as delivery:  # fmt: skip
        # so it sends less than ten a second, however fast or busy the machine is
        delivery.control("faults", {"sns": {"answer": "slow", "operation": "Publish", "seconds": 0.1}})
        huge = delivery.incident([{"sms": "delivered"}] * 300)
        delivery.until(lambda: delivery.taken(huge) >= 100, "it is seen how slow it is")
        before = delivery.taken(huge)
        urgent = delivery.incident([{"sms": "delivered"}] * 10, due_in=timedelta(hours=5))
        delivery.until(partial(delivery.all_in, urgent, "handed_over", "delivered"), "the urgent ones are told")
        # what lies on the belt and what is claimed is twelve seconds of its work
        assert delivery.taken(huge) - before < 150
        delivery.control("faults", {})
        delivery.until_judged()
        assert set(delivery.commands().values()) == {1}, "each was given once"


def canaries_arrive(delivery: Delivery) -> None:
    """One by each provider has gone the whole way once notices let it, and a check that somebody asks for does, too."""

    def stages() -> dict[str, str]:
        with delivery.database.read() as connection:
            return {row.provider: row.stage for row in connection.execute(sa.select(tables.canary_message))}

    arrived = {"ses": "arrived", "smtp": "arrived", "sns": "arrived"}
    delivery.until(lambda: stages() == arrived, "each canary message has arrived")
    said = json.loads(delivery.tocsin("delivery", "check", "--json"))
    assert said["works"]
    assert [each["receipts"][-1] for each in said["messages"]] == ["delivered", "bounced_hard", "complained"]
    assert {each["provider"]: each["stage"] for each in said["canaries"]} == arrived
    with delivery.database.read() as connection:
        known = sa.exists().where(tables.attempt.c.attempt_id == tables.receipt.c.attempt_id)
        strange = connection.execute(sa.select(tables.receipt.c.provider_event_id).where(~known)).all()
    assert strange == [], "the ledger has heard nothing of them"


def dispatch_killed_in_the_middle_of_packs(delivery: Delivery) -> None:
    """Of one batch's calls some are reported, some answered, some taken and not answered; and by SMS most are never made."""
    delivery.until_no_repeat_is_near()
    dispatch = delivery.dispatcher
    with delivery.frozen("receipts"):
        dispatch.kill()
        # a tenth of a second of the lane lies on a belt from which nobody takes: a thousand
        people = delivery.incident([WELL] * 900, disturbed=BOTH)
        delivery.until_without_dispatch(partial(delivery.all_in, people, "commanded"), "the commands are out")
        delivery.control("faults", {"sesv2": {"answer": "hold_after", "operation": SEND, "after": 15}})
        dispatch.start()
        delivery.until(lambda: delivery.held() and delivery.any_in(people, "handed_over"), "some of it is reported")
        dispatch.kill()
        states, taken = delivery.states(people), delivery.taken(people)
        # unknown: where we looked so late that the call had timed out
        assert states.keys() <= {"handed_over", "intended", "unknown", "commanded"}
        assert states["handed_over"] < taken

    # one is called after the other
    by_sms = delivery.incident([{"sms": "delivered"}] * 40, disturbed=["sms"])
    delivery.until_without_dispatch(lambda: delivery.states(by_sms)["commanded"] >= 10, "commands are out")
    delivery.control("faults", {"sns": {"answer": "hold_after", "operation": "Publish", "after": 3}})
    dispatch.start()
    delivery.until(delivery.held, "the fourth is taken and not answered")
    dispatch.kill()
    # somebody else's fallback may be among them
    assert 0 < delivery.taken(by_sms) <= 4
    assert delivery.states(by_sms)["intended"] > 1
    delivery.control("faults", {})


def dispatch_killed_around_its_intents(delivery: Delivery) -> None:
    """Before they are written; and after it, before the call."""
    delivery.until_no_repeat_is_near()
    dispatch = delivery.dispatcher
    dispatch.kill()
    people = delivery.incident([WELL] * 90 + [BY_SMS] * 10, disturbed=BOTH)
    delivery.until_without_dispatch(partial(delivery.all_in, people, "commanded"), "the commands are out")
    with delivery.locked(people):
        dispatch.start()
        delivery.until(delivery.somebody_waits, "dispatch wants to write its intents")
        dispatch.kill()
    assert delivery.all_in(people, "commanded")

    # the next one reads the same commands; it has to ask SES about the sender before its first call. A batch holds what came
    # within a moment: where that was not everybody, one more dispatcher dies in the same place
    delivery.control("faults", {"sesv2": {"answer": "hold", "operation": "GetEmailIdentity"}})
    for number in range(1, 4):
        dispatch.start()
        delivery.until(partial(delivery.holds, number), "dispatch is between intent and call")
        dispatch.kill()
        if delivery.all_in(people, "intended"):
            break
    assert delivery.all_in(people, "intended")


def dispatch_killed_before_its_report(delivery: Delivery) -> None:
    """SES has taken everything, and dispatch dies before it can say so."""
    delivery.until_no_repeat_is_near()
    delivery.control("faults", {"sesv2": {"answer": "hold_after", "operation": SEND}})
    people = delivery.incident([WELL, BY_SMS] * 3, disturbed=BOTH)
    delivery.dispatcher.start()
    delivery.until(delivery.held, "a call was taken and is not answered")
    with delivery.frozen("receipts"), delivery.frozen("release"), delivery.locked(people):
        delivery.control("faults", {})
        delivery.until(delivery.somebody_waits, "dispatch wants to report")
        delivery.dispatcher.kill()
    delivery.dispatcher.start()


def dispatch_killed_in_a_call_and_after_it(delivery: Delivery) -> None:
    """The request arrives at SES although its sender is dead; and one dies when something is reported already."""
    delivery.control("faults", {"sesv2": {"answer": "hold", "operation": SEND}})
    people = delivery.incident([WELL, BY_SMS] * 3, disturbed=BOTH)
    delivery.until(delivery.held, "a call is in flight")
    delivery.dispatcher.kill()
    assert delivery.any_in(people, "intended")
    delivery.control("faults", {})
    delivery.dispatcher.start()

    people = delivery.incident([WELL, BY_SMS] * 3, disturbed=BOTH)
    delivery.until(partial(delivery.any_in, people, "handed_over", "delivered", "bounced"), "something is reported")
    delivery.dispatcher.kill()
    delivery.dispatcher.start()


def receipts_killed_in_the_middle(delivery: Delivery) -> None:
    """Before it could settle what it had read; and after it, with a part of it removed from the queue."""
    with ExitStack() as frozen:
        frozen.enter_context(delivery.frozen("receipts"))
        people = delivery.incident([WELL] * 110 + [BY_SMS] * 10)
        delivery.until(partial(delivery.all_in, people, "handed_over"), "everybody's message is taken")
        with delivery.frozen("release"), delivery.locked(people):
            frozen.close()
            delivery.until(delivery.somebody_waits, "receipts wants to settle")
            delivery.control("faults", {"sqs": {"answer": "hold", "operation": "DeleteMessageBatch", "after": 4}})
            delivery.kill("receipts")
    assert delivery.all_in(people, "handed_over")
    delivery.until(delivery.held, "receipts has settled something and removed a part of it")
    assert delivery.any_in(people, "delivered")
    delivery.kill("receipts")
    delivery.control("faults", {})
    assert delivery.receipts_waiting() > 0


def providers_ill(delivery: Delivery) -> None:
    """SES says 429, 500, nothing for too long, or is cut off after it took all; half of a bulk fails; SNS is down."""
    # what a provider loses now is nobody's repeat
    delivery.until_nobody_is_in_doubt()
    # three in a row: its circuit opens, the others wait, and a real message tries it a second later
    delivery.control("faults", {"sns": {"answer": "500", "calls": 3, "operation": "Publish"}})
    down = delivery.incident([{"sms": "delivered"}] * 6, disturbed=["sms"])
    delivery.until(partial(delivery.any_in, down, "delivered"), "SNS was down and is back")
    for answer, calls in (("429", 2), ("500", 1), ("reset", 1), ("reset_after", 1)):
        delivery.control("faults", {"sesv2": {"answer": answer, "calls": calls, "operation": SEND}})
        ill = delivery.incident(
            [WELL, {"email": "throttle1"}, {"email": "refuse", "sms": "delivered"}], disturbed=["email"]
        )
        delivery.until(partial(delivery.rows, ill), "it begins")
        delivery.until(partial(delivery.none_in, ill, "planned", "commanded", "intended"), "SES was called")
    delivery.control("faults", {"sesv2": {"answer": "hold_after", "operation": SEND, "calls": 1}})
    late = delivery.incident([WELL] * 3, disturbed=["email"])
    delivery.until(delivery.held, "SES does not answer")
    delivery.until(partial(delivery.all_in, late, "unknown", "handed_over", "delivered"), "the call has timed out")
    delivery.control("faults", {})


def the_second_takes_over(delivery: Delivery, smtp: ReportingServer) -> None:
    """SES takes nothing any more: its lane moves to SMTP, whose reports are receipts like any other, and comes back."""
    delivery.until_no_repeat_is_near()
    delivery.control("faults", {"sesv2": {"answer": "403", "operation": SEND}})
    before = len(smtp.envelopes)
    over_smtp = delivery.incident([WELL, BY_SMS] * 6)
    delivery.until(partial(delivery.has_ended, over_smtp), "everybody is reached over the second provider")
    assert len(smtp.envelopes) >= before + 12
    delivery.control("faults", {})
    delivery.until(lambda: delivery.circuit("ses") != "open", "SES may be tried again")
    before = len(smtp.envelopes)
    back = delivery.incident([WELL] * 12)
    delivery.until(partial(delivery.has_ended, back), "everybody is reached")
    assert len(smtp.envelopes) < before + 12, "SES is tried again"


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
    delivery.incident([WELL, BY_SMS] * 20, disturbed=BOTH)
    delivery.until(lambda: any(row.attempt.channel == "sms" for row in delivery.rows()), "it is under way")
    database.server.plug.pull()
    database.server.plug.put_back()
    delivery.incident([WELL, BY_SMS] * 20, disturbed=BOTH)
    kafka.plug.pull()
    kafka.plug.put_back()


def commands_topic_deleted(delivery: Delivery) -> None:
    """The belt is lost with everything on it, and made anew."""
    admin, name = delivery.admin(), delivery.settings.kafka.topic_prefix + DELIVERY_COMMANDS.name
    delivery.dispatcher.kill()
    lost = delivery.incident([WELL, BY_SMS] * 3, disturbed=BOTH)
    delivery.until_without_dispatch(partial(delivery.all_in, lost, "commanded"), "the commands are out")
    admin.delete_topics([name])[name].result()

    def gone() -> bool:
        try:
            return name not in admin.list_topics(timeout=5).topics
        except KafkaException:
            return False

    delivery.until(gone, "the topic is gone")
    delivery.tocsin("topics", "apply")


def held_in_the_middle(delivery: Delivery) -> None:
    """A hold stops whom it covers within two seconds, and nobody else."""
    held = delivery.incident([{"sms": "delivered"}] * 250, residence="US-CA")
    covered = {person.addresses["sms"] for person in delivery.people if person.incident_id == held}
    delivery.until(partial(delivery.any_in, held, "delivered"), "it is under way")
    why = ("--reason", "asked for by the police")
    said = delivery.tocsin("incident", "hold", held, "--kind", "law_enforcement_hold", "--covers", "US-CA", *why)
    stopped_by = datetime.now(UTC) + timedelta(seconds=2)
    others = delivery.incident([WELL] * 3)
    delivery.until(partial(delivery.has_ended, others), "others go on")
    delivery.until(partial(delivery.all_in, held, "planned", "handed_over", "delivered"), "nothing is in hand any more")
    delivery.until(lambda: datetime.now(UTC) > stopped_by, "the two seconds are over")
    told = [each for each in delivery.mailbox() if each["to"] in covered]
    assert [each for each in told if datetime.fromisoformat(each["received_at"]) > stopped_by] == []
    assert len(told) < len(covered), "the hold came too late to prove anything"
    gate_id = said.partition(f"lift {held} ")[2].split()[0]
    delivery.tocsin("incident", "lift", held, gate_id, *why)


def frozen_and_replaced(delivery: Delivery) -> None:
    """A dispatcher that is suspended in the middle of a call loses its partitions to another, and wakes up again."""
    delivery.control("faults", {"sns": {"answer": "hold", "operation": "Publish"}})
    shared = delivery.incident([{"sms": "delivered"}] * 30, disturbed=BOTH)
    delivery.until(delivery.held, "the first dispatcher is in a call")
    delivery.dispatcher.send(signal.SIGSTOP)
    delivery.control("faults", {})
    later = delivery.incident([WELL, BY_SMS] * 10, disturbed=BOTH)
    second = delivery.second_dispatcher()
    try:
        delivery.until_without_dispatch(partial(delivery.has_ended, later), "the second has taken the partitions over")
        # by now the first one's claims are unknown; it wakes up and must not go on with them as though they were its own
        delivery.until_without_dispatch(partial(delivery.none_in, shared, "intended"), "its claims are given up")
        delivery.dispatcher.send(signal.SIGCONT)
        delivery.until(partial(delivery.has_ended, shared), "everybody of it has an end", 180)
        assert max(row.attempt.call_count for row in delivery.rows(shared)) <= 2
    finally:
        delivery.dispatcher.send(signal.SIGCONT)
        assert second.end() == 0
