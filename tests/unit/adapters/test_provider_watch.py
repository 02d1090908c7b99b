"""What the meter and the lanes are told of providers, and what people are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bridge.contracts.errors import Unreachable
from bridge.contracts.events import Channel
from bridge.runtime.clock import SetClock
from consumers.adapters.provider_watch import QUOTA_LEFT, ProviderWatch, WatchPolicy
from consumers.case.records import PageRecord
from consumers.domain.accounts import EmailAccount, Price, Reputation, SmsAccount
from consumers.domain.circuit import CircuitReading, CircuitState
from consumers.domain.sending import NO_BOUND, Allowance

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Accounts:
    """The accounts as they are at the providers, the case store, and the watch over them."""

    def __init__(self, **policy: object) -> None:
        self.clock = SetClock(NOW)
        self.email = EmailAccount(NOW, 14, 50_000, 0, True, True, "HEALTHY", configuration_set="tocsin")
        self.sms = SmsAccount(NOW, in_sandbox=False, spend_limit=20, spent=1, status_logged=True)
        self.seen = Reputation(0, 0, 0)
        self.sent: dict[str, int] = {}
        self.circuits: list[CircuitReading] = []
        self.pages: list[PageRecord] = []
        self.silent = False
        self.watch = ProviderWatch(
            Reading(self, "email"), Reading(self, "sms"), self, self.clock,
            WatchPolicy(**policy), announces=True,  # type: ignore[arg-type]
        )  # fmt: skip

    def readings(self) -> Sequence[CircuitReading]:
        return self.circuits

    def reputation(self, provider: str) -> Reputation:
        assert provider == "ses"
        return self.seen

    def sent_through(self, since: datetime) -> Mapping[str, int]:
        assert since == datetime(2026, 3, 1, tzinfo=UTC)
        return self.sent

    def raise_page(self, record: PageRecord) -> None:
        self.pages.append(record)

    def after(self, passed: timedelta = MINUTE) -> None:
        self.clock.at += passed
        self.watch.read_accounts()
        self.watch.read_circuits()

    def circuit(self, provider: str, channel: str, state: CircuitState, try_at: datetime | None = None) -> None:
        self.circuits.append(CircuitReading(provider, channel, state, NOW, try_at, 5, 10, 0.5, 0.1))


class Reading:
    """One account's reader."""

    def __init__(self, accounts: Accounts, name: str) -> None:
        self._accounts = accounts
        self._name = name

    def read(self) -> Any:
        if self._accounts.silent:
            raise Unreachable("AWS does not answer")
        return replace(getattr(self._accounts, self._name), read_at=self._accounts.clock.at)


def test_nothing_is_bounded_before_anybody_has_answered_and_after_a_long_silence() -> None:
    there = Accounts()
    there.silent = True
    there.after()
    assert there.watch.allowance(Channel.EMAIL) == NO_BOUND
    there.silent = False
    there.after()
    assert there.watch.allowance(Channel.EMAIL) == Allowance(14, 50_000)
    there.silent = True
    there.after()
    assert there.watch.allowance(Channel.EMAIL) == Allowance(14, 50_000)
    there.after(timedelta(minutes=16))
    assert there.watch.allowance(Channel.EMAIL) == NO_BOUND


def test_what_is_put_on_the_belt_uses_up_the_quota_before_ses_says_so() -> None:
    there = Accounts()
    there.email = replace(there.email, quota=200, sent=150)
    there.after()
    assert there.watch.allowance(Channel.EMAIL).at_most == 50
    there.watch.issued(Channel.EMAIL, 30)
    there.watch.issued(Channel.SMS, 30)
    assert there.watch.allowance(Channel.EMAIL).at_most == 20
    there.email = replace(there.email, sent=170)
    there.after(timedelta(seconds=61))
    assert there.watch.allowance(Channel.EMAIL).at_most == 30
    assert QUOTA_LEFT.labels("ses")._value.get() == 30
    there.watch.issued(Channel.EMAIL, 40)
    assert there.watch.allowance(Channel.EMAIL).at_most == 0


def test_a_quota_that_is_used_up_comes_back_by_itself_and_an_ill_provider_does_not() -> None:
    there = Accounts()
    there.email = replace(there.email, quota=86_400, sent=86_400)
    there.after()
    assert there.watch.allowance(Channel.EMAIL) == Allowance(14, 0, 1.0)
    there.circuit("ses", "email", CircuitState.OPEN)
    there.after()
    assert there.watch.allowance(Channel.EMAIL) == Allowance(14, 0)
    there.circuits.clear()
    there.email = replace(there.email, sending_enabled=False)
    there.after(timedelta(seconds=61))
    assert there.watch.allowance(Channel.EMAIL).again_per_second == 0


def test_a_second_provider_takes_what_the_quota_does_not_let_through() -> None:
    there = Accounts(second={Channel.EMAIL: "smtp"})
    there.email = replace(there.email, quota=200, sent=200)
    there.after()
    assert there.watch.allowance(Channel.EMAIL) == NO_BOUND, "the settings' rate holds there"
    assert there.watch.bound("ses").at_most == 0
    assert there.watch.bound("smtp") == NO_BOUND


def test_past_the_spend_limit_a_second_provider_takes_the_sms() -> None:
    there = Accounts(second={Channel.SMS: "sms_gateway"})
    there.sms = replace(there.sms, spent=20)
    there.after()
    assert there.watch.bound("sns").at_most == 0
    assert there.watch.bound("sms_gateway") == there.watch.allowance(Channel.SMS) == NO_BOUND


@pytest.mark.parametrize(
    ("bounced", "complained", "rate", "kind"),
    [(50, 0, 7.0, "provider.reputation_review"), (0, 5, 1.4, "provider.reputation_pause")],
)
def test_bounces_and_complaints_slow_sending_and_are_announced_once(
    bounced: int, complained: int, rate: float, kind: str
) -> None:
    there = Accounts()
    there.seen = Reputation(1000, bounced, complained)
    there.after()
    there.after()
    assert there.watch.allowance(Channel.EMAIL).per_second == pytest.approx(rate)
    assert [(page.kind, page.incident_id) for page in there.pages] == [(kind, None)]
    there.seen = Reputation(1000, 0, 0)
    there.after()
    assert there.watch.allowance(Channel.EMAIL).per_second == 14


def test_an_account_that_is_shut_holds_its_channel_and_says_why() -> None:
    there = Accounts()
    there.email = replace(there.email, enforcement="SHUTDOWN")
    there.sms = replace(there.sms, spent=20)
    there.after()
    assert there.watch.allowance(Channel.EMAIL).at_most == 0
    assert there.watch.allowance(Channel.SMS) == there.watch.bound("sns") == NO_BOUND, "the next channel begins"
    assert {page.kind: page.severity for page in there.pages} == {
        "provider.account_suspended": "critical",
        "provider.sms_limit": "critical",
    }
    assert there.watch.allowance(Channel.ACCOUNT_NOTICE) == NO_BOUND


def test_while_no_provider_has_a_turn_the_meter_waits_and_probes_get_through() -> None:
    there = Accounts()
    there.after()
    there.circuit("ses", "email", CircuitState.OPEN, try_at=NOW + 5 * MINUTE)
    there.after()
    assert there.watch.allowance(Channel.EMAIL).at_most == 0
    assert there.watch.allowance(Channel.SMS).at_most is None
    assert {page.kind for page in there.pages} == {"provider.circuit_open", "provider.lane_still"}
    there.after(4 * MINUTE)
    assert there.watch.allowance(Channel.EMAIL).at_most == 5, "it is due to be tried"
    there.circuit("smtp", "email", CircuitState.CLOSED)
    there.after()
    assert there.watch.allowance(Channel.EMAIL).at_most == 50_000
    there.circuits[1:] = []
    there.circuits[0] = replace(there.circuits[0], try_at=None)
    there.after(60 * MINUTE)
    assert there.watch.allowance(Channel.EMAIL).at_most == 0, "a person took it out of service"


def test_a_provider_is_said_to_be_well_again_once_its_circuit_has_closed_and_not_while_a_few_try_it() -> None:
    there = Accounts(second={Channel.EMAIL: "smtp"})
    there.circuit("smtp", "email", CircuitState.CLOSED)
    there.circuit("ses", "email", CircuitState.OPEN, try_at=NOW + MINUTE)
    there.after()
    said = [each.says for each in there.watch.troubles()]
    assert said == ["ses is ill or was taken out of service: its lane runs over smtp"]
    there.circuits[1] = replace(there.circuits[1], state=CircuitState.HALF_OPEN)
    there.after()
    assert [each.says for each in there.watch.troubles()] == said
    there.circuits[1] = replace(there.circuits[1], state=CircuitState.CLOSED)
    there.after()
    assert there.watch.troubles() == []


@pytest.mark.parametrize(("stops", "bound"), [(False, NO_BOUND), (True, Allowance(at_most=0))])
def test_past_its_budget_a_second_provider_is_paged_and_stops_only_by_policy(stops: bool, bound: Allowance) -> None:
    there = Accounts(
        second={Channel.EMAIL: "smtp"}, prices={"smtp": Price(0.001, 10)}, stop_over_budget=stops
    )  # fmt: skip
    there.sent = {"smtp": 10_000}
    there.after()
    assert there.watch.bound("smtp") == NO_BOUND
    assert there.pages == []
    there.sent = {"smtp": 10_001}
    there.after()
    assert there.watch.bound("smtp") == bound
    [page] = there.pages
    assert (page.kind, page.body["provider"]) == ("provider.over_budget", "smtp")


def test_nothing_is_put_on_the_belt_while_one_provider_is_ill_and_the_other_one_may_take_nothing_and_it_is_said() -> (
    None
):
    there = Accounts(second={Channel.EMAIL: "smtp"}, prices={"smtp": Price(0.001, 10)}, stop_over_budget=True)
    there.circuit("ses", "email", CircuitState.OPEN, try_at=NOW + 60 * MINUTE)
    there.circuit("smtp", "email", CircuitState.CLOSED)
    there.after()
    assert there.watch.allowance(Channel.EMAIL) == Allowance(None, None)
    there.sent = {"smtp": 10_001}
    there.after()
    assert there.watch.allowance(Channel.EMAIL).at_most == 0, "over budget, and its circuit is closed"
    assert "provider.lane_still" in {page.kind for page in there.pages}
    assert ["wait" in each.says for each in there.watch.troubles() if each.kind == "circuit-open"] == [True]
    there.sent = {}
    there.email = replace(there.email, sent=50_000)
    there.circuits = [replace(each, state=CircuitState.CLOSED) for each in there.circuits]
    there.after()
    assert there.watch.allowance(Channel.EMAIL).at_most is None, "no quota left, and the other one is well"
    there.circuits[1] = replace(there.circuits[1], state=CircuitState.OPEN, try_at=NOW + 60 * MINUTE)
    there.after()
    assert there.watch.allowance(Channel.EMAIL).at_most == 0
    there.circuits.pop()
    there.after()
    assert there.watch.allowance(Channel.EMAIL).at_most == 0, "dispatchers that know no second provider yet"
    there.circuit("smtp", "email", CircuitState.OPEN, try_at=NOW + 60 * MINUTE)
    there.after(60 * MINUTE)
    assert there.watch.allowance(Channel.EMAIL).at_most == 5, "it is due to be tried"


def test_who_may_not_pass_the_second_providers_region_is_named_where_its_lane_moves() -> None:
    accounts = Accounts(second={Channel.EMAIL: "smtp"})
    accounts.watch._closed_to = {"smtp": ["people in EEA"], "ses": []}.__getitem__
    accounts.circuit("ses", "email", CircuitState.CLOSED)
    accounts.circuit("smtp", "email", CircuitState.CLOSED)
    accounts.after()
    assert list(accounts.watch.takers(Channel.EMAIL)) == ["ses", "smtp"]
    accounts.circuits.clear()
    accounts.circuit("ses", "email", CircuitState.OPEN, NOW + timedelta(hours=1))
    accounts.circuit("smtp", "email", CircuitState.CLOSED)
    accounts.after()
    assert list(accounts.watch.takers(Channel.EMAIL)) == ["smtp"]
    (said,) = [each.says for each in accounts.watch.troubles() if each.kind == "circuit-open"]
    assert "its lane runs over smtp; notices to people in EEA may not pass there and wait" in said


def test_who_was_warned_that_the_quota_ends_is_told_when_it_has_ended() -> None:
    there = Accounts()
    there.email = replace(there.email, sent=45_001)
    there.after()
    there.email = replace(there.email, sent=50_000)
    there.after()
    assert [(page.kind, page.severity) for page in there.pages] == [
        ("provider.quota_low", "warning"), ("provider.quota_used_up", "critical"),
    ]  # fmt: skip


def test_a_clock_that_is_set_back_neither_stops_the_watch_nor_uses_up_the_quota() -> None:
    there = Accounts()
    there.email = replace(there.email, quota=200)
    there.after()
    there.watch.issued(Channel.EMAIL, 150)
    assert there.watch.allowance(Channel.EMAIL).at_most == 50
    there.email = replace(there.email, sent=190)
    there.after(timedelta(hours=-1))
    assert there.watch.allowance(Channel.EMAIL).at_most == 10, "read again, and what was sent is counted once"
