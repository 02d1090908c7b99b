"""What an incident's duties rest on, and what moved when any of it changed.

An exposure is what the resolved people's records expose, counted for one controller; with the recorded facts and the
controller's entry it makes the `Facts` that `obligations_for` answers. Until an exposure is known the counts are unknown
(not zero), so that conservative clocks run from the detection. Pure; not for the answers themselves (`obligations`).
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any, Protocol

from bridge.contracts.events import Kind
from consumers.domain.elements import exposes
from consumers.domain.facts import Facts, parse_facts
from consumers.domain.jurisdictions import UNKNOWN_RESIDENCE, covers
from consumers.domain.obligations import OWED, Obligation, Status, obligations_for
from consumers.domain.persons import Alike, Person, residents
from consumers.domain.regions import ANYWHERE, Regions
from consumers.domain.residents import regimes_for_person
from consumers.domain.rules import Rules

OPEN = frozenset({*OWED, Status.PENDING})
"""Statuses of duties whose clocks run or may still begin to."""


class Controller(Protocol):
    """The legal entity behind a website."""

    @property
    def name(self) -> str: ...
    @property
    def dpo(self) -> str: ...
    def facts(self) -> dict[str, Any]:
        """Return what its entry says of an incident's facts."""
        ...


class Controllers(Protocol):
    """Which controller answers for a website."""

    @property
    def by_key(self) -> Mapping[str, Controller]: ...
    def of_website(self, website_id: int) -> tuple[str, Controller]: ...


@dataclass(frozen=True, slots=True)
class Law:
    """The rules in force, the legal entities, and through which regions their notices may pass."""

    rules: Rules
    controllers: Controllers
    regions: Regions = ANYWHERE


class LawInForce(Protocol):
    """Gives the law as it stands in the files; asked anew for each answer, so that a changed rule is seen."""

    def __call__(self) -> Law: ...


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the resolved people's records expose, for one controller. Counts are of people."""

    controller: str
    people_count: int
    possible_count: int
    residents: Mapping[str, int]
    """All who may live in each jurisdiction; who may live in two counts in both. `unknown` apart."""
    triggering: Mapping[str, int]
    """Of `residents`, those whose own exposed elements trigger a notice to individuals there."""
    triggered: Mapping[str, int]
    """By regime of individual notice, the people who trigger it: where they live, or wherever a controller's establishment
    brings them under a law."""
    elements: tuple[str, ...]
    kinds: tuple[str, ...]

    @property
    def purely_synthetic(self) -> bool:
        """Everybody's records say that they were made up, and nobody is only possible (a value without a record)."""
        return self.kinds in ((), (Kind.SYNTHETIC.value,)) and not self.possible_count


class Regimes:
    """Which regimes a person's exposed elements trigger; worked out once for each pair of homes and elements."""

    def __init__(self, rules: Rules, on: date) -> None:
        self._rules = rules
        self.on = on
        self._found: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, ...]] = {}

    def of(self, person: Person) -> tuple[str, ...]:
        """Return them, sorted; `("unknown",)` for somebody whose residence nobody knows."""
        key = (person.homes, person.elements)
        if key not in self._found:
            elements = known_elements(person.elements, self._rules)
            self._found[key] = regimes_for_person(person.homes, elements, self._rules, self.on)
        return self._found[key]


def known_elements(elements: Collection[str], rules: Rules) -> tuple[str, ...]:
    """Return those of `elements` that are in the vocabulary: the store's spelling must not stop a plan."""
    return tuple(sorted(name for name in set(elements) if name in rules.elements))


def exposures(people: Iterable[Alike], rules: Rules, on: date, controllers: Collection[str] = ()) -> list[Exposure]:
    """Return the exposure of each controller that answers for some of `people`, and of `controllers`, sorted by key."""
    regimes = Regimes(rules, on)
    own: dict[str, list[Alike]] = defaultdict(list)
    for person, number in people:
        own[person.controller].append((person, number))
    return [_exposure(key, own.get(key, []), regimes, rules) for key in sorted({*own, *controllers})]


def _exposure(key: str, people: Sequence[Alike], regimes: Regimes, rules: Rules) -> Exposure:
    triggered: Counter[str] = Counter()
    triggering: Counter[str] = Counter()
    where: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, ...]] = {}
    for person, number in people:
        found = tuple(regime for regime in regimes.of(person) if regime != UNKNOWN_RESIDENCE)
        triggered.update(dict.fromkeys(found, number))
        pair = (person.homes, found)
        if pair not in where:
            where[pair] = tuple(
                home for home in person.homes if any(covers(rules.by_id[regime].jurisdiction, home) for regime in found)
            )
        triggering.update(dict.fromkeys(where[pair], number))
    # a controller's establishment brings everybody under its law, wherever they live (GDPR Art. 3(1))
    triggered.update(
        {regime: count - triggered[regime] for regime, count in _by_elements(people, regimes, rules).items()}
    )
    return Exposure(
        controller=key,
        people_count=sum(number for _, number in people),
        possible_count=sum(number for person, number in people if person.standing == "possible"),
        residents=dict(residents(people, UNKNOWN_RESIDENCE)),
        triggering=dict(sorted(triggering.items())),
        triggered=dict(sorted(triggered.items())),
        elements=known_elements({name for person, _ in people for name in person.elements}, rules),
        kinds=tuple(
            sorted({kind.value for person, _ in people if person.why is not None for kind in person.why.kinds})
        ),
    )


def _by_elements(people: Sequence[Alike], regimes: "Regimes", rules: Rules) -> dict[str, int]:
    """Return, by regime that follows an establishment, the people whose elements it covers, whatever their residence."""
    sets: Counter[tuple[str, ...]] = Counter()
    for person, number in people:
        sets[known_elements(person.elements, rules)] += number
    counts = {}
    for duty in rules.duties:
        if duty.recipient != "individual" or duty.territory != "establishment_or_targeting":
            continue
        combinations = rules.combinations.get(duty.regime_id, ())
        counts[duty.regime_id] = sum(
            number
            for elements, number in sets.items()
            if any(exposes(each, elements, regimes.on) is not False for each in combinations)
        )
    return {regime: count for regime, count in counts.items() if count}


def facts_for(
    recorded: Mapping[str, Any],
    detected_at: datetime,
    controller: Controller,
    exposure: Exposure | None,
    *,
    source: str,
) -> Facts:
    """Return the facts of an incident for one controller: what people recorded, else what entry and records show.

    Without an exposure nobody knows yet who is affected and what leaked: both stay unknown. Raises BadInput naming
    `source` for a recorded fact that cannot be used.
    """
    shown: dict[str, Any] = {"detected_at": detected_at, **controller.facts()}
    if exposure is not None:
        shown |= {"residents": dict(exposure.residents), "data_elements": exposure.elements}
        real = {Kind.REAL.value, Kind.DERIVED.value, Kind.INFERRED.value} & set(exposure.kinds)
        if real:
            # made-up records alone prove nothing either way: whether they match a real person is for verification to say
            shown["sensitivity"] = "real" if Kind.REAL.value in real else "derived_or_memorised"
    known = {name: value for name, value in recorded.items() if value is not None}
    return parse_facts({**shown, **known}, source=source)


def answers_for(
    recorded: Mapping[str, Any],
    detected_at: datetime,
    law: Law,
    found: Mapping[str, Exposure],
    controllers: Collection[str],
    *,
    source: str,
) -> dict[str, tuple[Obligation, ...]]:
    """Return every duty's answer for each of `controllers`; those without an exposure in `found` with unknown counts."""
    answers = {}
    for key in sorted(controllers):
        exposure = found.get(key)
        facts = facts_for(recorded, detected_at, law.controllers.by_key[key], exposure, source=source)
        counts = None if exposure is None else dict(exposure.triggered)
        answers[key] = obligations_for(facts, law.rules, detected_at, triggered=counts)
    return answers


@dataclass(frozen=True, slots=True)
class DutyRow:
    """One duty of one controller as the case store keeps it. `detail` is the whole answer, instants as text."""

    controller: str
    regime_id: str
    status: str
    recipient: str
    deadline_at: datetime | None
    conservative_deadline_at: datetime | None
    detail: Mapping[str, Any]


def duty_rows(answers: Mapping[str, Sequence[Obligation]]) -> list[DutyRow]:
    """Return the rows of all controllers' answers. Federal law counted by state answers once for each of them."""
    rows = []
    for controller, obligations in answers.items():
        repeated = {name for name, n in Counter(each.regime_id for each in obligations).items() if n > 1}
        for each in obligations:
            own = f"{each.regime_id}.{each.jurisdiction.lower()}" if each.regime_id in repeated else each.regime_id
            detail = json.loads(json.dumps(asdict(each), default=written))
            rows.append(
                DutyRow(
                    controller, own, each.status.value, each.recipient, each.deadline_at, each.conservative_deadline_at,
                    detail,
                )
            )  # fmt: skip
    return rows


def written(value: Any) -> str:
    """Return an instant as texts hold it; anything else as it prints."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


def digest(value: Any) -> str:
    """Return SHA-256 over the canonical JSON of `value`, in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=written)
    return hashlib.sha256(text.encode()).hexdigest()


# What moved


_SHOWN = ("status", "deadline_at", "conservative_deadline_at", "started_at")


@dataclass(frozen=True, slots=True)
class Movement:
    """A duty whose answer changed: as it stood (None: it was not considered) and as it stands (None: no longer)."""

    controller: str
    regime_id: str
    recipient: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    why: str

    @property
    def material(self) -> bool:
        """Somebody must be told who need not have been, or need not any more, or a date moved."""
        return any(side is not None and side["status"] in OPEN for side in (self.before, self.after))

    @property
    def sentence(self) -> str:
        """What moved and why, on one line."""
        old, new = self.before or {}, self.after or {}
        parts = []
        if old.get("status") != new.get("status"):
            parts.append(f"{_word(old.get('status'))} -> {_word(new.get('status'))}")
        if _date(old) != _date(new):
            parts.append(f"{_date(old) or 'no date'} -> {_date(new) or 'no date'}")
        if old.get("started_at") != new.get("started_at"):
            parts.append(f"its clock began {new['started_at']}" if new.get("started_at") else "its clock has not begun")
        return f"{self.regime_id} to {_word(self.recipient)}: {'; '.join(parts)} ({self.why})"


def _word(value: Any) -> str:
    return str(value or "not considered").replace("_", " ")


def _date(side: Mapping[str, Any]) -> str:
    if side.get("deadline_at"):
        return str(side["deadline_at"])
    return f"{side['conservative_deadline_at']} conservative" if side.get("conservative_deadline_at") else ""


def movements(before: Iterable[DutyRow], after: Iterable[DutyRow], cause: str) -> list[Movement]:
    """Return what moved between two answers to one incident, the most urgent first. `cause` says what had changed."""
    old = {(each.controller, each.regime_id): each for each in before}
    new = {(each.controller, each.regime_id): each for each in after}
    found = []
    for key in {**old, **new}:
        was, now = old.get(key), new.get(key)
        one, other = _shown(was), _shown(now)
        if one == other:
            continue
        some = now or was
        assert some is not None
        found.append(Movement(key[0], key[1], some.recipient, one, other, _why(was, now, cause)))
    return sorted(found, key=lambda each: (_date(each.after or {}) or "~", each.regime_id, each.controller))


def _shown(row: DutyRow | None) -> dict[str, Any] | None:
    return None if row is None else {name: row.detail.get(name) for name in _SHOWN} | {"status": row.status}


def _why(was: DutyRow | None, now: DutyRow | None, cause: str) -> str:
    said = set(() if was is None else was.detail.get("because", ()))
    fresh = [reason for reason in (() if now is None else now.detail.get("because", ())) if reason not in said]
    return f"{cause}: {fresh[0]}" if fresh else cause


# Texts of a ground: what the duties rest on, so that a change of it is seen and named


def ground(
    *, recorded: Mapping[str, Any], found: Sequence[Exposure], controllers: Collection[str], law: Law
) -> dict[str, str]:
    """Return a hash of each thing that duties rest on."""
    entries = {key: law.controllers.by_key[key].facts() for key in sorted(controllers)}
    return {
        "fact": digest({name: value for name, value in recorded.items() if value is not None}),
        "count": digest([asdict(each) for each in sorted(found, key=lambda each: each.controller)]),
        "rules": law.rules.rules_version,
        "controllers": digest(entries),
    }


def cause_of(before: Mapping[str, str] | None, after: Mapping[str, str]) -> str:
    """Name what changed between two grounds, in words."""
    if before is None:
        return "the incident was opened"
    words = {
        "fact": "a fact changed",
        "count": "the count of people changed",
        "rules": "the rules changed",
        "controllers": "controllers.yaml changed",
    }
    return " and ".join(words[name] for name in words if before.get(name) != after.get(name)) or "nothing changed"
