"""Every provider of a channel ill: the meter, the dispatcher and the circuits together, on a real case store.

Messages wait where they are, without a trace for each round and without a lost attempt, and go by themselves once a few
of them got through.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import Unreachable
from bridge.contracts.events import EVENTS, AttemptState, Channel, Contact, SealedContact
from bridge.runtime.consume import Received
from bridge.runtime.settings import Delivery
from bridge.runtime.telemetry import Health
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.outbox import Outbox
from consumers.adapters.case_store.providers import ProviderTables
from consumers.adapters.provider_lanes import CircuitLane, CircuitTeller
from consumers.adapters.provider_watch import ProviderWatch, WatchPolicy
from consumers.domain.accounts import EmailAccount, SmsAccount
from consumers.domain.circuit import CircuitPolicy
from consumers.domain.sending import BulkEmail, EmailProvider, SendResult, SendState, SmsProvider
from consumers.stages.dispatch import Dispatch, _Refusals
from consumers.stages.release import ReleaseStage
from tests.unit.adapters.ledger_case import INCIDENT, sqlite_case
from tests.unit.stages.test_dispatch import Addresses, Sms, Texts, World
from tests.unit.stages.test_release import FakeLease

PEOPLE = 60
SEALED = SealedContact(key_id="k", wrapped_key="w", nonce="n", ciphertext="c").model_dump(mode="json")
STEP = timedelta(seconds=2)


class Silent:
    """Accounts that nobody can ask about."""

    def read(self) -> EmailAccount:
        raise Unreachable("AWS does not answer")


class SilentSms:
    """The same for SMS."""

    def read(self) -> SmsAccount:
        raise Unreachable("AWS does not answer")


class Mails:
    """A provider that is ill or well, and counts."""

    max_entries = 50
    calls_at_once = 16

    def __init__(self, name: str) -> None:
        self.name = name
        self.ill = True
        self.calls = 0
        self.called: Callable[[int], None] = lambda calls: None
        self.taken: Counter[str] = Counter()

    def send_bulk(self, message: BulkEmail) -> Sequence[SendResult]:
        self.calls += 1
        self.called(self.calls)
        if self.ill:
            return [
                SendResult(each.attempt_id, SendState.UNAVAILABLE, code="SendingPaused") for each in message.entries
            ]
        self.taken.update(each.attempt_id for each in message.entries)
        return [SendResult(each.attempt_id, SendState.ACCEPTED, f"m-{each.attempt_id}") for each in message.entries]


class Opened:
    """Opens every contact to the same address."""

    def open_json(self, sealed: str, root: str) -> Contact:
        assert SealedContact.model_validate_json(sealed).ciphertext == "c"
        return Contact(email=f"{root.replace('/', '-')}@mail.example.com")


class House:
    """Meter, belt, dispatcher and watch, turned by hand."""

    def __init__(self, folder: Path, channel: str = "email", people: int = PEOPLE) -> None:
        self.case = sqlite_case(folder)
        for number in range(people):
            self.case.person(number, (channel,), contact=SEALED)
        clock, book = self.case.clock, ProviderTables(self.case.database, self.case.clock)
        self.first, self.second = Mails("ses"), Mails("smtp")
        world = World()
        email: CircuitLane[EmailProvider] = CircuitLane(
            Channel.EMAIL, [self.first, self.second], CircuitPolicy(), clock
        )  # fmt: skip
        sms: CircuitLane[SmsProvider] = CircuitLane(Channel.SMS, [Sms(world)], CircuitPolicy(), clock)
        self.teller = CircuitTeller([email], book, "d1")
        self.watch = ProviderWatch(
            Silent(), SilentSms(), book, clock, WatchPolicy(second={Channel.EMAIL: "smtp"}), announces=True
        )
        self.dispatch = Dispatch(self.case.ledger, Opened(), Texts(world), Addresses(), email, sms, clock, "d1")
        settings = Delivery(email_per_second=10, belt_seconds=4)
        self.meter = ReleaseStage(self.case.ledger, FakeLease(), settings, Health(), rates=self.watch)
        self.box = Outbox(self.case.database)
        self.outcomes = 0

    def turn(self) -> None:
        self.case.clock.at += STEP
        self.teller.tell()
        self.watch.read_circuits()
        self.meter.tick(STEP.total_seconds())
        commands: list[Received] = []
        while batch := self.box.next_batch(1000):
            for row in batch:
                if row.topic == "tocsin.delivery-commands":
                    event = EVENTS[row.ce_type].model_validate_json(row.value)
                    commands.append(Received(row.topic, 0, 0, "", event, tombstone=False, headers={}, value=None))
                elif row.topic == "tocsin.delivery-outcomes":
                    self.outcomes += row.event_count
            self.box.settle(batch)
        if commands:
            self.dispatch.handle(commands, {})

    def states(self) -> dict[tuple[str, int], int]:
        with self.case.database.read() as connection:
            rows = connection.execute(sa.select(tables.attempt.c.state, tables.attempt.c.send_count))
            return Counter((row.state, row.send_count) for row in rows)

    def states_of(self, root: str) -> list[str]:
        with self.case.database.read() as connection:
            found = connection.execute(
                sa.select(tables.attempt.c.state).where(tables.attempt.c.recipient_id.endswith(f":{root}"))
            )
            return list(found.scalars())


def test_messages_wait_without_a_trace_and_go_by_themselves_when_a_provider_is_well(tmp_path: Path) -> None:
    house = House(tmp_path)
    for _ in range(10):
        house.turn()
    calls, outcomes = house.first.calls + house.second.calls, house.outcomes
    assert calls == 6, "three ill answers of each open both circuits"
    for _ in range(4):
        house.turn()
    assert (house.first.calls + house.second.calls, house.outcomes) == (calls, outcomes), "nobody is called or logged"
    assert house.states() == {(AttemptState.PLANNED.value, 0): PEOPLE}
    assert {"provider.lane_still", "provider.circuit_open"} <= set(house.case.pages())
    for _ in range(20):
        house.turn()
    # a few messages have tried each provider again and again, and nothing else has moved
    probes = house.first.calls + house.second.calls - calls
    assert 2 <= probes <= 6
    assert house.outcomes - outcomes <= 2 * CircuitPolicy().probes * probes
    assert house.states() == {(AttemptState.PLANNED.value, 0): PEOPLE}

    house.second.ill = False
    for _ in range(130):
        house.turn()
        if house.states() == {(AttemptState.HANDED_OVER.value, 1): PEOPLE}:
            break
    assert house.states() == {(AttemptState.HANDED_OVER.value, 1): PEOPLE}
    assert (len(house.second.taken), set(house.second.taken.values())) == (PEOPLE, {1})
    assert house.case.end(f"{INCIDENT}:customer/0") is None


class Texting:
    """A gateway that takes every SMS but those to one number, with a code that nobody has heard of."""

    name = "sns"

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.refused: list[str] = []

    def send(self, attempt_id: str, phone_e164: str, text: str, *, exercise: bool) -> SendResult:
        if phone_e164 == UNHEARD_OF:
            self.refused.append(attempt_id)
            return SendResult(attempt_id, SendState.UNAVAILABLE, code="GATEWAY_21999")
        self.taken.append(attempt_id)
        return SendResult(attempt_id, SendState.ACCEPTED, f"m-{attempt_id}")


class Phones:
    """Opens every contact to a number; the most urgent person's is the one that no provider serves."""

    def open_json(self, sealed: str, root: str) -> Contact:
        return Contact(phone=UNHEARD_OF if root == "customer/0" else "+4915112345678")


UNHEARD_OF = "+4915100000000"


def test_a_number_that_is_refused_for_an_unknown_reason_neither_stops_the_lane_nor_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, channel="sms", people=25)
    began = house.case.clock.at
    monkeypatch.setattr("time.monotonic", lambda: (house.case.clock.at - began).total_seconds() + 1000)
    gateway = Texting()
    clock, book = house.case.clock, ProviderTables(house.case.database, house.case.clock)
    world = World()
    sms: CircuitLane[SmsProvider] = CircuitLane(Channel.SMS, [gateway], CircuitPolicy(), clock)
    email: CircuitLane[EmailProvider] = CircuitLane(Channel.EMAIL, [house.first], CircuitPolicy(), clock)
    house.teller = CircuitTeller([sms], book, "d1")
    house.dispatch = Dispatch(house.case.ledger, Phones(), Texts(world), Addresses(), email, sms, clock, "d1")
    house.meter = ReleaseStage(
        house.case.ledger, FakeLease(), Delivery(sms_per_second=1, belt_seconds=4), Health(), rates=house.watch
    )
    for _ in range(35):
        house.turn()
    assert len(gateway.taken) == 24
    assert house.states_of("customer/0") == [AttemptState.REJECTED.value], (
        "the next channel follows, where there is one"
    )
    assert len(gateway.refused) == 4


def test_while_the_provider_is_ill_nobody_s_number_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    refusals = _Refusals()
    waits = []
    for _ in range(10):
        now[0] += 60
        assert refusals.judged("other", SendResult("b", SendState.ACCEPTED, "m-b")).state is SendState.ACCEPTED
        assert refusals.judged("sns", SendResult("a", SendState.UNAVAILABLE)).state is SendState.UNAVAILABLE
        waits.append(refusals.wait("sns", "a").total_seconds())
    assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]
    assert refusals.judged("sns", SendResult("a", SendState.ACCEPTED, "m-a")).state is SendState.ACCEPTED
    assert refusals.wait("sns", "a").total_seconds() == 5
