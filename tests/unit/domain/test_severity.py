"""ENISA's method: the proposal from what leaked, its arithmetic at the borders, and what a person may change."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput
from consumers.domain.severity import ALLOWED, RISK_OF_LEVEL, Factor, Severity, changed, propose, show
from tests.unit.shipped_law import shipped_law

VOCABULARY = shipped_law().rules.elements


def proposed(elements: tuple[str, ...], kinds: tuple[str, ...] = (), **facts: Any) -> Severity:
    known: dict[str, Any] = {
        "external_attack": None, "data_recoverable": None, "encrypted": None, "key_compromised": None, **facts,
    }  # fmt: skip
    return propose(elements, VOCABULARY, kinds, 50, **known)


@pytest.mark.parametrize(
    ("elements", "kinds", "dpc", "ei"),
    [
        (("email",), (), 100, 75),  # simple: an address
        (("full_name", "email"), (), 100, 100),  # name and address find the person
        (("full_name",), (), 100, 50),  # a name that others may share
        (("customer_number",), (), 100, 25),  # a number of the shop's own
        (("order_contents", "email"), (), 200, 75),  # behavioural
        (("card_number", "full_name"), (), 300, 100),  # financial
        (("medical_information", "full_name", "date_of_birth"), (), 400, 100),  # sensitive
        (("email",), ("derived",), 300, 75),  # a score about somebody: judged as financial
        (("ssn", "passport"), (), None, 100),  # two numbers of one person
        ((), (), 100, 25),
        (("no_such_element",), (), 100, 25),  # the store's spelling does not stop the proposal
    ],
)
def test_the_proposal_follows_what_leaked(
    elements: tuple[str, ...], kinds: tuple[str, ...], dpc: int | None, ei: int
) -> None:
    severity = proposed(elements, kinds)
    assert dpc is None or severity.dpc == dpc
    assert severity.value_of("ei") == ei
    assert all(factor.why for factor in severity.factors)


def test_what_facts_say_of_the_breach_counts() -> None:
    severity = proposed(("email",), external_attack=True, data_recoverable=False)
    assert (severity.value_of("cb_malicious"), severity.value_of("cb_availability")) == (50, 50)
    # DPC 1 x EI 0.75 + 0.5 (recipients not known) + 0.5 (lost) + 0.5 (malice) = 2.25
    assert (severity.hundredths, severity.level, severity.risk) == (225, "medium", "risk")
    quiet = proposed(("email",), external_attack=False, data_recoverable=True, encrypted=True, key_compromised=False)
    assert (quiet.hundredths, quiet.level, quiet.risk) == (125, "low", "unlikely")
    assert quiet.flags == ("unintelligible: encrypted and the key is safe; the score may be lowered",)


@pytest.mark.parametrize(
    ("hundredths", "level"),
    [(199, "low"), (200, "medium"), (299, "medium"), (300, "high"), (399, "high"), (400, "very_high")],
)
def test_levels_begin_where_the_method_says(hundredths: int, level: str) -> None:
    factors = (
        Factor("dpc_base", 100, 100, ""), Factor("dpc_adjustment", 0, 0, ""), Factor("ei", 0, 0, ""),
        Factor("cb_confidentiality", hundredths, 0, ""),
    )  # fmt: skip
    assert Severity(factors, ()).level == level


def test_a_hundred_people_are_not_many_and_a_hundred_and_one_are() -> None:
    facts: dict[str, Any] = dict.fromkeys(("external_attack", "data_recoverable", "encrypted", "key_compromised"))
    assert propose((), VOCABULARY, (), 100, **facts).flags == ()
    assert propose((), VOCABULARY, (), 101, **facts).flags == ("more than 100 people (101)",)
    assert propose((), VOCABULARY, (), None, **facts).flags == ("how many people are concerned is not known yet",)


def test_a_person_changes_factors_within_the_method() -> None:
    severity = changed(proposed(("full_name", "email")), {"ei": "0.25", "dpc_adjustment": "2"})
    # (1 + 2) x 0.25 + 0.5
    assert (severity.hundredths, severity.changed_count) == (125, 2)
    assert changed(severity, {"dpc_adjustment": "3"}).dpc == 400
    assert changed(severity, {"dpc_adjustment": "-3"}).dpc == 100
    for name, text, says in (
        ("eii", "1", "did you mean 'ei'"),
        ("ei", "0.3", "the method knows 0.25, 0.5, 0.75, 1 there"),
        ("ei", "much", "the method knows"),
        ("ei", "NaN", "the method knows"),
    ):
        with pytest.raises(BadInput, match=says):
            changed(severity, {name: text})


@given(
    st.sets(st.sampled_from(sorted(VOCABULARY))), st.sets(st.sampled_from(["synthetic", "derived", "inferred", "real"])),
    st.sampled_from([None, True, False]), st.sampled_from([None, True, False]),
)  # fmt: skip
def test_more_leaked_never_means_less_severe(
    elements: set[str], kinds: set[str], attack: bool | None, recoverable: bool | None
) -> None:
    facts = {"external_attack": attack, "data_recoverable": recoverable}
    whole = proposed(tuple(elements), tuple(kinds), **facts)
    for element in elements:
        assert proposed(tuple(elements - {element}), tuple(kinds), **facts).hundredths <= whole.hundredths
    assert whole.level in RISK_OF_LEVEL
    assert all(factor.value in ALLOWED[factor.name] for factor in whole.factors)


@pytest.mark.parametrize(
    ("hundredths", "text"), [(75, "0.75"), (300, "3"), (50, "0.5"), (0, "0"), (-100, "-1"), (1000, "10")]
)
def test_numbers_read_as_the_method_prints_them(hundredths: int, text: str) -> None:
    assert show(hundredths) == text
