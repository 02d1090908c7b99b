"""Events written without a model are those that the model writes."""

from datetime import UTC, datetime, timedelta

from bridge.contracts.events import CaseEvent, DeliverNotice, DeliveryOutcome
from consumers.adapters.case_store.claims import Happened, command_of, finished_of, outcome_of
from consumers.evidence.commitment import body_text, commit, incident_key

NOW = datetime(2026, 3, 1, 12, 0, 0, 250, tzinfo=UTC)
ROW = {
    "attempt_id": "a" * 32, "recipient_id": "INC-2026-0001:customer/1#2", "number": 2, "incident_id": "INC-2026-0001",
    "release_id": "r1", "channel": "email", "provider": "ses", "send_count": 1, "message_salt": "s",
    "provider_message_id": "m-1", "body_sha256": "b" * 64, "bundle_sha256": "c" * 64, "subject_commitment": "d" * 64,
    "exercise": 0, "person_key": b"k" * 32, "current_epoch": 3, "round": 2, "lane": 'a "lane"', "deadline_at": NOW,
}  # fmt: skip

KEY = incident_key(b"k" * 32, "INC-2026-0001")


def test_an_outcome_is_written_as_its_model_writes_it() -> None:
    nothing = {"provider_message_id": None, "person_key": None, "bundle_sha256": None, "round": None}
    for known in (ROW, {**ROW, **nothing, "exercise": 1}, {**ROW, "attempt_id": 'ä"\\\n', "provider": "sms_gateway"}):
        happened = Happened("intended", "bounced", "bounced_hard", NOW - timedelta(hours=1), 'Sub"type', "bounced_hard")
        written = outcome_of(known, happened, NOW)
        read = DeliveryOutcome.model_validate_json(written.value)
        assert read.model_dump_json() == written.value
        assert (written.root, written.key, written.event_id) == (
            ROW["recipient_id"],
            ROW["recipient_id"],
            read.outcome_id,
        )
        assert (read.attempt_number, read.state, read.previous_state) == (2, "bounced", "intended")
        assert (read.occurred_at, read.recorded_at) == (NOW - timedelta(hours=1), NOW)
        assert read.exercise == bool(known["exercise"])
        assert read.body_commitment == (commit(KEY, body_text("b" * 64)) if known["person_key"] else None)


def test_a_command_is_written_as_its_model_writes_it() -> None:
    for known in (ROW, {**ROW, "deadline_at": None}, {**ROW, "recipient_id": 'ä"\\\n', "exercise": 1}):
        written = command_of(known)
        read = DeliverNotice.model_validate_json(written.value)
        assert read.model_dump_json() == written.value
        assert (read.epoch, read.lane, read.deadline_at) == (3, 'a "lane"', known["deadline_at"])
        assert written.event_id == f"{'a' * 32}-1-3"


def test_an_end_is_written_as_its_model_writes_it() -> None:
    body = {"subject": "d" * 64, "state": "substituted", "round": 2, "root_count": 1, "publications": ['ä"\\', "p2"]}
    for exercise in (False, True):
        written = finished_of("INC-2026-0001", "INC-2026-0001:customer/1", body, NOW, exercise=exercise)
        read = CaseEvent.model_validate_json(written.value)
        assert read.model_dump_json() == written.value
        assert (read.kind, read.body, read.occurred_at, read.exercise) == ("person.finished", body, NOW, exercise)
        assert (written.root, written.event_id) == ("INC-2026-0001", read.case_event_id)
    again = finished_of("INC-2026-0001", "INC-2026-0001:customer/1", body, NOW + timedelta(hours=1), exercise=False)
    assert again.event_id != written.event_id
