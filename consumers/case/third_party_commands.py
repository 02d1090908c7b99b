"""`tocsin delivery third-parties`: who else was told of a release, and the documented form of what they get."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import click

from bridge.contracts.errors import BadInput
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json, print_table
from consumers.case.events import written
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, token_option
from consumers.domain.third_parties import SCHEMA


class Told(Protocol):
    """How one notice stands."""

    @property
    def notice_id(self) -> str: ...
    @property
    def release_id(self) -> str: ...
    @property
    def party(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def state_at(self) -> datetime: ...
    @property
    def tries(self) -> int: ...
    @property
    def code(self) -> str | None: ...
    @property
    def document_sha256(self) -> str: ...


class ThirdPartyStates(Protocol):
    """How an incident's notices to third parties stand."""

    def states(self, incident_id: str) -> Sequence[Told]: ...


@click.command("third-parties")
@click.argument("incident_id", required=False)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of what they get.")
@token_option
@as_json_option
@click.pass_obj
def third_parties(parts: Parts, incident_id: str | None, schema: bool, token_file: Path | None, as_json: bool) -> None:
    """Show which partners and processors were told of INCIDENT_ID's releases."""
    if schema:
        print_json(SCHEMA)
        return
    if incident_id is None:
        raise BadInput("name an incident, or --schema for what third parties get")
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    rows = [
        {
            "party": each.party, "state": each.state, "at": written(each.state_at), "tries": each.tries, "answer": each.code,
            "release": each.release_id, "notice_id": each.notice_id, "document_sha256": each.document_sha256,
        }
        for each in parts.get(ThirdPartyStates).states(incident_id)
    ]  # fmt: skip
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo(f"nobody else is told of {incident_id} (delivery.third_parties in the settings says who is)")
    else:
        print_table(rows, ["party", "state", "at", "tries", "answer", "release"])


SUBCOMMANDS: dict[str, list[click.Command]] = {"delivery": [third_parties]}
COMMANDS: list[click.Command] = []
"""None of its own: it stands under `tocsin delivery`."""
