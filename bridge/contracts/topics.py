"""The topics: name, key, partitions, cleanup, retention, who writes and who reads. Declared here and nowhere else.

`tocsin topics apply` creates them so. A partition count never changes in place: a root would move to another
partition; a new generation is filled and switched instead.
"""

from dataclasses import dataclass, field

from bridge.contracts.events import (
    AccountNotice,
    AlertReceived,
    CaseEvent,
    CustomerAffected,
    CustomerChanged,
    CustomerDeparted,
    DeadLettered,
    DeliverNotice,
    DeliverNotices,
    DeliveryOutcome,
    DeliveryOutcomes,
    EntityRemoved,
    Event,
    IncidentRevised,
    NoticeRead,
    OrderChanged,
    PartitionResolved,
    ProvenanceRecorded,
    StoreBeat,
    SubjectErased,
    UntaggedWrite,
    WatchStarted,
)

_DAY_MS = 24 * 60 * 60 * 1000

MOST_BYTES = 8 * 1024 * 1024
"""Of one message, on every topic; managed brokers grant as much. An alert of a megabyte makes an incident that is larger, a
dead letter is a third larger than what it keeps, and somebody may have tens of thousands of records.
"""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic's declaration. `retention_ms` None on a compacted topic: for ever."""

    name: str
    purpose: str
    key: str
    partitions: int
    cleanup: str
    retention_ms: int | None
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    events: tuple[type[Event], ...]
    settings: dict[str, str] = field(default_factory=dict)


STORE_CHANGES = Topic(
    "tocsin.store-changes", "the store's current state, by entity, contacts sealed", "entity", 6, "compact", None,
    ("relay",), ("index",), (CustomerChanged, OrderChanged, ProvenanceRecorded, EntityRemoved, StoreBeat),
    {"delete.retention.ms": str(7 * _DAY_MS), "max.compaction.lag.ms": str(3 * _DAY_MS)},
)  # fmt: skip
DEPARTED_CUSTOMERS = Topic(
    "tocsin.departed-customers",
    "departed customers still owed a notice, deleted records, untagged writes, what is watched, who was erased",
    "entity", 6, "compact", None, ("index", "outbox"), ("index",),
    (CustomerDeparted, SubjectErased, UntaggedWrite, WatchStarted, ProvenanceRecorded, EntityRemoved),
    {"delete.retention.ms": str(7 * _DAY_MS), "max.compaction.lag.ms": str(3 * _DAY_MS)},
)  # fmt: skip
LEAK_ALERTS = Topic(
    "tocsin.leak-alerts", "alerts from AI monitors, signed", "source", 1, "delete", 30 * _DAY_MS,
    ("monitors",), ("intake",), (AlertReceived,),
)  # fmt: skip
INCIDENTS = Topic(
    "tocsin.incidents", "incident, revision, scope, open or closed", "incident id", 1, "compact", None,
    ("outbox",), ("index",), (IncidentRevised,),
)  # fmt: skip
AFFECTED_CUSTOMERS = Topic(
    "tocsin.affected-customers", "who is affected and why", "incident/root", 6, "delete", 30 * _DAY_MS,
    ("index",), ("planning",), (CustomerAffected,),
)  # fmt: skip
RESOLUTIONS = Topic(
    "tocsin.resolutions", "one record per incident, revision and partition", "incident/revision/partition", 6, "delete",
    365 * _DAY_MS, ("index",), ("planning", "evidence"), (PartitionResolved,),
)  # fmt: skip
DELIVERY_COMMANDS = Topic(
    "tocsin.delivery-commands", "metered commands: ids only", "recipient id, of a pack its first event's", 6, "delete",
    7 * _DAY_MS, ("outbox",), ("dispatch",), (DeliverNotice, DeliverNotices),
)  # fmt: skip
ACCOUNT_NOTICES = Topic(
    "tocsin.account-notices", "notices for the customer's account page", "notice/id", 6, "compact", None,
    ("outbox",), ("account-notices",), (AccountNotice,),
)  # fmt: skip
DELIVERY_OUTCOMES = Topic(
    "tocsin.delivery-outcomes", "every attempt's every change, and account-page reads",
    "recipient id, of a pack its first event's, or notice/id", 6, "delete", 365 * _DAY_MS,
    ("outbox", "relay"), ("receipts", "evidence"), (DeliveryOutcome, DeliveryOutcomes, NoticeRead),
)  # fmt: skip
CASE_EVENTS = Topic(
    "tocsin.case-events", "every decision of a person and every fact of the case", "incident id", 1, "delete",
    365 * _DAY_MS, ("outbox",), ("evidence",), (CaseEvent,),
)  # fmt: skip
DEAD_LETTERS = Topic(
    "tocsin.dead-letters", "messages that can never be processed, with their bytes", "dead letter id", 1, "delete",
    365 * _DAY_MS, ("every consumer",), ("tocsin dead-letters",), (DeadLettered,),
)  # fmt: skip

TOPICS: tuple[Topic, ...] = (
    STORE_CHANGES, DEPARTED_CUSTOMERS, LEAK_ALERTS, INCIDENTS, AFFECTED_CUSTOMERS, RESOLUTIONS, DELIVERY_COMMANDS,
    ACCOUNT_NOTICES, DELIVERY_OUTCOMES, CASE_EVENTS, DEAD_LETTERS,
)  # fmt: skip
