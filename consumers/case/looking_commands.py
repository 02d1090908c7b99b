"""`tocsin delivery find` and `delivery bounced`: one person's attempts, and the addresses that lead nowhere any more."""

import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bridge.contracts.errors import BadInput, Refused
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json, print_table
from consumers.case.looking import Bounced, ContactOpener, find_person, list_bounced, roots_behind
from consumers.case.prompts import as_json_option, authenticated, reason_option, token_option
from consumers.case.records import FoundRecord
from consumers.case.store import CaseStore
from consumers.case.verification import LeakMatcher


@click.command("find")
@click.option(
    "--email", help="Their address; - reads it from standard input, which keeps it out of the shell's history."
)
@click.option("--customer", "customer_id", type=click.IntRange(min=1), help="Their customer id.")
@click.option("--root", help="customer/<id>, or order/<id> for a guest.")
@token_option
@as_json_option
@click.pass_obj
def find(
    parts: Parts, email: str | None, customer_id: int | None, root: str | None, token_file: Path | None, as_json: bool
) -> None:
    """Say what became of every attempt to tell one person. That you looked is recorded."""
    actor = authenticated(parts, token_file)
    if email == "-":
        email = sys.stdin.readline().strip()
    matcher = None if email is None else parts.get(LeakMatcher)
    now = parts.get(Clock).now()
    roots = roots_behind(matcher, email=email, customer_id=customer_id, root=root)
    rows = find_person(parts.get(CaseStore), roots, actor, now)
    if as_json:
        print_json([_found(each) for each in rows])
        return
    for each in rows:
        end = each.final_state or "no end yet"
        if each.told_in is not None:
            end += f" (told the same in {each.told_in.partition(':')[0]})"
        held = f", held: {each.held_reason}" if each.held_reason else ""
        again = f", notice {each.round}" if each.round > 1 else ""
        click.echo(f"{each.incident_id}{again}: {each.root}: {end}{held}"
                   + ("" if each.deadline_at is None else f"; by {instant(each.deadline_at, now)}"))  # fmt: skip
        print_table(
            [
                {
                    "attempt": attempt.number,
                    "channel": attempt.channel,
                    "provider": attempt.provider,
                    "state": attempt.state,
                    "since": instant(attempt.state_at, now),
                    "handed over": None if attempt.handed_over_at is None else instant(attempt.handed_over_at, now),
                    "receipts": ", ".join(
                        f"{kind}{'' if sub is None else f' ({sub})'} {at:%Y-%m-%dT%H:%M:%SZ}"
                        for kind, sub, at in attempt.receipts
                    )
                    or "none",
                    "id": attempt.attempt_id,
                }
                for attempt in each.attempts
            ],
            ("attempt", "channel", "provider", "state", "since", "handed over", "receipts", "id"),
        )
        if each.attempts:
            click.echo(f"proof: tocsin evidence prove --attempt {each.attempts[-1].attempt_id} -o proof")


def _found(each: FoundRecord) -> dict[str, Any]:
    return {
        "incident_id": each.incident_id,
        "root": each.root,
        "round": each.round,
        "segment_id": each.segment_id,
        "final_state": each.final_state,
        "final_at": each.final_at,
        "held_reason": each.held_reason,
        "told_in": each.told_in,
        "deadline_at": each.deadline_at,
        "attempts": [
            {
                "attempt_id": attempt.attempt_id,
                "number": attempt.number,
                "channel": attempt.channel,
                "provider": attempt.provider,
                "state": attempt.state,
                "state_at": attempt.state_at,
                "handed_over_at": attempt.handed_over_at,
                "receipts": [{"kind": kind, "sub_type": sub, "at": at} for kind, sub, at in attempt.receipts],
            }
            for attempt in each.attempts
        ],
    }


@click.command("bounced")
@click.argument("incident_id", required=False)
@click.option("--soft", is_flag=True, help="Also bounces that may pass, such as a full mailbox.")
@click.option("--with-addresses", is_flag=True, help="Open the contacts; needs -o, --reason and the sealing key here.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write CSV here, mode 0600.")
@reason_option
@token_option
@as_json_option
@click.pass_obj
def bounced(
    parts: Parts,
    incident_id: str | None,
    soft: bool,
    with_addresses: bool,
    out: Path | None,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """List customers whose address or phone a provider says leads nowhere, for the store's admin to mend.

    By customer id; addresses only into a file that nobody else can read. That you looked is recorded.
    """
    if with_addresses and out is None:
        raise BadInput("--with-addresses: name the file that they go into: -o FILE")
    actor = authenticated(parts, token_file)
    if out is not None and out.exists():
        raise Refused(f"{out} exists already; nothing was written")
    now = parts.get(Clock).now()
    opener = parts.get(ContactOpener) if with_addresses else None
    rows = list_bounced(
        parts.get(CaseStore), incident_id, actor, now, soft=soft, opener=opener, reason=reason
    )  # fmt: skip
    facts = [_bounced(each, addresses=with_addresses) for each in rows]
    if out is not None:
        _write_private(out, facts, as_json=as_json)
        click.echo(f"{len(rows):,} rows in {out}")
        return
    if as_json:
        print_json(facts)
        return
    shown = [{**each, "bounced": instant(row.record.bounced_at, now)} for each, row in zip(facts, rows, strict=True)]
    print_table(shown, ("customer_id", "root", "channel", "kind", "sub_type", "bounced", "incident_id"))
    click.echo(f"{len(rows):,} in all; no notice of theirs goes there again")


def _bounced(each: Bounced, *, addresses: bool) -> dict[str, Any]:
    record = each.record
    facts = {
        "customer_id": record.customer_id,
        "root": record.root,
        "channel": record.channel,
        "kind": record.kind,
        "sub_type": record.sub_type,
        "bounced_at": record.bounced_at.isoformat(),
        "incident_id": record.incident_id,
    }
    return {**facts, "address": each.address} if addresses else facts


def _write_private(path: Path, facts: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Write a file that its owner alone can read, from its first byte on. Raises Refused if it is there already."""
    text = io.StringIO(newline="")
    if as_json:
        json.dump(facts, text, indent=2)
    else:
        names = (
            list(facts[0])
            if facts
            else ["customer_id", "root", "channel", "kind", "sub_type", "bounced_at", "incident_id"]
        )
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(facts)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Refused(f"{path} exists already; nothing was written") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({type(error).__name__})") from None
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())


SUBCOMMANDS: Mapping[str, Sequence[click.Command]] = {"delivery": [find, bounced]}
COMMANDS: list[click.Command] = []
"""None of its own: these are verbs of `tocsin delivery`."""
