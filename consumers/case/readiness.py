"""Readiness all year: how long telling everybody in the index would take today, and what keeps somebody from being told.

Pure. It stands on counts of the index by country and channel: no contact is opened, and no incident is asked. So it knows
neither texts (an SMS counts as one part) nor deadlines: which law would apply shows only when something has leaked, so the
time is compared with a bound of the settings. What a prepared release meets says `preflight`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from bridge.contracts.events import Channel
from bridge.contracts.queries import Reach
from consumers.case.channel_preflight import (
    ChannelReadiness,
    ProviderStanding,
    account_findings,
    in_hours,
    sending_of,
)
from consumers.case.preflight import DECIDE, NOTE, STOPS, Finding, in_order
from consumers.domain.accounts import missing_numbers

NOBODY = "none"
"""Where a channel would stand for people who have none."""
_AWS_DEFAULT_LIMIT = 1.0
_MOST_DAYS = 3650


@dataclass(frozen=True, slots=True)
class YearRound:
    """What readiness looks at. Counts of the index are of accounts and guest orders: who has several counts in each."""

    reach: Reach
    standing: ProviderStanding
    now: datetime
    bound: timedelta
    per_second: Mapping[Channel, float]
    """What the settings allow."""
    sms_part_price: float | None
    currency: str
    mode: str
    hard_bounced: Mapping[str, int] = field(default_factory=dict)
    """Contacts that bounced for good in earlier incidents, by channel."""
    suppressed: int | None = None
    """Whose address SES suppresses; None: not asked."""
    not_live: str = ""
    """Why this is not the account or the shop that `live` names."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """How everybody could be told, if it began now. Counts are of accounts and guest orders."""

    people: int
    first: Mapping[str, int]
    """By first channel, and `none`."""
    by_channel: Mapping[str, int]
    """Who could be told by a channel, first or later."""
    takes: Mapping[str, timedelta]
    """How long the first e-mails and the first SMS take."""
    bound: timedelta
    per_second: float
    """E-mails."""
    quota: int | None
    """E-mails in 24 hours."""
    sms_impossible: Mapping[str, int]
    """Who could be told by SMS in countries whose carriers want a number that we do not hold, by country."""
    sms_only_impossible: int
    """Of these, whom SMS would be the first channel for."""
    sms_covered: int | None
    """How many SMS of one part the month's spend limit still pays; None: not known."""
    partition_count: int
    partitions_silent: tuple[int, ...]
    findings: tuple[Finding, ...]
    not_asked: tuple[str, ...]

    @property
    def slowest(self) -> timedelta:
        """How long telling everybody takes."""
        return max(self.takes.values())

    @property
    def stops(self) -> list[Finding]:
        """What keeps somebody from being told, or from being told in time."""
        return [each for each in self.findings if each.level == STOPS]

    def in_words(self, channel: str) -> str:
        """Return how long the first messages of `channel` take."""
        return in_hours(self.takes[channel]) if self.takes[channel].days < _MOST_DAYS else "for ever"

    def sentence(self) -> str:
        """Return it in one sentence."""
        quota = "" if self.quota is None else f" and {self.quota:,} e-mails in 24 hours"
        if self.slowest.days >= _MOST_DAYS:
            return f"with {self.quota or 0:,} e-mails in 24 hours telling everybody never ends"
        return (
            f"telling everybody takes about {in_hours(self.slowest)} at {self.per_second:g} a second{quota}; the bound is "
            f"{in_hours(self.bound)}"
        )

    def facts(self) -> dict[str, Any]:
        """Return it for pipes."""
        return {
            "sentence": self.sentence(),
            "ready": not self.stops,
            "people": self.people,
            "counted": "accounts and guest orders",
            "first": dict(self.first),
            "by_channel": dict(self.by_channel),
            "seconds": {name: round(span.total_seconds()) for name, span in self.takes.items()},
            "bound_seconds": round(self.bound.total_seconds()),
            "emails_per_second": self.per_second,
            "emails_in_24_hours": self.quota,
            "sms_impossible": dict(self.sms_impossible),
            "sms_covered_by_spend_limit": self.sms_covered,
            "partitions": {"count": self.partition_count, "silent": list(self.partitions_silent)},
            "findings": [
                {"level": each.level, "about": each.about, "code": each.code, "says": each.says, "next": each.next}
                for each in self.findings
            ],
            "not_asked": list(self.not_asked),
        }


def readiness_of(seen: YearRound) -> Readiness:
    """Return how everybody in the index could be told now: each by the first channel that exists for them, in the order
    e-mail, SMS, account notice, letter.
    """
    first: Counter[str] = Counter()
    by_channel: Counter[str] = Counter()
    sms_homes: Counter[str] = Counter()
    sms_first: Counter[str] = Counter()
    for group in seen.reach.groups:
        begins = next((channel.value for channel in Channel if channel.value in group.channels), NOBODY)
        first[begins] += group.count
        by_channel.update(dict.fromkeys(group.channels, group.count))
        if Channel.SMS.value in group.channels:
            sms_homes[group.country] += group.count
        if begins == Channel.SMS:
            sms_first[group.country] += group.count
    channels = _as_a_release(seen, first, by_channel)
    sending = sending_of(channels)
    sms = seen.standing.sms
    # the sandbox stands for every carrier and wants no number
    asked = seen.standing.numbers_needed if seen.standing.live and sms is not None and sms.numbers is not None else ()
    held = () if sms is None else sms.numbers or ()
    impossible = {country: sms_homes[country] for country in missing_numbers(list(sms_homes), asked, held)}
    emails: dict[Channel, int] = {Channel.EMAIL: first[Channel.EMAIL.value]}
    done = Readiness(
        people=sum(first.values()),
        first={**{channel.value: first[channel.value] for channel in Channel}, NOBODY: first[NOBODY]},
        by_channel={channel.value: by_channel[channel.value] for channel in Channel},
        takes={
            Channel.EMAIL.value: sending_of(replace(channels, first=emails)).takes,
            Channel.SMS.value: timedelta(seconds=first[Channel.SMS.value] / seen.per_second[Channel.SMS]),
        },
        bound=seen.bound,
        per_second=sending.per_second,
        quota=None if seen.standing.email is None else seen.standing.email.quota,
        sms_impossible=impossible,
        sms_only_impossible=sum(sms_first[country] for country in impossible),
        sms_covered=_covered(seen),
        partition_count=seen.reach.partition_count,
        partitions_silent=seen.reach.silent_partitions,
        findings=(),
        not_asked=tuple(seen.standing.not_asked),
    )
    return replace(done, findings=tuple(in_order([*_findings(seen, done), *account_findings(channels)])))


def _as_a_release(seen: YearRound, first: Mapping[str, int], by_channel: Mapping[str, int]) -> ChannelReadiness:
    return ChannelReadiness(
        standing=seen.standing,
        now=seen.now,
        first={channel: first.get(channel.value, 0) for channel in Channel},
        at_most={channel: by_channel.get(channel.value, 0) for channel in Channel},
        due=(),
        per_second=seen.per_second,
        lacking={},
        suppressed={},
        sms_homes={},
        sms_parts=first.get(Channel.SMS.value, 0),
        part_price=seen.sms_part_price,
        currency=seen.currency,
    )


def _covered(seen: YearRound) -> int | None:
    sms = seen.standing.sms
    if sms is None or not seen.sms_part_price or seen.currency != "USD":
        return None
    limit = _AWS_DEFAULT_LIMIT if sms.spend_limit is None else sms.spend_limit
    # a hundredth of a part is the rounding of floating money
    return int(max(0.0, limit - (sms.spent or 0.0)) / seen.sms_part_price + 0.01)


def _findings(seen: YearRound, done: Readiness) -> Iterable[Finding]:
    if seen.not_live:
        yield Finding(STOPS, "live", f"{seen.not_live}: nothing would be sent", "tocsin config show", code="not-live")
    if done.partitions_silent:
        says = f"{len(done.partitions_silent)} of {done.partition_count} partitions are silent: their people are not counted"
        yield Finding(STOPS, "partitions", says, "tocsin index status", code="partitions-silent")
    if seen.standing.email is None and done.by_channel[Channel.EMAIL.value]:
        yield Finding(STOPS, "time", "what the SES account allows was not asked: the time is that of the settings' rate alone",
                      "tocsin delivery circuits", code="account-unknown")  # fmt: skip
    if done.slowest > done.bound:
        raised = "" if Channel.EMAIL in seen.standing.second else " or add a second provider (delivery.smtp)"
        yield Finding(STOPS, "time", f"{done.sentence()}; ask AWS for a higher quota or rate now, which takes days{raised}",
                      code="too-slow")  # fmt: skip
    yield from _sms(seen, done)
    if done.first[NOBODY]:
        yield Finding(DECIDE, "contacts", f"{done.first[NOBODY]:,} have no channel at all: they would be told in public, "
                      "where the law allows it", code="no-channel")  # fmt: skip
    if done.first[Channel.LETTER.value]:
        yield Finding(NOTE, "letters", f"{done.first[Channel.LETTER.value]:,} can be told by letter alone: somebody must print "
                      "and post them", code="letters-only")  # fmt: skip
    if done.first[Channel.ACCOUNT_NOTICE.value]:
        yield Finding(NOTE, "account notices", f"{done.first[Channel.ACCOUNT_NOTICE.value]:,} have no e-mail address and no "
                      "telephone number: they learn of it when they next look into their account",
                      code="accounts-only")  # fmt: skip
    yield from _contacts(seen)
    if seen.mode != "live":
        whose = "sandbox" if seen.mode == "sandbox" else "account whose simulator is used"
        says = f"delivery.mode is {seen.mode}: accounts and limits are those of the {whose}"
        yield Finding(NOTE, "delivery mode", says, code="not-live-mode")


def _sms(seen: YearRound, done: Readiness) -> Iterable[Finding]:
    if done.sms_impossible:
        countries = list(done.sms_impossible)
        named = ", ".join(countries[:-1]) + " and " + countries[-1] if len(countries) > 1 else countries[0]
        total, alone = sum(done.sms_impossible.values()), done.sms_only_impossible
        says = f"SMS impossible in {named} (no origination identity): {total:,} have a telephone number there"
        yield Finding(
            STOPS if alone else DECIDE, "sms", f"{says}, {alone:,} of them no e-mail address", code="sms-impossible"
        )
    if not done.by_channel[Channel.SMS.value]:
        return
    if done.sms_covered is None:
        why = (
            "what the account's limit is was not asked"
            if seen.standing.sms is None
            else "nobody has said what a part costs in USD: delivery.sms_price_per_part"
        )
        yield Finding(NOTE, "sms", f"how many SMS the spend limit covers is not known: {why}", code="sms-limit-unknown")
        return
    firsts, anyone = done.first[Channel.SMS.value], done.by_channel[Channel.SMS.value]
    short = done.sms_covered < firsts
    if done.sms_covered < anyone:
        yield Finding(
            STOPS if short else NOTE, "sms",
            f"the spend limit covers {done.sms_covered:,} people at one part each, of {firsts:,} without an e-mail address and "
            f"{anyone:,} with a telephone number; AWS raises it on request", code="sms-limit",
        )  # fmt: skip


def _contacts(seen: YearRound) -> Iterable[Finding]:
    for name, words in (("email", "e-mail addresses"), ("telephone", "telephone numbers")):
        count = seen.reach.unreadable.get(name, 0)
        if count:
            yield Finding(NOTE, "contacts", f"{count:,} stored {words} are none, so that channel does not exist for them",
                          "tocsin relay verify", code=f"unreadable-{name}")  # fmt: skip
    for channel, count in sorted(seen.hard_bounced.items()):
        if count:
            yield Finding(NOTE, "contacts", f"{count:,} contacts bounced for good by {channel.replace('_', ' ')} in earlier "
                          "incidents and are not tried again until they change", "tocsin delivery bounced",
                          code=f"bounced-{channel.replace('_', '-')}")  # fmt: skip
    if seen.suppressed:
        yield Finding(NOTE, "contacts", f"SES suppresses the addresses of {seen.suppressed:,}: no mail reaches them",
                      code="suppressed")  # fmt: skip
