"""Packs: everybody's events in their order whichever way they travel, each record on its partition, bounded, recognisable."""

import json
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts import packs
from bridge.contracts.envelope import open_envelope, open_in_parts
from bridge.contracts.errors import BadInput
from bridge.contracts.events import (
    EVENTS,
    PACKS,
    Channel,
    DeliverNotice,
    DeliverNotices,
    DeliveryOutcomes,
    Pack,
    each_of,
)
from bridge.contracts.packs import Single, by_partition, packed, regrouped
from bridge.contracts.partitioner import partition_of

people = st.integers(1, 30).map(lambda number: f"INC-2026-0001:customer/{number}")
HEADERS = {"ce_type": DeliverNotices.ce_type.encode()}


def command(recipient: str, attempt: str, lane: str = "ä € \U0001f600") -> DeliverNotice:
    return DeliverNotice(
        incident_id="INC-2026-0001", release_id="r", epoch=1, recipient_id=recipient, attempt_id=attempt,
        channel=Channel.EMAIL, lane=lane,
    )  # fmt: skip


def single(recipient: str, attempt: str) -> Single:
    return Single(recipient, recipient, f"{attempt}-1-1", command(recipient, attempt).model_dump_json())


@given(st.lists(people, max_size=60), st.integers(1, 12), st.integers(1, 12), st.integers(1, 7))
def test_each_persons_events_stay_in_order_on_their_partition(
    who: list[str], declared: int, actual: int, most: int
) -> None:
    events = [single(recipient, f"a{number}") for number, recipient in enumerate(who)]
    found: dict[str, list[str]] = defaultdict(list)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "MAX_EVENTS", most)
        made = [packed(group) for group in by_partition(events, declared)]
    assert sum(pack.event_count for pack in made) == len(events)
    assert all(pack.event_count <= most for pack in made)
    for pack in made:
        opened = open_envelope(pack.key.encode(), pack.value.encode(), HEADERS)
        assert isinstance(opened, DeliverNotices)
        assert (opened.events[0].recipient_id, len(opened.events)) == (pack.root, pack.event_count)
        assert opened.model_dump_json() == pack.value
        assert {partition_of(each.recipient_id, declared) for each in opened.events} == {
            partition_of(pack.root, declared)
        }
        for part in regrouped(pack, actual):
            again = DeliverNotices.model_validate_json(part.value)
            assert again.model_dump_json() == part.value
            assert len(again.events) == part.event_count
            for each in again.events:
                assert partition_of(each.recipient_id, actual) == partition_of(part.root, actual)
                found[each.recipient_id].append(each.attempt_id)
    assert found == {
        recipient: [f"a{number}" for number, each in enumerate(who) if each == recipient] for recipient in set(who)
    }


def test_a_pack_is_far_smaller_than_a_broker_takes_and_a_repeat_has_its_id_again() -> None:
    events = [single("INC-2026-0001:customer/1", f"a{number}") for number in range(2000)]
    made = [packed(group) for group in by_partition(events, 6)]
    assert max(len(pack.value.encode()) for pack in made) < 200_000
    assert [pack.event_id for pack in made] == [packed(group).event_id for group in by_partition(events, 6)]
    assert len({pack.event_id for pack in made}) == len(made) == 4


def test_every_pack_says_what_it_carries() -> None:
    assert {DeliverNotices, DeliveryOutcomes} == set(PACKS.values())
    for pack in PACKS.values():
        schema = pack.model_json_schema()
        assert schema["properties"]["events"]["items"]["$ref"] == f"#/$defs/{pack.of.__name__}"
        assert EVENTS[pack.of.ce_type] is pack.of
    alone = command("r", "a")
    assert each_of(alone) == (alone,)
    assert each_of(DeliverNotices(events=(alone, alone))) == (alone, alone)


def test_one_spoilt_event_is_named_and_takes_nobody_with_it() -> None:
    good = [json.loads(command(f"p{number}", f"a{number}").model_dump_json()) for number in range(3)]
    value = json.dumps({"events": [good[0], {**good[1], "channel": "jane@shop.example.com"}, 7, good[2]]}).encode()
    with pytest.raises(BadInput) as refused:
        open_envelope(b"p0", value, HEADERS)
    assert "events.1.channel" in str(refused.value)
    parts = open_in_parts(value, HEADERS)
    assert parts is not None
    pack, spoilt = parts
    assert [each.attempt_id for each in pack.events if isinstance(each, DeliverNotice)] == ["a0", "a2"]
    assert [(each.place, each.ce_type) for each in spoilt] == [(1, DeliverNotice.ce_type), (2, DeliverNotice.ce_type)]
    assert spoilt[0].reason == f"{DeliverNotices.ce_type}: event 1 of 4: channel: enum"
    assert json.loads(spoilt[0].value)["channel"] == "jane@shop.example.com"


@pytest.mark.parametrize(
    "value",
    [b"", b"[]", b"{}", b'{"events":[]}', b'{"events":{}}', b'{"events":[1]}', b'{"events":[],"x":1}', b"[" * 10_000, None],
)  # fmt: skip
def test_what_is_no_pack_is_set_aside_whole(value: bytes | None) -> None:
    assert open_in_parts(value, HEADERS) is None
    with pytest.raises(BadInput):
        open_envelope(b"k", value, HEADERS)
    assert open_in_parts(b'{"events":[]}', {"ce_type": DeliverNotice.ce_type.encode()}) is None
    assert open_in_parts(b'{"events":[]}', {"ce_type": b"\xff"}) is None
    assert issubclass(DeliverNotices, Pack)
