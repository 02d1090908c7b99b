"""How time is counted: from the instant that starts a clock, a period and an anchor to the instant of a deadline.

Hours are elapsed hours on instants; days, business days and months are counted on the local date in the duty's zone,
the day of the event not counted (Reg. (EEC, Euratom) 1182/71 Art. 3; N.Y. Gen. Constr. Law 20). A deadline never rolls
over a weekend here: where a law grants that, it is relief, a second date. Not for which duty applies (`obligations`).
"""

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import holidays

from bridge.contracts.errors import BadInput

_PERIOD = re.compile(r"^P(?:T(?P<hours>\d+)H|(?P<days>\d+)D|(?P<business_days>\d+)BD|(?P<months>\d+)M)$")
_YEAR_END = re.compile(r"^P(?P<days>\d+)D_after_calendar_year_end$")
_END_OF_DAY = time(23, 59, 59)
_CLOSE_OF_FILING = time(17, 30)

ANCHORS = frozenset({"instant", "end_of_day", "end_of_day_inclusive", "close_1730"})
RELIEFS = frozenset({"noon_next_working_day", "next_working_day"})


@dataclass(frozen=True, slots=True)
class Period:
    """A length of time: exactly one of its numbers is set."""

    hours: int = 0
    days: int = 0
    business_days: int = 0
    months: int = 0
    after_year_end: bool = False
    """Counted from 31 December of the year of the event."""


@lru_cache(maxsize=1024)
def zone_info(name: str) -> ZoneInfo:
    """Return the IANA zone `name`; kept for good, where `zoneinfo` itself keeps eight and reads the rest anew.

    Raises ZoneInfoNotFoundError or ValueError for a name that is none.
    """
    return ZoneInfo(name)


@lru_cache(maxsize=256)
def parse_period(text: str) -> Period:
    """Return `text` (`PT72H`, `P30D`, `P4BD`, `P1M`, `P60D_after_calendar_year_end`) as a Period; BadInput if none."""
    if match := _PERIOD.match(text):
        hours, days, business_days, months = (int(amount or 0) for amount in match.groups())
        return Period(hours, days, business_days, months)
    if match := _YEAR_END.match(text):
        return Period(days=int(match["days"]), after_year_end=True)
    raise BadInput(f"{text!r} is no period; write it like PT72H, P30D, P5BD, P1M or P60D_after_calendar_year_end")


def is_period(text: str) -> bool:
    """Say whether `text` is a period with an end (and not a keyword such as `without_undue_delay`)."""
    return bool(_PERIOD.match(text) or _YEAR_END.match(text))


def deadline(started_at: datetime, period: Period, anchor: str, zone: str, calendar: str) -> datetime:
    """Return the instant (UTC) at which `period` ends.

    `zone` is the IANA zone of local dates, `calendar` the jurisdiction whose holidays business days skip. `anchor`:
    `instant`, `end_of_day` (23:59:59), `end_of_day_inclusive` (the day of the event is day 1), `close_1730`.
    """
    if period.hours:
        return started_at.astimezone(UTC) + timedelta(hours=period.hours)
    day = _last_day(started_at.astimezone(zone_info(zone)).date(), period, calendar)
    if anchor == "end_of_day_inclusive":
        day -= timedelta(days=1)
    return _at(day, _CLOSE_OF_FILING if anchor == "close_1730" else _END_OF_DAY, zone)


def relief(deadline_at: datetime, kind: str, zone: str, calendar: str) -> datetime | None:
    """Return until when a deadline that falls on a weekend or holiday may still be met, or None if it does not."""
    day = deadline_at.astimezone(zone_info(zone)).date()
    if is_business_day(day, calendar):
        return None
    following = next_business_day(day, calendar)
    return _at(following, time(12) if kind == "noon_next_working_day" else _END_OF_DAY, zone)


def add_months(day: date, months: int) -> date:
    """Return the same day of the month `months` later, or that month's last day where it has none (1182/71 Art. 3)."""
    years, month = divmod(day.month - 1 + months, 12)
    year, month = day.year + years, month + 1
    return date(year, month, min(day.day, monthrange(year, month)[1]))


def next_business_day(day: date, calendar: str) -> date:
    """Return the first business day after `day`."""
    day += timedelta(days=1)
    while not is_business_day(day, calendar):
        day += timedelta(days=1)
    return day


def is_business_day(day: date, calendar: str) -> bool:
    """Say whether `day` is neither Saturday, Sunday nor a public holiday of jurisdiction `calendar`."""
    return day.weekday() < 5 and (day not in _holidays(calendar, day.year) or _counts_all_the_same(day, calendar))


def _last_day(day: date, period: Period, calendar: str) -> date:
    if period.after_year_end:
        return date(day.year, 12, 31) + timedelta(days=period.days)
    if period.months:
        return add_months(day, period.months)
    for _ in range(period.business_days):
        day = next_business_day(day, calendar)
    return day + timedelta(days=period.days)


def _at(day: date, clock: time, zone: str) -> datetime:
    return datetime.combine(day, clock, zone_info(zone)).astimezone(UTC)


def _counts_all_the_same(day: date, calendar: str) -> bool:
    """The day after Thanksgiving is off for state staff in Iowa and Vermont, but no legal holiday: it counts."""
    return calendar in ("US-IA", "US-VT") and day.month == 11 and day.weekday() == 4 and 23 <= day.day <= 29


@lru_cache(maxsize=512)
def _holidays(calendar: str, year: int) -> frozenset[date]:
    country, _, subdivision = calendar.partition("-")
    try:
        days = holidays.country_holidays(country, subdiv=subdivision or None, years=year)
    except NotImplementedError:
        # Without a calendar only weekends are skipped: the strict reading, which never ends too late.
        return frozenset()
    return frozenset(days)
