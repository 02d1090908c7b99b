"""What a leaf of the log may be: allow-listed types of enums, numbers, instants, hashes and commitments, nothing else.

A leaf is RFC 8785 canonical JSON with `type` and `version`; fields without a value are left out. Leaves stay for ever:
a type's fields never change, a change is a new version. Ids that can be computed from a customer's id (recipient,
attempt, outcome) are not logged, or erasing the person's key would unlink nobody: an attempt is named by incident,
commitment and number. Two leaves that differ in their source only are one event that was published twice.

A room adds types without knowing this one: its module `events` declares `CASE_EVENT_KINDS` (kind -> field -> shape), or
its module `leaf_types` a list `LEAF_TYPES`; `discover` finds both. A field may be added to a kind, never take another
shape.
"""

import importlib
import importlib.util
import json
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Union, get_args, get_origin

import rfc8785
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    create_model,
)

from bridge.contracts.events import IncidentId
from bridge.contracts.scope import Instant
from consumers.evidence.faults import Malformed
from consumers.evidence.leaf_patterns import leaf_pattern, unwrapped

MAX_LEAF_BYTES = 16 * 1024
MAX_NUMBER = 2**53 - 1
"""The largest integer that JSON readers everywhere hold exactly (RFC 8785, section 3.2.2.3)."""


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


At = Annotated[Instant, PlainSerializer(_instant, return_type=str)]
"""An instant in UTC, always with six decimals, so that it has one spelling."""
_PLAIN = (_instant, *(each.func for each in get_args(Instant) if isinstance(each, AfterValidator)))
"""What is done to an instant as it is read and written, which leaves one that is spelled so as it is."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 or HMAC-SHA256, as 64 lower-case hexadecimal digits; also a commitment."""
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")]
"""A word of a closed vocabulary that another room owns (a state, a mode, a provider's class word)."""
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*([._-][a-z0-9]+){0,12}$", max_length=64)]
"""The name of something in configuration or in the rules: a duty, a source, a channel policy."""
Place = Annotated[str, Field(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")]
"""ISO 3166-1 or 3166-2."""
Opaque = Annotated[str, Field(pattern=r"^[0-9A-Za-z]([0-9A-Za-z_-]{0,62}[0-9A-Za-z])?$")]
"""An id that is made at random or by counting, never computed from a person."""
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""A random id of ours, as 32 hexadecimal digits."""
Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9*_-]{1,16}$")]
"""A short code: a jurisdiction, a role."""
Cluster = Annotated[str, Field(pattern=r"^[0-9A-Za-z._-]{1,64}$")]
"""A Kafka cluster's id."""
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$")]


def canonical(content: Any) -> bytes:
    """Return the RFC 8785 form of `content`. Raises what `rfc8785` raises for what has none.

    What leaves are made of, texts of ASCII and whole numbers, the standard library writes in the very same bytes and in C.
    """
    if _is_of_whole_numbers(content):
        text = _SORTED(content)
        if text.isascii():
            return text.encode()
    return rfc8785.dumps(content)


_SORTED = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
_EXACT = {str, bool, NoneType}


def _is_of_whole_numbers(value: Any) -> bool:
    sort = type(value)
    if sort is int:
        return bool(-MAX_NUMBER <= value <= MAX_NUMBER)
    inner = value.values() if sort is dict else value if sort is list or sort is tuple else None
    return inner is not None and all(type(each) in _EXACT or _is_of_whole_numbers(each) for each in inner)


class Fields(BaseModel):
    """Fields that may be logged."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Fields):
    """Where on the bus a leaf's event stands."""

    cluster: Cluster
    topic: Annotated[str, Field(pattern=r"^tocsin\.[a-z-]{1,64}$")]
    topic_id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")] | None = None
    """Tells a topic from one of the same name that was deleted; absent where the broker has none."""
    partition: Count
    offset: Count


class NotAsDeclared(Malformed):
    """A canonical leaf that does not fit its type as this version knows it."""


class Leaf(Fields):
    """Base of all leaf types. `TYPE` and `VERSION` name the schema."""

    TYPE: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1

    def encode(self) -> bytes:
        """Return the leaf's bytes, as they are hashed. Raises Malformed if they exceed 16 KiB."""
        content = {"type": self.TYPE, "version": self.VERSION, **self.model_dump(mode="json", exclude_none=True)}
        encoded = canonical(content)
        if len(encoded) > MAX_LEAF_BYTES:
            raise Malformed(f"a leaf {self.TYPE} of {len(encoded)} bytes; {MAX_LEAF_BYTES} are allowed")
        return encoded


class EventLeaf(Leaf):
    """A leaf made from a message."""

    source: Source
    unlisted_count: Annotated[Count, Field(ge=1)] | None = None
    """How many fields of the message are not allow-listed and therefore not here."""
    unlisted_hmac: Digest | None = None
    """Keyed hash of the whole message then, by which it can be recognised later."""


class UnlistedEvent(EventLeaf):
    """A message whose kind is not allow-listed: that it was there, and a keyed hash by which it can be recognised."""

    TYPE = "tocsin.unlisted"
    kind_sha256: Digest
    incident_id: IncidentId | None = None
    occurred_at: At | None = None


class PartitionPosition(Fields):
    """The next offset to be logged of one partition."""

    cluster: Cluster
    topic: Annotated[str, Field(pattern=r"^tocsin\.[a-z-]{1,64}$")]
    topic_id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")] | None = None
    partition: Count
    next_offset: Count


class Positions(Leaf):
    """How far the log has read, repeated now and then so that a restart need not search further back than this."""

    TYPE = "tocsin.positions"
    part: Count
    """From 0; parts of one record stand together, the first one first."""
    positions: tuple[PartitionPosition, ...]


class CaseLeaf(EventLeaf):
    """Base of all leaves made from case events; `case_leaf` makes one for a kind."""

    KIND: ClassVar[str] = ""
    incident_id: IncidentId | None = None
    actor: Digest | None = None
    """Commitment to the person who decided; absent for Tocsin itself."""
    role: Word | None = None
    occurred_at: At
    exercise: Flag = False
    body: Fields


class Look(NamedTuple):
    """What the verifier of a long log needs of a leaf that is as its type says."""

    type: str
    stream: tuple[bytes, bytes, bytes | None, bytes] | None
    """For a leaf made from a message: cluster, topic, topic id and partition, as they stand in the leaf."""
    offset: int


Kinds = Mapping[str, Mapping[str, Any]]
"""The type of every field of every kind of case event that may be logged."""


def case_leaf(kind: str, fields: Mapping[str, Any], *, version: int = 1) -> type[CaseLeaf]:
    """Return the leaf type `tocsin.case.<kind>` whose body may hold `fields`; each is optional."""
    name = "".join(part.title() for part in re.split(r"[._]", kind))
    optional: dict[str, Any] = {field: (of | None, None) for field, of in fields.items()}
    body = create_model(f"{name}Body", __base__=Fields, **optional)
    leaf = create_model(name, __base__=CaseLeaf, body=(body, ...))
    leaf.TYPE, leaf.VERSION, leaf.KIND = f"tocsin.case.{kind}", version, kind
    return leaf


class LeafTypes:
    """The leaf types in force. Refuses a type that could hold free text."""

    def __init__(self, types: Iterable[type[Leaf]]) -> None:
        self._types: dict[tuple[str, int], type[Leaf]] = {}
        self._kinds: dict[str, type[CaseLeaf]] = {}
        self._patterns: dict[bytes, tuple[re.Pattern[bytes], ...]] = {}
        for leaf in types:
            self._register(leaf)

    def _register(self, leaf: type[Leaf]) -> None:
        key = (leaf.TYPE, leaf.VERSION)
        if key in self._types:
            raise Malformed(f"two rooms register the leaf type {leaf.TYPE} version {leaf.VERSION}")
        refuse_free_text(leaf)
        self._types[key] = leaf
        if issubclass(leaf, CaseLeaf):
            known = self._kinds.get(leaf.KIND)
            if known is None or known.VERSION < leaf.VERSION:
                self._kinds[leaf.KIND] = leaf

    def of_kind(self, kind: str) -> type[CaseLeaf] | None:
        """Return the newest leaf type for a case event's kind, or None if the kind is not allow-listed."""
        return self._kinds.get(kind)

    def __iter__(self) -> Iterator[type[Leaf]]:
        return iter(self._types.values())

    def parse(self, entry: bytes) -> Leaf | None:
        """Return the leaf in `entry`, or None if its type is not registered here (a newer version's, another room's).

        Raises Malformed if it is no canonical leaf, NotAsDeclared if it is not what its type says. Never shows a value.
        """
        content = canonical_content(entry)
        leaf = self._types.get((content.pop("type"), content.pop("version")))
        if leaf is None:
            return None
        try:
            parsed = leaf.model_validate_json(json.dumps(content))
        except ValidationError as error:
            places = {".".join(map(str, item["loc"])) for item in error.errors(include_input=False)}
            raise NotAsDeclared(f"the leaf is not a {leaf.TYPE}: {', '.join(sorted(places))[:200]}") from None
        if parsed.encode() != entry:
            raise NotAsDeclared(f"the leaf {leaf.TYPE} is not in its one spelling")
        return parsed

    def look(self, entry: bytes) -> Look | None:
        """Return what `parse` finds, in short, and raise what it raises; many times faster for a leaf that is right."""
        # Where the type's name stands is a guess, which the expression then holds true: it spells the whole leaf.
        name = entry[entry.rfind(_TYPE) + len(_TYPE) :].partition(b'"')[0]
        patterns = self._patterns.get(name)
        if patterns is None:
            patterns = self._patterns_of(name)
        for pattern in patterns if len(entry) <= MAX_LEAF_BYTES else ():
            found = pattern.fullmatch(entry)
            if found is None:
                continue
            if not pattern.groups:
                return Look(name.decode(), None, 0)
            cluster, topic, topic_id, partition, offset = found.group(*_STREAM, "offset")
            return Look(name.decode(), (cluster, topic, topic_id, partition), int(offset))
        leaf = self.parse(entry)
        if not isinstance(leaf, EventLeaf):
            return None if leaf is None else Look(leaf.TYPE, None, 0)
        source = leaf.source
        topic_id = None if source.topic_id is None else source.topic_id.encode()
        stream = (source.cluster.encode(), source.topic.encode(), topic_id, b"%d" % source.partition)
        return Look(leaf.TYPE, stream, source.offset)

    def _patterns_of(self, name: bytes) -> tuple[re.Pattern[bytes], ...]:
        """Return the expressions of a type's versions, newest first; kept for registered types only."""
        versions = sorted(
            (version for kind, version in self._types if kind.encode() == name and name.isascii()), reverse=True
        )
        found = (_pattern_of(self._types[name.decode(), version]) for version in versions)
        patterns = tuple(pattern for pattern in found if pattern is not None)
        if versions:
            self._patterns[name] = patterns
        return patterns


_TYPE = b'"type":"'
_STREAM = ("cluster", "topic", "topic_id", "partition")


def _pattern_of(leaf: type[Leaf]) -> re.Pattern[bytes] | None:
    if leaf.encode is not Leaf.encode:
        return None
    constants: dict[str, str | int] = {"type": leaf.TYPE, "version": leaf.VERSION}
    captured = ("source",) if issubclass(leaf, EventLeaf) else ()
    return leaf_pattern(leaf, constants, captured=captured, plain=_PLAIN)


def canonical_content(entry: bytes) -> dict[str, Any]:
    """Return the JSON object in `entry`. Raises Malformed unless it is canonical and has a type and a version."""
    if len(entry) > MAX_LEAF_BYTES:
        raise Malformed(f"a leaf of {len(entry)} bytes; {MAX_LEAF_BYTES} are allowed")
    try:
        content = json.loads(entry)
        is_canonical = canonical(content) == entry
    except (ValueError, RecursionError, rfc8785.CanonicalizationError):
        raise Malformed("the leaf is no canonical JSON") from None
    if not is_canonical:
        raise Malformed("the leaf is JSON, but not canonical")
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("type"), str)
        or type(content.get("version")) is not int
    ):
        raise Malformed("the leaf has no type and version")
    return content


_PROBES = ("Anna Example", "anna@mail.example", "+49 30 123456", "+4930123456", "1 High Street", "a" * 300, "1" * 300)
"""What no field of a leaf may hold: a name, an e-mail address, a phone number, an address, free text."""


def refuse_free_text(model: type[BaseModel]) -> None:
    """Check that every field of `model` is of an allow-listed sort. Raises Malformed that names the field."""
    for name, field in model.model_fields.items():
        if name in ("type", "version"):
            raise Malformed(f"{model.__name__}.{name}: the name is taken by every leaf's schema")
        _refuse_sort(f"{model.__name__}.{name}", field.annotation, field.metadata)


def _refuse_sort(where: str, sort: Any, metadata: Iterable[Any]) -> None:
    sort, constraints = unwrapped(sort, metadata)
    origin = get_origin(sort)
    if origin in (Union, UnionType):
        for option in get_args(sort):
            _refuse_sort(where, option, constraints)
    elif origin is tuple:
        for item in get_args(sort):
            if item is not Ellipsis:
                _refuse_sort(where, item, [])
    elif (
        origin is Literal
        or sort in (bool, datetime, AwareDatetime, NoneType)
        or (isinstance(sort, type) and issubclass(sort, Enum))
    ):
        return
    elif isinstance(sort, type) and issubclass(sort, BaseModel):
        refuse_free_text(sort)
    elif sort is int:
        if not any(getattr(item, "le", None) is not None for item in constraints):
            raise Malformed(f"{where}: a number needs bounds; use Count")
    elif sort is str:
        patterns = [item.pattern for item in constraints if getattr(item, "pattern", None)]
        longest = min((item.max_length for item in constraints if getattr(item, "max_length", None)), default=256)
        if not patterns:
            raise Malformed(f"{where}: free text is not logged; use Digest, Word, Slug, Opaque or an enum")
        for probe in _PROBES:
            if len(probe) <= longest and all(re.search(pattern, probe) for pattern in patterns):
                raise Malformed(f"{where}: its pattern lets personal data through, such as {probe[:20]!r}")
    else:
        raise Malformed(f"{where}: {sort} is no sort of field that may be logged")


class BodyField(Protocol):
    """A field of a case event as its room declares it: `shape`, and the closed list of words where the shape is word."""

    @property
    def shape(self) -> str: ...
    @property
    def words(self) -> tuple[str, ...]: ...


_SHAPES: Mapping[str, Any] = {
    "sha256": Digest,
    "id": Id,
    "count": Count,
    "flag": Flag,
    "instant": At,
    "codes": tuple[Code, ...],
    "slug": Slug,
    "slugs": tuple[Slug, ...],
}


def declared_fields(kind: str, fields: Mapping[str, BodyField]) -> dict[str, Any]:
    """Return the types of a kind's fields by their declared shapes. Raises Malformed for a shape unknown here."""
    sorts: dict[str, Any] = {}
    for name, field in fields.items():
        if field.shape == "word" and field.words:
            sorts[name] = Literal.__getitem__(tuple(str(word) for word in field.words))
        elif field.shape in _SHAPES:
            sorts[name] = _SHAPES[field.shape]
        else:
            raise Malformed(f"case event {kind}: field {name} has the shape {field.shape!r}, which is not allow-listed")
    return sorts


def discover(package: str = "consumers") -> LeafTypes:
    """Return the leaf types of every room below `package`. Raises Malformed for one that could hold free text.

    A kind that a room declares itself goes before what this room's `leaf_types` says of it.
    """
    found: list[type[Leaf]] = [UnlistedEvent, Positions]
    kinds: dict[str, type[CaseLeaf]] = {}
    root = importlib.import_module(package)
    for room in pkgutil.iter_modules(root.__path__):
        if not room.ispkg:
            continue
        for leaf in _declared(f"{package}.{room.name}.leaf_types", "LEAF_TYPES"):
            if issubclass(leaf, CaseLeaf):
                kinds.setdefault(leaf.KIND, leaf)
            else:
                found.append(leaf)
    for room in pkgutil.iter_modules(root.__path__):
        declared = _declared(f"{package}.{room.name}.events", "CASE_EVENT_KINDS") if room.ispkg else {}
        for kind in declared:
            kinds[kind] = case_leaf(kind, declared_fields(kind, declared[kind]))
    return LeafTypes([*found, *kinds.values()])


def _declared(module: str, attribute: str) -> Any:
    if importlib.util.find_spec(module) is None:
        return ()
    return getattr(importlib.import_module(module), attribute, ())
