"""A second calculator of the duties, read straight from the copy of the reference data and from nothing else.

It shares no code with the product: it imports none of its modules, keeps instants as seconds since 1970, does its own
calendar arithmetic and has its own tables of holidays. What it cannot decide by the columns alone (`UNSURE`) it does
not answer. Slow and plain on purpose: it is here to disagree.
"""

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

REFERENCE = Path(__file__).parent / "reference"
DAY = 86_400
Row = dict[str, str]


# --- The calendar: days are counted from 1 January 1970. ---


def day_number(year: int, month: int, day: int) -> int:
    """Return the days from 1 January 1970 to the date, in the Gregorian calendar."""
    years = year - (month <= 2)
    era, of_era = divmod(years, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def date_of(day: int) -> tuple[int, int, int]:
    """Return year, month and day of the month of a day number."""
    era, of_era = divmod(day + 719_468, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1


def weekday(day: int) -> int:
    """Return 0 for Monday to 6 for Sunday; 1 January 1970 was a Thursday."""
    return (day + 3) % 7


def month_length(year: int, month: int) -> int:
    following = (year + 1, 1) if month == 12 else (year, month + 1)
    return day_number(*following, 1) - day_number(year, month, 1)


def plus_months(day: int, months: int) -> int:
    """Same day of the month later; the last of that month where it has no such day."""
    year, month, of_month = date_of(day)
    year, month = year + (month - 1 + months) // 12, (month - 1 + months) % 12 + 1
    return day_number(year, month, min(of_month, month_length(year, month)))


def seconds_of(text: str) -> int:
    """Return the seconds since 1970 of an instant like 2026-06-08T03:12:00+02:00."""
    found = re.fullmatch(r"(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)(Z|[+-]\d\d:\d\d)", text)
    assert found, text
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    offset = found[7]
    shift = 0 if offset == "Z" else int(offset[0] + "1") * (int(offset[1:3]) * 3600 + int(offset[4:]) * 60)
    return day_number(year, month, day) * DAY + hour * 3600 + minute * 60 + second - shift


def offset_at(at: int, zone: str) -> int:
    """Return the offset from UTC, in seconds, that the clocks of `zone` show at `at`."""
    offset = datetime.fromtimestamp(at, ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def local_day(at: int, zone: str) -> int:
    return (at + offset_at(at, zone)) // DAY


def at_wall(day: int, second: int, zone: str) -> int:
    """Return the instant at which the clocks of `zone` show `second` of `day`."""
    wall = day * DAY + second
    at = wall - offset_at(wall, zone)
    return wall - offset_at(at, zone)


def in_utc(at: int | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def in_zone(at: int | None, zone: str) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, ZoneInfo(zone)).isoformat().replace("+00:00", "Z")


# --- Holidays, from the statutes. ---


def easter(year: int) -> int:
    """Return Easter Sunday (Meeus, Jones and Butcher)."""
    golden, century, of_century = year % 19, year // 100, year % 100
    epact = (19 * golden + century - century // 4 - (century - (century + 8) // 25 + 1) // 3 + 15) % 30
    shift = (32 + 2 * (century % 4) + 2 * (of_century // 4) - epact - of_century % 4) % 7
    late = (golden + 11 * epact + 22 * shift) // 451
    month, day = divmod(epact + shift - 7 * late + 114, 31)
    return day_number(year, month, day + 1)


def nth(year: int, month: int, which: int, of_week: int) -> int:
    """Return the `which`-th weekday of the month; -1 is the last."""
    if which < 0:
        last = day_number(year, month, month_length(year, month))
        return last - (weekday(last) - of_week) % 7
    first = day_number(year, month, 1)
    return first + (of_week - weekday(first)) % 7 + 7 * (which - 1)


def _fixed(year: int, *dates: tuple[int, int]) -> set[int]:
    return {day_number(year, month, day) for month, day in dates}


def _observed(days: Iterable[int], *, saturday: bool = True) -> set[int]:
    """A holiday on a Sunday is kept on Monday, one on a Saturday on Friday where that is so."""
    moved = {5: -1 if saturday else 0, 6: 1}
    return {day + moved.get(weekday(day), 0) for day in days}


def _federal(year: int) -> set[int]:
    fixed = _fixed(year, (1, 1), (7, 4), (11, 11), (12, 25)) | (_fixed(year, (6, 19)) if year >= 2021 else set())
    return _observed(fixed) | {
        nth(year, 1, 3, 0),
        nth(year, 2, 3, 0),
        nth(year, 5, -1, 0),
        nth(year, 9, 1, 0),
        nth(year, 10, 2, 0),
        nth(year, 11, 4, 3),
    }


def _iowa(year: int) -> set[int]:
    # kept on Monday when it falls on a Sunday, Lincoln's birthday too: Iowa Code 4.1(34)
    fixed = _fixed(year, (1, 1), (2, 12), (7, 4), (11, 11), (12, 25))
    return _observed(fixed, saturday=False) | {
        nth(year, 1, 3, 0),
        nth(year, 2, 3, 0),
        nth(year, 5, -1, 0),
        nth(year, 9, 1, 0),
        nth(year, 11, 4, 3),
    }


def _vermont(year: int) -> set[int]:
    fixed = _fixed(year, (1, 1), (7, 4), (8, 16), (11, 11), (12, 25))
    return _observed(fixed) | {
        nth(year, 1, 3, 0),
        nth(year, 2, 3, 0),
        nth(year, 3, 1, 1),  # Town Meeting Day
        nth(year, 5, -1, 0),
        nth(year, 9, 1, 0),
        nth(year, 11, 4, 3),
    }


def _maine(year: int) -> set[int]:
    fixed = _fixed(year, (1, 1), (6, 19), (7, 4), (11, 11), (12, 25))
    return _observed(fixed, saturday=False) | {
        nth(year, 1, 3, 0),
        nth(year, 2, 3, 0),
        nth(year, 4, 3, 0),  # Patriots' Day
        nth(year, 5, -1, 0),
        nth(year, 9, 1, 0),
        nth(year, 10, 2, 0),
        nth(year, 11, 4, 3),
    }


def _brazil(year: int) -> set[int]:
    days = _fixed(year, (1, 1), (4, 21), (5, 1), (9, 7), (10, 12), (11, 2), (11, 15), (12, 25))
    return days | {easter(year) - 2} | (_fixed(year, (11, 20)) if year >= 2024 else set())


def _colombia(year: int) -> set[int]:
    moved = _fixed(year, (1, 6), (3, 19), (6, 29), (8, 15), (10, 12), (11, 1), (11, 11))
    days = _fixed(year, (1, 1), (5, 1), (7, 20), (8, 7), (12, 8), (12, 25))
    days |= {day + (-weekday(day)) % 7 for day in moved}  # Law 51 of 1983: kept on the Monday after
    return days | {easter(year) + shift for shift in (-3, -2, 43, 64, 71)}


def _germany(year: int) -> set[int]:
    days = _fixed(year, (1, 1), (5, 1), (10, 3), (12, 25), (12, 26))
    return days | {easter(year) + shift for shift in (-2, 1, 39, 50)}


def _france(year: int) -> set[int]:
    days = _fixed(year, (1, 1), (5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11), (12, 25))
    return days | {easter(year) + shift for shift in (1, 39, 50)}


def _austria(year: int) -> set[int]:
    days = _fixed(year, (1, 1), (1, 6), (5, 1), (8, 15), (10, 26), (11, 1), (12, 8), (12, 25), (12, 26))
    return days | {easter(year) + shift for shift in (1, 39, 50, 60)}


def _ireland(year: int) -> set[int]:
    days = _fixed(year, (1, 1), (3, 17), (12, 25), (12, 26)) | {easter(year) + 1}
    days |= {nth(year, month, 1, 0) for month in (2, 5, 6, 8)} | {nth(year, 10, -1, 0)}
    return days


HOLIDAYS: Mapping[str, Callable[[int], set[int]]] = {
    "US": _federal,
    "US-IA": _iowa,
    "US-VT": _vermont,
    "US-ME": _maine,
    "BR": _brazil,
    "CO": _colombia,
    "DE": _germany,
    "FR": _france,
    "AT": _austria,
    "IE": _ireland,
}


def _doubtful(year: int, place: str) -> set[int]:
    """Days of which it is not certain that the statute makes them holidays; who counts over one is not sure."""
    kept_on_friday = {day - 1 for day in _fixed(year, (1, 1), (7, 4), (11, 11), (12, 25)) if weekday(day) == 5}
    juneteenth = _observed(_fixed(year, (6, 19)))
    return {
        "US-IA": kept_on_friday | juneteenth | {day - 1 for day in _fixed(year, (2, 12)) if weekday(day) == 5},
        "US-VT": juneteenth | {nth(year, 10, 2, 0)},  # Indigenous Peoples' Day
        "US-ME": kept_on_friday | {day - 1 for day in _fixed(year, (6, 19)) if weekday(day) == 5},
        "CO": {day + (-weekday(day)) % 7 for day in _fixed(year, (7, 9))},  # Chiquinquira, since 2026
    }.get(place, set())


def counts_over_doubt(first: int, last: int, place: str) -> bool:
    years = range(date_of(first)[0], date_of(last)[0] + 2)
    return any(first < day <= last for year in years for day in _doubtful(year, place))


def is_working_day(day: int, place: str) -> bool:
    year = date_of(day)[0]
    near = HOLIDAYS[place](year) | HOLIDAYS[place](year + 1)  # 1 January on a Saturday is kept on 31 December
    return weekday(day) < 5 and day not in near


def working_days_after(day: int, count: int, place: str) -> int:
    while count:
        day += 1
        count -= is_working_day(day, place)
    return day


# --- Three values. ---


@dataclass(frozen=True)
class Verdict:
    """True, False, or None for unknown; with the facts that would settle it."""

    value: bool | None
    missing: frozenset[str] = frozenset()


YES, NO, BY_A_PERSON = Verdict(True), Verdict(False), Verdict(None)


def unknown(*facts: str) -> Verdict:
    return Verdict(None, frozenset(facts))


def known(value: bool) -> Verdict:
    return YES if value else NO


def every(verdicts: Iterable[Verdict]) -> Verdict:
    found = list(verdicts)
    if any(verdict.value is False for verdict in found):
        return NO
    open_ones = [verdict for verdict in found if verdict.value is None]
    return Verdict(None, frozenset().union(*(one.missing for one in open_ones))) if open_ones else YES


def some(verdicts: Iterable[Verdict]) -> Verdict:
    found = list(verdicts)
    if any(verdict.value is True for verdict in found):
        return YES
    open_ones = [verdict for verdict in found if verdict.value is None]
    return Verdict(None, frozenset().union(*(one.missing for one in open_ones))) if open_ones else NO


# --- The reference data. ---


def _rows(name: str) -> list[Row]:
    with (REFERENCE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


DUTIES = _rows("duties.csv")
ELEMENTS = _rows("data-elements.csv")
COUNTING_RULES = _rows("counting-rules.csv")
COMBINATIONS = _rows("personal-information.csv")
ZONES = {row["country"]: row["zone"] for row in _rows("member-state-zones.csv")}
DEFINING = {row["regime_id"] for row in COMBINATIONS}
INSTANTS = {row["fact"] for row in _rows("facts.csv") if row["type"] == "instant"} - {
    "le_hold_from",
    "le_hold_released_at",
}
_PICKING = (
    "discovered_at",
    "determined_at",
    "aware_at",
    "controller_aware_at",
    "processor_aware_at",
    "noticed_at",
    "known_personal_data_affected_at",
    "assessed_notifiable_at",
    "paid_at",
)
_SENT = ("initial_submitted_at", "intermediate_submitted_at", "notification_submitted_at", "individual_notices_sent_at")
_KEYWORDS = {
    "without_undue_delay": "due_no_fixed_deadline",
    "not_later_than_individual_notice": "due_not_later_than_individual_notice",
    "before_individual_notice": "due_before_individual_notice",
    "with_individual_notice": "due_with_individual_notice",
    "record_only": "record_only",
    "voluntary": "voluntary",
    "when_ordered": "pending",
    "superseded": "superseded",
}
_NO_NOON = {"credit_institution", "central_counterparty", "trading_venue", "nis2_essential", "nis2_important"}
COMPOSITE = "online_username_or_email_with_password"
_HEALTH_ENTITIES = {"hipaa_covered_entity", "hipaa_business_associate"}
_HEALTH = {"medical_information", "health_insurance_id", "health_insurance_claims", "medical_id_number", "dna_genetic"}
_PART_OF = dict.fromkeys(("GP", "MQ", "GF", "RE", "YT", "MF"), "FR")  # Art 355(1) TFEU
_KOREAN = {"national_id", "passport", "drivers_licence", "immigration_id"}  # unique identifiers: PIPA Art 24
_KOREAN |= {"ethnicity", "religion", "political_opinion", "union_membership", "medical_information", "sex_life"}
_KOREAN |= {"dna_genetic", "criminal_record", "biometric"}  # sensitive: PIPA Art 23, Enforcement Decree Art 18


@dataclass(frozen=True)
class Answer:
    """What one duty comes to. Instants are seconds since 1970; `sure` is False where the columns leave it open."""

    regime_id: str
    status: str
    version: int | None = None
    deadline: int | None = None
    relief: int | None = None
    conservative: int | None = None
    started: int | None = None
    missing: frozenset[str] = frozenset()
    zone: str = "UTC"
    sure: bool = True
    conservative_sure: bool = True

    def as_record(self) -> dict[str, Any]:
        """Return the answer in the words of the product's JSON."""
        return {
            "status": self.status,
            "version": self.version,
            "deadline_utc": in_utc(self.deadline),
            "deadline_local": in_zone(self.deadline, self.zone),
            "relief_latest_utc": in_utc(self.relief),
            "conservative_deadline_utc": in_utc(self.conservative),
            "started_at": in_utc(self.started),
            "missing_facts": sorted(self.missing),
        }

    def compared(self) -> dict[str, Any]:
        """Return the fields in which the product has to agree."""
        record = self.as_record()
        fields = ["status"]
        if self.status == "due":
            fields += ["version", "deadline_utc", "deadline_local", "relief_latest_utc", "started_at"]
        if self.status == "pending":
            fields += ["deadline_utc", "missing_facts"]
        if self.status in ("due", "pending") and self.conservative_sure:
            fields.append("conservative_deadline_utc")
        return {field: record[field] for field in fields}


@dataclass
class Incident:
    """The facts of one case in the public format: what is not in it is unknown."""

    facts: Mapping[str, Any]
    as_of: int
    instants: dict[str, int | dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*INSTANTS, "le_hold_from", "le_hold_released_at"):
            value = self.facts.get(name)
            if isinstance(value, dict):
                self.instants[name] = {key: seconds_of(text) for key, text in value.items()}
            elif value is not None:
                self.instants[name] = seconds_of(value)

    def answers(self) -> dict[str, Answer]:
        """Return the answer of every regime."""
        by_regime: dict[str, list[Row]] = {}
        for row in DUTIES:
            by_regime.setdefault(row["regime_id"], []).append(row)
        return self._binding_limbs({regime: self._answer(rows) for regime, rows in by_regime.items()})

    # What the facts say

    def _listed(self, name: str) -> set[str] | None:
        value = self.facts.get(name)
        return None if value is None else {value} if isinstance(value, str) else set(value)

    def _says(self, name: str, row: Row) -> Any:
        value = self.facts.get(name)
        if isinstance(value, dict) and name != "residents":
            return next((value[key] for key in (row["regime_id"], row["follows"]) if key in value), None)
        return value

    def _instant(self, name: str, row: Row) -> int | None:
        value = self.instants.get(name)
        if isinstance(value, dict):
            places = [row["jurisdiction"], self._member_state() if row["jurisdiction"] in ("EU", "EEA") else ""]
            names = [row["clock_regime"], row["regime_id"], row["follows"], *places]
            return next((value[key] for key in names if key and key in value), None)
        return value

    def _clock(self, row: Row) -> int | None:
        name = row["clock_fact"]
        if not name:
            return None
        at = self._instant(name, row)
        if name == "controller_aware_at" and at is None:
            told = [
                self._instant(other, row) for other in ("processor_notified_controller_at", "match_test_positive_at")
            ]
            at = min((instant for instant in told if instant is not None), default=None)
            if at is None and self.facts.get("role") != "processor":
                at = self._instant("aware_at", row)
        return at

    def _earliest(self) -> int | None:
        found: list[int] = []
        for name in INSTANTS & self.instants.keys():
            value = self.instants[name]
            found.extend(value.values() if isinstance(value, dict) else [value])
        return min(found, default=None)

    def _picked(self, row: Row) -> int | None:
        names = [*_PICKING, *([row["clock_fact"]] if row["clock_fact"] not in ("", *_SENT) else [])]
        found = [at for name in names if (at := self._instant(name, row)) is not None]
        if row["clock_fact"] == "controller_aware_at" and (at := self._clock(row)) is not None:
            found.append(at)
        picked = min(found, default=self._instant("detected_at", row))
        return None if picked is None else local_day(picked, self._zone(row))

    def _version_date(self, row: Row) -> int:
        picked = self._picked(row)
        return local_day(self.as_of, self._zone(row)) if picked is None else picked

    def _dated(self, row: Row) -> bool:
        """Whether an instant that picks the version is recorded: which date counts without one is not laid down."""
        return self._picked(row) is not None

    def _member_state(self) -> str | None:
        for name in ("establishments", "targets"):
            for country in self.facts.get(name) or ():
                if country in ZONES:
                    return str(country)
        return None

    def _zone(self, row: Row) -> str:
        return ZONES[self._member_state() or "BE"] if row["zone"] == "by_member_state" else row["zone"]

    def _living_in(self, places: Callable[[str], bool]) -> int | None:
        residents: Mapping[str, int] | None = self.facts.get("residents")
        if residents is None:
            return None
        return sum(count for code, count in residents.items() if places(_PART_OF.get(code, code)))

    # Scope

    def _territory(self, row: Row) -> Verdict:
        place = row["jurisdiction"]
        inside = ZONES.__contains__ if place in ("EU", "EEA") else place.__eq__
        if row["territory"] == "entity":
            return YES
        if row["territory"] == "residents":
            return self._pipeda() if place == "CA" else self._some_live(inside)
        established = self._named("establishments", inside)
        if row["territory"] == "establishment":
            return established
        return some([established, every([self._named("targets", inside), self._some_live(inside)])])

    def _named(self, fact: str, inside: Callable[[str], bool]) -> Verdict:
        named = self._listed(fact)
        return unknown(fact) if named is None else known(any(map(inside, named)))

    def _some_live(self, inside: Callable[[str], bool]) -> Verdict:
        count = self._living_in(inside)
        return unknown("residents") if count is None else known(count > 0)

    def _pipeda(self) -> Verdict:
        own_law = ("CA-QC", "CA-AB", "CA-BC")
        elsewhere = self._some_live(lambda code: code[:2] == "CA" and code[2:3] in ("", "-") and code not in own_law)
        if elsewhere.value is None:
            return elsewhere  # whether the entity matters is known once the residences are
        entity = self._listed("entity")
        federal = unknown("entity") if entity is None else known("frfi" in entity)
        return some([elsewhere, every([self._some_live(own_law.__contains__), federal])])

    def _entity_scope(self, row: Row) -> Verdict:
        if not row["entity_scope"]:
            return YES
        words = row["entity_scope"].split()
        named = "entity"
        verdicts = []
        for word in words:
            value = word
            if ":" in word:
                named, value = word.split(":")
            listed = self._listed("entity" if named == "NOT" else named)
            if listed is None:
                verdicts.append(unknown("entity" if named == "NOT" else named))
            else:
                verdicts.append(known((value in listed) != (named == "NOT")))
        return every(verdicts) if named == "NOT" else some(verdicts)

    def _superseded(self, row: Row) -> bool:
        return bool(set(row["superseded_for"].split()) & (self._listed("entity") or set()))

    def _role(self, row: Row) -> Verdict:
        if row["role_scope"] == "any":
            return YES
        role = self.facts.get("role")
        return unknown("role") if role is None else known(role in row["role_scope"].split())

    # Conditions

    def _exposed(self) -> set[str] | None:
        elements = self._listed("data_elements")
        if elements is None:
            return None
        login = elements & {"email", "online_username"} and elements & {"online_password", "security_question_answer"}
        return elements | ({COMPOSITE} if login else set())

    def _combinations(self, row: Row, regime: str, *, any_personal_data: bool = True) -> Verdict:
        """Whether a combination of `regime` is exposed and not exempt, for the recipient of `row`."""
        exposed = self._exposed()
        date = self._version_date(row)
        verdicts = []
        for combination in COMBINATIONS:
            if combination["regime_id"] != regime or not _covers(combination, date):
                continue
            if combination["combination_id"] == "any-personal-data" and not any_personal_data:
                continue
            verdicts.append(every([self._matches(combination, exposed), self._not_exempt(combination, row)]))
        return some(verdicts)

    def exposed_combinations(self, regime_id: str) -> set[tuple[str, str]]:
        """Return the combinations of `regime_id`, or of the regime that it follows, that the data elements may meet."""
        row = next(row for row in DUTIES if row["regime_id"] == regime_id)
        regime = regime_id if regime_id in DEFINING else row["follows"]
        return {
            (regime, combination["combination_id"])
            for combination in COMBINATIONS
            if combination["regime_id"] == regime
            and _covers(combination, self._version_date(row))
            and self._matches(combination, self._exposed()).value is not False
        }

    def _matches(self, combination: Row, exposed: set[str] | None) -> Verdict:
        if exposed is None:
            return unknown("data_elements")
        names = {
            "first_and_last": {"full_name"},
            "initial_and_last": {"full_name", "first_initial_last_name"},
            "any_personal_data": exposed,
            "none": exposed,
        }[combination["requires_name"]]
        for column in ("any_of", "and_all_of"):
            wanted = set(filter(None, combination[column].split("|")))
            if wanted and not wanted & exposed:
                return NO
        if not exposed & names:
            return BY_A_PERSON if combination["without_name_if"] and exposed else NO
        return BY_A_PERSON if combination["note"].startswith("CONDITION:") else YES

    def _not_exempt(self, combination: Row, row: Row) -> Verdict:
        words = combination["exempt_when"].split("|")
        if "encrypted" not in words or (
            combination["exempt_for"] == "individual_only" and row["recipient"] != "individual"
        ):
            return YES
        encrypted, key_taken = self.facts.get("encrypted"), self.facts.get("key_compromised")
        if encrypted is False:
            return YES
        if key_taken is True and ("key_intact" in words or combination["key_clause"] == "definition"):
            return YES
        if encrypted is None:
            return unknown("encrypted", *(["key_compromised"] if key_taken is None else []))
        if key_taken is None:
            return unknown("key_compromised")
        return BY_A_PERSON if key_taken else NO

    def _personal_data(self, row: Row) -> Verdict:
        regime = row["regime_id"] if row["regime_id"] in DEFINING else row["follows"]
        if regime not in DEFINING:
            return YES
        sensitivity = self.facts.get("sensitivity")
        real = unknown("sensitivity") if sensitivity is None else known(sensitivity != "synthetic_only")
        counsel = self._says("statutory_pi", row)
        return every([real, self._combinations(row, regime) if counsel is None else known(counsel)])

    def _harm(self, row: Row) -> Verdict:
        if row["harm_threshold"] == "none" or not row["harm_fact"]:
            return YES
        value = self._says(row["harm_fact"], row)
        if value is None:
            return unknown(row["harm_fact"])
        if row["harm_fact"] == "gdpr_risk":
            return known(value == "high" or (value == "risk" and row["harm_threshold"] == "risk"))
        return known(value)

    def _threshold(self, row: Row) -> Verdict:
        if not row["threshold_value"]:
            return YES
        place = row["jurisdiction"]
        residents = self.facts.get("residents")
        if residents is None:
            return unknown("residents")
        count = residents.get(place, 0)
        if place == "US":
            by_state = [number for code, number in residents.items() if code.startswith("US-")]
            count = (
                max(by_state, default=0)
                if row["counts_whom"] == "residents"
                else sum(by_state) + residents.get("US", 0)
            )
        value = int(row["threshold_value"])
        return known({">": count > value, ">=": count >= value, "<": count < value}[row["threshold_operator"]])

    def _trigger(self, row: Row) -> Verdict:
        text = row["trigger_facts"]
        if not text:
            return self._threshold(row)
        alternatives = [every(self._term(term, row) for term in part.split(" & ")) for part in text.split(" | ")]
        counted = "count" in text.split(" | ")
        return some(alternatives) if counted else every([some(alternatives), self._threshold(row)])

    def _term(self, term: str, row: Row) -> Verdict:
        if term == "CONDITION":
            return BY_A_PERSON
        if term == "count":
            return self._threshold(row)
        if term.startswith("elements("):
            if row["regime_id"] == "kr-pipc":
                exposed = self._exposed()
                return unknown("data_elements") if exposed is None else known(bool(exposed & _KOREAN))
            return self._combinations(row, term[9:-1], any_personal_data=False)
        if "=" not in term:
            return unknown(term) if self._instant(term, row) is None else YES
        name, value = term.replace("!=", "=").split("=")
        said = self._says(name, row)
        if said is None:
            return unknown(name)
        return known((str(said).lower() == value) != ("!=" in term))

    def _deemed(self, row: Row) -> Verdict:
        verdicts = []
        if row["glba_effect"] == "exempt":
            bank = self.facts.get("glba_exempt")
            verdicts.append(unknown("glba_exempt") if bank is None else known(not bank))
        if row["hipaa_effect"] == "exempt":
            entity = self._listed("entity")
            verdicts.append(unknown("entity") if entity is None else known(not entity & _HEALTH_ENTITIES))
        return every(verdicts)

    def _is_sure(self, row: Row) -> bool:
        """Whether the columns settle the row: not where HIPAA exempts some of the data, or where `data_subjects` differ."""
        exposed, entity = self._exposed(), self._listed("entity")
        if row["hipaa_effect"] == "exempt" and (entity is None or entity & _HEALTH_ENTITIES):
            return exposed is not None and bool(exposed & _HEALTH) and not exposed - _HEALTH - {"full_name", "email"}
        if "elements(" in row["trigger_facts"] and self._says("statutory_pi", row) is not None:
            return False  # whether counsel's word on the definition answers the trigger as well is not laid down
        residents: Mapping[str, int] = self.facts.get("residents") or {}
        return row["counts_whom"] != "data_subjects" or set(residents) <= {row["jurisdiction"]}

    # Hold

    def _held(self, row: Row) -> tuple[bool, int | None]:
        """Return whether a hold touches this clock, and when it was released."""
        begins = self.instants.get("le_hold_from")
        if begins is None or row["hold_rule"] == "none":
            return False, None
        keys = (row["regime_id"], row["follows"], row["jurisdiction"])
        if isinstance(begins, dict) and not any(key in begins for key in keys):
            return False, None
        released = self.instants.get("le_hold_released_at")
        if isinstance(released, dict):
            released = next((released[key] for key in keys if key in released), None)
        return True, released

    # Counting

    def _period(self, row: Row) -> tuple[str, Verdict]:
        condition, _, instead = row["period_if"].rpartition(":")
        if not condition or condition == "earlier_of":
            return row["period"], YES
        name, value = condition.split("=")
        if name == "entity":
            entity = self._listed(name)
            return (instead if entity is None or value in entity else row["period"]), YES
        said = self.facts.get(name)
        if said is None:
            return row["period"], unknown(name)
        return (instead if str(said).lower() == value else row["period"]), YES

    def _end(self, row: Row, start: int, period: str) -> int:
        zone = self._zone(row)
        if row["anchor"] == "instant":
            hours = re.fullmatch(r"PT(\d+)H", period)
            assert hours, row
            return start + int(hours[1]) * 3600
        day = local_day(start, zone)
        last = _last_day(day, period, row["jurisdiction"]) - (row["anchor"] == "end_of_day_inclusive")
        return at_wall(last, 17 * 3600 + 1800 if row["anchor"] == "close_1730" else DAY - 1, zone)

    def _doubt(self, row: Row, start: int, end: int, period: str) -> bool:
        zone = self._zone(row)
        days = local_day(start, zone), local_day(end, zone)
        return period.endswith("BD") and counts_over_doubt(*days, row["jurisdiction"])

    def _relief(self, row: Row, deadline: int) -> int | None:
        entity = self._listed("entity") or set()
        first_reports = row["regime_id"].startswith(("eu-dora-19-initial", "eu-dora-19-intermediate"))
        if row["relief"] == "none" or (row["relief"].startswith("noon") and first_reports and entity & _NO_NOON):
            return None
        zone, country = self._zone(row), self._member_state()
        assert country is not None
        last = local_day(deadline, zone)
        if is_working_day(last, country):
            return None
        day = working_days_after(last, 1, country)
        return at_wall(day, DAY // 2 if row["relief"].startswith("noon") else DAY - 1, zone)

    def _end_or_sent(self, row: Row, start: int, period: str) -> int:
        end = self._end(row, start, period)
        sent = (
            self._instant(row["period_if"].partition(":")[2], row)
            if row["period_if"].startswith("earlier_of:")
            else None
        )
        return end if sent is None else min(end, sent)

    # The answer

    def _answer(self, rows: list[Row]) -> Answer:
        newest = rows[0]
        answer = Answer(newest["regime_id"], "not_due", zone=self._zone(newest))
        any_version = some([self._entity_scope(row) for row in rows] + [known(any(map(self._superseded, rows)))])
        scope = [self._territory(newest), self._role(newest), any_version]
        if every(scope).value is False:
            return answer
        row = next((row for row in rows if _covers(row, self._version_date(row))), None)
        if row is None:
            return replace(answer, status="not_in_force", sure=self._dated(newest))
        answer = replace(answer, version=int(row["version"]), sure=self._dated(row) and self._is_sure(row))
        own_scope = some([self._entity_scope(row), known(self._superseded(row))])
        if own_scope.value is False:
            return replace(answer, status="not_in_force", version=None)
        if self._superseded(row):
            return replace(answer, status="superseded")
        period, settled = self._period(row)
        conditions = every(
            [
                *scope,
                own_scope,
                self._personal_data(row),
                self._harm(row),
                self._trigger(row),
                self._deemed(row),
            ]
        )
        if conditions.value is False:
            return answer
        conditions = every([conditions, settled])
        keyword = _KEYWORDS.get(period)
        earliest = self._earliest()
        held, released = self._held(row)
        if keyword is None and earliest is not None:
            soonest = self._end_or_sent(row, earliest, period)
            doubt = self._doubt(row, earliest, soonest, period)
            answer = replace(answer, conservative=soonest, conservative_sure=not held and not doubt)
        clock = frozenset() if keyword or self._clock(row) is not None else frozenset({row["clock_fact"]})
        if conditions.value is None:
            return replace(answer, status="pending", missing=conditions.missing | clock)
        if held and released is None:
            return replace(answer, status="pending", missing=clock)
        after_release = re.fullmatch(r"(P\d+B?D)_after_release(_if_elapsed)?", row["hold_rule"]) if released else None
        if keyword is not None:
            open_end = after_release is not None and keyword == "due_no_fixed_deadline"
            return replace(answer, status=keyword, sure=not open_end)
        start = self._clock(row)
        if start is None:
            return replace(answer, status="pending", missing=frozenset({row["clock_fact"]}))
        deadline = self._end_or_sent(row, start, period)
        answer = replace(
            answer, status="due", started=start, sure=answer.sure and not self._doubt(row, start, deadline, period)
        )
        if released is not None and after_release is None and deadline < released:
            return replace(answer, status="due_no_fixed_deadline", conservative_sure=False)
        if released is not None and after_release is not None and (not after_release[2] or deadline < released):
            day = _last_day(local_day(released, self._zone(row)), after_release[1], row["jurisdiction"])
            deadline = at_wall(day, DAY - 1, self._zone(row))
            doubt = self._doubt(row, released, deadline, after_release[1]) or released < start
            answer = replace(answer, sure=answer.sure and not doubt)
        return replace(answer, deadline=deadline, relief=self._relief(row, deadline))

    def _binding_limbs(self, answers: dict[str, Answer]) -> dict[str, Answer]:
        """Only one limb of the initial notification under DORA stays due (RTS (EU) 2025/301 Art 5)."""
        names = {limb: f"eu-dora-19-initial-{limb}" for limb in ("a", "b", "late")}
        limbs = {limb: answers[name] for limb, name in names.items()}
        classified, aware = limbs["a"].started, limbs["b"].started
        if (
            classified is None or aware is None
        ):  # which limb binds while a scope is open, or awareness, is not laid down
            if isinstance(self.instants.get("classified_major_at"), int):
                return answers | {name: replace(answers[name], sure=False) for name in names.values()}
        else:
            binding = "late" if classified > aware + DAY else "a" if classified + 4 * 3600 <= aware + DAY else "b"
            for limb, answer in limbs.items():
                if limb != binding:
                    answers[names[limb]] = Answer(answer.regime_id, "not_due", zone=answer.zone)
        return answers


def _covers(row: Row, day: int) -> bool:
    since, until = (_iso_day(row[column]) for column in ("in_force_from", "in_force_to"))
    return (since is None or since <= day) and (until is None or day <= until)


def _iso_day(text: str) -> int | None:
    return day_number(*map(int, text.split("-"))) if text else None


def _last_day(day: int, period: str, place: str) -> int:
    if period == "P60D_after_calendar_year_end":
        return day_number(date_of(day)[0], 12, 31) + 60
    found = re.fullmatch(r"P(\d+)(M|BD|D)", period)
    assert found, period
    count = int(found[1])
    if found[2] == "M":
        return plus_months(day, count)
    return day + count if found[2] == "D" else working_days_after(day, count, place)


def incident_of(facts: Mapping[str, Any], as_of: str) -> Incident:
    """Return the incident that `facts` in the public format describe, looked at on `as_of`."""
    return Incident({key: value for key, value in facts.items() if value is not None}, seconds_of(as_of))


def answers_of(facts: Mapping[str, Any], as_of: str) -> dict[str, Answer]:
    """Return what every regime comes to for `facts`."""
    return incident_of(facts, as_of).answers()
