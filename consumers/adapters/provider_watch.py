"""Keeps an eye on our providers: accounts once a minute, circuits once a second, in a thread of its own.

What it read last is what the meter (`Rates`) and the lanes ask for; asking never waits for AWS. A provider that does not
answer bounds nothing: what it would refuse goes back to waiting anyway. Not for deciding who is told.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from bridge.contracts.errors import TocsinError
from bridge.contracts.events import Channel
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import gauge
from consumers.case.records import PageRecord
from consumers.domain.accounts import (
    DAY,
    EmailAccount,
    Price,
    Reputation,
    ReputationBounds,
    SmsAccount,
    Trouble,
    email_troubles,
    month_began,
    reputation_level,
    slowed,
    sms_troubles,
)
from consumers.domain.circuit import CircuitReading, CircuitState, let_through
from consumers.domain.sending import NO_BOUND, Allowance

log = structlog.get_logger()

QUOTA_LEFT = gauge(
    "tocsin_provider_quota_left_count",
    "recipients that the 24-hour quota still lets through, as the release process read it last; 0 in other processes",
    question="does the quota end before the release does?",
    labels={"provider": ["ses"]},
)
RATE = gauge(
    "tocsin_provider_rate_per_second",
    "recipients a second that the account grants, slowed down for bounces and complaints; 0 in other processes than release",
    question="how fast may we send?",
    labels={"provider": ["ses"]},
)
SHARES = gauge(
    "tocsin_provider_receipts_ratio",
    "share of a provider's e-mails of the last 24 hours that bounced hard or were complained about, 0 to 1",
    question="will the provider pause our account?",
    labels={"provider": ["ses", "smtp"], "kind": ["bounced", "complained"]},
)
BUDGET = gauge(
    "tocsin_provider_budget_used_ratio",
    "what was sent through a provider this month against its budget, of SNS against the account's spend limit for SMS; above"
    " 1 it is overdrawn, 0 where budget or price is unknown",
    question="what does the second provider cost us, and does the SMS spend limit end before the month?",
    labels={"provider": ["sns", "smtp", "sms_gateway"]},
)
TROUBLES = gauge(
    "tocsin_provider_troubles_count",
    "what stands in the way at a provider's account: suspended, paused, no events, limit reached and the like",
    question="do our accounts let us send?",
    labels={"provider": ["ses", "sns", "smtp", "sms_gateway"]},
)

FIRST = {Channel.EMAIL: "ses", Channel.SMS: "sns"}
_KEPT = timedelta(minutes=15)
"""An account read longer ago says nothing any more."""


class EmailAccounts(Protocol):
    """Reads the e-mail account. Raises TocsinError."""

    def read(self) -> EmailAccount: ...


class SmsAccounts(Protocol):
    """Reads the SMS account. Raises TocsinError."""

    def read(self) -> SmsAccount: ...


class ProviderBook(Protocol):
    """What the case store knows of providers. Raises Unreachable."""

    def readings(self) -> Sequence[CircuitReading]: ...
    def reputation(self, provider: str) -> Reputation: ...
    def sent_through(self, since: datetime) -> Mapping[str, int]: ...
    def raise_page(self, record: PageRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class WatchPolicy:
    """What the settings say of providers."""

    live: bool = False
    second: Mapping[Channel, str] = field(default_factory=dict)
    """The second provider of a channel that has one."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    """Of second providers."""
    stop_over_budget: bool = False
    reputation: ReputationBounds = field(default_factory=ReputationBounds)
    belt: timedelta = timedelta(seconds=30)
    account_every: timedelta = timedelta(minutes=1)


class ProviderWatch:
    """Implements `consumers.domain.sending.Rates`. `announces`: it tells people; one process does."""

    def __init__(
        self,
        email: EmailAccounts,
        sms: SmsAccounts,
        book: ProviderBook,
        clock: Clock,
        policy: WatchPolicy,
        *,
        announces: bool,
        closed_to: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> None:
        """`closed_to`: of whom, in words, no notice may pass through a second provider's region."""
        self._closed_to = closed_to
        self._email_accounts = email
        self._sms_accounts = sms
        self._book = book
        self._clock = clock
        self._policy = policy
        self._announces = announces
        self._email: EmailAccount | None = None
        self._sms: SmsAccount | None = None
        self._readings: Sequence[CircuitReading] = ()
        self._level = "ok"
        self._sent: Mapping[str, int] = {}
        self._looked_at: datetime | None = None
        self._issued: deque[tuple[datetime, int]] = deque()
        self._said: dict[tuple[str, str], Trouble] = {}

    def run_accounts(self, stop: threading.Event, *, pause_seconds: float = 1.0) -> None:
        """Read accounts when they are due, until `stop`. A provider may take its time to answer."""
        while not stop.is_set():
            self.read_accounts()
            stop.wait(pause_seconds)

    def run_circuits(self, stop: threading.Event, *, pause_seconds: float = 1.0) -> None:
        """Read circuits and tell people what has changed, until `stop`."""
        while not stop.is_set():
            self.read_circuits()
            stop.wait(pause_seconds)

    def read_accounts(self) -> None:
        """Read what is due. Never raises for what a provider or the case store says."""
        now = self._clock.now()
        # also when the clock was set back
        if self._looked_at is not None and timedelta(0) <= now - self._looked_at < self._policy.account_every:
            return
        self._looked_at = now
        self._try("ses", self._read_email)
        self._try("sns", self._read_sms)
        self._try("case store", self._read_book)

    def read_circuits(self) -> None:
        """Read how dispatchers see their providers, and tell people what has changed."""
        self._try("circuits", self._read_circuits)
        if self._announces:
            self._try("pages", self._announce)

    def _try(self, what: str, reading: Callable[[], None]) -> None:
        try:
            reading()
        except TocsinError as error:
            log.warning("a provider cannot be watched", part=what, reason=str(error))

    def _read_circuits(self) -> None:
        self._readings = self._book.readings()

    def _read_email(self) -> None:
        self._email = self._email_accounts.read()

    def _read_sms(self) -> None:
        self._sms = self._sms_accounts.read()

    def _read_book(self) -> None:
        seen = self._book.reputation(FIRST[Channel.EMAIL])
        self._level = reputation_level(seen, self._policy.reputation)
        # counted only where it can change something: it reads every attempt of the month
        self._sent = (
            self._book.sent_through(month_began(self._clock.now()))
            if any(each.budget is not None for each in self._policy.prices.values())
            else {}
        )
        if self._announces:
            SHARES.labels("ses", "bounced").set(seen.bounce_rate)
            SHARES.labels("ses", "complained").set(seen.complaint_rate)

    # what the meter asks

    def allowance(self, channel: Channel) -> Allowance:
        """Return what the meter may put on the belt of `channel`."""
        if channel not in FIRST:
            return NO_BOUND
        now = self._clock.now()
        own = [each for each in self._readings if each.channel == channel.value]
        through = let_through(own, now)
        first = self.bound(FIRST[channel])
        if channel in self._policy.second:
            # the second provider takes what the first does not: its quota is no bound, and its rate only while it has a turn
            closed = [each.state is CircuitState.CLOSED for each in own if each.provider == FIRST[channel]]
            first_has_turn = first.at_most != 0 and (any(closed) or not closed)
            takes = [self._takes(each, own, now) for each in (FIRST[channel], self._policy.second[channel])]
            at_most = None if None in takes else max(filter(None, takes), default=0)
            comes_back = at_most == 0 and (any(closed) or not closed)
            return Allowance(
                first.per_second if first_has_turn else None, at_most, first.again_per_second if comes_back else 0.0
            )
        bounds = [each for each in (through, first.at_most) if each is not None]
        return Allowance(first.per_second, min(bounds, default=None), 0.0 if through == 0 else first.again_per_second)

    def _takes(self, provider: str, readings: Sequence[CircuitReading], now: datetime) -> int | None:
        """Return how many messages `provider` takes now, by its circuits and by its account; None: as many as there are; of one
        that no dispatcher names beside the others 0, as nobody sends anything over it.
        """
        own = [each for each in readings if each.provider == provider]
        through = let_through(own, now) if own or not readings else 0
        return min((each for each in (through, self.bound(provider).at_most) if each is not None), default=None)

    def takers(self, channel: Channel) -> Collection[str]:
        """Return the names of the providers of `channel` that take messages now."""
        now = self._clock.now()
        own = [each for each in self._readings if each.channel == channel.value]
        names = (FIRST[channel], self._policy.second.get(channel)) if channel in FIRST else ()
        return [each for each in names if each is not None and self._takes(each, own, now) != 0]

    def issued(self, channel: Channel, count: int) -> None:
        """Note what was put on the belt of `channel`."""
        if channel is Channel.EMAIL and count:
            self._issued.append((self._clock.now(), count))

    # what the lanes ask

    def bound(self, provider: str) -> Allowance:
        """Return what the account of `provider` allows."""
        now = self._clock.now()
        if provider == "ses":
            account = self._email
            if account is None or now - account.read_at > _KEPT:
                return NO_BOUND
            left = account.left
            if left is not None:
                left = max(0, left - self._not_yet_counted(account.read_at))
            return Allowance(
                slowed(account.per_second, self._level, self._policy.reputation) if account.per_second > 0 else None,
                left if account.usable else 0,
                account.quota / DAY.total_seconds() if account.usable and account.quota and left == 0 else 0.0,
            )
        if provider == "sns":
            # without a second provider nobody waits for another month: SNS takes an SMS past the limit and reports it as failed,
            # so that its reader's next channel begins
            sms = self._sms if Channel.SMS in self._policy.second else None
            exhausted = sms is not None and now - sms.read_at <= _KEPT and sms.exhausted
            return Allowance(at_most=0) if exhausted else NO_BOUND
        price = self._policy.prices.get(provider)
        overdrawn = price is not None and price.exceeded(self._sent.get(provider, 0))
        return Allowance(at_most=0) if overdrawn and self._policy.stop_over_budget else NO_BOUND

    def _not_yet_counted(self, read_at: datetime) -> int:
        """Return how many were put on the belt since the quota was read, or before and may have lain there still."""
        since = read_at - 2 * self._policy.belt
        until = self._clock.now()
        # what lies ahead was noted before the clock was set back
        while self._issued and not since <= self._issued[0][0] <= until:
            self._issued.popleft()
        return sum(count for _, count in tuple(self._issued))

    # what people are told

    def troubles(self) -> list[Trouble]:
        """Return what somebody must know now."""
        found: list[Trouble] = []
        if self._email is not None:
            found += email_troubles(self._email, live=self._policy.live)
            left, quota = self._email.left, self._email.quota
            if left is not None and quota and left * 10 < quota:
                # two kinds: who was warned is told once more when it ends
                kind = "quota-low" if left else "quota-used-up"
                says = f"{left:,} of {quota:,} e-mails are left of SES's 24-hour quota"
                found.append(Trouble(kind, "ses", says, not left))
        if self._sms is not None:
            found += sms_troubles(self._sms, live=self._policy.live)
        if self._level != "ok":
            found.append(
                Trouble(
                    f"reputation-{self._level}",
                    "ses",
                    f"hard bounces or complaints are at the share at which SES {self._level}s an account: we send more slowly",
                    self._level == "pause",
                )
            )
        for provider, price in sorted(self._policy.prices.items()):
            if price.exceeded(self._sent.get(provider, 0)):
                goes_on = "its messages wait" if self._policy.stop_over_budget else "sending goes on"
                found.append(
                    Trouble("over-budget", provider, f"{provider} has used up its budget of the month; {goes_on}")
                )
        return found + self._circuit_troubles()

    def _circuit_troubles(self) -> list[Trouble]:
        found = []
        now = self._clock.now()
        for channel, first in FIRST.items():
            own = [each for each in self._readings if each.channel == channel.value]
            # while a few try it nobody knows yet that it is well
            for provider in sorted({each.provider for each in own if each.state is not CircuitState.CLOSED}):
                other = self._policy.second.get(channel) if provider == first else first
                goes_on = other is not None and self._takes(other, own, now) != 0
                lane = f"its lane runs over {other}" if goes_on else "its messages wait until it is well again"
                closed = self._closed_to(other) if goes_on and other is not None and provider == first else ()
                if closed:
                    lane += f"; notices to {' and to '.join(closed)} may not pass there and wait (regions.yaml)"
                found.append(
                    Trouble("circuit-open", provider, f"{provider} is ill or was taken out of service: {lane}")
                )
            stands_still = channel in self._policy.second and self.allowance(channel).at_most == 0
            if stands_still or (own and let_through(own, now) == 0):
                found.append(
                    Trouble(
                        "lane-still",
                        first,
                        f"no provider of {channel.value} takes messages: they wait, none is lost",
                        True,
                    )
                )
        return found

    def _announce(self) -> None:
        if self._email is not None:
            QUOTA_LEFT.labels("ses").set(float("inf") if self._email.left is None else self._email.left)
            RATE.labels("ses").set(self.bound("ses").per_second or 0.0)
        if self._sms is not None and self._sms.spent is not None:
            BUDGET.labels("sns").set(self._sms.spent / max(self._sms.limit, 0.01))
        for provider, price in self._policy.prices.items():
            spent = price.spent(self._sent.get(provider, 0))
            BUDGET.labels(provider).set(spent / price.budget if spent is not None and price.budget else 0.0)
        found = {(each.kind, each.provider): each for each in self.troubles()}
        for provider in (*FIRST.values(), *self._policy.second.values()):
            TROUBLES.labels(provider).set(sum(name == provider for _, name in found))
        for key, trouble in found.items():
            if key not in self._said:
                log.warning("provider", kind=trouble.kind, provider=trouble.provider, says=trouble.says)
                self._book.raise_page(_page(trouble, self._clock.now()))
                # a case store that fails before this line is told again
                self._said[key] = trouble
        for key in [each for each in self._said if each not in found]:
            log.info("provider is well again", kind=key[0], provider=key[1])
            del self._said[key]


def _page(trouble: Trouble, now: datetime) -> PageRecord:
    """Return the page of a trouble: one a day, however often a process begins anew."""
    mark = f"provider/{trouble.kind}/{trouble.provider}/{now.date().isoformat()}"
    return PageRecord(
        page_id=hashlib.sha256(mark.encode()).hexdigest(),
        incident_id=None,
        kind=f"provider.{trouble.kind.replace('-', '_')}",
        severity="critical" if trouble.critical else "warning",
        roles=["sre", "dpo"],
        title=trouble.says[:300],
        body={"provider": trouble.provider, "next": trouble.next},
        raised_at=now,
    )
