"""Bodies are what was declared and nothing else; what is declared cannot hold free text."""

import pytest

from consumers.case.events import CASE_EVENT_KINDS, UndeclaredEvent, case_event, check_body
from consumers.evidence.leaves import discover
from tests.unit.case.cases import NOW


def test_every_kind_is_a_leaf_type_of_the_log() -> None:
    types = discover()
    for kind in CASE_EVENT_KINDS:
        assert types.of_kind(kind) is not None, kind


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("incident.ackowledged", {"state": "verifying"}),
        ("incident.acknowledged", {"state": "verifying", "note": "a" * 64}),
        ("incident.acknowledged", {"state": "Erika Beispiel"}),
        ("incident.acknowledged", {}),
        ("people.added", {"person": "ana", "roles": ["dpo"]}),
        ("people.added", {"person": "0" * 64, "roles": ["Erika Beispiel"]}),
        ("incident.scope_proposed", {"proposal_id": "x", "alert_sha256": "0" * 64}),
        ("incident.closed", {"from": "confirmed", "reason_sha256": "0" * 64, "contacts_removed": -1, "without_end": 0}),
        (
            "incident.closed",
            {"from": "confirmed", "reason_sha256": "0" * 64, "contacts_removed": True, "without_end": 0},
        ),
    ],
)
def test_what_is_not_declared_is_not_written(kind: str, body: dict[str, object]) -> None:
    with pytest.raises(UndeclaredEvent) as refused:
        check_body(kind, body)
    assert "Erika" not in str(refused.value)


def test_an_event_has_an_id_of_its_own() -> None:
    made = {
        case_event("incident.acknowledged", incident_id=None, actor=None, role=None, at=NOW,
                   body={"state": "verifying"}).case_event_id
        for _ in range(2)
    }  # fmt: skip
    assert len(made) == 2
