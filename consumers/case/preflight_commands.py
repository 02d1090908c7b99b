"""`tocsin incident preflight`: what a release would meet if it began now, and who lets it go all the same."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from bridge.contracts.errors import Refused
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json
from consumers.case.events import written
from consumers.case.overriding import override
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, reason_option, token_option
from consumers.case.records import OverrideRecord
from consumers.case.sheet import Means, Preflight
from consumers.case.sheet_commands import look_now, means, sentence_of
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import still_open


@click.command()
@click.argument("incident_id")
@click.option("--override", "code", metavar="CODE", help="Let the release go although this blocks it; needs --reason.")
@reason_option
@token_option
@as_json_option
@click.pass_obj
def preflight(
    parts: Parts, incident_id: str, code: str | None, reason: str | None, token_file: Path | None, as_json: bool
) -> None:
    """Say what a release would meet: counts, time against the deadline, accounts, lists, cost. It ends with 1 if blocked."""
    actor = authenticated(parts, token_file)
    actor.acting_for(Act.VIEW_INCIDENT)
    store, how, now = parts.get(CaseStore), means(parts), parts.get(Clock).now()
    look = look_now(parts, how, now)
    if code is not None:
        override(store, incident_id, code, actor, now, reason, look)

    def work(case: CaseWork) -> tuple[Preflight, Sequence[OverrideRecord]]:
        incident = still_open(case, incident_id)
        prepared = [each for each in case.releases(incident_id) if each.state == "prepared"]
        overrides = [each for release in prepared for each in case.overrides(release.release_id)]
        return look(case, incident), overrides

    seen, overrides = store.look(work)
    blocking = sorted({each.code for each in seen.blocking(each.code for each in overrides)})
    if as_json:
        print_json(_facts(seen, overrides, how, now) | {"incident_id": incident_id, "blocked_by": blocking})
    else:
        for line in _lines(seen, overrides, how, now):
            click.echo(line)
    if blocking:
        raise Refused(
            f"{incident_id}: {', '.join(blocking)} keep the release back; mend it, or let a dpo or counsel take it on by name: "
            f"tocsin incident preflight {incident_id} --override {blocking[0]} --reason TEXT"
        )


def _facts(seen: Preflight, overrides: Sequence[OverrideRecord], how: Means, now: datetime) -> dict[str, Any]:
    sending = seen.sending
    return {
        "sentence": sentence_of(seen.sending, seen.earliest_deadline_at, now),
        "people": seen.counts(),
        "channels": seen.channels(how),
        "cost": seen.cost(how),
        "earliest_deadline_at": None if seen.earliest_deadline_at is None else written(seen.earliest_deadline_at),
        "sending": {
            "seconds": round(sending.takes.total_seconds()),
            "emails_per_second": sending.per_second,
            "late_seconds": round(sending.late.total_seconds()),
            "deadline_at": None if sending.deadline_at is None else written(sending.deadline_at),
        },
        "findings": [asdict(each) for each in seen.findings],
        "overrides": [
            {"code": each.code, "overridden_by": each.overridden_by, "role": each.role} for each in overrides
        ],
    }


def _lines(seen: Preflight, overrides: Sequence[OverrideRecord], how: Means, now: datetime) -> list[str]:
    people, channels, cost = seen.counts(), seen.channels(how), seen.cost(how)
    first, later = (
        ", ".join(f"{count:,} by {name.replace('_', ' ')}" for name, count in channels[when].items() if count)
        for when in ("first", "later_at_most")
    )
    email = "at a price that nobody has said" if cost["email"] is None else f"{cost['email']} {cost['currency']}"
    texts = (
        "at a price that nobody has said"
        if cost["sms"] is None
        else (f"{cost['sms']} {cost['currency']}, with every fallback at most {cost['sms_at_most']}")
    )
    taken = {each.code: each for each in overrides}
    lines = [
        f"{people['people']:,} people, {people['held']:,} held; first {first or 'nobody'}; "
        f"{channels['without']:,} without any channel",
        f"as a fallback at most: {later or 'none'}",
        sentence_of(seen.sending, seen.earliest_deadline_at, now),
        f"cost: {cost['emails']:,} e-mails {email}; {cost['sms_parts']:,} parts of SMS {texts}",
    ]
    for each in seen.findings:
        by = taken.get(each.code)
        mark = (
            ""
            if not each.blocks
            else (
                f" [{each.code}: taken on by {by.overridden_by} as {by.role}]"
                if by
                else f" [{each.code}: blocks the release]"
            )
        )
        live = f" ({each.live})" if each.live else ""
        lines.append(f"{each.level}: {each.about}: {each.says}{live}{mark}" + (f"; {each.next}" if each.next else ""))
    return lines


COMMANDS: list[click.Command] = []
"""None of its own: `consumers.case.commands` puts `preflight` under `tocsin incident`."""
