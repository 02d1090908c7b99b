"""What keeps a copy of the shop from writing to real people, with meter, belt and dispatcher on a real case store."""

import re
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import Refused, Unreachable
from bridge.contracts.events import EVENTS, AttemptState, Channel
from bridge.runtime.consume import Received
from bridge.runtime.settings import Delivery
from bridge.runtime.telemetry import Health
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.outbox import Outbox
from consumers.adapters.case_store.providers import ProviderTables
from consumers.adapters.live_guard import DIFFERING, SILENT_AT_MOST, LiveGuard, Named
from consumers.adapters.provider_lanes import CircuitLane
from consumers.domain.circuit import CircuitPolicy
from consumers.domain.sending import NO_BOUND, Allowance, EmailProvider, SmsProvider
from consumers.stages.dispatch import Dispatch
from consumers.stages.release import ReleaseStage
from tests.unit.adapters.ledger_case import sqlite_case
from tests.unit.stages.test_dispatch import Addresses, Sms, Texts, World
from tests.unit.stages.test_every_provider_ill import SEALED, Mails, Opened
from tests.unit.stages.test_release import FakeLease

ACCOUNT, URL = "123456789012", "https://shop.example/"
PEOPLE = 30
STEP = timedelta(seconds=10)


class Installation:
    """Meter, belt and dispatcher, turned by hand; what AWS STS and the store say is set by the test."""

    def __init__(self, folder: Path) -> None:
        self.case = sqlite_case(folder)
        for number in range(PEOPLE):
            self.case.person(number, ("email",), contact=SEALED)
        self.account: str | Exception = ACCOUNT
        self.base_url: str | Exception = URL
        self.asked = 0
        clock = self.case.clock
        self.health = Health()
        self.health.ready()
        self.guard = LiveGuard(
            Named(ACCOUNT, URL),
            lambda: self._say(self.account),
            lambda: self._say(self.base_url),
            ProviderTables(self.case.database, clock),
            clock,
            self.health,
        )
        self.mails = Mails("ses")
        self.mails.ill = False
        world = World()

        def bound(_: str) -> Allowance:
            return Allowance(at_most=0) if self.guard.differs() else NO_BOUND

        email: CircuitLane[EmailProvider] = CircuitLane(
            Channel.EMAIL, [self.mails], CircuitPolicy(), clock, bound=bound
        )  # fmt: skip
        sms: CircuitLane[SmsProvider] = CircuitLane(Channel.SMS, [Sms(world)], CircuitPolicy(), clock, bound=bound)
        self.dispatch = Dispatch(
            self.case.ledger, Opened(), Texts(world), Addresses(), email, sms, clock, "d1", None, self.guard
        )
        self.meter = ReleaseStage(
            self.case.ledger, FakeLease(), Delivery(email_per_second=5, belt_seconds=20), Health(),
            stands_still=self.guard.differs,
        )  # fmt: skip
        self.box = Outbox(self.case.database)
        self.issued = 0

    def _say(self, what: str | Exception) -> str:
        self.asked += 1
        if isinstance(what, Exception):
            raise what
        return what

    def belt(self) -> list[Received]:
        """Let ten seconds pass, meter, and return what then lies on the belt."""
        self.case.clock.at += STEP
        self.issued += self.meter.tick(STEP.total_seconds())
        found: list[Received] = []
        while batch := self.box.next_batch(1000):
            for row in batch:
                if row.topic == "tocsin.delivery-commands":
                    event = EVENTS[row.ce_type].model_validate_json(row.value)
                    found.append(Received(row.topic, 0, 0, "", event, tombstone=False, headers={}, value=None))
            self.box.settle(batch)
        return found

    def turn(self) -> None:
        self.dispatch.handle(self.belt(), {})

    def states(self) -> Counter[str]:
        with self.case.database.read() as connection:
            return Counter(row.state for row in connection.execute(sa.select(tables.attempt.c.state)))


def test_a_store_that_becomes_another_one_stops_a_running_release_at_once_and_loses_nobody(tmp_path: Path) -> None:
    shop = Installation(tmp_path)
    shop.guard.refuse_difference()
    for _ in range(2):
        shop.turn()
    sent = len(shop.mails.taken)
    assert 0 < sent < PEOPLE
    waiting = shop.belt()
    assert waiting, "commands were on their way when it happened"
    shop.base_url = "https://staging.shop.example/"
    shop.case.clock.at += timedelta(seconds=30)
    shop.dispatch.handle(waiting, {})
    issued = shop.issued
    for _ in range(5):
        shop.turn()
    assert (len(shop.mails.taken), shop.issued) == (sent, issued), "nobody is told, and no further command is issued"
    assert shop.states() == {AttemptState.PLANNED: PEOPLE - sent, AttemptState.HANDED_OVER: sent}
    assert shop.case.pages().count("delivery.live_refused") == 1, "one page, however often it was compared"
    assert "https://staging.shop.example/" in shop.health.reasons()["live"]
    assert DIFFERING.labels("base_url")._value.get() == 1
    assert DIFFERING.labels("account")._value.get() == 0

    shop.base_url = URL
    shop.guard.look()
    for _ in range(8):
        shop.turn()
    assert set(shop.mails.taken.values()) == {1}, "each of them once"
    assert len(shop.mails.taken) == PEOPLE
    assert (shop.health.reasons(), DIFFERING.labels("base_url")._value.get()) == ({}, 0)


def test_a_difference_in_the_middle_of_a_batch_stops_those_that_are_still_to_go(tmp_path: Path) -> None:
    shop = Installation(tmp_path)
    shop.guard.refuse_difference()
    shop.mails.max_entries = 2

    def found_meanwhile(calls: int) -> None:
        if calls == 2:
            shop.account = "999999999999"
            shop.case.clock.at += timedelta(seconds=30)
            shop.guard.look()

    shop.mails.called = found_meanwhile
    shop.turn()
    assert len(shop.mails.taken) == 4, "two calls of two; the fifth waits"
    assert shop.states()[AttemptState.HANDED_OVER] == 4
    assert sum(shop.states().values()) == PEOPLE
    assert set(shop.states()) == {AttemptState.PLANNED, AttemptState.HANDED_OVER}


def test_it_compares_before_each_release_and_in_between_no_more_often_than_twice_a_minute(tmp_path: Path) -> None:
    shop = Installation(tmp_path)
    clock = shop.case.clock
    assert shop.guard.may_hand_over(["r1"])
    assert shop.asked == 2, "AWS and the store"
    for _ in range(20):
        clock.at += timedelta(seconds=1)
        assert shop.guard.may_hand_over(["r1"])
    assert shop.asked == 2
    shop.base_url = "https://staging.shop.example/"
    assert not shop.guard.may_hand_over(["r1", "r2"]), "another release begins"
    assert shop.asked == 4


def test_a_clock_that_is_set_back_hides_no_difference(tmp_path: Path) -> None:
    shop = Installation(tmp_path)
    assert shop.guard.may_hand_over(["r1"])
    shop.case.clock.at -= timedelta(hours=1)
    shop.base_url = "https://staging.shop.example/"
    assert not shop.guard.may_hand_over(["r1"])


def test_a_release_begins_only_when_both_have_answered_and_goes_on_for_an_hour_while_they_are_silent(
    tmp_path: Path,
) -> None:
    shop = Installation(tmp_path)
    shop.base_url = Unreachable("the store does not answer")
    assert not shop.guard.may_hand_over(["r1"]), "it was never compared"
    shop.base_url = URL
    shop.case.clock.at += timedelta(seconds=30)
    assert shop.guard.may_hand_over(["r1"])
    shop.base_url = Refused("the store holds no base URL")
    shop.case.clock.at += SILENT_AT_MOST
    assert shop.guard.may_hand_over(["r1"])
    assert not shop.guard.may_hand_over(["r2"])
    assert "no base URL" in shop.health.reasons()["live"]
    shop.case.clock.at += timedelta(seconds=1)
    assert not shop.guard.may_hand_over(["r1"])
    assert not shop.guard.differs(), "silence is no difference, and pages nobody as one"
    assert shop.case.pages() == []


def test_silence_of_one_does_not_hide_what_the_other_says_nor_what_was_found_before(tmp_path: Path) -> None:
    shop = Installation(tmp_path)
    shop.account, shop.base_url = "999999999999", Unreachable("the store does not answer")
    assert not shop.guard.may_hand_over(["r1"])
    assert shop.guard.differs()
    shop.account = Unreachable("STS does not answer")
    shop.case.clock.at += timedelta(hours=2)
    assert not shop.guard.may_hand_over(["r1"])
    assert shop.guard.differs()


def test_a_base_url_is_the_same_whatever_its_case_and_last_slash(tmp_path: Path) -> None:
    shop = Installation(tmp_path)
    for same in ("https://shop.example", "HTTPS://Shop.Example/"):
        shop.base_url = same
        shop.guard.refuse_difference()
    for other in ("http://shop.example/", "https://shop.example/uk/", "https://shop.example:8443/", "shop.example"):
        shop.base_url = other
        with pytest.raises(Refused, match=re.escape(other)):
            shop.guard.refuse_difference()
