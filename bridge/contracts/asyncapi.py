"""The published language as an AsyncAPI 3.0 document, for whoever reads or writes our topics without our code.

Built from the same declarations that the code runs on (`TOPICS`, `EVENTS`); nothing is described here a second time.
`python -m bridge.contracts.asyncapi` writes `asyncapi.json` beside this module; a test keeps the two in step.
Source: AsyncAPI 3.0.0; Kafka bindings 0.5.0; CloudEvents Kafka Protocol Binding 1.0.2, section 3.2.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from bridge.contracts.envelope import CONTENT_TYPE
from bridge.contracts.events import EVENTS, EntityRemoved, Event
from bridge.contracts.topics import MOST_BYTES, TOPICS, Topic

DOCUMENT = Path(__file__).with_name("asyncapi.json")
LANGUAGE_VERSION = "1.1.0"
"""Major: an event type is gone. Minor: one is new, or has a new optional field. Patch: words only."""

_BINDING = "0.5.0"
_SCHEMAS = "#/components/schemas/"


def document() -> dict[str, Any]:
    """Return the whole document."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:tocsin:published-language",
        "info": {
            "title": "Tocsin",
            "version": LANGUAGE_VERSION,
            "description": (
                "What travels between the Magento bridge and the stages. Envelope: CloudEvents 1.0, Kafka binary mode. "
                "The partition of a record is murmur2 of its `ce_root` header, as in Kafka's Java client. Contacts are "
                "sealed; no address, number or name is in clear on any topic."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": _operations(),
        "components": {
            "messages": {ce_type: _message(event) for ce_type, event in EVENTS.items()},
            "schemas": _schemas(EVENTS.values()),
        },
    }


def as_text() -> str:
    """Return the document as it is kept in the file."""
    return json.dumps(document(), indent=2, ensure_ascii=False, sort_keys=False) + "\n"


def _channel(topic: Topic) -> dict[str, Any]:
    configuration: dict[str, Any] = {"cleanup.policy": [topic.cleanup], "max.message.bytes": MOST_BYTES}
    if topic.retention_ms is not None:
        configuration["retention.ms"] = topic.retention_ms
    configuration |= {name: int(value) if value.isdigit() else value for name, value in topic.settings.items()}
    return {
        "address": topic.name,
        "title": topic.purpose,
        "description": f"Key: {topic.key}. Written by {_listed(topic.writers)}; read by {_listed(topic.readers)}.",
        "messages": {event.ce_type: {"$ref": f"#/components/messages/{event.ce_type}"} for event in topic.events},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": configuration,
                "bindingVersion": _BINDING,
            }
        },
    }


def _operations() -> dict[str, Any]:
    operations: dict[str, Any] = {}
    for topic in TOPICS:
        for action, parties in (("send", topic.writers), ("receive", topic.readers)):
            for party in parties:
                operations[f"{party.replace(' ', '-')}/{action}/{topic.name}"] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{topic.name}"},
                    "summary": f"{party}: {topic.purpose}",
                }
    return operations


def _message(event: type[Event]) -> dict[str, Any]:
    removed = event is EntityRemoved
    return {
        "name": event.ce_type,
        "title": event.__name__,
        "summary": (event.__doc__ or "").partition("\n")[0],
        "contentType": CONTENT_TYPE,
        "headers": _headers(event),
        # a tombstone has no value: what it removes stands in its headers
        "payload": {"type": "null"} if removed else {"$ref": _SCHEMAS + event.__name__},
        "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": _BINDING}},
    }


def _headers(event: type[Event]) -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject", "ce_root"],
        "properties": {
            "ce_specversion": {"const": "1.0"},
            "ce_id": text | {"description": "the same again when a message is repeated on purpose"},
            "ce_source": text,
            "ce_type": {"const": event.ce_type},
            "ce_time": text | {"format": "date-time"},
            "ce_subject": text | {"description": "the record's key"},
            "ce_root": text | {"description": "the entity that decides the partition"},
            "content-type": {"const": CONTENT_TYPE},
        },
    }


def _schemas(events: Iterable[type[Event]]) -> dict[str, Any]:
    kept = [event for event in events if event is not EntityRemoved]
    _, definitions = models_json_schema([(event, "validation") for event in kept], ref_template=_SCHEMAS + "{model}")
    schemas: dict[str, Any] = definitions["$defs"]
    return dict(sorted(schemas.items()))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def main() -> int:
    """Write the document; say whether it changed."""
    text = as_text()
    changed = not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != text
    DOCUMENT.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{DOCUMENT}: {'written' if changed else 'unchanged'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
