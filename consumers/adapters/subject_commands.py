"""`tocsin subject export` and `erase`: what a data subject asks for (GDPR Art. 15 and 17), over index, case store, letters
and evidence keys. What a store itself holds is the store's to hand out and to delete.
"""

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from bridge.contracts.errors import BadInput, Refused, TocsinError, Unreachable
from bridge.contracts.events import SealedContact
from bridge.contracts.queries import Inspection
from bridge.contracts.topics import (
    ACCOUNT_NOTICES,
    AFFECTED_CUSTOMERS,
    DELIVERY_COMMANDS,
    DELIVERY_OUTCOMES,
    STORE_CHANGES,
)
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json
from bridge.runtime.settings import Settings
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.erasures import Asked, Erasures
from consumers.adapters.case_store.evidence_rows import EvidenceRows
from consumers.adapters.case_store.subjects import HeldNotice, SubjectRows
from consumers.adapters.index_client import IndexClient
from consumers.adapters.letter_batches import WrittenLetters
from consumers.adapters.subject_proofs import proofs_of
from consumers.case.acting import Actor, needed, record_act
from consumers.case.evidence_commands import GROUND
from consumers.case.looking import ContactOpener, roots_behind
from consumers.case.permissions import Act, Role
from consumers.case.prompts import as_json_option, authenticated, reason_option, token_option
from consumers.case.sheet import NoticeSamples
from consumers.case.store import CaseStore, CaseWork
from consumers.case.verification import LeakMatcher
from consumers.case.workflow import found as incident_of

FORMAT = "tocsin-subject-export-v1"
_NOTE = (
    "Personal data of one person: hand it to them alone, and delete it here. It holds all that Tocsin keeps about them; what "
    "the shop itself keeps (account, orders, the AI outputs' content) is the shop's to hand out."
)


@click.group()
def subject() -> None:
    """What a data subject asks for: a copy of what is held of them, or to be forgotten."""


@subject.command()
@click.argument("ref")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file, mode 0600."
)
@reason_option
@token_option
@click.pass_obj
def export(parts: Parts, ref: str, out: Path, reason: str | None, token_file: Path | None) -> None:
    """Write all that Tocsin holds about REF into one JSON file: customer/42, order/7, or "-" for an address on standard input.

    Records, incidents, notices as sent, attempts, receipts and proofs. That it was made is recorded.
    """
    actor = authenticated(parts, token_file)
    role = actor.acting_for(Act.EXPORT_SUBJECT)
    why, now = needed(reason), parts.get(Clock).now()
    if out.exists():
        raise Refused(f"{out} exists already; nothing was written")
    rows = SubjectRows(parts.get(CaseDatabase))
    roots = rows.roots(_roots(parts, ref))
    # a copy that left something out would be a wrong answer: without its index partition there is none
    index = IndexClient(parts.get(Settings).paths.run)
    seen = [index.inspect(root) for root in roots]
    notices, findings = rows.notices(roots), rows.findings(roots)
    known = [each for each in seen if each.person.state != "absent" or each.records]
    if not known and not notices and not findings:
        erased = rows.erased_at(roots)
        raise Refused(
            f"{', '.join(roots)}: nothing is held"
            + (
                ""
                if erased is None
                else f"; they were erased on {instant(erased, now)}, and nothing leads to them any more"
            )
        )
    # written before the file: no copy without its trace
    _record(parts, actor, role, notices, sum(len(each.records) for each in seen), now, why)
    content = {
        "format": FORMAT,
        "what_this_is": _NOTE,
        "made_at": now,
        "person": roots,
        "index": [each.model_dump(mode="json", exclude={"partition"}) for each in known],
        "found_by_incidents": findings,
        "notices": [_notice(parts, each) for each in notices],
        "channels_that_lead_nowhere": rows.bounces(roots),
        "holds": rows.holds(roots),
        "requests_to_be_forgotten": rows.requests(roots),
        "evidence": proofs_of(parts.get(Settings).paths.evidence, EvidenceRows(parts.get(CaseDatabase)), notices),
        "kept_for": _kept(now),
    }
    _write_private(out, json.dumps(content, indent=2, ensure_ascii=False, default=_written) + "\n")
    click.echo(
        f"{out}: {sum(len(each.records) for each in known):,} records, {len(notices):,} notices in "
        f"{len({each.incident_id for each in notices} | {str(each['incident_id']) for each in findings}):,} incidents"
    )
    click.echo("It is personal data, readable by you alone: hand it over, then delete it.")


@subject.command()
@click.argument("ref")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and do nothing.")
@reason_option
@token_option
@as_json_option
@click.pass_context
def erase(
    context: click.Context, ref: str, dry_run: bool, reason: str | None, token_file: Path | None, as_json: bool
) -> None:
    """Forget REF: customer/42, order/7, or "-" for an address on standard input. Proofs stay valid, and are nobody's.

    While an incident of theirs is open the request is held, exit code 1, and carried out by itself when it is closed.
    """
    parts: Parts = context.obj
    actor = authenticated(parts, token_file)
    role = actor.acting_for(Act.ERASE_SUBJECT)
    why = None if dry_run else needed(reason)
    database, clock, settings = parts.get(CaseDatabase), parts.get(Clock), parts.get(Settings)
    rows, erasures = SubjectRows(database), Erasures(database, clock, WrittenLetters(settings.paths.letters))
    now = clock.now()
    answers = []
    for root in _one_of_each(rows, _roots(parts, ref)):
        index = _looked_up(settings, rows.roots([root]))
        in_index = [name for name, each in index.items() if each is not None and _is_known(each)]
        if dry_run:
            asked = erasures.look(root)
            if asked is None and in_index:
                asked = Asked("", now, None, (), 0)
            if asked is None:
                raise _nobody(root, index)
        else:
            try:
                asked = erasures.ask(root, actor, role, str(why), known_elsewhere=bool(in_index))
            except BadInput:
                raise _nobody(root, index) from None
        answers.append(_answer(root, asked, index, rows.exercises(asked.held_by), now, dry_run=dry_run))
    if as_json:
        print_json(answers)
    else:
        for answer in answers:
            click.echo("\n".join(_lines(answer, now)))
    if any(answer["held_by"] for answer in answers):
        context.exit(1)


def _roots(parts: Parts, ref: str) -> Sequence[str]:
    """Return the accounts and orders that `ref` names. An address is read from standard input alone: history and process
    lists show arguments.
    """
    if ref == "-":
        return roots_behind(parts.get(LeakMatcher), email=sys.stdin.readline().strip())
    kind, _, number = ref.partition("/")
    if kind not in ("customer", "order") or not number.isascii() or not number.isdigit():
        shown = "an address" if "@" in ref else repr(ref[:100])
        raise BadInput(f"{shown}: write customer/42, order/7 for a guest, or - and the address on standard input")
    return [ref]


def _one_of_each(rows: SubjectRows, roots: Sequence[str]) -> Sequence[str]:
    """Return one root of each person among `roots`: what was merged is erased together."""
    chosen: list[str] = []
    covered: set[str] = set()
    for root in roots:
        if root not in covered:
            chosen.append(root)
            covered |= set(rows.roots([root]))
    return chosen


def _looked_up(settings: Settings, roots: Sequence[str]) -> Mapping[str, Inspection | None]:
    """Return what the index holds by root; None where it does not answer: it learns of the erasure by its topic."""
    client = IndexClient(settings.paths.run)
    found: dict[str, Inspection | None] = {}
    for root in roots:
        try:
            found[root] = client.inspect(root)
        except Unreachable:
            found[root] = None
    return found


def _is_known(seen: Inspection) -> bool:
    return seen.person.state != "absent" or bool(seen.records)


def _nobody(root: str, index: Mapping[str, Inspection | None]) -> TocsinError:
    if None in index.values():
        return Unreachable(f"{root}: no incident is about them, and the index, which may know them, does not answer; "
                           "`tocsin index status` shows why")  # fmt: skip
    return BadInput(f"{root}: nothing is held about them; nothing to erase")


def _answer(
    root: str,
    asked: Asked,
    index: Mapping[str, Inspection | None],
    exercises: Sequence[str],
    now: datetime,
    *,
    dry_run: bool,
) -> dict[str, Any]:
    return {
        "root": root,
        "state": "held" if asked.held_by else "would be erased" if dry_run else "erased",
        "dry_run": dry_run,
        "requested_at": None if dry_run else asked.requested_at.isoformat(),
        "held_by": list(asked.held_by),
        "exercises": list(exercises),
        "ground": GROUND if asked.held_by else None,
        "notice_count": asked.notice_count,
        "still_in_store": sorted(
            name for name, each in index.items() if each is not None and each.person.state == "present"
        ),
        "index_silent": sorted(name for name, each in index.items() if each is None),
        "kept_for": _kept(now),
    }


def _lines(answer: Mapping[str, Any], now: datetime) -> list[str]:
    root, held = answer["root"], ", ".join(answer["held_by"])
    lines: list[str] = []
    if held:
        since = "" if answer["dry_run"] else f", asked {instant(datetime.fromisoformat(answer['requested_at']), now)}"
        lines += [
            f"{root}: {'would be ' if answer['dry_run'] else ''}held until {held} closes{since}",
            f"ground: {answer['ground']}. It is carried out by itself then, within a second.",
        ]
        lines += [f"{name} is an exercise, which is no such ground: close it soon" for name in answer["exercises"]]
    elif answer["dry_run"]:
        lines.append(f"{root}: would be erased at once; {answer['notice_count']:,} notices would lose their name")
    else:
        lines.append(
            f"{root}: erased. {answer['notice_count']:,} notices are nobody's now; every proof of them stays valid."
        )
    if answer["still_in_store"]:
        lines.append(
            f"store: still holds {', '.join(answer['still_in_store'])}. The index mirrors the store, and forgets them within a "
            "minute of their deletion there: delete the account, and their rows of tocsin_provenance"
        )
    elif not held and not answer["dry_run"]:
        lines.append(
            f"index: does not answer now ({', '.join(answer['index_silent'])}); it forgets them once it runs"
            if answer["index_silent"]
            else "index: forgets them within a minute, and whenever it is built anew"
        )
    if not held:
        lines.append("messages published before go by retention: "
                     + "; ".join(f"{name} {until}" for name, until in answer["kept_for"].items()))  # fmt: skip
        lines.append(
            "handed over before and out of reach: auditors' packages, single proofs, printed letters, what providers keep. "
            "Frozen answers keep the number, in proof that nobody was left out (Art. 17(3)(e))"
        )
    return lines


def _kept(now: datetime) -> dict[str, str]:
    """Return until when each topic may still show a message about somebody that is published by now."""
    found = {}
    for topic in (AFFECTED_CUSTOMERS, DELIVERY_COMMANDS, DELIVERY_OUTCOMES):
        assert topic.retention_ms is not None
        found[topic.name] = f"until {now + timedelta(milliseconds=topic.retention_ms):%Y-%m-%d}"
    lag = timedelta(milliseconds=int(STORE_CHANGES.settings["max.compaction.lag.ms"]))
    found[STORE_CHANGES.name] = f"{lag.days} days from the deletion in the store"
    found[ACCOUNT_NOTICES.name] = "newest state of each notice; withdrawn ones without their text"
    return found


def _record(
    parts: Parts, actor: Actor, role: Role, notices: Sequence[HeldNotice], records: int, now: datetime, why: str
) -> None:
    def work(case: CaseWork) -> None:
        for incident_id, commitment in sorted({(each.incident_id, each.commitment) for each in notices}):
            body = {"view": "subject_export", "subject_commitment": commitment}
            incident = incident_of(case, incident_id)
            record_act(case, actor, role, "person.looked_at", body, at=now, incident=incident, reason=why)
        said = {"notice_count": len(notices), "record_count": records}
        record_act(case, actor, role, "subject.exported", said, at=now, reason=why)

    parts.get(CaseStore).change(work)


def _notice(parts: Parts, held: HeldNotice) -> dict[str, Any]:
    return {
        "incident_id": held.incident_id,
        "exercise": held.exercise,
        **held.facts,
        "contact": _contact(parts, held),
        "text": _text(parts, held),
    }


def _contact(parts: Parts, held: HeldNotice) -> Any:
    if held.contact is None:
        return "not held: it goes when the incident closes"
    try:
        opened = parts.get(ContactOpener).open(SealedContact.model_validate(held.contact), held.root)
    except TocsinError:
        return "held sealed; its key is not on this machine"
    return msgspec.to_builtins(opened)


def _text(parts: Parts, held: HeldNotice) -> Any:
    """Return the approved text that they were sent, by medium, with a stand-in for their name."""
    if held.segment_key is None or not held.facts["attempts"]:
        return "none was sent"
    try:
        sample = parts.get(NoticeSamples).sample(held.segment_key, exercise=held.exercise)
    except TocsinError as fault:
        return f"cannot be shown: {str(fault).splitlines()[0]}"
    used = {each["channel"] for each in held.facts["attempts"]}
    return {
        "note": "your name stood in place of the sample's",
        **{each.medium: {"title": each.title, "text": each.text} for each in sample.media if each.medium in used},
    }


def _written(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, from its first byte on. Raises Refused if it is there already."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Refused(f"{path} exists already; nothing was written") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({type(error).__name__})") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


COMMANDS: Collection[click.Command] = [subject]
