"""The rights that each process needs on Kafka, derived from the declaration of topics: no more, and no wildcard."""

from collections.abc import Iterator
from dataclasses import dataclass

from bridge.contracts.topics import DEAD_LETTERS, STORE_CHANGES, TOPICS
from bridge.runtime.generations import GENERATIONAL

GROUPS = ("index", "planning", "dispatch", "receipts", "evidence", "account-notices", "intake")
"""Consumer groups, named as the process that joins them."""
READERS = {
    "index": ("index-incidents", "index-heads"),
    "commands": ("asker", "dead-letters-reader", "generation-switch"),
}
"""Groups that nobody joins, by process: who reads so says itself where, but its client asks for the group's coordinator."""
TRANSACTIONAL = ("relay", "outbox")
"""Processes that publish under a transactional id of their own name."""
COMMANDS = "commands"
"""What people type: `tocsin topics`, `tocsin dead-letters`."""
_ADMINISTERED = ("Create", "AlterConfigs", "Describe", "DescribeConfigs")
_OUTSIDE = frozenset({"monitors"})


@dataclass(frozen=True, slots=True)
class Acl:
    """One process's rights on one resource."""

    process: str
    resource: str
    """`topic`, `group`, `transactional-id` or `cluster`, in kafka-acls.sh's words."""
    name: str
    operations: tuple[str, ...]

    @property
    def is_prefix(self) -> bool:
        """Whether names that begin so are meant, too: those of later generations do."""
        return self.resource == "topic" and any(self.name.endswith(topic.name) for topic in GENERATIONAL)


def acls(prefix: str = "") -> list[Acl]:
    """Return all rights, by process; `prefix` is `kafka.topic_prefix`."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for process, resource, name, operation in _needed():
        operations = found.setdefault((process, resource, name if resource == "cluster" else prefix + name), [])
        if operation not in operations:
            operations.append(operation)
    return [Acl(*key, tuple(sorted(found[key]))) for key in sorted(found)]


def _needed() -> Iterator[tuple[str, str, str, str]]:
    for topic in TOPICS:
        if topic is DEAD_LETTERS:
            continue
        for writer in topic.writers:
            yield writer, "topic", topic.name, "Write"
            yield writer, "topic", topic.name, "Describe"
        for reader in topic.readers:
            yield reader, "topic", topic.name, "Read"
            yield reader, "topic", topic.name, "Describe"
        for operation in _ADMINISTERED:
            yield COMMANDS, "topic", topic.name, operation
        if topic.cleanup == "compact":
            # a dead letter goes back only where nothing newer has its key, and a new generation is compared with the old one
            yield COMMANDS, "topic", topic.name, "Read"
        if topic is not STORE_CHANGES:
            # dead letters are put back, but no state of the store; who departed is copied into a new generation
            yield COMMANDS, "topic", topic.name, "Write"
        if topic in GENERATIONAL:
            # an old generation goes when a new one is read
            yield COMMANDS, "topic", topic.name, "Delete"
    for process in sorted({each for topic in GENERATIONAL for each in (*topic.writers, *topic.readers)}):
        # whoever does not see both topics of a generation takes it for one that is being made, and stays with the old one
        for topic in GENERATIONAL:
            yield process, "topic", topic.name, "Describe"
    for group in GROUPS:
        yield group, "group", group, "Read"
        yield group, "group", group, "Describe"
        yield group, "topic", DEAD_LETTERS.name, "Write"
        yield group, "topic", DEAD_LETTERS.name, "Describe"
    for process, names in READERS.items():
        for name in names:
            yield process, "group", name, "Describe"
    for process in TRANSACTIONAL:
        yield process, "transactional-id", process, "Write"
        yield process, "transactional-id", process, "Describe"
    # a letter that was put back says so
    for operation in (*_ADMINISTERED, "Read", "Write"):
        yield COMMANDS, "topic", DEAD_LETTERS.name, operation


def as_command(acl: Acl, bootstrap_servers: str) -> str:
    """Return the line for kafka-acls.sh; the principal is the process's name with `tocsin-` before it."""
    principal = acl.process if acl.process in _OUTSIDE else f"tocsin-{acl.process}"
    operations = " ".join(f"--operation {operation}" for operation in acl.operations)
    resource = "--cluster" if acl.resource == "cluster" else f"--{acl.resource} {acl.name}"
    if acl.is_prefix:
        resource += " --resource-pattern-type prefixed"
    who = f"--add --allow-principal User:{principal}"
    return f"kafka-acls.sh --bootstrap-server {bootstrap_servers} {who} {operations} {resource}"
