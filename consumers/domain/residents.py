"""What the law gives a person where they may live: the regimes that their exposed data trigger, by when they must be told,
and how long that may take.

Not for the conditions of a duty (`obligations`), which are the incident's, not a person's.
"""

from collections.abc import Collection, Iterable
from datetime import date, datetime, timedelta
from functools import lru_cache

from consumers.domain.elements import exposes
from consumers.domain.jurisdictions import UNKNOWN_RESIDENCE, covers
from consumers.domain.obligations import Obligation
from consumers.domain.rules import Rules


def regimes_for_person(
    residence_codes: Collection[str], element_set: Collection[str], rules: Rules, on: date
) -> tuple[str, ...]:
    """Return the regimes of individual notice that a person's exposed `element_set` triggers where they may live.

    Every residence in doubt counts: the union is returned, sorted. `on` is the incident's date (definitions are
    dated). A combination that only a person can decide counts as triggered. Without any residence the answer is
    `("unknown",)`. Regimes that hang on what the controller is (HIPAA, Reg S-P, DORA clients) are not a matter of
    residence and not named here. Raises BadInput for a residence or an element that does not exist.
    """
    known = frozenset(code for code in residence_codes if code != UNKNOWN_RESIDENCE)
    if not known:
        return (UNKNOWN_RESIDENCE,)
    return _regimes_for(known, frozenset(element_set), rules, on)


@lru_cache(maxsize=16384)
def _regimes_for(residence_codes: frozenset[str], elements: frozenset[str], rules: Rules, on: date) -> tuple[str, ...]:
    """A leak of 20,000 people has a few dozen different pairs of residence and elements: each is worked out once."""
    rules.check_elements(elements)
    found = []
    for duty in rules.duties:
        if not duty.notifies_where_people_live:
            continue
        if not any(covers(duty.jurisdiction, code) for code in residence_codes):
            continue
        combinations = rules.combinations.get(duty.regime_id, ())
        if any(exposes(combination, elements, on) is not False for combination in combinations):
            found.append(duty.regime_id)
    return tuple(sorted(found))


def earliest_deadline(obligations: Iterable[Obligation], residence: str) -> datetime | None:
    """Return the earliest instant by which a person of `residence` must have been told, or None if no date binds.

    Counts notices to individuals that are due, and pending ones by their conservative date. For `"unknown"` the
    earliest of all jurisdictions.
    """
    dates = [
        at
        for obligation in _binding(obligations, residence)
        if (at := obligation.deadline_at or obligation.conservative_deadline_at) is not None
    ]
    return min(dates, default=None)


def shortest_period(obligations: Iterable[Obligation], residence: str, detected_at: datetime) -> timedelta | None:
    """Return the shortest time that the law gives to tell a person of `residence`, or None if no date binds.

    From the start of a duty's clock to its date; of a conservative date from the detection.
    """
    periods = [
        at - began
        for obligation in _binding(obligations, residence)
        for at, began in [
            (obligation.deadline_at, obligation.started_at or detected_at)
            if obligation.deadline_at is not None
            else (obligation.conservative_deadline_at, detected_at)
        ]
        if at is not None and at > began
    ]
    return min(periods, default=None)


def _binding(obligations: Iterable[Obligation], residence: str) -> Iterable[Obligation]:
    for obligation in obligations:
        if obligation.recipient != "individual" or obligation.status not in ("due", "pending"):
            continue
        if residence == UNKNOWN_RESIDENCE or covers(obligation.jurisdiction, residence):
            yield obligation
