"""`tocsin incident possible, reproduce, crosscheck`: what an incident's answers rest on, and who decides about the rest.

Wiring and wording; `consumers.case.commands` puts these under `incident`.
"""

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import Coverage
from bridge.contracts.scope import Scope
from bridge.contracts.store_answers import StoreAnswers
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json, print_table
from consumers.case import crosschecking, reproducing
from consumers.case import possible as rules
from consumers.case.crosschecking import Cause, Crosscheck, Explained, list_from_store, name_differences
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, reason_option, token_option
from consumers.case.reproducing import AnswerIndex, FrozenFiles, Reproduction
from consumers.case.scoping import parse_scope
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


_DIFFERENCES_SHOWN = 50


@click.command()
@click.argument("incident_id", required=False)
@click.option(
    "--scope",
    "scope_file",
    type=click.File("r", encoding="utf-8"),
    help="Instead of an incident: list whom this concerns.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print the store's whole answer, a line a person, as CSV.")
@click.option("--accept-unexplained", is_flag=True, help="Name what the newest cross-check could not explain.")
@reason_option
@token_option
@as_json_option
@click.pass_obj
def crosscheck(
    parts: Parts,
    incident_id: str | None,
    scope_file: Any,
    as_csv: bool,
    accept_unexplained: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Have the store itself answer the frozen scope, and list where it says otherwise, by cause.

    Asks the database (store.replica_url if set) by one read-only JOIN. With --scope FILE it needs neither Kafka nor index: an
    emergency list. Exit code 1 if a difference is unexplained; it blocks approvals until it is gone or accepted by name.
    """
    actor = authenticated(parts, token_file)
    if (incident_id is None) == (scope_file is None):
        raise BadInput("name an INCIDENT_ID, or a scope by --scope FILE")
    if incident_id is None:
        actor.acting_for(Act.CROSSCHECK)
        scope = parse_scope(scope_file.read(), scope_file.name)
        done = list_from_store(scope, parts.get(StoreAnswers))
        _print_store_list(done, as_csv=as_csv, as_json=as_json)
        return
    if accept_unexplained:
        named = name_differences(parts.get(CaseStore), incident_id, actor, parts.get(Clock).now(), reason)
        if as_json:
            print_json(asdict(named))
        else:
            click.echo(f"{incident_id}: {named.unexplained_count:,} unexplained differences are accepted by {actor.person_id}; "
                       "what was prepared must be prepared again")  # fmt: skip
        return
    done = crosschecking.crosscheck(
        parts.get(CaseStore), incident_id, actor, parts.get(Clock).now, parts.get(StoreAnswers), parts.get(FrozenFiles),
        parts.get(AnswerIndex),
    )  # fmt: skip
    if as_csv or done.agreeing_count is None:
        _print_store_list(done, as_csv=as_csv, as_json=as_json)
    elif as_json:
        print_json(_crosscheck_facts(done))
    else:
        _print_crosscheck(incident_id, done, parts.get(Clock).now())
    if done.record is not None and done.record.unexplained_count:
        raise Refused(
            f"{incident_id}: {done.record.unexplained_count:,} differences are unexplained and block approvals; find out why and "
            f"cross-check again, or have a dpo or counsel accept them: tocsin incident crosscheck {incident_id} "
            "--accept-unexplained --reason TEXT"
        )


def _print_store_list(done: Crosscheck, *, as_csv: bool, as_json: bool) -> None:
    rows = [
        {
            "root": root,
            "customer_id": "" if person is None or person.customer_id is None else person.customer_id,
            "standing": standing,
            "residence": " ".join(claim.code for claim in person.residence) if person is not None else "",
            "record_ids": " ".join(sorted(ids)),
        }
        for root, (ids, standing) in sorted(done.answer.members.items())
        for person in (done.answer.persons.get(root),)
    ]
    if as_json:
        print_json({"compared": False, "remarks": list(done.remarks), "people": rows})
        return
    if as_csv:
        writer = csv.DictWriter(sys.stdout, ("root", "customer_id", "standing", "residence", "record_ids"))
        writer.writeheader()
        writer.writerows(rows)
        return
    possible_count = sum(row["standing"] == "possible" for row in rows)
    click.echo(f"the store itself: {len(rows) - possible_count:,} by record, {possible_count:,} possible; of the departed it "
               "knows ids only, of values that were replaced since nothing")  # fmt: skip
    for remark in done.remarks:
        click.echo(f"not compared: {remark}")
    click.echo("--csv prints whom, by id; addresses are the shop's to look up")


def _crosscheck_facts(done: Crosscheck) -> dict[str, Any]:
    return {
        "compared": True,
        "crosscheck_id": None if done.record is None else done.record.crosscheck_id,
        "counts": dict(done.counts),
        "remarks": list(done.remarks),
        "differences": [_difference(each) | {"at": each.at} for each in done.differences],
    }


def _difference(each: Explained) -> dict[str, Any]:
    difference = each.difference
    return {
        "root": difference.root,
        "cause": each.cause.value,
        "frozen": "not in it" if difference.frozen is None else difference.frozen[1],
        "store": "not in it" if difference.now is None else difference.now[1],
        "record_ids": list(difference.record_ids),
    }


_CAUSES = {
    Cause.DEPARTED: "gone from the store; the index keeps them, and they are told",
    Cause.LATER: "changed after the resolution; the index has it so too",
    Cause.LAG: "the relay has not told it yet: see `tocsin relay status`, then cross-check again",
    Cause.INDEX_ONLY: "seen by the index alone: a value without a record, replaced or explained since",
    Cause.UNEXPLAINED: "nothing explains it: `tocsin relay verify`, `tocsin index inspect ROOT`",
}


def _print_crosscheck(incident_id: str, done: Crosscheck, now: datetime) -> None:
    counts = done.counts
    click.echo(f"{incident_id}: frozen answer and store agree on {counts['agreeing']:,} people, "
               f"differ on {len(done.differences):,}")  # fmt: skip
    causes = [
        {"cause": cause.value, "people": counts[cause.value], "what it means": meaning}
        for cause, meaning in _CAUSES.items()
        if counts[cause.value]
    ]
    if causes:
        print_table(causes, ("cause", "people", "what it means"))
    first = sorted(done.differences, key=lambda each: each.cause is not Cause.UNEXPLAINED)[:_DIFFERENCES_SHOWN]
    rows = [
        _difference(each)
        | {"records": ", ".join(each.difference.record_ids[:5]), "changed": instant(each.at, now) if each.at else ""}
        for each in first
    ]
    if rows:
        print_table(rows, ("root", "cause", "frozen", "store", "records", "changed"))
    if len(done.differences) > _DIFFERENCES_SHOWN:
        click.echo(f"and {len(done.differences) - _DIFFERENCES_SHOWN:,} more: --json shows all")
    for remark in done.remarks:
        click.echo(f"not known: {remark}")


SUBCOMMANDS: Sequence[click.Command] = (possible, reproduce, crosscheck)
COMMANDS: list[click.Command] = []
"""None of its own: `consumers.case.commands` puts these under `tocsin incident`."""
