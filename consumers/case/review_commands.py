"""`tocsin law review`: which rules are due to be looked at again, and which counsel of this installation has adopted.

The sign-off lies in the case store and in the evidence log; `signed-off.txt` beside the rules is its copy for people.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import click
import yaml

from bridge.contracts.errors import BadInput, nearest
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json, print_table
from consumers.case.adoption import NOT_ADOPTED, ReviewRow, adopt, adopted, review_rows
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, reason_option, token_option
from consumers.case.records import AdoptionRecord
from consumers.case.store import CaseStore
from consumers.domain.duties import LawInForce
from consumers.domain.rules import Rules

SIGNED_OFF = "signed-off.txt"


class RulesFolder(Protocol):
    """Where the rules lie."""

    @property
    def path(self) -> Path: ...


@click.command()
@click.argument("regime_ids", nargs=-1, metavar="[REGIME_ID]...")
@click.option(
    "--adopt", "adopting", is_flag=True, help="Sign them off: your counsel stands behind each as it reads now."
)
@click.option("--all", "everything", is_flag=True, help="Every rule; without it those overdue or not adopted.")
@reason_option
@token_option
@as_json_option
@click.pass_obj
def review(
    parts: Parts,
    regime_ids: tuple[str, ...],
    adopting: bool,
    everything: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """List which rules are due for their quarterly check; with --adopt, sign off those named (or, with --all, all)."""
    actor = authenticated(parts, token_file)
    store, now, rules = parts.get(CaseStore), parts.get(Clock).now(), parts.get(LawInForce)().rules
    for name in regime_ids:
        if name not in rules.by_id:
            raise BadInput(
                f"no rule is named {name!r}{nearest(name, rules.by_id)}; `tocsin law review --all` lists them"
            )
    if adopting:
        if not regime_ids and not everything:
            raise BadInput("--adopt: name the rules that you have read, or say --all if you have read all of them")
        written = adopt(store, rules, regime_ids, actor, now, reason)
        # A crash before the copy leaves the sign-off where it counts; the next one writes the copy anew.
        copy = write_copy(parts.get(RulesFolder).path, rules, store.look(lambda case: case.adoptions()))
        said = f"{len(written)} versions of {len({each.regime_id for each in written})} rules are adopted by {actor.person_id}"
        if as_json:
            print_json({"adopted": [f"{each.regime_id}.{each.version}" for each in written], "copy": str(copy)})
            return
        click.echo(f"{said}; kept in the case store, the evidence log and {copy}")
        return
    actor.acting_for(Act.VIEW_INCIDENT)
    rows = review_rows(rules, store.look(lambda case: case.adoptions()), now.date())
    if regime_ids:
        chosen = [row for row in rows if row.duty.regime_id in regime_ids]
    else:
        chosen = [row for row in rows if everything or row.is_overdue(now.date()) or row.adoption is None]
    if as_json:
        print_json([_facts(row, now) for row in chosen])
        return
    _show(rows, chosen, now)


def _facts(row: ReviewRow, now: datetime) -> dict[str, Any]:
    adoption = row.adoption
    return {
        "regime_id": row.duty.regime_id,
        "version": row.version.version,
        "citation": row.version.citation,
        "confidence": row.version.confidence,
        "last_checked_on": row.duty.last_checked_on.isoformat(),
        "due_on": row.due_on.isoformat(),
        "overdue": row.is_overdue(now.date()),
        "adopted_by": None if adoption is None else adoption.adopted_by,
        "adopted_at": None if adoption is None else adoption.adopted_at,
    }


def _show(rows: Sequence[ReviewRow], chosen: Sequence[ReviewRow], now: datetime) -> None:
    table = [
        {
            "rule": f"{row.duty.regime_id}.{row.version.version}",
            "check by": f"{row.due_on}{' OVERDUE' if row.is_overdue(now.date()) else ''}",
            "adopted": NOT_ADOPTED
            if row.adoption is None
            else f"{row.adoption.adopted_by} {row.adoption.adopted_at:%Y-%m-%d}",
            "confidence": row.version.confidence,
            "citation": row.version.citation,
        }
        for row in chosen
    ]
    if table:
        print_table(table, ("rule", "check by", "adopted", "confidence", "citation"))
    overdue = sum(row.is_overdue(now.date()) for row in rows)
    missing = sum(row.adoption is None for row in rows)
    click.echo(f"{len(rows)} versions: {overdue} overdue for their quarterly check, {missing} {NOT_ADOPTED}")
    if missing or overdue:
        click.echo(
            "next: read them (tocsin law explain REGIME_ID), then: tocsin law review REGIME_ID... --adopt --reason TEXT"
        )


def write_copy(folder: Path, rules: Rules, records: Sequence[AdoptionRecord]) -> Path:
    """Write who signed off what beside the rules, for whoever reads them there; return the file."""
    found = adopted(rules, records)
    document = {
        f"{regime_id}.{version}": {
            "adopted_by": record.adopted_by,
            "adopted_at": record.adopted_at.isoformat(),
            "rule_sha256": record.version_sha256,
        }
        for (regime_id, version), record in sorted(found.items())
    }
    path = folder / SIGNED_OFF
    partial = path.with_name(path.name + ".partial")
    heading = (
        "# Written by `tocsin law review --adopt`; a copy for readers, the case store and the evidence log decide.\n"
    )
    partial.write_text(heading + yaml.safe_dump(document, sort_keys=True), encoding="utf-8")
    partial.replace(path)
    return path


SUBCOMMANDS: dict[str, Sequence[click.Command]] = {"law": (review,)}
COMMANDS: list[click.Command] = []
"""None of its own: the command line puts these under `tocsin law`."""
