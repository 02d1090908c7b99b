"""A broker on which each process has exactly the rights that `tocsin topics show --acls` prints."""

import re
import time
from collections.abc import Sequence

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from bridge.runtime.acls import Acl
from tests.servers.kafka import KafkaServer

_OPERATIONS = {
    "Write": ACLOperation.WRITE, "Read": ACLOperation.READ, "Describe": ACLOperation.DESCRIBE,
    "Create": ACLOperation.CREATE, "Alter": ACLOperation.ALTER, "AlterConfigs": ACLOperation.ALTER_CONFIGS,
    "DescribeConfigs": ACLOperation.DESCRIBE_CONFIGS, "Delete": ACLOperation.DELETE,
}  # fmt: skip
_RESOURCES = {
    "topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "transactional-id": ResourceType.TRANSACTIONAL_ID,
}  # fmt: skip
_DECIDED = re.compile(
    r"Principal = User:(\S+) is (Allowed|Denied) operation = (\w+) from host = \S+ on resource = (\w+):LITERAL:(\S+) "
)


def give_rights(server: KafkaServer, rights: Sequence[Acl]) -> None:
    """Give each process its rights, and return when they are in force."""
    admin = KafkaAdminClient(bootstrap_servers=server.bootstrap_servers)
    wanted = [
        ACL(
            f"User:tocsin-{each.process}", "*", _OPERATIONS[operation], ACLPermissionType.ALLOW,
            ResourcePattern(
                _RESOURCES[each.resource], each.name,
                ACLResourcePatternType.PREFIXED if each.is_prefix else ACLResourcePatternType.LITERAL,
            ),
        )
        for each in rights
        for operation in each.operations
    ]  # fmt: skip
    made = admin.create_acls(wanted)
    assert not made["failed"], made["failed"]
    pattern = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    everything = ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, pattern)
    give_up_at = time.monotonic() + 30
    # stored by the controller first, in force a moment later
    while len(admin.describe_acls(everything)[0]) < len(wanted):
        assert time.monotonic() < give_up_at, "the broker does not show the rights"
        time.sleep(0.05)
    admin.close()


def decisions(server: KafkaServer) -> dict[str, set[tuple[str, str, str, str]]]:
    """Return what the broker has allowed and denied: (principal, operation, kind of resource, name)."""
    found: dict[str, set[tuple[str, str, str, str]]] = {"Allowed": set(), "Denied": set()}
    operations = {each.upper(): each for each in _OPERATIONS}
    resources = {each.replace("-", "").upper(): each for each in _RESOURCES}
    for principal, decided, operation, resource, name in _DECIDED.findall(server.log()):
        what = operations.get(operation.replace("_", "").upper(), operation)
        found[decided].add((principal, what, resources.get(resource.upper(), resource), name))
    return found
