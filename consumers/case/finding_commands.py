"""`tocsin incident possible, reproduce`: what an incident's answers rest on, and who decides about the rest.

Wiring and wording; `consumers.case.commands` puts these under `incident`.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import Coverage
from bridge.contracts.scope import Scope
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json, print_table
from consumers.case import possible as rules
from consumers.case import reproducing
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, reason_option, token_option
from consumers.case.reproducing import AnswerIndex, FrozenFiles, Reproduction
from consumers.case.store import CaseStore
from consumers.domain.coverage import gaps_in_words


def print_coverage(coverage: Sequence[Coverage], exposed_from: datetime | None) -> None:
    """Print since when what is recorded, and what is not known, a line a model and attribute."""
    rows = [
        {
            "model": each.model_id,
            "attribute": each.attribute,
            "recorded since": f"{each.recorded_since:%Y-%m-%d %H:%M}" if each.recorded_since else "never",
            "untagged": each.untagged_count,
            "not known": "; ".join(gaps_in_words(each, exposed_from)) or "nothing",
        }
        for each in coverage
    ]
    print_table(rows, ("model", "attribute", "recorded since", "untagged", "not known"), title="coverage")


@click.command()
@click.argument("incident_id")
@click.option("--exclude", is_flag=True, help="Leave out everybody who is only possibly affected now.")
@click.option("--include", is_flag=True, help="Take back in whoever was left out.")
@reason_option
@token_option
@as_json_option
@click.pass_obj
def possible(
    parts: Parts,
    incident_id: str,
    exclude: bool,
    include: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Show who is only possibly affected and why; leave them out, or take them back in."""
    if exclude and include:
        raise BadInput("--exclude and --include exclude each other")
    actor = authenticated(parts, token_file)
    store, now = parts.get(CaseStore), parts.get(Clock).now()
    if exclude:
        done = rules.exclude(store, incident_id, actor, now, reason)
        if as_json:
            print_json(asdict(done))
            return
        click.echo(f"{incident_id}: {done.people_count:,} possibly affected accounts and orders are left out; what was "
                   f"prepared must be prepared again; undo it with: tocsin incident possible {incident_id} --include "
                   "--reason TEXT")  # fmt: skip
        return
    if include:
        count = rules.include(store, incident_id, actor, now, reason)
        print_json({"people_count": count}) if as_json else click.echo(f"{incident_id}: {count:,} are in again")
        return
    actor.acting_for(Act.VIEW_INCIDENT)
    seen = rules.possible(store, incident_id)
    if as_json:
        print_json(
            {
                "incident_id": incident_id,
                "revision": seen.incident.revision,
                "answered": seen.partitions.answered,
                "partition_count": seen.partitions.partition_count,
                "possible_count": seen.partitions.possible_count,
                "excluded_count": seen.partitions.excluded_count,
                "coverage": [each.model_dump(mode="json") for each in seen.partitions.coverage],
                "exclusions": [asdict(each) for each in seen.exclusions],
            }
        )
        return
    partitions = seen.partitions
    of = "?" if partitions.partition_count is None else partitions.partition_count
    click.echo(
        f"{incident_id}: {partitions.possible_count:,} of {partitions.affected_count:,} are possibly affected, "
        f"{partitions.excluded_count:,} of them left out, from {partitions.answered} of {of} partitions"
    )
    for each in seen.exclusions:
        undone = f"; withdrawn {instant(each.withdrawn_at, now)} by {each.withdrawn_by}" if each.withdrawn_at else ""
        click.echo(f"left out:     {each.people_count:,} {instant(each.decided_at, now)} by {each.decided_by}{undone}")
    scope = seen.incident.scope
    print_coverage(partitions.coverage, None if scope is None else Scope.model_validate(scope).exposed_from)
    if partitions.possible_count > partitions.excluded_count:
        click.echo(f"they are told unless a dpo or counsel says why not: tocsin incident possible {incident_id} --exclude "
                   "--reason TEXT")  # fmt: skip


_CHANGES_SHOWN = 50


@click.command()
@click.argument("incident_id")
@click.option("--revision", type=click.IntRange(min=1), help="An older one, by its frozen files; default: the newest.")
@click.option("--frozen-only", is_flag=True, help="Do not ask the index.")
@token_option
@as_json_option
@click.pass_obj
def reproduce(
    parts: Parts, incident_id: str, revision: int | None, frozen_only: bool, token_file: Path | None, as_json: bool
) -> None:
    """Compute root and counts of the resolution again, from its frozen files and from the index.

    Exit code 1 if a file is missing or altered, or if people differ although nothing is known to have changed since.
    """
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    now = parts.get(Clock).now()
    done = reproducing.reproduce(
        parts.get(CaseStore),
        incident_id,
        parts.get(FrozenFiles),
        None if frozen_only else parts.get(AnswerIndex),
        revision=revision,
    )
    if as_json:
        print_json(_reproduction_facts(done))
    else:
        _print_reproduction(done, now)
    if not done.holds:
        faulty = sum(each.fault is not None for each in done.partitions)
        unexplained = sum(each.at is None for each in done.changes)
        raise Refused(
            f"{incident_id}: {faulty} frozen files do not give their record's answer, {unexplained} people differ without a "
            "known change"
        )
    if (
        done.index_silent is not None
        and not frozen_only
        and not any(each.same_now is not None for each in done.partitions)
    ):
        raise Unreachable(f"the frozen files hold; the index was not compared: {done.index_silent}")


def _reproduction_facts(done: Reproduction) -> dict[str, Any]:
    return {
        "incident_id": done.incident.incident_id,
        "holds": done.holds,
        "partition_count": done.partition_count,
        "index_silent": done.index_silent,
        "partitions": [
            {
                **each.record.model_dump(mode="json"),
                "fault": each.fault,
                "index_root": each.index_root,
                "same_now": each.same_now,
            }
            for each in done.partitions
        ],
        "changes": [
            {
                "partition": each.partition,
                "root": each.difference.root,
                "what": each.difference.what,
                "record_ids": each.difference.record_ids,
                "changed_at": each.at,
            }
            for each in done.changes
        ],
    }


def _print_reproduction(done: Reproduction, now: datetime) -> None:
    first = done.partitions[0].record
    click.echo(
        f"{done.incident.incident_id} revision {first.revision}, scope {first.scope_sha256[:16]}, resolved by "
        f"{len(done.partitions)} of {done.partition_count} partitions"
    )
    rows = [
        {
            "partition": each.record.partition,
            "position": f"{each.record.position_topic}:{each.record.position_offset}",
            "people": each.record.affected_count,
            "possible": each.record.possible_count,
            "root": each.record.merkle_root[:16],
            "frozen file": each.fault or "gives root and counts",
            "index now": {True: "same root", False: "another root", None: "not compared"}[each.same_now],
            "seconds": each.record.duration_seconds,
        }
        for each in done.partitions
    ]
    print_table(rows, ("partition", "position", "people", "possible", "root", "frozen file", "index now", "seconds"))
    click.echo(f"code {first.code_version}, rules {(first.rules_sha256 or 'not stated')[:16]}, kept: {first.retention}")
    if done.index_silent is not None:
        click.echo(f"index: {done.index_silent}")
    changes = [
        {
            "partition": each.partition,
            "root": each.difference.root,
            "what": each.difference.what,
            "records": ", ".join(each.difference.record_ids[:5]),
            "changed": "no known change" if each.at is None else instant(each.at, now),
        }
        for each in done.changes[:_CHANGES_SHOWN]
    ]
    if changes:
        print_table(changes, ("partition", "root", "what", "records", "changed"), title="differs from the index of now")
    if len(done.changes) > _CHANGES_SHOWN:
        click.echo(f"and {len(done.changes) - _CHANGES_SHOWN:,} more: --json shows all")


SUBCOMMANDS: Sequence[click.Command] = (possible, reproduce)
COMMANDS: list[click.Command] = []
"""None of its own: `consumers.case.commands` puts these under `tocsin incident`."""
