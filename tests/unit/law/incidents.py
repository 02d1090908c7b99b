"""Random incidents in the public format of the facts, complete or with gaps, for properties that hold for all of them."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from tests.unit.law import second_calculator

Facts = dict[str, Any]

REGIMES = sorted({row["regime_id"] for row in second_calculator.DUTIES})
STATES = sorted({row["jurisdiction"] for row in second_calculator.DUTIES} - {"EU", "EEA", "US"})
RESIDENCES = [*STATES, "CA-ON", "CA-BC", "DE", "FR", "AT"]
COUNTRIES = ["DE", "FR", "AT", "IE", "US", "GB", "IN", "AE-DIFC", "AE-ADGM"]
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
COUNTS = (0, 1, 49, 50, 249, 250, 251, 499, 500, 501, 999, 1000, 1001, 5000, 5001, 10_000, 10_001, 1_000_000)
INSTANTS = sorted(second_calculator.INSTANTS)
KEYABLE = (
    "initial_submitted_at",
    "intermediate_submitted_at",
    "notification_submitted_at",
    "individual_notices_sent_at",
)
OFFSETS = (-600, -480, -300, 0, 60, 120, 330, 540)


def _written(at: datetime, offset: int) -> str:
    return at.astimezone(timezone(timedelta(minutes=offset))).isoformat()


_DAYS = st.one_of(
    st.integers(0, 364).map(lambda days: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=days)),
    st.integers(0, 3650).map(lambda days: datetime(2018, 5, 1, tzinfo=UTC) + timedelta(days=days)),
)


def _some(values: list[str], at_most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), max_size=at_most, unique=True)


_SCOPE: dict[str, st.SearchStrategy[Any]] = {
    "role": st.sampled_from(("controller", "controller", "controller", "processor", "provider", "deployer")),
    "entity": _some(ENTITIES, 4),
    "licensee": st.sampled_from(("none", "nydfs_covered_entity")),
    "targets": _some(COUNTRIES, 4),
    "residents": st.dictionaries(st.sampled_from(RESIDENCES), st.sampled_from(COUNTS), max_size=20),
    "ai_system": st.sampled_from(
        ("none", "not_high_risk", "high_risk_annex_iii", "high_risk_annex_i", "gpai_systemic_risk")
    ),
}
_WHAT_HAPPENED: dict[str, st.SearchStrategy[Any]] = {
    "data_elements": st.tuples(
        st.sampled_from(([], ["full_name"], ["first_initial_last_name"], ["email"])), _some(ELEMENTS, 10)
    ).map(lambda both: list(dict.fromkeys(both[0] + both[1]))),
    "sensitivity": st.sampled_from(("real", "real", "real", "derived_or_memorised", "synthetic_only")),
    "encrypted": st.booleans(),
    "key_compromised": st.booleans(),
    "gdpr_risk": st.sampled_from(("unlikely", "risk", "high", "high")),
    "serious_incident": st.sampled_from(("none", "general", "death", "widespread")),
    **dict.fromkeys(
        (
            "harm_likely",
            "significant_harm",
            "relevant_risk",
            "external_attack",
            "significant",
            "small_agent",
            "glba_exempt",
        ),
        st.booleans(),
    ),
}
PLAIN = {**_SCOPE, **_WHAT_HAPPENED}


@st.composite
def instants_around(draw: st.DrawFn, first: datetime) -> str:
    minutes = draw(st.integers(0, 60 * 24 * 20))
    return _written(first + timedelta(minutes=minutes), draw(st.sampled_from(OFFSETS)))


@st.composite
def incidents(draw: st.DrawFn, *, gaps: bool = True, keyed: bool = False) -> Facts:
    """Facts of one incident; with `gaps` some are left out, with `keyed` some are objects by jurisdiction or regime."""
    first = draw(_DAYS)
    leave_out = (
        set(draw(st.lists(st.sampled_from([*PLAIN, *INSTANTS, "establishments"]), max_size=8))) if gaps else set()
    )
    facts = {name: draw(values) for name, values in PLAIN.items() if name not in leave_out}
    facts |= {name: draw(instants_around(first)) for name in INSTANTS if name not in leave_out}
    if "establishments" not in leave_out:
        facts["establishments"] = draw(_some(COUNTRIES, 3))
    if not {"DE", "FR", "AT", "IE"} & {*facts.get("establishments", ()), *facts.get("targets", ())}:
        facts["establishments"] = [*facts.get("establishments", ()), draw(st.sampled_from(("DE", "FR", "AT")))]
    if keyed:
        keys = st.sampled_from([*STATES, *REGIMES, "DE", "FR", "eu-dora-19-initial"])
        facts |= {name: draw(st.dictionaries(keys, instants_around(first), max_size=12)) for name in KEYABLE}
        answers = st.dictionaries(st.sampled_from(REGIMES), st.booleans(), max_size=20)
        facts |= {name: draw(answers) for name in ("harm_likely", "significant_harm", "significant", "statutory_pi")}
        facts |= draw(holds(first, st.sampled_from([*STATES, *REGIMES])))
    elif draw(st.booleans()):
        facts |= draw(holds(first))
    return facts


@st.composite
def holds(draw: st.DrawFn, first: datetime, keys: st.SearchStrategy[str] | None = None) -> Facts:
    """A hold by law enforcement from `first` on, for all or for some `keys`; released or not."""
    begin, days = _written(first, 0), st.integers(1, 60 * 24 * 90)
    if keys is None:
        released = draw(st.none() | days)
        end = {} if released is None else {"le_hold_released_at": _written(first + timedelta(minutes=released), -300)}
        return {"le_hold_from": begin, **end}
    named = draw(st.lists(keys, max_size=30, unique=True))
    ended = {key: _written(first + timedelta(minutes=draw(days)), -300) for key in named if draw(st.booleans())}
    return {"le_hold_from": dict.fromkeys(named, begin), **({"le_hold_released_at": ended} if ended else {})}
