"""OpenLineage events: whatever arrives is read or refused by name, and nothing else happens."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput
from consumers.domain.openlineage import DatasetFact, Role, RunFact, read_event

RUN = "01941f29-7c00-7000-8000-000000000001"
EVENT: dict[str, Any] = {
    "eventTime": "2026-03-01T12:00:00.123Z",
    "eventType": "COMPLETE",
    "producer": "https://shop.example/",
    "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
    "run": {"runId": RUN},
    "job": {"namespace": "n", "name": "j"},
    "inputs": [{"namespace": "w", "name": "d", "facets": {"version": {"datasetVersion": "v1"}}}],
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_what_is_no_event_is_refused_and_raises_nothing_else(payload: Any) -> None:
    with pytest.raises(BadInput):
        read_event(payload)


@given(st.sampled_from(sorted(EVENT)), json_values)
def test_one_field_of_any_form_makes_it_an_event_or_refused(name: str, value: Any) -> None:
    try:
        fact = read_event({**EVENT, name: value})
    except BadInput:
        return
    assert fact is None or fact.run_id == RUN


@given(st.dictionaries(st.sampled_from(["version", "parent", "other"]), json_values))
def test_facets_of_any_form_make_no_event_unreadable(facets: dict[str, Any]) -> None:
    event = {
        **EVENT,
        "run": {"runId": RUN, "facets": facets},
        "inputs": [{"namespace": "w", "name": "d", "facets": facets}],
    }
    fact = read_event(event)
    assert isinstance(fact, RunFact)
    assert fact.datasets[0].name == "d"


def test_names_are_said_in_full_and_in_short() -> None:
    fact = read_event(EVENT)
    assert fact is not None
    assert fact.datasets == (DatasetFact(Role.INPUT, "w", "d", "v1"),)
    assert (fact.datasets[0].full, fact.datasets[0].short) == ("w/d@v1", "d@v1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"eventTime": "2026-03-01T12:00:00"}, "RunEvent: eventTime: timezone_aware"),
        ({"run": {"runId": "jo@mail.example"}}, "RunEvent: run.runId: value_error"),
        ({"job": {"name": "j"}}, "RunEvent: job.namespace: missing"),
        ({"inputs": [{}] * 10_001}, "RunEvent: inputs"),
    ],
)
def test_what_is_wrong_is_named_and_no_value_is_shown(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        read_event({**EVENT, **change})
    assert "mail.example" not in str(caught.value)
