"""Leaves of outcomes made without a model are those that the model makes, to the byte, or none."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bridge.contracts.events import AttemptState, Channel, DeliveryOutcome
from consumers.evidence.leaf_types import DeliveryOutcomeLeaf
from consumers.evidence.leaves import Source
from consumers.evidence.outcome_leaves import encode
from consumers.stages.evidence import _delivery_outcome

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
words = st.sampled_from(["General", "OnAccountSuppressionList", "x" * 41, "two words", "ends\n", "1st", "", "ß", 'q"'])
slugs = st.sampled_from(["ses", "sms_gateway", "a.b-c", "UPPER", "a" * 65, "two words", "ses\n", "-x"])
instants = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.sampled_from([UTC]))  # noqa: DTZ001


@given(
    st.fixed_dictionaries(
        {
            "outcome_id": st.just("o"), "incident_id": st.just("INC-2026-0001"), "recipient_id": st.just("r"),
            "subject_commitment": digests, "attempt_id": st.just("a"), "attempt_number": st.integers(-1, 2**53),
            "channel": st.sampled_from(Channel), "provider": slugs, "state": st.sampled_from(AttemptState),
            "previous_state": st.sampled_from(AttemptState), "occurred_at": instants, "recorded_at": instants,
            "exercise": st.booleans(),
        },
        optional={
            "sub_type": words, "body_commitment": digests, "bundle_sha256": digests,
            "provider_message_sha256": digests, "receipt_kind": words, "round": st.integers(-1, 3),
        },
    ),
    st.sampled_from([None, "id_-1"]),
    st.integers(0, 2**40),
)  # fmt: skip
def test_they_are_the_models_own_bytes_or_none(fields: dict[str, Any], topic_id: str | None, offset: int) -> None:
    event = DeliveryOutcome(**fields)
    source = Source(cluster="c", topic="tocsin.delivery-outcomes", topic_id=topic_id, partition=3, offset=offset)
    try:
        expected = DeliveryOutcomeLeaf(**_delivery_outcome(event, source)).encode()
    except ValidationError:
        expected = None
    assert encode(event, "c", "tocsin.delivery-outcomes", topic_id, 3, offset) == expected
