"""A broker on which each process has exactly the rights that `tocsin topics show --acls` prints."""

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
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


def certificate() -> tuple[str, str]:
    """Return a self-signed certificate of 127.0.0.1 and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return signed.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


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
