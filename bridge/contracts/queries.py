"""What the owners of the provenance index answer, and what a scatter-gather over all of them adds up to.

Ids, residences, counts and provenance facts only: no contact, sealed or not.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from bridge.contracts.events import Coverage, ProvenanceRecorded
from bridge.contracts.fingerprints import Entity
from bridge.contracts.scope import Instant, Scope


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PreviewAsked(Answer):
    """The question of `preview`."""

    scope: Scope


class PartitionPreview(Answer):
    """What one partition would answer to a scope now. Nothing is frozen or published."""

    partition: int
    position_offset: int
    """Next offset of `store-changes` not read yet."""
    affected_count: int
    """Everyone concerned, the possible ones included."""
    possible_count: int
    departed_count: int
    record_count: int
    people_count: int | None = None
    """All data subjects that the partition knows, whether concerned or not."""
    by_jurisdiction: dict[str, int] = Field(default_factory=dict)
    """People by the code of their strongest residence claim; `unknown` where there is none."""
    by_kind: dict[str, int] = Field(default_factory=dict)
    """People by kind; who has several counts in each."""
    by_sensitivity: dict[str, int] = Field(default_factory=dict)
    """People by their highest sensitivity."""
    by_channel: dict[str, int] = Field(default_factory=dict)
    """People by channel that exists; `none` where none does."""
    coverage: tuple[Coverage, ...] = ()
    rebuilding: bool = False
    """The partition's file is being rebuilt, and this is what the old one holds."""


class MembersAsked(Answer):
    """The question of `members`: whom a scope concerns now, root by root."""

    scope: Scope
    after: str = ""
    """Only roots that come behind this one."""
    limit: int = Field(default=0, ge=0, le=100_000)
    """At most so many people; 0: counts and root only."""


class MemberSeen(Answer):
    """One person whom a scope concerns, as a resolution's leaves have them."""

    root: str
    record_ids: tuple[str, ...]
    standing: Literal["recorded", "possible"]


class PartitionMembers(Answer):
    """What one partition would freeze now."""

    partition: int
    position_offset: int
    affected_count: int
    possible_count: int
    merkle_root: str
    members: tuple[MemberSeen, ...] = ()
    """Sorted by root."""


class TimesAsked(Answer):
    """The question of `times`: when what is known of these roots changed."""

    roots: tuple[str, ...] = Field(max_length=20_000)


class RecordTimes(Answer):
    """The instants of one record."""

    record_id: str
    generated_at: Instant
    deleted_at: Instant | None = None
    loaded_at: Instant | None = None


class RootTimes(Answer):
    """The instants of one root."""

    root: str
    person_at: Instant | None = None
    """When the person's present state was published, or when they departed."""
    departed: bool = False
    records: tuple[RecordTimes, ...] = ()
    untagged_at: tuple[Instant, ...] = ()
    """When values without a record were seen, replaced, or explained."""


class PartitionTimes(Answer):
    """When what one partition knows of the roots asked for changed; who is not known is left out."""

    partition: int
    position_offset: int
    roots: tuple[RootTimes, ...]


class MatchAsked(Answer):
    """The question of `match`: who is behind keys that leaked. Keyed hashes and roots only, never an address."""

    email_hmacs: tuple[str, ...] = Field(default=(), max_length=20_000)
    roots: tuple[str, ...] = Field(default=(), max_length=20_000)


class PartitionMatch(Answer):
    """What one partition knows of leaked keys."""

    partition: int
    position_offset: int
    by_email_hmac: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Roots by keyed hash; departed people included."""
    roots: tuple[str, ...] = ()
    """Those of the asked roots that are here, by person or by record."""


class PartitionStatus(Answer):
    """Where one partition stands."""

    partition: int
    position_offset: int
    """The next message of the store's changes."""
    departed_offset: int = 0
    """The next message about departed customers."""
    customer_count: int
    order_count: int
    departed_count: int
    record_count: int
    deleted_record_count: int = 0
    """Of the records, those that are deleted."""
    head_at: Instant
    """When the file was last known to hold everything that had been published."""
    beat_written_at: Instant | None = None
    """When the newest heartbeat that arrived was written in the store; None before the first."""
    beat_visible_at: Instant | None = None
    resolved: tuple[str, ...] = ()
    """`incident/revision`."""
    file_bytes: int
    rebuilding: bool = False
    """The file is being rebuilt, and this is where the old one stands, which answers meanwhile."""


class PartitionNames(Answer):
    """The names that the records of one partition know."""

    partition: int
    models: dict[str, tuple[str, ...]]
    """Versions by model id."""
    attributes: tuple[str, ...]
    read_to_end_at: Instant | None = None
    """What was published before it is among them; None: nobody knows, or the file is being rebuilt."""
    beat_at: Instant | None = None
    """What the store held before it is among them: the newest heartbeat was written there then. None: none is here."""
    rebuilding: bool = False
    """The file is being rebuilt, and these are the old one's."""


class PersonSeen(Answer):
    """What is known of a root, without contact or keyed hashes."""

    root: str
    state: Literal["present", "departed", "absent"]
    customer_id: int | None = None
    website_id: int | None = None
    store_id: int | None = None
    locale: str | None = None
    residence: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    has_contact: bool = False
    untagged_attributes: tuple[str, ...] = ()
    """Registered attributes with a value and no record."""


class Inspection(Answer):
    """A root as its partition holds it."""

    partition: int
    person: PersonSeen
    records: tuple[ProvenanceRecorded, ...] = ()


class DataMapRow(Answer):
    """One AI system's writes to one attribute."""

    source_system: str | None = None
    """The AI system, as its records name it; None: they name none."""
    model_id: str
    model_version: str
    entity_type: str
    attribute: str
    record_count: int
    """Of all records, deleted ones within retention included."""
    deleted_count: int = 0
    root_count: int
    highest_sensitivity: str
    kinds: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    legal_bases: tuple[str, ...] = ()
    storage_locations: tuple[str, ...] = ()
    last_generated_at: Instant


class DataMapGap(Answer):
    """A registered attribute with values that nothing explains."""

    attribute: str
    people_count: int
    """Who holds such a value now."""
    write_count: int
    """Untagged writes that were seen happening, within retention."""
    first_seen_at: Instant | None = None
    last_seen_at: Instant | None = None
    """None: only values that were there before anybody watched."""


class PartitionDataMap(Answer):
    """The data map of one partition."""

    partition: int
    rows: tuple[DataMapRow, ...]
    untagged: dict[str, int]
    """People who hold a registered attribute's value without a record, by attribute."""
    gaps: tuple[DataMapGap, ...] = ()


class RangesAsked(Answer):
    """The question of `ranges`."""

    entity: Entity


class RangePrint(Answer):
    """One range of `bridge.contracts.fingerprints`: what is not deleted, counted and summed up."""

    range: int
    count: int
    sum: int
    """Of the fingerprints, modulo `SUM_MODULUS`."""
    deleted_count: int = 0
    """Records that exist only as deleted ones; not in `count` and `sum`."""


class PartitionRanges(Answer):
    """All ranges of one partition that hold anything."""

    partition: int
    position_offset: int
    ranges: tuple[RangePrint, ...]


class KeysAsked(Answer):
    """The question of `keys`: of these keys; or of these ranges; or of all records known to be altered."""

    entity: Entity
    keys: tuple[str, ...] = ()
    ranges: tuple[int, ...] = ()
    altered: bool = False
    limit: int = Field(default=100_000, ge=1, le=1_000_000)


class KeyPrint(Answer):
    """One entity as the index holds it."""

    key: str
    fingerprint: int
    content: int = 0
    """Of a record: the fingerprint without `deleted_at`."""
    deleted: bool = False
    altered: bool = False
    """Of a record: its content changed after it was first read, which append-only forbids."""
    root: str = ""
    """Of a record: whose partition it is on."""


class PartitionKeys(Answer):
    """What one partition holds of what was asked."""

    partition: int
    position_offset: int
    keys: tuple[KeyPrint, ...]


class FaultSeen(Answer):
    """A field of the store's rows that could not be understood."""

    entity: Entity
    field: str
    count: int
    examples: tuple[str, ...] = ()
    """Keys of a few such rows."""


class PartitionFaults(Answer):
    """What of one partition's rows could not be understood, or should not have changed."""

    partition: int
    faults: tuple[FaultSeen, ...]
    altered_count: int


class ReachGroup(Answer):
    """People who live in one country and can be told by the same channels."""

    country: str
    """ISO 3166-1 of their strongest residence claim; `unknown` where there is none."""
    channels: tuple[str, ...]
    count: int


class PartitionReach(Answer):
    """By which channels everybody that one partition knows can be told: counts, each root counted."""

    partition: int
    position_offset: int
    groups: tuple[ReachGroup, ...]
    unreadable: dict[str, int] = Field(default_factory=dict)
    """People whose e-mail or telephone is there and is none, by field (`email`, `telephone`)."""


class PartitionSeals(Answer):
    """Contacts by the id of the key that they are sealed to."""

    partition: int
    present: dict[str, int]
    departed: dict[str, int]


class WorkerAnswer(Answer):
    """What one worker sends back: one entry for each partition that it owns."""

    partition_count: int
    answers: tuple[dict[str, Any], ...]


class Gathered(Answer):
    """From how many of the partitions an answer comes."""

    partition_count: int
    silent_partitions: tuple[int, ...]
    """Partitions whose owner did not answer: their people are not in the counts."""

    @property
    def complete(self) -> bool:
        """Whether every partition answered."""
        return not self.silent_partitions


class Preview(Gathered):
    """A scope's counts over all partitions that answered."""

    affected_count: int
    possible_count: int
    departed_count: int
    record_count: int
    people_count: int | None = None
    """All data subjects that these partitions know; None: one of them did not say."""
    by_jurisdiction: dict[str, int]
    by_kind: dict[str, int]
    by_sensitivity: dict[str, int]
    by_channel: dict[str, int]
    coverage: tuple[Coverage, ...]
    rebuilding_partitions: tuple[int, ...] = ()
    """Partitions whose file is being rebuilt: the old one answered, as of its own position."""


class Members(Gathered):
    """Whom a scope concerns now, by partition."""

    partitions: dict[int, PartitionMembers]


class Match(Gathered):
    """Who is behind leaked keys, over all partitions that answered."""

    by_email_hmac: dict[str, tuple[str, ...]]
    roots: tuple[str, ...]


class IndexStatus(Gathered):
    """Every partition that answered."""

    partitions: tuple[PartitionStatus, ...]


class KnownNames(Gathered):
    """The names that records know."""

    models: dict[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    read_to_end_at: Instant | None = None
    """What was published before it is among them; None: of some partition nobody knows that."""
    beat_at: Instant | None = None
    """What the store held before it is among them; None: of some partition nobody knows that."""
    rebuilding_partitions: tuple[int, ...] = ()


class DataMap(Gathered):
    """AI systems, models and versions against entities and attributes, with the gaps."""

    rows: tuple[DataMapRow, ...]
    untagged: dict[str, int]
    gaps: tuple[DataMapGap, ...] = ()


class Ranges(Gathered):
    """Ranges over all partitions that answered, by range."""

    ranges: dict[int, RangePrint]


class Keys(Gathered):
    """Keys over all partitions that answered, by key."""

    keys: dict[str, KeyPrint]


class Faults(Gathered):
    """What could not be understood, over all partitions that answered."""

    faults: tuple[FaultSeen, ...]
    altered_count: int


class Reach(Gathered):
    """By which channels everybody can be told, over all partitions that answered."""

    groups: tuple[ReachGroup, ...]
    unreadable: dict[str, int]


class Seals(Gathered):
    """Contacts by sealing key, over all partitions that answered."""

    present: dict[str, int]
    departed: dict[str, int]


class IndexAnswers(Protocol):
    """What the bridge asks of the index, whose owners answer. All raise Unreachable if nobody does."""

    def ranges(self, asked: RangesAsked) -> Ranges: ...
    def keys(self, asked: KeysAsked) -> Keys: ...
    def faults(self) -> Faults: ...
    def seals(self) -> Seals: ...
    def status(self) -> IndexStatus: ...


class HeldContacts(Protocol):
    """Contacts that the case store holds while incidents are open."""

    def counts_by_key(self) -> Mapping[str, int]:
        """Return how many are sealed to each key id. Raises Unreachable."""
        ...

    def stored_up_to(self) -> Mapping[int, int]:
        """Return the next offset of `affected-customers` to be stored, for each partition of which something is. Raises
        Unreachable.
        """
        ...
