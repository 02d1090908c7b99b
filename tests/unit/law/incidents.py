"""Random incidents in the public format of the facts, complete or with gaps, for properties that hold for all of them.

Drawn from a seed and not fact by fact: an incident that hypothesis makes small touches nobody and owes nothing.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.unit.law import second_calculator

Facts = dict[str, Any]

REGIMES = sorted({row["regime_id"] for row in second_calculator.DUTIES})
STATES = sorted({row["jurisdiction"] for row in second_calculator.DUTIES} - {"EU", "EEA", "US"})
RESIDENCES = [*STATES, "CA-ON", "CA-BC", "DE", "FR", "AT"]
COUNTRIES = ["DE", "FR", "AT", "IE", "US", "GB", "IN", "AE-DIFC", "AE-ADGM"]
EEA = ["DE", "FR", "AT", "IE"]
ELEMENTS = [row["element"] for row in second_calculator.ELEMENTS if row["element"] != second_calculator.COMPOSITE]
ENTITIES = sorted(
    {"online_retailer", "trust_service_provider"}
    | {
        word
        for row in second_calculator.DUTIES
        for word in (row["entity_scope"] + " " + row["superseded_for"]).split()
        if ":" not in word and not word.startswith("high_risk")
    }
)
COUNTS = (1, 49, 50, 249, 250, 251, 499, 500, 501, 999, 1000, 1001, 5000, 5001, 10_000, 10_001, 1_000_000)
INSTANTS = sorted(second_calculator.INSTANTS)
KEYABLE = (
    "initial_submitted_at",
    "intermediate_submitted_at",
    "notification_submitted_at",
    "individual_notices_sent_at",
)
MINUTES = 24 * 60


def _instant(random: Random, first: datetime) -> str:
    offset = timezone(timedelta(minutes=random.choice((-600, -480, -300, 0, 60, 120, 330, 540))))
    return (first + timedelta(minutes=random.randrange(20 * MINUTES))).astimezone(offset).isoformat()


def _some(random: Random, values: Sequence[str], at_most: int) -> list[str]:
    return random.sample(values, random.randint(0, at_most))


def _elements(random: Random) -> list[str]:
    named = random.choice(
        (["full_name"], ["full_name", "ssn"], ["first_initial_last_name"], ["email", "online_password"], [])
    )
    return list(dict.fromkeys([*named, *_some(random, ELEMENTS, 10)]))


def _likely(chance: float) -> Callable[[Random], bool]:
    return lambda random: random.random() < chance


PLAIN: dict[str, Callable[[Random], Any]] = {
    "role": lambda random: random.choice(("controller",) * 7 + ("processor", "provider", "deployer")),
    "entity": lambda random: _some(random, ENTITIES, 4),
    "licensee": lambda random: random.choice(("none", "nydfs_covered_entity")),
    "establishments": lambda random: [
        *random.sample(EEA, 1),
        *_some(random, ["US", "GB", "IN", "AE-DIFC", "AE-ADGM"], 3),
    ],
    "targets": lambda random: _some(random, COUNTRIES, 4),
    "residents": lambda random: {
        code: random.choice(COUNTS) for code in random.sample(RESIDENCES, random.randint(5, 25))
    },
    "data_elements": _elements,
    "sensitivity": lambda random: random.choice(("real",) * 8 + ("derived_or_memorised", "synthetic_only")),
    "encrypted": _likely(0.25),
    "key_compromised": _likely(0.5),
    "gdpr_risk": lambda random: random.choice(("unlikely", "risk", "high", "high")),
    "serious_incident": lambda random: random.choice(("none", "general", "death", "widespread")),
    "ai_system": lambda random: random.choice(
        ("none", "high_risk_annex_iii", "high_risk_annex_i", "gpai_systemic_risk")
    ),
    "glba_exempt": _likely(0.2),
    **dict.fromkeys(("harm_likely", "significant_harm", "relevant_risk", "significant"), _likely(0.75)),
    **dict.fromkeys(("external_attack", "small_agent"), _likely(0.5)),
}
"""How each fact that is no instant is chosen."""


def value_of(fact: str, random: Random, first: datetime) -> Any:
    """Return a value that `fact` may have."""
    return PLAIN[fact](random) if fact in PLAIN else _instant(random, first)


def hold(random: Random, first: datetime, keys: Sequence[str] | None = None) -> Facts:
    """Return a hold by law enforcement from `first` on, for all or for some of `keys`; released or not."""

    def released() -> str:
        return (first + timedelta(minutes=random.randrange(1, 90 * MINUTES))).isoformat()

    if keys is None:
        return {"le_hold_from": first.isoformat()} | (
            {"le_hold_released_at": released()} if random.random() < 0.7 else {}
        )
    named = random.sample(keys, 40)
    ended = {key: released() for key in named if random.random() < 0.7}
    return {"le_hold_from": dict.fromkeys(named, first.isoformat()), "le_hold_released_at": ended}


def first_day(random: Random) -> datetime:
    since, days = random.choice(((2026, 365), (2018, 3650)))
    return datetime(since, 1, 1, tzinfo=UTC) + timedelta(days=random.randrange(days))


def incident(seed: int, *, gaps: int = 0, keyed: bool = False) -> Facts:
    """Return the facts of one incident; `gaps` of them are left out, `keyed` makes some objects by place or regime."""
    random = Random(seed)
    first = first_day(random)
    names = [*PLAIN, *INSTANTS]
    facts = {name: value_of(name, random, first) for name in names}
    if keyed:
        places = [*STATES, *REGIMES, *EEA, "eu-dora-19-initial"]
        for name in KEYABLE:
            facts[name] = {key: _instant(random, first) for key in random.sample(places, 40)}
        for name in ("harm_likely", "significant_harm", "significant", "statutory_pi"):
            facts[name] = {regime: random.random() < 0.7 for regime in random.sample(REGIMES, 60)}
        facts |= hold(random, first, [*STATES, *REGIMES])
    elif random.random() < 0.3:
        facts |= hold(random, first)
    for name in random.sample(names, gaps):
        del facts[name]
    if not {*facts.get("establishments", ()), *facts.get("targets", ())} & {*EEA}:
        facts["establishments"] = ["DE"]  # whose zone and holidays count without a Member State is not laid down
    return facts


seeds = st.integers(0, 2**63)
complete = seeds.map(incident)
gappy = st.builds(incident, seeds, gaps=st.integers(1, 6))
keyed = st.builds(incident, seeds, keyed=st.just(True), gaps=st.integers(0, 4))
