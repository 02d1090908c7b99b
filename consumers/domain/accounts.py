"""Our accounts at the providers, as they were read last: what they let us send, and what stands in the way.

Pure. Terms and bounds are those of Amazon SES and SNS: https://docs.aws.amazon.com/ses/latest/dg/quotas.html,
https://docs.aws.amazon.com/ses/latest/dg/reputationdashboardmessages.html. Not for whether anybody may be told.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

DAY = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class EmailAccount:
    """An SES account in one region."""

    read_at: datetime
    per_second: float
    """Recipients a second."""
    quota: int | None
    """Recipients in 24 hours, counted as they pass; None: no limit."""
    sent: int
    """Of the quota, in the 24 hours before `read_at`."""
    production_access: bool
    """Without it SES sends to verified addresses only (SES's own sandbox)."""
    sending_enabled: bool
    enforcement: str
    """HEALTHY, PROBATION or SHUTDOWN."""
    suppressed_reasons: tuple[str, ...] = ()
    """Why SES keeps addresses on the account's suppression list: BOUNCE, COMPLAINT."""
    configuration_set: str = ""
    set_exists: bool = True
    set_sending_enabled: bool = True
    events_missing: tuple[str, ...] = ()
    """Event types that no enabled destination of the configuration set hands to an SNS topic."""
    tracking: bool = False
    """Whether SES would put pixels or redirects into our notices."""

    @property
    def left(self) -> int | None:
        """How many more the quota let through at `read_at`."""
        return None if self.quota is None else max(0, self.quota - self.sent)

    @property
    def usable(self) -> bool:
        """Whether SES takes anything at all."""
        return self.sending_enabled and self.enforcement != "SHUTDOWN" and self.set_exists and self.set_sending_enabled


@dataclass(frozen=True, slots=True)
class SmsAccount:
    """An SNS account in one region, as far as SMS are concerned. Money in USD, as AWS counts."""

    read_at: datetime
    in_sandbox: bool
    """SNS's own sandbox: SMS go to verified numbers only."""
    spend_limit: float | None
    """A month's; None: nobody set one, and AWS's default of 1 USD holds."""
    spent: float | None
    """This month; None: not known."""
    status_logged: bool
    """Whether what becomes of SMS is written to CloudWatch Logs, the only place where SNS says it."""
    opted_out: int | None = None
    """How many numbers answered STOP in this account; None: not asked."""
    numbers: tuple[str, ...] | None = None
    """Countries (ISO 3166-1) of which we hold a number to send from; None: not asked."""

    @property
    def exhausted(self) -> bool:
        """Whether the month's limit is known to be spent: SNS would take SMS and send none of them."""
        return self.spent is not None and self.spent >= self.limit

    @property
    def limit(self) -> float:
        """What may be spent in a month, in USD."""
        return 1.0 if self.spend_limit is None else self.spend_limit


@dataclass(frozen=True, slots=True)
class Price:
    """What a provider costs, in the currency of the settings. None: nobody has said, and nothing is assumed."""

    per_message: float | None
    budget: float | None
    """For a calendar month (UTC)."""

    def spent(self, count: int) -> float | None:
        """Return what `count` messages cost."""
        return None if self.per_message is None else count * self.per_message

    def exceeded(self, count: int) -> bool:
        """Whether `count` messages cost more than the budget; never where either is unknown."""
        spent = self.spent(count)
        return spent is not None and self.budget is not None and spent > self.budget


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something about a provider that somebody must know. Holds counts and names of ours only."""

    kind: str
    provider: str
    says: str
    critical: bool = False
    next: str = "tocsin delivery circuits"
    takes_nothing: bool = False
    """The provider takes no message while it lasts, so that a second one gets them. Else it takes them, whatever becomes of
    them: no circuit opens and no lane moves.
    """


def month_began(now: datetime) -> datetime:
    """Return the beginning of the calendar month in UTC: budgets count from there."""
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


_SES_TAKES_NOTHING = frozenset({"account-suspended", "account-paused", "set-missing", "set-paused"})
"""Kinds of trouble in which an account is not `usable`."""


def email_troubles(account: EmailAccount, *, live: bool) -> list[Trouble]:
    """Return what keeps our e-mail account from sending as it should. `live`: mail is to go to real people."""
    found: list[tuple[str, str, bool]] = []
    name = account.configuration_set
    if account.enforcement == "SHUTDOWN":
        found.append(("account-suspended", "AWS has suspended the SES account: nothing is sent", True))
    elif account.enforcement == "PROBATION":
        found.append(("account-probation", "AWS has the SES account under review: it may be paused soon", True))
    if not account.sending_enabled:
        found.append(("account-paused", "sending is paused for the SES account", True))
    if not account.set_exists:
        found.append(("set-missing", f"SES has no configuration set {name}", True))
    else:
        if not account.set_sending_enabled:
            found.append(("set-paused", f"sending is paused for the configuration set {name}", True))
        if account.events_missing:
            missing = ", ".join(account.events_missing).lower().replace("_", " ")
            found.append(
                ("events-missing", f"the configuration set {name} hands no {missing} events to an SNS topic: what became "
                 "of e-mails would never be known", True)
            )  # fmt: skip
        if account.tracking:
            found.append(
                ("tracking", f"the configuration set {name} tracks opens or clicks: notices carry none", False)
            )
    if live and not account.production_access:
        found.append(
            ("email-sandbox", "the SES account is in SES's own sandbox: only verified addresses get mail", True)
        )
    return [
        Trouble(kind, "ses", says, critical, takes_nothing=kind in _SES_TAKES_NOTHING) for kind, says, critical in found
    ]


def sms_troubles(account: SmsAccount, *, live: bool) -> list[Trouble]:
    """Return the same of our SMS account."""
    found: list[tuple[str, str, bool]] = []
    if live and account.in_sandbox:
        found.append(
            ("sms-sandbox", "the SNS account is in SNS's own SMS sandbox: only verified numbers get SMS", True)
        )
    if account.exhausted:
        found.append(("sms-limit", "the month's spend limit for SMS is used up: SNS sends no more", True))
    if not account.status_logged:
        found.append(
            ("sms-status", "SNS does not log what becomes of every SMS (delivery status role, success sampling 100 %): each "
             "would run into its time limit", True)
        )  # fmt: skip
    return [Trouble(kind, "sns", says, critical, takes_nothing=kind == "sms-limit") for kind, says, critical in found]


@dataclass(frozen=True, slots=True)
class ReputationBounds:
    """From which shares of bounces and complaints on SES reviews and pauses an account; we slow down before it does."""

    bounce_review: float = 0.05
    bounce_pause: float = 0.10
    complaint_review: float = 0.001
    complaint_pause: float = 0.005
    at_least: int = 1000
    """Fewer messages with an outcome say nothing: one bounce of three is a third."""
    slower: float = 0.5
    """Of the rate, from review on."""
    slowest: float = 0.1
    """Of the rate, from pause on: deadlines go on running, so nothing stops by itself."""


@dataclass(frozen=True, slots=True)
class Reputation:
    """What became of e-mails that one provider took in the last 24 hours."""

    taken: int
    """With an outcome: delivered, bounced or complained about."""
    bounced: int
    complained: int

    @property
    def bounce_rate(self) -> float:
        """Share of bounces, 0 to 1."""
        return self.bounced / self.taken if self.taken else 0.0

    @property
    def complaint_rate(self) -> float:
        """Share of complaints, 0 to 1."""
        return self.complained / self.taken if self.taken else 0.0


def reputation_level(seen: Reputation, bounds: ReputationBounds) -> str:
    """Return `ok`, `review` or `pause`: what SES would think of these shares."""
    if seen.taken < bounds.at_least:
        return "ok"
    if seen.bounce_rate >= bounds.bounce_pause or seen.complaint_rate >= bounds.complaint_pause:
        return "pause"
    if seen.bounce_rate >= bounds.bounce_review or seen.complaint_rate >= bounds.complaint_review:
        return "review"
    return "ok"


def slowed(per_second: float, level: str, bounds: ReputationBounds) -> float:
    """Return the rate at a level of reputation; never nothing."""
    factor = {"review": bounds.slower, "pause": bounds.slowest}.get(level, 1.0)
    return max(per_second * factor, min(per_second, 0.1))


def seconds_to_send(
    count: int, per_second: float, *, quota: int | None = None, left: int | None = None, overflow: float | None = None
) -> float:
    """Return how long `count` messages take.

    What the 24-hour quota does not let through goes over a second provider at `overflow` a second; without one it waits
    for the quota of the next 24 hours (in the worst case: all that was sent before was sent just now).
    """
    if count <= 0:
        return 0.0
    if quota is None or left is None or count <= left:
        return count / per_second
    rest = count - left
    if overflow is not None:
        return left / per_second + rest / overflow
    if quota <= 0:
        return math.inf
    days = math.ceil(rest / quota)
    return days * DAY.total_seconds() + (rest - quota * (days - 1)) / per_second


def per_call(most: int, per_second: float | None) -> int:
    """Return how many recipients one bulk call may have: a second's worth, and never more than a call takes."""
    return most if per_second is None else max(1, min(most, int(per_second)))


def missing_numbers(countries: Sequence[str], needed_in: Sequence[str], held: Sequence[str]) -> list[str]:
    """Return those of `countries` whose carriers take SMS from numbers only, and of which we hold none."""
    return sorted(set(countries) & set(needed_in) - set(held))
