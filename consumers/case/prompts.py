"""What every command of this room asks with: who types, when, why, which facts. Not a command itself."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bridge.contracts.errors import BadInput
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings
from consumers.case.acting import Actor, actor_of
from consumers.case.people import load_people, read_token

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
reason_option = click.option("--reason", help="Why; kept in the case store, its salted hash in the evidence log.")
token_option = click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False), help="File with your token."
)


def authenticated(parts: Parts, token_file: Path | None) -> Actor:
    """Return who is typing. Raises BadInput without a token, Refused for one that is nobody's."""
    settings = parts.get(Settings)
    person = load_people(settings.paths.people).authenticate(read_token(os.environ, token_file))
    return actor_of(person, staff_key(settings))


def staff_key(settings: Settings) -> bytes:
    """Return the key of the commitments to staff. Raises BadInput."""
    try:
        key = settings.paths.staff_key.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{settings.paths.staff_key} cannot be read ({type(error).__name__}); `tocsin init` makes the keys"
        ) from None
    if len(key) < 32:
        raise BadInput(f"{settings.paths.staff_key} holds {len(key)} bytes; a staff key has at least 32")
    return key


def instant_of(text: str, option: str = "--at") -> datetime:
    """Return the instant that `option` names. Raises BadInput for one without an offset."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{option} {text}: not an instant; write 2026-11-23T03:10:00+01:00") from None
    if at.tzinfo is None:
        raise BadInput(f"{option} {text}: has no time zone; write 2026-11-23T03:10:00+01:00 or ...Z")
    return at.astimezone(UTC)


def assignments(pairs: Sequence[str]) -> dict[str, list[str]]:
    """Return NAME=VALUE pairs by name. Raises BadInput for a pair without an equals sign."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadInput(f"--set {pair}: write name=value")
        found.setdefault(name.strip(), []).append(value.strip())
    return found


def value_of(text: str) -> Any:
    """Return what VALUE says: JSON, or else the word itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
