"""Pre-flight of the channels: what providers' accounts, quotas, lists and prices mean for a release before it goes.

Pure. What keeps notices from leaving in time blocks a release until somebody overrides it by name; all else is said. What
the law and the plan keep back says `preflight`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import itemgetter

from bridge.contracts.events import Channel
from consumers.case.preflight import DECIDE, NOTE, STOPS, Finding, people_in_words
from consumers.case.records import WaitingBeside
from consumers.domain.accounts import (
    EmailAccount,
    Price,
    SmsAccount,
    email_troubles,
    missing_numbers,
    seconds_to_send,
    sms_troubles,
)
from consumers.domain.canary import CanaryPolicy

_NAMES = {Channel.EMAIL: "e-mails", Channel.SMS: "SMS"}
_REASONS = {"BOUNCE": "after a hard bounce", "COMPLAINT": "after a complaint"}


@dataclass(frozen=True, slots=True)
class SecondProvider:
    """A channel's second provider: what it costs, and what was spent there this month already."""

    name: str
    price: Price
    sent: int = 0
    region: str = ""
    region_said: bool = True
    """False: the settings do not name it, and it is taken to be the first provider's."""


@dataclass(frozen=True, slots=True)
class ProviderStanding:
    """What providers say of themselves at this moment; None: not asked, or no answer."""

    email: EmailAccount | None = None
    sms: SmsAccount | None = None
    suppressed: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Reason by the join key's hash of each suppressed address."""
    second: Mapping[Channel, SecondProvider] = field(default_factory=dict)
    numbers_needed: Sequence[str] = ()
    """Countries whose carriers take SMS only from a number of that country."""
    live: bool = False
    not_asked: Sequence[str] = ()
    """Why something of this is not known."""


@dataclass(frozen=True, slots=True)
class ChannelReadiness:
    """What this looks at. Counts are of people who are to be told now, unless they say otherwise."""

    standing: ProviderStanding
    now: datetime
    first: Mapping[Channel, int]
    """By first channel; who is told by two together is counted with each."""
    at_most: Mapping[Channel, int]
    """Who could be told by a channel: first or as a fallback."""
    due: Sequence[tuple[datetime | None, int]]
    """How many are to get a first e-mail, by deadline."""
    per_second: Mapping[Channel, float]
    """What the settings allow."""
    lacking: Mapping[Channel, int]
    """Whose policy names a channel for which they have no valid contact."""
    suppressed: Mapping[str, int]
    """Whose address the provider suppresses, by reason."""
    sms_homes: Mapping[str, int]
    """Who could be told by SMS, by country of residence."""
    sms_parts: int
    """Parts of all SMS that are sent first."""
    part_price: float | None
    currency: str
    texts_due: Sequence[tuple[datetime | None, int]] = ()
    """How many are to get a first SMS, by deadline."""
    letters_due: Sequence[tuple[datetime | None, int]] = ()
    """How many are to get a first letter, by deadline."""
    letters_per_second: float | None = None
    """How fast letters are written for the printer."""
    bounced: Mapping[str, int] = field(default_factory=dict)
    """Whose contact bounced for good in an earlier incident and has not changed since, by channel."""
    canary: CanaryPolicy | None = None
    """Of what is prepared."""
    prepared: bool = False
    refused_by_second: Mapping[Channel, Mapping[str, int]] = field(default_factory=dict)
    """Who could be told by a channel and not over its second provider, by why no rule lets their notice pass there."""
    first_refused: Mapping[Channel, int] = field(default_factory=dict)
    """Those of them who are told by that channel first."""
    beside: Mapping[Channel, Sequence[WaitingBeside]] = field(default_factory=dict)
    """Messages of other releases that run and wait for the same lane, by deadline."""
    own_rates: Mapping[Channel, float] = field(default_factory=dict)
    """What somebody bounds this incident to, in messages a second."""
    incident_id: str = ""


@dataclass(frozen=True, slots=True)
class Sending:
    """How long the first messages take, and how much too late the worst deadline is met."""

    takes: timedelta
    per_second: float
    late: timedelta
    """By how much the last of those who are due at `deadline_at` are told after it; zero or less: in time."""
    deadline_at: datetime | None
    channel: Channel = Channel.EMAIL
    """Whose rate that is: of the channel by which somebody is told too late, else e-mail."""
    before: int = 0
    """Messages of other releases that go before the last of ours, as their deadlines are earlier."""
    others_late: timedelta = timedelta(0)
    """By how much the worst deadline of the other releases is missed that would be met without this one."""
    own: bool = False
    """That rate is this incident's own, by somebody's decision."""


def sending_of(seen: ChannelReadiness) -> Sending:
    """Return how long sending takes if it began now, of the channel by which somebody is told latest."""
    mails, texts = _sendings(seen)
    return texts if texts.late > max(mails.late, timedelta(0)) else mails


def _sendings(seen: ChannelReadiness) -> tuple[Sending, Sending]:
    """Return the same of mails and of texts: most urgent first, within the live rate and the quota."""
    account = seen.standing.email
    rate = seen.per_second[Channel.EMAIL]
    overflow = rate if Channel.EMAIL in seen.standing.second else None
    if account is not None and account.per_second > 0:
        rate = min(rate, account.per_second)

    quota = None if account is None else account.quota
    left = None if account is None else account.left
    refused = seen.first_refused.get(Channel.EMAIL, 0)

    def ends(count: int) -> timedelta:
        seconds = seconds_to_send(count, rate, quota=quota, left=left, overflow=overflow)
        # who may not pass through the second provider has their part of what the quota leaves, and waits for the next one
        stays = min(count, refused) if overflow is not None else 0
        if stays:
            part = None if left is None else left * stays // count
            seconds = max(seconds, seconds_to_send(stays, rate, quota=quota, left=part))
        return timedelta(seconds=min(seconds, _NEVER_SECONDS))

    def texts_end(count: int) -> timedelta:
        return timedelta(seconds=count / seen.per_second[Channel.SMS])

    mails, texts = seen.beside.get(Channel.EMAIL, ()), seen.beside.get(Channel.SMS, ())
    our_mails, our_texts = _ours(seen.due), _ours(seen.texts_due)
    mails_before, texts_before = _before(our_mails, mails), _before(our_texts, texts)
    takes = max(
        _ends(ends, seen.first.get(Channel.EMAIL, 0), mails_before),
        _ends(texts_end, seen.first.get(Channel.SMS, 0), texts_before),
    )
    per_second = seen.per_second[Channel.SMS]
    both = (
        Sending(takes, rate, *_worst(our_mails, mails, seen.now, ends), Channel.EMAIL, _count(mails_before),
                _worsened(our_mails, mails, seen.now, ends)),
        Sending(takes, per_second, *_worst(our_texts, texts, seen.now, texts_end), Channel.SMS, _count(texts_before),
                _worsened(our_texts, texts, seen.now, texts_end)),
    )  # fmt: skip
    return _bounded(seen, both[0], our_mails), _bounded(seen, both[1], our_texts)


def _bounded(seen: ChannelReadiness, sending: Sending, due: "_Due") -> Sending:
    """Return the same within the rate that this incident has of its own, if any, where that is what holds it up."""
    own = seen.own_rates.get(sending.channel)
    if own is None:
        return sending

    def ends(count: int) -> timedelta:
        return timedelta(seconds=min(count / own, _NEVER_SECONDS))

    takes = max(sending.takes, ends(seen.first.get(sending.channel, 0)))
    late, deadline = _worst(due, (), seen.now, ends)
    if late <= sending.late:
        return replace(sending, takes=takes)
    return replace(sending, takes=takes, late=late, deadline_at=deadline, per_second=own, own=True)


_Due = Sequence[WaitingBeside]
_NEVER_SECONDS = 10 * 365 * 86_400


def _ours(due: Sequence[tuple[datetime | None, int]]) -> _Due:
    return [WaitingBeside(at, count) for at, count in due]


def _count(waiting: _Due) -> int:
    return sum(each.messages for each in waiting)


def _ends(ends: Callable[[int], timedelta], own: int, before: _Due) -> timedelta:
    return _gone(ends, [WaitingBeside(None, own), *before]) if own else timedelta(0)


def _gone(ends: Callable[[int], timedelta], waiting: _Due) -> timedelta:
    """Return when the lane, which `ends` so many, has sent all that go as fast as it does, and what others have of it until then
    at rates of their own.
    """
    free = sum(each.messages for each in waiting if each.per_second is None)
    bounded: dict[tuple[str, float], int] = Counter()
    for each in waiting:
        if each.per_second is not None:
            bounded[each.incident_id, each.per_second] += each.messages
    if not free or not bounded:
        return ends(free + sum(bounded.values()))
    # the others have less of the lane the sooner those are gone
    soonest, latest = ends(free), ends(free + sum(bounded.values()))
    while latest - soonest > timedelta(seconds=1):
        tried = (soonest + latest) / 2
        meanwhile = sum(min(count, int(rate * tried.total_seconds())) for (_, rate), count in bounded.items())
        if ends(free + meanwhile) <= tried:
            latest = tried
        else:
            soonest = tried
    return latest


def _before(due: _Due, beside: _Due) -> _Due:
    """Return which of `beside` go before the last of `due`: whose deadline is no later, or all before who is owed none."""
    if not due:
        return ()
    deadlines = [each.deadline_at for each in due]
    last = None if None in deadlines else max(at for at in deadlines if at is not None)
    return [each for each in beside if last is None or (each.deadline_at is not None and each.deadline_at <= last)]


def _worst(
    due: _Due, beside: _Due, now: datetime, ends: Callable[[int], timedelta]
) -> tuple[timedelta, datetime | None]:
    """Return by how much the worst deadline of `due` is missed, and which; the most urgent go first, of both."""
    late, worst = timedelta.min, None
    both = [(each.deadline_at, True, each) for each in due if each.deadline_at is not None]
    both += [(each.deadline_at, False, each) for each in beside if each.deadline_at is not None]
    before: list[WaitingBeside] = []
    # of the same deadline others were there before
    for deadline, ours, each in sorted(both, key=lambda one: one[:2]):
        before.append(each)
        if deadline <= now or not ours:
            # one that has passed already nothing that anybody could raise now meets
            continue
        after = now + _gone(ends, before) - deadline
        if after > late:
            late, worst = after, deadline
    return (late, worst) if worst is not None else (timedelta(0), None)


def _worsened(due: _Due, beside: _Due, now: datetime, ends: Callable[[int], timedelta]) -> timedelta:
    """Return by how much a deadline of `beside` is missed, at worst, that would be met without `due`; zero: none is."""
    worst = timedelta(0)
    before: list[WaitingBeside] = []
    owed = [(each.deadline_at, each) for each in beside if each.deadline_at is not None]
    for deadline, each in sorted(owed, key=itemgetter(0)):
        before.append(each)
        # of the same deadline they were there before
        ours = [one for one in due if one.deadline_at is not None and one.deadline_at < deadline]
        left = deadline - now
        together = _told(ends, [*before, *ours], each)
        if _told(ends, before, each) <= left < together:
            worst = max(worst, together - left)
    return worst


def _told(ends: Callable[[int], timedelta], waiting: _Due, last: WaitingBeside) -> timedelta:
    """Return when the last of `waiting` are told: never sooner than their own rate lets them."""
    gone = _gone(ends, waiting)
    if last.per_second is None:
        return gone
    own = sum(each.messages for each in waiting if each.incident_id == last.incident_id)
    return max(gone, timedelta(seconds=min(own / last.per_second, _NEVER_SECONDS)))


def channel_findings(seen: ChannelReadiness) -> Iterable[Finding]:
    """Yield what there is to say of channels and providers."""
    yield from account_findings(seen)
    yield from _in_time(seen)
    yield from _regions(seen)
    yield from _contacts(seen)
    yield from _money(seen)
    yield from _canary(seen)


def account_findings(seen: ChannelReadiness) -> Iterable[Finding]:
    """Yield what stands in the way at the accounts of channels that somebody could be told by."""
    standing = seen.standing
    troubles = [
        *(
            (Channel.EMAIL, each)
            for each in (email_troubles(standing.email, live=standing.live) if standing.email else ())
        ),
        *((Channel.SMS, each) for each in (sms_troubles(standing.sms, live=standing.live) if standing.sms else ())),
    ]
    for channel, each in troubles:
        if not seen.at_most.get(channel, 0):
            continue
        second = standing.second.get(channel) if each.takes_nothing else None
        staying = sum(seen.refused_by_second.get(channel, {}).values())
        if staying >= seen.at_most[channel]:
            # it is in a region where nobody's notice may pass
            second = None
        # an SMS that fails has the next channel behind it; without any e-mail the release had better wait
        blocks = each.critical and channel is Channel.EMAIL and second is None and each.kind != "account-probation"
        instead = "" if second is None else f"; {second.name} takes over"
        if second is not None and staying:
            instead += f", of all but {people_in_words(staying)}, who wait: regions.yaml"
        yield Finding(
            STOPS if blocks else DECIDE, each.provider, f"{each.says}{instead}", "", code=each.kind, blocks=blocks
        )


def _in_time(seen: ChannelReadiness) -> Iterable[Finding]:
    passed = sum(count for at, count in seen.due if at is not None and at <= seen.now)
    if passed:
        yield Finding(NOTE, "deadline", "the deadline of some has passed already: every hour counts", "",
                      code="deadline-passed", live=f"{people_in_words(passed)}")  # fmt: skip
    sending, texts = _sendings(seen)
    for channel, each in ((Channel.EMAIL, sending), (Channel.SMS, texts)):
        if each.others_late > timedelta(0):
            name = _NAMES[channel]
            yield Finding(DECIDE, "deadline", f"with this release {name} of another one that runs end after their deadline; "
                          f"have the rate raised (delivery.{channel.value}_per_second and what the provider grants)", "",
                          code=f"others-too-late-{channel.value}",
                          live=f"{in_hours(each.others_late)} after it")  # fmt: skip
    for channel, own in sorted(seen.own_rates.items()):
        word = channel.value.replace("_", "-")
        says = f"this incident goes by {word} at {own:g} a second at most, by its own rate"
        yield Finding(NOTE, "rate", says, f"tocsin incident rate {seen.incident_id}", code=f"own-rate-{word}")
    if texts.late > timedelta(0):
        yield Finding(
            STOPS,
            "sms",
            f"at {texts.per_second:g} SMS a second this ends after a deadline; "
            + ("raise this incident's own rate" if texts.own else "have the rate raised (delivery.sms_per_second)"),
            "",
            code="sms-too-late",
            blocks=True,
            live=f"begun now it ends {in_hours(texts.late)} after the deadline{_behind(texts)}",
        )
    if sending.late <= timedelta(0):
        return
    account = seen.standing.email
    quota = "" if account is None or account.quota is None else f" and {account.quota:,} in 24 hours"
    yield Finding(
        STOPS,
        "quota",
        f"at {sending.per_second:g} e-mails a second{quota} this ends after a deadline; "
        + ("raise this incident's own rate" if sending.own else "raise the quota")
        + ("" if sending.own or Channel.EMAIL in seen.standing.second else " or add the second provider"),
        "",
        code="quota-too-late",
        blocks=True,
        live=f"begun now it ends {in_hours(sending.late)} after the deadline{_behind(sending)}",
    )


def _behind(sending: Sending) -> str:
    name = _NAMES[sending.channel]
    return f", behind {sending.before:,} {name} of other releases" if sending.before else ""


def _regions(seen: ChannelReadiness) -> Iterable[Finding]:
    for channel, second in sorted(seen.standing.second.items()):
        if not second.region_said and seen.at_most.get(channel, 0):
            says = (
                f"nobody has said where {second.name} is (delivery.{second.name}.region): it is taken to be in "
                f"{second.region}, where AWS is"
            )
            yield Finding(
                DECIDE,
                "regions",
                says,
                "tocsin delivery circuits",
                code=f"region-unsaid-{second.name.replace('_', '-')}",
            )
    for channel, objections in sorted(seen.refused_by_second.items()):
        name = seen.standing.second[channel].name
        for objection, count in sorted(objections.items()):
            says = f"{people_in_words(count)} wait while only {name} takes messages: {objection}"
            yield Finding(
                DECIDE, "regions", says, "tocsin delivery circuits", code=f"second-region-{name.replace('_', '-')}"
            )


def in_hours(span: timedelta) -> str:
    """Return a span in the largest fitting unit: `40 min`, `6 h`, `3 d`."""
    minutes = max(1, round(span.total_seconds() / 60))
    if minutes < 120:
        return f"{minutes} min"
    return f"{round(minutes / 60):,} h" if minutes < 72 * 60 else f"{round(minutes / 1440):,} d"


def _contacts(seen: ChannelReadiness) -> Iterable[Finding]:
    listed = sum(seen.suppressed.values())
    if listed:
        why = ", ".join(
            f"{count:,} {_REASONS.get(reason, reason)}" for reason, count in sorted(seen.suppressed.items())
        )
        yield Finding(DECIDE, "suppressed", f"SES suppresses the addresses of {people_in_words(listed)} ({why}): no mail "
                      "reaches them, their next channel is used", "", code="addresses-suppressed")  # fmt: skip
    for channel, name in ((Channel.EMAIL, "e-mail address"), (Channel.SMS, "telephone number")):
        count = seen.lacking.get(channel, 0)
        if count:
            says = f"no {name}, or none that is one: {people_in_words(count)}, whose next channel is used at once"
            # how many of all stored ones are none is counted in the index; a recipient has a channel or has it not
            yield Finding(NOTE, "contacts", says, "tocsin delivery readiness", code=f"no-valid-{channel.value}")
    for name, count in sorted(seen.bounced.items()):
        words = name.replace("_", " ")
        says = f"{words} bounced for good before: {people_in_words(count)}, to whom none is sent; their next channel is used"
        yield Finding(NOTE, "contacts", says, "tocsin delivery bounced", code=f"bounced-{name.replace('_', '-')}")
    first, later = seen.first.get(Channel.LETTER, 0), seen.at_most.get(Channel.LETTER, 0)
    if later:
        says = (
            f"{first:,} letters are to be printed and posted at once, at most {later:,} if all else fails; nobody but you "
            "posts them"
        )
        command = f"tocsin delivery letters list {seen.incident_id}"
        yield Finding(DECIDE if first else NOTE, "letters", says, command, code="letters")
    yield from _letters_in_time(seen)
    sms = seen.standing.sms
    if sms is not None:
        # the sandbox stands for every carrier and wants no number
        asked = seen.standing.numbers_needed if seen.standing.live and sms.numbers is not None else ()
        for country in missing_numbers(list(seen.sms_homes), asked, sms.numbers or ()):
            yield Finding(DECIDE, "sms", f"SMS to {country} need a number of that country, and the account holds none: "
                          f"those of {people_in_words(seen.sms_homes[country])} would fail and their next channel be used",
                          "", code=f"sms-number-{country.lower()}")  # fmt: skip
        if sms.opted_out and seen.at_most.get(Channel.SMS):
            yield Finding(NOTE, "sms", "some numbers have opted out of our SMS; whoever has one of them goes to the next "
                          "channel", "", code="sms-opted-out", live=f"{sms.opted_out:,} in this account")  # fmt: skip


def _letters_in_time(seen: ChannelReadiness) -> Iterable[Finding]:
    """Yield that letters cannot even be written before a deadline; to print and post them takes whoever does it longer."""
    pace = seen.letters_per_second
    if pace is None or not seen.letters_due:
        return
    ours, beside = _ours(seen.letters_due), seen.beside.get(Channel.LETTER, ())
    late, _ = _worst(ours, beside, seen.now, lambda count: timedelta(seconds=count / pace))
    before = _count(_before(ours, beside))
    if late > timedelta(0):
        yield Finding(
            DECIDE,
            "letters",
            f"at {pace * 3600:,.0f} letters an hour the last one is written after a deadline; shorten "
            "delivery.letter_batch_seconds",
            "",
            code="letters-too-late",
            live=f"begun now it is written {in_hours(late)} after the deadline"
            + (f", behind {before:,} letters of other releases" if before else ""),
        )


def _canary(seen: ChannelReadiness) -> Iterable[Finding]:
    if seen.canary is not None:
        says = (
            f"the first {seen.canary.per_segment:,} of each segment go first; if more than {seen.canary.bound_percent} % of them "
            f"do not arrive within {in_hours(timedelta(seconds=seen.canary.wait_seconds))}, all others wait for a person's word"
        )
        yield Finding(NOTE, "canary", says, code="canary")
    elif seen.prepared:
        yield Finding(NOTE, "canary", "nobody is tried first: delivery.canary.per_segment", code="no-canary")


def _money(seen: ChannelReadiness) -> Iterable[Finding]:
    sms = seen.standing.sms
    if seen.sms_parts and seen.part_price is None:
        yield Finding(NOTE, "cost", "nobody has said what an SMS costs, so the cost is not known: "
                      "delivery.sms_price_per_part", "", code="price-unknown-sms")  # fmt: skip
    if sms is not None and seen.sms_parts and seen.part_price is not None and seen.currency == "USD":
        limit = 1.0 if sms.spend_limit is None else sms.spend_limit
        left = limit - (sms.spent or 0.0)
        if seen.sms_parts * seen.part_price > left:
            yield Finding(DECIDE, "cost", f"the SMS cost more than the account's monthly limit of {limit:,.2f} USD leaves; "
                          "raise it at AWS, or their next channel is used", "", code="sms-limit-short",
                          live=f"{left:,.2f} USD are left")  # fmt: skip
    for channel, second in sorted(seen.standing.second.items()):
        count = seen.at_most.get(channel, 0)
        if not count:
            continue
        cost = second.price.spent(count)
        if cost is None:
            yield Finding(NOTE, "cost", f"nobody has said what {second.name} costs, should it have to take over", "",
                          code=f"price-unknown-{second.name.replace('_', '-')}")  # fmt: skip
            continue
        budget = second.price.budget
        spent = second.price.spent(second.sent) or 0.0
        said = f"if {second.name} has to take over all, it costs {cost:,.2f} {seen.currency}"
        used = (
            "" if budget is None else f"{spent:,.2f} of {budget:,.2f} {seen.currency} of this month's budget are spent"
        )
        over = budget is not None and spent + cost > budget
        yield Finding(
            DECIDE if over else NOTE, "cost", f"{said}{', more than its budget leaves' if over else ''}", "",
            code=f"{'budget-short' if over else 'second-cost'}-{second.name.replace('_', '-')}", live=used,
        )  # fmt: skip
