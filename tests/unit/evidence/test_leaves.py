"""Leaves: one spelling, allow-listed sorts of fields only, and rooms' declarations turned into types."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, create_model

from consumers.evidence.faults import Malformed
from consumers.evidence.leaf_types import NoticeReadLeaf
from consumers.evidence.leaves import (
    MAX_LEAF_BYTES,
    CaseLeaf,
    Count,
    Digest,
    Leaf,
    LeafTypes,
    NotAsDeclared,
    Opaque,
    PartitionPosition,
    Positions,
    Slug,
    Source,
    Word,
    canonical,
    canonical_content,
    case_leaf,
    declared_fields,
    discover,
    refuse_free_text,
)

SOURCE = Source(cluster="c1", topic="tocsin.case-events", partition=0, offset=7)
AT = datetime(2026, 11, 23, 21, 30, tzinfo=UTC)
TYPES = discover()


def test_a_leaf_is_canonical_json_with_type_and_version() -> None:
    assert NoticeReadLeaf(source=SOURCE, read_at=AT).encode() == (
        b'{"read_at":"2026-11-23T21:30:00.000000Z",'
        b'"source":{"cluster":"c1","offset":7,"partition":0,"topic":"tocsin.case-events"},'
        b'"type":"tocsin.notice-read","version":1}'
    )


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


@given(st.dictionaries(st.text(max_size=4), _JSON, max_size=4))
def test_canonical_is_what_rfc8785_writes_or_refuses(content: dict[str, Any]) -> None:
    try:
        expected = rfc8785.dumps(content)
    except rfc8785.CanonicalizationError as error:
        with pytest.raises(type(error)):
            canonical(content)
    else:
        assert canonical(content) == expected


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1)), st.integers(0, 2**53 - 1))  # noqa: DTZ001
def test_leaves_round_trip(at: datetime, offset: int) -> None:
    leaf = NoticeReadLeaf(source=SOURCE.model_copy(update={"offset": offset}), read_at=at)
    assert TYPES.parse(leaf.encode()) == leaf


@pytest.mark.parametrize(
    "entry",
    [
        b"", b"{}", b"[]", b"1", b'{"type":"a"}', b'{"type":1,"version":1}', b'{"type":"a","version":true}',
        b'{"type":"a","version":1.0}', b'{"type": "a","version":1}', b'{"version":1,"type":"a"}', b"\xff",
        b'{"type":"a","type":"a","version":1}', b"[" * 9000, b"1" * 17_000, b'{"a":NaN,"type":"a","version":1}',
    ],
)  # fmt: skip
def test_what_is_no_canonical_leaf_is_malformed(entry: bytes) -> None:
    with pytest.raises(Malformed):
        canonical_content(entry)


def test_a_leaf_of_an_unknown_type_is_nobodys_business_and_one_unlike_its_type_is_named() -> None:
    assert TYPES.parse(b'{"type":"tocsin.later","version":1}') is None
    with pytest.raises(NotAsDeclared, match="source") as refused:
        TYPES.parse(b'{"read_at":"Anna","type":"tocsin.notice-read","version":1}')
    assert "Anna" not in str(refused.value)
    with pytest.raises(NotAsDeclared, match="spelling"):
        TYPES.parse(NoticeReadLeaf(source=SOURCE, read_at=AT).encode().replace(b".000000Z", b"Z"))


def test_a_leaf_over_16_kib_is_refused() -> None:
    position = PartitionPosition(cluster="c" * 64, topic="tocsin.t", topic_id="t" * 64, partition=0, next_offset=0)
    with pytest.raises(Malformed, match=str(MAX_LEAF_BYTES)):
        Positions(part=0, positions=(position,) * 100).encode()


@pytest.mark.parametrize(
    "sort",
    [
        str, str | None, Annotated[str, Field(max_length=20)], Annotated[str, Field(pattern=r"^.{1,40}$")],
        Annotated[str, Field(pattern=r"^[a-z@.]+$")], Annotated[str, Field(pattern=r"[0-9a-f]{2}")], float, int, dict, bytes, Any,
        Annotated[str, Field(pattern=r"^\+[0-9]+$")], tuple[str, ...], list[str],
    ],
)  # fmt: skip
def test_a_type_that_could_hold_personal_data_is_refused(sort: Any) -> None:
    with pytest.raises(Malformed):
        refuse_free_text(create_model("Trial", value=(sort, ...)))


@pytest.mark.parametrize("sort", [Digest, Count, Word, Slug, Opaque, bool, Digest | None, tuple[Slug, ...], datetime])
def test_sorts_that_are_allow_listed_pass(sort: Any) -> None:
    refuse_free_text(create_model("Trial", value=(sort, ...)))


def test_every_rooms_leaf_types_pass_the_lint() -> None:
    """`discover` registers nothing that could hold free text; this is the list as it stands."""
    types = {leaf.TYPE for leaf in TYPES}
    assert {"tocsin.unlisted", "tocsin.positions", "tocsin.delivery-outcome", "tocsin.partition-resolved"} <= types
    assert {"tocsin.case.release.approved", "tocsin.case.person.finished"} <= types
    for leaf in TYPES:
        refuse_free_text(leaf)


def test_every_kind_that_a_room_declares_is_allow_listed() -> None:
    from consumers.case.events import CASE_EVENT_KINDS

    for kind, fields in CASE_EVENT_KINDS.items():
        leaf = TYPES.of_kind(kind)
        assert leaf is not None
        assert set(leaf.model_fields["body"].annotation.model_fields) == set(fields)  # type: ignore[union-attr]


def test_two_rooms_cannot_claim_one_type() -> None:
    with pytest.raises(Malformed, match="two rooms"):
        LeafTypes([case_leaf("a.b", {}), case_leaf("a.b", {})])


def test_the_newest_version_of_a_kind_is_written_and_older_ones_are_still_read() -> None:
    old, new = case_leaf("a.b", {"n": Count}), case_leaf("a.b", {"n": Count, "m": Count}, version=2)
    types = LeafTypes([new, old])
    assert types.of_kind("a.b") is new
    leaf = old.model_validate({"source": SOURCE, "occurred_at": AT, "body": {"n": 1}})
    assert types.parse(leaf.encode()) == leaf


@dataclass(frozen=True)
class _Field:
    shape: str
    words: tuple[str, ...] = ()


def test_declared_shapes_become_types() -> None:
    fields = {"state": _Field("word", ("open", "closed")), "at": _Field("instant"), "codes": _Field("codes")}
    leaf: type[CaseLeaf] = case_leaf("a.b", declared_fields("a.b", fields))
    LeafTypes([leaf])
    body = {"state": "open", "at": "2026-11-23T21:30:00Z", "codes": ["US-CA", "*"]}
    made: Leaf = leaf.model_validate({"source": SOURCE, "occurred_at": AT, "body": body})
    assert b'"at":"2026-11-23T21:30:00.000000Z"' in made.encode()
    with pytest.raises(Malformed, match="not allow-listed"):
        declared_fields("a.b", {"reason": _Field("text")})
    with pytest.raises(Malformed):
        declared_fields("a.b", {"state": _Field("word")})
