"""`tocsin relay verify` and `tocsin relay status`: what the store's engineer reads to know whether both sides agree."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

import click

from bridge.contracts.errors import Refused, Unreachable
from bridge.contracts.fingerprints import Entity
from bridge.contracts.queries import IndexAnswers
from bridge.magento.look import StoreLook
from bridge.put_back import put_back_since
from bridge.relay_status import BEAT_IS_OLD_SECONDS, Status, in_short, oldest_unpublished_seconds, remember
from bridge.relay_status import status as ask_status
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import in_words, print_json, print_table
from bridge.runtime.sealing import load_join_key
from bridge.runtime.settings import Settings
from bridge.verification import ENTITIES, PLURALS, Cause, Difference, Report, Verification

_ENTITY_OF = {plural: entity for entity, plural in PLURALS.items()}
_REMEDIES = {
    Cause.MISSING: "lost on the way: --repair has it published again",
    Cause.GONE: "a deletion was lost on the way: --repair has it published",
    Cause.OLDER: "a change was lost on the way, or Tocsin was upgraded or store views were changed since: --repair has it"
    " published again",
    Cause.ALTERED: "find out who writes there: a correction is a new record that names what it supersedes",
    Cause.WAITING: "the relay is behind, or does not run: see `tocsin relay status`",
    Cause.TOO_MANY: "run `tocsin relay backfill --entity {plural}`, then verify again",
}
_BACKFILLED = {"customer": "customers", "provenance": "provenance", "order": "orders"}


@click.command("verify")
@click.option("--entity", "plurals", multiple=True, type=click.Choice(list(_ENTITY_OF)), help="Only this; default all.")
@click.option("--repair", is_flag=True, help="Have published again what differs, and nothing else.")
@click.option(
    "--per-second", type=click.IntRange(1), default=20_000, show_default=True, help="Read at most so many rows."
)
@click.option(
    "--patience", type=click.FloatRange(1), default=30.0, show_default=True, help="Seconds to watch what differs."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def verify(parts: Parts, plurals: Sequence[str], repair: bool, per_second: int, patience: float, as_json: bool) -> None:
    """Compare store and index; exit code 1 if they differ. Locks nothing, and may run while the shop is open.

    What differs is watched until it is certain: the store's state stands still, no change of it waits, and a heartbeat
    written after that has reached the index.
    """
    settings, clock = parts.get(Settings), parts.get(Clock)
    look = StoreLook(settings.store, clock)
    try:
        look.open()
        counts = look.counts()
        chosen = [_ENTITY_OF[plural] for plural in plurals] or list(ENTITIES)
        with click.progressbar(
            length=sum(counts[entity] for entity in chosen), label="reading", file=sys.stderr
        ) as bar:
            verification = Verification(
                look,
                parts.get(IndexAnswers),
                load_join_key(settings.paths.join_key),
                per_second=per_second,
                patience_seconds=patience,
                progress=lambda _entity, count: bar.update(count),
            )
            report = verification.run(chosen, repair=repair)
    finally:
        look.close()
    remember(report, chosen, settings.paths.relay_verified, clock.now())
    oldest = oldest_unpublished_seconds(settings.paths.run)
    if as_json:
        print_json(
            asdict(report)
            | {
                "agree": report.agree,
                "differences": [asdict(each) for each in report.differences],
                "oldest_unpublished_seconds": oldest,
            }
        )
    else:
        _print_report(report, chosen, oldest)
    if not report.agree:
        raise Refused(f"{sum(each.count for each in report.differences):,} findings; see above what each asks for")


def _print_report(report: Report, chosen: Sequence[Entity], oldest: float | None) -> None:
    counts = ", ".join(f"{getattr(report, PLURALS[entity]):,} {PLURALS[entity]}" for entity in chosen)
    if oldest is None:
        age = "no relay of this installation leads, so the age of the oldest unpublished change is unknown"
    else:
        age = f"age of the oldest unpublished change {in_short(oldest)}"
    verdict = "agree"
    if report.differences:
        only_altered = all(each.cause is Cause.ALTERED for each in report.differences)
        verdict = "agree, but records were changed against the append-only rule" if only_altered else "differ"
    click.echo(f"store and index {verdict}: {counts}, {age}")
    if report.repaired:
        click.echo(f"{report.repaired:,} were published again and agree now")
    if report.deleted_by_sql:
        click.echo(
            f"{report.deleted_by_sql:,} records were deleted from the store by SQL; the index keeps them as deleted"
        )
    if report.unpublishable_count:
        rows = ", ".join(map(str, report.unpublishable))
        click.echo(
            f"{report.unpublishable_count:,} provenance rows name nobody (no root, customer or order) and cannot be published; "
            f"tocsin_provenance.id {rows}"
        )
    if report.differences:
        print_table(
            [_row(each) for each in report.differences], ["what", "count", "cause", "for example", "what to do"]
        )
    if not report.proven:
        click.echo(
            "no heartbeat of a relay came through meanwhile: what differs may be on its way; see `tocsin relay status`"
        )


def _row(each: Difference) -> dict[str, Any]:
    shown = ", ".join(each.examples[:5]) + (", ..." if each.count > min(5, len(each.examples)) else "")
    return {
        "what": PLURALS[each.entity],
        "count": f"{each.count:,}",
        "cause": each.cause.value,
        "for example": shown or None,
        "what to do": _REMEDIES[each.cause].replace("{plural}", _BACKFILLED[each.entity]),
    }


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def relay_status(parts: Parts, as_json: bool) -> None:
    """Show on one screen whether the relay works and store and index agree; exit code 1 if something needs a look."""
    settings, clock = parts.get(Settings), parts.get(Clock)
    look = StoreLook(settings.store, clock)
    try:
        found = ask_status(
            look,
            parts.get(IndexAnswers),
            settings.paths.run,
            settings.paths.relay_verified,
        )
    finally:
        look.close()
    found.put_back_at = put_back_since(settings.paths.relay_store, found.verified)
    now = clock.now()
    troubles = found.troubles(now)
    if as_json:
        faults = None if found.faults is None else [each.model_dump(mode="json") for each in found.faults.faults]
        altered = None if found.faults is None else found.faults.altered_count
        facts = {name: value for name, value in asdict(found).items() if name != "faults"}
        print_json(
            facts
            | {
                "counts_agree": found.counts_agree,
                "beat_seconds": found.beat_seconds(now),
                "faults": faults,
                "altered_records": altered,
                "troubles": troubles,
            }
        )
    else:
        for line in _lines(parts, found):
            click.echo(line)
        for trouble in troubles:
            click.echo(f"! {trouble}")
    for part in ("store", "index"):
        if part in found.missing:
            raise Unreachable(found.missing[part])
    if troubles:
        raise Refused(f"{len(troubles)} things to look at" if len(troubles) > 1 else troubles[0])


def _lines(parts: Parts, found: Status) -> list[str]:
    now = parts.get(Clock).now()
    lines = [f"agreement   {_agreement(found)}"]
    if found.verified is None:
        lines.append("verified    never; `tocsin relay verify` compares every row")
    else:
        outcome = "store and index agreed" if found.verified.agree else "DIFFERENCES were found"
        never = [PLURALS[entity] for entity in ENTITIES if entity not in found.verified.entities]
        but = f"; never of {' and '.join(never)}" if never else ""
        lines.append(f"verified    {in_words(found.verified.at, now)}: {outcome}{but}")
    beat = found.beat_seconds(now)
    leads = "leads" if beat is None or beat <= BEAT_IS_OLD_SECONDS else "led"
    leader = "no relay has led yet" if beat is None else f"{found.leader} {leads}, last heartbeat {in_short(beat)} ago"
    own = ""
    if found.relay is not None:
        own = "; the relay of this installation is " + ("the active one" if found.relay.active else "standing by")
    elif "relay" in found.missing:
        own = f"; {found.missing['relay']}"
    lines.append(f"relay       {leader}{own}")
    lines.append(f"waiting     {_waiting(found)}")
    unseen = found.unseen_seconds(now)
    if "index" in found.missing:
        lines.append("visible     unknown: the index does not answer")
    elif found.visible_seconds is None:
        lines.append("visible     not measured yet: no heartbeat has reached every partition of the index")
    else:
        lines.append(
            f"visible     {in_short(found.visible_seconds)} from a commit in the store to the index, "
            f"slowest of {found.partition_count} partitions"
            + ("" if unseen is None else f"; but none has come for {in_short(unseen)}")
        )
    if found.relay is not None:
        batch = (
            "none yet" if found.relay.batch_seconds is None else f"{found.relay.batch_seconds * 1000:.0f} ms on average"
        )
        lines.append(
            f"work        {found.relay.changes_per_second:,.0f} changes/s, batches {batch}, "
            f"{found.relay.publish_errors} publish errors, {found.relay.store_errors} store errors"
        )
    lines += _faults(found)
    return lines


def _agreement(found: Status) -> str:
    if found.counts_agree is None:
        silent = ["not all partitions of the index answer"] if found.silent_partitions else []
        silent += ["not all partitions of the index are whole"] if found.old_partitions else []
        return "unknown: " + "; ".join(
            [*(found.missing[part] for part in ("store", "index") if part in found.missing), *silent]
        )
    parts = []
    for entity in get_args(Entity):
        here, there = found.store_counts[entity], found.index_counts[entity]
        plural = PLURALS[entity]
        parts.append(
            f"{here:,} {plural}" if here == there else f"{here:,} {plural} in the store, {there:,} in the index"
        )
    if found.counts_agree:
        verdict = "store and index hold the same numbers"
    else:
        verdict = "numbers differ while they change" if found.moving else "numbers differ"
    return f"{verdict}: {', '.join(parts)}"


def _waiting(found: Status) -> str:
    if found.waiting is None:
        return "unknown: the store does not answer"
    if found.waiting == 0:
        return "no change: all that is committed is published"
    count = f"more than {found.waiting:,}" if found.waiting_is_more else f"{found.waiting:,}"
    if found.relay is None or not found.relay.active:
        return f"{count} changes not yet published"
    return (
        f"{count} changes not yet published, the oldest for {in_short(found.relay.oldest_unpublished_seconds)} at most"
    )


def _faults(found: Status) -> list[str]:
    if found.faults is None:
        return []
    if not found.faults.faults:
        return ["bad rows    none: every field could be read"]
    total = sum(each.count for each in found.faults.faults)
    lines = [f"bad rows    {total:,} fields could not be read; published without them:"]
    for each in found.faults.faults:
        shown = ", ".join(each.examples) + (", ..." if each.count > len(each.examples) else "")
        lines.append(f"              {each.entity} {each.field}: {each.count:,} ({shown})")
    return lines
