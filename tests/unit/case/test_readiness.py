"""Readiness over the year: what is said of the whole index, in which words, and when it is a no."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client import REGISTRY

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import Channel
from bridge.contracts.queries import Reach, ReachGroup
from consumers.adapters.readiness_watch import ReadinessWatch
from consumers.case.channel_preflight import ProviderStanding, SecondProvider
from consumers.case.preflight import STOPS, Finding
from consumers.case.readiness import YearRound, readiness_of
from consumers.case.readiness_commands import ReadinessSource, readiness
from consumers.domain.accounts import Price
from tests.unit.case.cases import NOW, Case
from tests.unit.case.test_channel_preflight import SES, SNS
from tests.unit.case.test_commands import Desk

ALL = ("email", "sms", "account_notice", "letter")


def reach(*groups: tuple[str, tuple[str, ...], int], silent: tuple[int, ...] = (), **unreadable: int) -> Reach:
    counted = tuple(ReachGroup(country=country, channels=channels, count=count) for country, channels, count in groups)
    return Reach(partition_count=6, silent_partitions=silent, groups=counted, unreadable=unreadable)


def seen(*groups: tuple[str, tuple[str, ...], int], **other: Any) -> YearRound:
    fields: dict[str, Any] = {
        "reach": reach(*groups or (("DE", ALL, 1000),)),
        "standing": ProviderStanding(SES, SNS, live=True), "now": NOW, "bound": timedelta(hours=24),
        "per_second": {Channel.EMAIL: 14, Channel.SMS: 10}, "sms_part_price": 0.07, "currency": "USD", "mode": "live",
    }  # fmt: skip
    return YearRound(**(fields | other))


def by_code(year: YearRound) -> dict[str, Finding]:
    return {each.code: each for each in readiness_of(year).findings}


def test_a_small_quota_takes_days_and_names_both_remedies() -> None:
    small = ProviderStanding(replace(SES, quota=200, sent=0), SNS, live=True)
    year = seen(("DE", ("email",), 3_900), standing=small)
    done = readiness_of(year)
    assert done.takes["email"] == timedelta(days=19, seconds=100 / 14)
    assert done.sentence() == (
        "telling everybody takes about 19 d at 14 a second and 200 e-mails in 24 hours; the bound is 24 h"
    )
    [slow] = done.stops
    assert slow.code == "too-slow"
    assert "add a second provider" in slow.says
    second = replace(small, second={Channel.EMAIL: SecondProvider("smtp", Price(None, None))})
    assert not readiness_of(seen(("DE", ("email",), 3_900), standing=second)).stops
    nothing = replace(small, email=replace(SES, quota=0))
    assert "never ends" in readiness_of(seen(standing=nothing)).sentence()


def test_sms_that_cannot_go_and_a_spend_limit_that_ends_are_said_with_whom_they_concern() -> None:
    sms = replace(SNS, spend_limit=1.0, spent=0.0, numbers=("CA",))
    standing = ProviderStanding(SES, sms, numbers_needed=("CA", "IN", "US"), live=True)
    groups = (
        ("US", ("email", "sms"), 300), ("IN", ("sms",), 20), ("CA", ("sms",), 7), ("DE", ("email", "sms"), 1000),
        ("unknown", ("letter",), 2), ("FR", ("account_notice", "letter"), 5), ("FR", (), 3),
    )  # fmt: skip
    done = readiness_of(seen(*groups, standing=standing))
    assert done.first == {"email": 1300, "sms": 27, "account_notice": 5, "letter": 2, "none": 3}
    assert (done.people, done.by_channel["sms"], done.by_channel["letter"]) == (1337, 1327, 7)
    assert done.sms_impossible == {"IN": 20, "US": 300}
    found = {each.code: each for each in done.findings}
    assert found["sms-impossible"].says == (
        "SMS impossible in IN and US (no origination identity): 320 have a telephone number there, 20 of them no e-mail address"
    )
    assert found["sms-limit"].says.startswith(
        "the spend limit covers 14 people at one part each, of 27 without an e-mail"
    )
    assert {each.code for each in done.stops} == {"sms-impossible", "sms-limit"}
    assert {"no-channel", "letters-only", "accounts-only"} <= found.keys()
    # nobody whose only way it is: said, and no reason to refuse
    fallback = by_code(seen(("US", ("email", "sms"), 300), standing=standing))
    assert fallback["sms-impossible"].level != STOPS
    assert fallback["sms-limit"].level != STOPS
    sandbox = by_code(seen(("US", ("sms",), 3), standing=replace(standing, live=False), mode="sandbox"))
    assert "sms-impossible" not in sandbox, "the sandbox stands for every carrier"
    assert "not-live-mode" in sandbox


def test_what_is_not_known_is_said_and_never_taken_for_good() -> None:
    silent = by_code(seen(reach=reach(("DE", ALL, 10), silent=(1, 4))))
    assert silent["partitions-silent"].level == STOPS
    assert "2 of 6 partitions" in silent["partitions-silent"].says
    unknown = by_code(seen(standing=ProviderStanding(SES, None, live=True, not_asked=("SNS answers nothing",))))
    assert "not asked" in unknown["sms-limit-unknown"].says
    unasked = by_code(seen(standing=ProviderStanding(None, None, live=True, not_asked=("AWS answers nothing",))))
    assert unasked["account-unknown"].level == STOPS
    assert "sms_price_per_part" in by_code(seen(sms_part_price=None))["sms-limit-unknown"].says
    assert "sms_price_per_part" in by_code(seen(currency="EUR"))["sms-limit-unknown"].says
    learned = by_code(
        seen(reach=reach(("DE", ALL, 10), telephone=12, email=1), hard_bounced={"email": 4}, suppressed=2)
    )
    assert learned["unreadable-telephone"].says.startswith("12 stored telephone numbers are none")
    assert "4 contacts bounced for good by email" in learned["bounced-email"].says
    assert "the addresses of 2" in learned["suppressed"].says
    copied = by_code(seen(not_live="delivery.base_url is https://shop.example/, but the store says another"))
    assert copied["not-live"].level == STOPS
    paused = by_code(seen(standing=ProviderStanding(replace(SES, sending_enabled=False), SNS, live=True)))
    assert paused["account-paused"].level == STOPS


class Source:
    """The index and the providers, as a test has them."""

    def __init__(self, says: YearRound | Exception) -> None:
        self.says = says
        self.looks = 0

    def look(self, *, lists: bool = True) -> YearRound:
        self.looks += 1
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


def test_the_command_ends_with_0_with_1_and_with_3(case: Case, tmp_path: Path) -> None:
    desk = Desk(case, tmp_path)
    source = Source(seen())
    desk.parts.provide(ReadinessSource, lambda: source)

    def typed(*words: str, who: str = "rae") -> Any:
        return CliRunner().invoke(
            readiness, list(words), obj=desk.parts, env={"TOCSIN_TOKEN": desk.tokens.get(who, "")}
        )

    told = typed()
    assert told.exception is None, told.exception
    assert "1,000 accounts and guest orders from 6 of 6 partitions" in told.output
    assert "no contact was opened" in told.output
    source.says = seen(("DE", ("email",), 90_000), standing=ProviderStanding(replace(SES, quota=200), SNS, live=True))
    slow = typed("--json")
    assert isinstance(slow.exception, Refused)
    assert slow.exception.exit_code == 1
    facts = json.loads(slow.output)
    assert (facts["ready"], facts["people"], facts["bound_seconds"]) == (False, 90_000, 86_400)
    assert facts["seconds"]["email"] > 400 * 86_400
    assert [each["code"] for each in facts["findings"] if each["level"] == "stops"] == ["too-slow"]
    source.says = Unreachable("no index worker answers")
    assert typed().exception.exit_code == 3
    assert isinstance(typed(who="nobody").exception, BadInput)


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_the_hourly_look_is_told_in_metrics_and_ages_while_the_index_is_silent() -> None:
    source, seconds = Source(Unreachable("no index worker answers")), [0.0]
    watch = ReadinessWatch(
        source.look, timedelta(hours=24), timedelta(hours=1), clock=lambda: seconds[0]
    )  # fmt: skip
    for seconds[0] in (0.0, 9.0, 10.0, 59.0):
        watch.turn()
    assert source.looks == 3
    assert metric("tocsin_readiness_age_seconds") == 59
    source.says = seen(("DE", ("email",), 3_900), standing=ProviderStanding(replace(SES, quota=200), None, live=True))
    seconds[0] = 69.0
    watch.turn()
    assert metric("tocsin_readiness_seconds", channel="email") == pytest.approx(19 * 86_400 + 100 / 14)
    assert metric("tocsin_readiness_people_count", channel="email") == 3_900
    assert (metric("tocsin_readiness_bound_seconds"), metric("tocsin_readiness_stopping_count")) == (86_400, 1)
    assert metric("tocsin_readiness_sms_covered_count") == float("inf")
    source.says = Unreachable("no index worker answers")
    for seconds[0] in (3_600.0, 3_669.0, 3_679.0):
        watch.turn()
    assert source.looks == 5, "an hour later, and then no sooner than after a minute"
    assert metric("tocsin_readiness_age_seconds") == 3_610
    assert metric("tocsin_readiness_people_count", channel="email") == 3_900, "what was seen last stands"
    source.says = seen()
    seconds[0] = 3_760.0
    watch.turn()
    assert (metric("tocsin_readiness_age_seconds"), metric("tocsin_readiness_stopping_count")) == (0, 0)
