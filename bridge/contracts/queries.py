"""What the owners of the provenance index answer, and what a scatter-gather over all of them adds up to.

Ids, residences, counts and provenance facts only: no contact, sealed or not.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bridge.contracts.events import Coverage, ProvenanceRecorded
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
    by_jurisdiction: dict[str, int] = Field(default_factory=dict)
    """People by the code of their strongest residence claim; `unknown` where there is none."""
    by_kind: dict[str, int] = Field(default_factory=dict)
    """People by kind; who has several counts in each."""
    by_sensitivity: dict[str, int] = Field(default_factory=dict)
    """People by their highest sensitivity."""
    by_channel: dict[str, int] = Field(default_factory=dict)
    """People by channel that exists; `none` where none does."""
    coverage: tuple[Coverage, ...] = ()


class PartitionStatus(Answer):
    """Where one partition stands."""

    partition: int
    position_offset: int
    customer_count: int
    order_count: int
    departed_count: int
    record_count: int
    head_at: Instant
    """When the file was last known to hold everything that had been published."""
    resolved: tuple[str, ...] = ()
    """`incident/revision`."""
    file_bytes: int


class PartitionNames(Answer):
    """The names that the records of one partition know."""

    partition: int
    models: dict[str, tuple[str, ...]]
    """Versions by model id."""
    attributes: tuple[str, ...]


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

    model_id: str
    model_version: str
    entity_type: str
    attribute: str
    record_count: int
    root_count: int
    highest_sensitivity: str
    legal_bases: tuple[str, ...] = ()
    storage_locations: tuple[str, ...] = ()
    last_generated_at: Instant


class PartitionDataMap(Answer):
    """The data map of one partition."""

    partition: int
    rows: tuple[DataMapRow, ...]
    untagged: dict[str, int]
    """People who hold a registered attribute's value without a record, by attribute."""


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
    by_jurisdiction: dict[str, int]
    by_kind: dict[str, int]
    by_sensitivity: dict[str, int]
    by_channel: dict[str, int]
    coverage: tuple[Coverage, ...]


class IndexStatus(Gathered):
    """Every partition that answered."""

    partitions: tuple[PartitionStatus, ...]


class KnownNames(Gathered):
    """The names that records know, for suggestions."""

    models: dict[str, tuple[str, ...]]
    attributes: tuple[str, ...]


class DataMap(Gathered):
    """AI systems, models and versions against entities and attributes, with the gaps."""

    rows: tuple[DataMapRow, ...]
    untagged: dict[str, int]
