"""Gates cover exactly those whom they name."""

from consumers.domain.gates import Gate, gate_for

HOLD = Gate("g1", "law_enforcement_hold", ("US-CA", "FR"))


def test_a_hold_covers_its_jurisdictions_only() -> None:
    assert gate_for(["US-CA"], [HOLD]) is HOLD
    assert gate_for(["US-NY"], [HOLD]) is None


def test_a_country_covers_its_states_but_no_lookalike() -> None:
    assert gate_for(["US-TX"], [Gate("g", "hold", ("US",))]) is not None
    assert gate_for(["USX"], [Gate("g", "hold", ("US",))]) is None


def test_one_of_several_claims_is_enough() -> None:
    assert gate_for(["DE", "FR"], [HOLD]) is HOLD


def test_unknown_residence_is_covered_by_everything_only() -> None:
    assert gate_for([], [HOLD]) is None
    assert gate_for([], [Gate("g", "hold", ("*",))]) is not None
