"""The published language: every kept sample of every version parses and says the same again; malformed input is named."""

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.envelope import event_id_of, open_envelope, seal_envelope, tombstone
from bridge.contracts.errors import BadInput
from bridge.contracts.events import EVENTS, AlertReceived, EntityRemoved, NoticeRead
from bridge.contracts.scope import Scope
from bridge.contracts.topics import TOPICS

SAMPLES = Path(__file__).parent / "samples"


def samples() -> list[Path]:
    return sorted(SAMPLES.glob("*.json"))


@pytest.mark.parametrize("path", samples(), ids=lambda path: path.stem)
def test_a_kept_sample_still_parses(path: Path) -> None:
    sample = json.loads(path.read_text(encoding="utf-8"))
    ce_type = path.stem.partition("@")[0]
    event = EVENTS[ce_type].model_validate_json(json.dumps(sample))
    kept = json.loads(event.model_dump_json(exclude_unset=True))
    assert kept == sample


def test_every_event_has_a_sample() -> None:
    assert {path.stem.partition("@")[0] for path in samples()} == set(EVENTS)


def test_every_event_travels_on_a_topic() -> None:
    assert {event.ce_type for topic in TOPICS for event in topic.events} == set(EVENTS)


def test_topic_names_are_unique_and_compacted_ones_have_no_retention() -> None:
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)
    assert all((topic.retention_ms is None) == (topic.cleanup == "compact") for topic in TOPICS)


def test_an_envelope_goes_there_and_back() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    event = NoticeRead(notice_id="n", customer_id=4, read_at=at)
    message = seal_envelope(event, key="notice/n", root="customer/4", source="/relay", at=at)
    assert open_envelope(message.key.encode(), message.value, dict(message.headers)) == event
    gone = tombstone(key="customer/4", root="customer/4", source="/relay", at=at)
    assert open_envelope(gone.key.encode(), gone.value, dict(gone.headers)) == EntityRemoved(
        root="customer/4", key="customer/4"
    )


@given(st.dictionaries(st.sampled_from(["ce_type", "ce_root", "x"]), st.binary(max_size=40)), st.none() | st.binary())
def test_malformed_messages_raise_our_error_and_nothing_else(headers: dict[str, bytes], value: bytes | None) -> None:
    with pytest.raises(BadInput):
        open_envelope(b"\xff", value, headers)


@given(st.sampled_from(sorted(EVENTS)), st.binary(max_size=200))
def test_a_garbled_value_is_refused_without_showing_it(ce_type: str, value: bytes) -> None:
    if ce_type == EntityRemoved.ce_type:
        return
    with pytest.raises(BadInput) as refused:
        open_envelope(b"k", value, {"ce_type": ce_type.encode()})
    if len(value) > 8:
        assert repr(value)[2:-1] not in str(refused.value)


def test_the_error_names_the_field_and_never_the_value() -> None:
    value = json.dumps({"source": "m", "fingerprint": "f", "detected_at": "jane@shop.example.com"}).encode()
    with pytest.raises(BadInput, match="detected_at") as refused:
        open_envelope(b"k", value, {"ce_type": AlertReceived.ce_type.encode()})
    assert "jane" not in str(refused.value)


@given(st.uuids(), st.text())
def test_the_id_of_an_event_that_repeats_is_the_uuid_of_its_name(namespace: uuid.UUID, name: str) -> None:
    assert event_id_of(namespace.bytes, name) == str(uuid.uuid5(namespace, name)).encode()


def test_a_scope_has_one_canonical_form() -> None:
    one = Scope(model_ids=("b", "a", "a"), model_versions=("7",))
    two = Scope(model_versions=("7",), model_ids=("a", "b"))
    assert one.sha256() == two.sha256()
    assert Scope(any_of=(one, Scope(kinds=("real",)))).sha256() == Scope(any_of=(Scope(kinds=("real",)), two)).sha256()
