"""The compiled check of leaves: it takes what the long way takes, for every type, and nothing else."""

import functools
import re
from datetime import UTC, datetime
from enum import Enum
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, create_model, field_validator

from consumers.evidence import leaves
from consumers.evidence.faults import Malformed
from consumers.evidence.leaf_patterns import leaf_pattern
from consumers.evidence.leaves import At, Count, Digest, EventLeaf, Fields, Leaf, LeafTypes, Look, Slug, discover

TYPES = discover()


def the_long_way(entry: bytes) -> Look | type[Malformed] | None:
    try:
        leaf = TYPES.parse(entry)
    except Malformed as fault:
        return type(fault)
    if not isinstance(leaf, EventLeaf):
        return None if leaf is None else Look(leaf.TYPE, None, 0)
    source = leaf.source
    topic_id = None if source.topic_id is None else source.topic_id.encode()
    return Look(
        leaf.TYPE, (source.cluster.encode(), source.topic.encode(), topic_id, b"%d" % source.partition), source.offset
    )


def looked(entry: bytes) -> Look | type[Malformed] | None:
    try:
        return TYPES.look(entry)
    except Malformed as fault:
        return type(fault)


TEXTS = (
    "a", "Z", "0", "*", "_", "-", ".", "DE", "US-CA", "a1.b-c_d", "Word_9", "two-three", "1.2.0+b-3", "tocsin.case-events",
    "INC-2026-0001", "INC-2026-123456", *(digit * length for digit in "a0Z" for length in (16, 32, 40, 64, 128)),
)  # fmt: skip
"""Texts at the edges of what the fields' patterns take."""


def values(sort: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:
    """Return values of a field's sort, as they are given to the model."""
    constraints = list(metadata)
    while get_origin(sort) is Annotated:
        sort, *more = get_args(sort)
        constraints.extend(each for item in more for each in getattr(item, "metadata", None) or [item])
    origin = get_origin(sort)
    if origin is tuple:
        return st.lists(values(get_args(sort)[0], []), max_size=2)
    if NoneType in get_args(sort):
        (option,) = [each for each in get_args(sort) if each is not NoneType]
        return st.none() | values(option, constraints)
    if origin is Literal:
        return st.sampled_from(get_args(sort))
    if sort is bool:
        return st.booleans()
    if sort is int:
        least = max((each.ge for each in constraints if hasattr(each, "ge")), default=0)
        return st.integers(least, min(each.le for each in constraints if hasattr(each, "le")))
    if sort is str:
        pattern = next(each.pattern for each in constraints if getattr(each, "pattern", None))
        longest = min((each.max_length for each in constraints if hasattr(each, "max_length")), default=9999)
        return st.sampled_from([text for text in TEXTS if re.search(pattern, text) and len(text) <= longest])
    if sort in (datetime, AwareDatetime):
        return st.datetimes(datetime(1900, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
    if isinstance(sort, type) and issubclass(sort, Enum):
        return st.sampled_from(sort)
    assert issubclass(sort, BaseModel), sort
    return st.fixed_dictionaries({name: values(of.annotation, of.metadata) for name, of in sort.model_fields.items()})


@functools.cache
def leaves_of(kind: type[Leaf]) -> st.SearchStrategy[Leaf]:
    fields = {name: values(of.annotation, of.metadata) for name, of in kind.model_fields.items()}
    return st.fixed_dictionaries(fields).map(kind.model_validate)


A_LEAF = st.sampled_from(sorted(TYPES, key=lambda each: each.TYPE)).flatmap(leaves_of)


WRONG = (
    b" ", b"\n", b"\\u0041", b'"', b"\\", b"\x00", b"\x7f", b"\xc3\xa9", b"\xff", b"0", b"9" * 16, b"-", b".0", b"e1", b"null",
    b",", b"{", b"}", b"[]", b"1", b"Z", b"T24", b"-02-29", b"-02-30", b"a", b"A", b"true", b'"x":1,', b"0000",
)  # fmt: skip


@st.composite
def an_altered_leaf(draw: st.DrawFn) -> bytes:
    entry = draw(A_LEAF).encode()
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(entry)))
        end = min(len(entry), start + draw(st.integers(0, 6)))
        entry = (
            entry[:start] + draw(st.sampled_from(WRONG) | st.just(b"") | st.just(entry[end : end + 1])) + entry[end:]
        )
    return entry


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(A_LEAF)
def test_every_right_leaf_is_seen_as_the_long_way_sees_it(leaf: Leaf) -> None:
    assert TYPES.look(leaf.encode()) == the_long_way(leaf.encode())


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(an_altered_leaf())
def test_what_the_long_way_refuses_is_refused_in_the_same_words(entry: bytes) -> None:
    assert looked(entry) == the_long_way(entry)


def test_every_type_in_force_is_compiled() -> None:
    """Otherwise a log full of it is verified twenty times slower; a type that cannot be is worth a second look."""
    assert [leaf.TYPE for leaf in TYPES if leaves._pattern_of(leaf) is None] == []


READ = (
    '{{"read_at":"{at}","source":{{"cluster":"{cluster}","offset":{offset},"partition":0,"topic":"tocsin.notices"}},'
    '"type":"tocsin.notice-read","version":1}}'
)
RIGHT = {"at": "2026-11-26T12:00:00.000000Z", "cluster": "c1", "offset": "7"}


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, True),
        *(({"at": f"{day}T23:59:59.999999Z"}, True) for day in ("2024-02-29", "2000-02-29", "2026-01-31", "2026-04-30")),
        *(({"at": f"{day}T00:00:00.000000Z"}, False) for day in ("2026-02-29", "1900-02-29", "2026-04-31", "2026-00-10")),
        *(({"at": f"2026-11-26T{time}Z"}, False) for time in ("24:00:00.000000", "12:00:60.000000", "12:00:00.00000")),
        ({"at": "2026-11-26T12:00:00.000000+00:00"}, False),
        ({"at": "2026-11-26T12:00:00.000000Z\\n"}, False),
        *(({"offset": str(number)}, True) for number in (0, 10**15 - 1, 10**15, 2**53 - 1)),
        *(({"offset": number}, False) for number in ("-1", "-0", "07", str(2**53), "1.0", "1e3", "true", '"7"')),
        *(({"cluster": text}, False) for text in ("", "c" * 65, "c\n", "c\\n", "c\\u0031", "ç", 'c","x":"')),
    ],
)  # fmt: skip
def test_at_the_edges_both_ways_agree(change: dict[str, str], right: bool) -> None:
    entry = READ.format(**{**RIGHT, **change}).encode()
    assert looked(entry) == the_long_way(entry)
    assert isinstance(looked(entry), Look) is right


def _shouted(text: str) -> str:
    return text.upper()


class _Checked(Fields):
    word: Slug

    @field_validator("word")
    @classmethod
    def _never(cls, word: str) -> str:
        raise ValueError(word)


@pytest.mark.parametrize(
    "sort",
    [
        Annotated[Digest, AfterValidator(_shouted)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=5, le=90)],
        Annotated[int, Field(le=90, multiple_of=2)], float, str, Annotated[str, Field(pattern="^[^a]$")], _Checked,
        Annotated[str, Field(pattern=r"^\w$")], Annotated[str, Field(pattern="^.$")], Annotated[str, Field(pattern="^[ -~]$")],
        Annotated[str, Field(pattern="^a")], Annotated[str, Field(pattern='^"$')], Count | Digest, tuple[Count, Count], datetime,
        Literal[1], Literal['a"'], Annotated[Count, Field(alias="other")], tuple[Count | None, ...], At | Digest,
        Annotated[At, AfterValidator(_shouted)], dict[str, int], bytes,
    ],
)  # fmt: skip
def test_what_is_not_understood_whole_has_no_pattern(sort: Any) -> None:
    model = create_model("Trial", __base__=Leaf, value=(sort, ...))
    assert leaf_pattern(model, {"type": "a", "version": 1}, plain=leaves._PLAIN) is None


def test_versions_of_one_type_are_told_apart() -> None:
    old, new = (leaves.case_leaf("a.b", {"n": Count, **more}, version=v) for v, more in ((1, {}), (2, {"m": Count})))
    types = LeafTypes([old, new])
    source = {"cluster": "c", "topic": "tocsin.case-events", "partition": 3, "offset": 4}
    for kind, body in ((old, {"n": 1}), (new, {"m": 2}), (new, {})):
        entry = kind.model_validate({"source": source, "occurred_at": datetime.now(UTC), "body": body}).encode()
        assert types.look(entry) == Look("tocsin.case.a.b", (b"c", b"tocsin.case-events", None, b"3"), 4)
    assert types.look(b'{"type":"tocsin.case.a.b","version":3}') is None
