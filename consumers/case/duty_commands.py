"""`tocsin incident verify, aware, facts, assess, obligations, duty, dismiss`: what is known, what follows, what was done.

Wiring and wording; `consumers.case.commands` puts them under `incident`. What may be recorded is decided in the room.
"""

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import click

from bridge.contracts.errors import BadInput, Refused
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import console, in_words, instant, print_json, print_table
from consumers.case import assessing, duties, recording, verification
from consumers.case.adoption import NOT_ADOPTED, adopted
from consumers.case.intake_rules import ENDED
from consumers.case.overview import overview
from consumers.case.permissions import Act
from consumers.case.prompts import (
    as_json_option,
    assignments,
    authenticated,
    instant_of,
    reason_option,
    token_option,
    value_of,
)
from consumers.case.records import ObligationRecord
from consumers.case.store import CaseStore, CaseWork
from consumers.case.verification import AwarenessPolicy, LeakMatcher
from consumers.case.workflow import AWARENESS, found, known_facts
from consumers.domain.duties import OPEN, DutyRow, LawInForce, Movement
from consumers.domain.facts import Facts
from consumers.domain.obligations import Status
from consumers.domain.severity import ALLOWED, show

_MOVES_SHOWN = 15


class SubmittedFiles(Protocol):
    """Where what was submitted to an authority is kept."""

    def put(self, content: bytes) -> str:
        """Store `content` durably and return its SHA-256 in hex."""
        ...


def say_next(parts: Parts, incident_id: str) -> None:
    """Print the one next thing to do."""
    following = overview(parts.get(CaseStore), incident_id).next
    if following is not None:
        click.echo(f"next: {following.command}")


def _say_moved(incident_id: str, moved: Sequence[Movement], *, would: bool = False) -> None:
    if not moved:
        click.echo("no duty would move" if would else "no duty moved")
        return
    number = f"{len(moved)} {'duty' if len(moved) == 1 else 'duties'}"
    click.echo(f"{number} would move:" if would else f"{number} moved:")
    for each in moved[:_MOVES_SHOWN]:
        click.echo(f"  {each.sentence}")
    if len(moved) > _MOVES_SHOWN:
        click.echo(
            f"  and {len(moved) - _MOVES_SHOWN} more: `tocsin incident obligations {incident_id}` shows how all of them stand"
        )


def _as_moves(moved: Sequence[Movement]) -> list[dict[str, Any]]:
    return [asdict(each) for each in moved]


# --- verification ------------------------------------------------------------------------------------------------


@click.command()
@click.argument("incident_id")
@click.option(
    "--match-test", "file", type=click.File("rb"), help="CSV of leaked rows: e-mail addresses, SHA-256 of them, or ids."
)
@click.option("--confirm", is_flag=True, help="It is real: people know so without a test, or beside one.")
@click.option("--dry-run", is_flag=True, help="Compare and show what would follow; record nothing.")
@reason_option
@token_option
@as_json_option
@click.pass_obj
def verify(
    parts: Parts,
    incident_id: str,
    file: Any,
    confirm: bool,
    dry_run: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Find out whether leaked rows are about real people; without options, show where verification stands."""
    actor = authenticated(parts, token_file)
    now = parts.get(Clock).now()
    store = parts.get(CaseStore)
    if file is None and not confirm:
        actor.acting_for(Act.VIEW_INCIDENT)
        _show_verification(parts, incident_id, now, as_json=as_json)
        return
    done = verification.verify(
        store,
        incident_id,
        actor,
        now,
        parts.get(LawInForce)(),
        test=None if file is None else (file.read(), Path(str(file.name)).name),
        matcher=None if file is None else parts.get(LeakMatcher),
        confirm=confirm,
        dry_run=dry_run,
        reason=reason,
    )
    if as_json:
        print_json(
            {
                "incident_id": incident_id, "state": done.state, "finding": done.finding,
                "counts": None if done.counts is None else {**asdict(done.counts),
                                                            "outside_count": done.counts.outside_count},
                "partition_count": done.partition_count, "silent_partitions": done.silent_partitions,
                "facts": done.facts, "moved": _as_moves(done.moved), "remarks": done.remarks, "recorded": not dry_run,
            }
        )  # fmt: skip
        return
    if done.counts is not None:
        click.echo(_counts_in_words(done))
    for remark in done.remarks:
        click.echo(f"note: {remark}")
    for name, value in done.facts.items():
        click.echo(f"{'would record' if dry_run else 'recorded'}: {name} = {value}")
    click.echo(f"{incident_id} {'would be' if dry_run else 'is'} {done.state}; no row of the file is kept")
    _say_moved(incident_id, done.moved, would=dry_run)
    if not dry_run:
        say_next(parts, incident_id)


def _counts_in_words(done: verification.Verified) -> str:
    counts = done.counts
    assert counts is not None
    answered = done.partition_count - len(done.silent_partitions)
    words = (
        f"{counts.matched_count:,} of {counts.row_count:,} rows match ({counts.by_email_count:,} by e-mail, "
        f"{counts.by_hash_count:,} by hash, {counts.by_id_count:,} by id), from {answered} of {done.partition_count} "
        f"partitions"
    )
    if counts.matched_count:
        words += f": {counts.inside_count:,} within the scope, {counts.outside_count:,} outside it"
    return words


def _show_verification(parts: Parts, incident_id: str, now: datetime, *, as_json: bool) -> None:
    policy = parts.get(AwarenessPolicy)
    clock, tests = verification.standing(parts.get(CaseStore), incident_id, policy)
    if as_json:
        kept = [{**asdict(each), "finding": verification.finding_of(each.counts, each.silent_count)} for each in tests]
        print_json(
            {"clock": {**asdict(clock), "running": clock.running}, "policy": asdict(policy), "match_tests": kept}
        )
        return
    for line in verification_lines(clock, policy, now):
        click.echo(line)
    rows = [
        {
            "tested": instant(each.tested_at, now), "by": each.tested_by, "revision": each.revision,
            "rows": each.counts["row_count"], "matched": each.counts["matched_count"],
            "finding": verification.finding_of(each.counts, each.silent_count).replace("_", " "),
        }
        for each in tests
    ]  # fmt: skip
    if rows:
        print_table(rows, ("tested", "by", "revision", "rows", "matched", "finding"), title="match tests")
    elif clock.state in ENDED:
        click.echo("no match test was made")
    else:
        click.echo(f"no match test yet: tocsin incident verify {incident_id} --match-test leaked.csv --reason TEXT")


def verification_lines(clock: verification.VerificationClock, policy: AwarenessPolicy, now: datetime) -> list[str]:
    """Return the verification's clock in words."""
    if not clock.running:
        return [f"verification: ended, {clock.state}"]
    state = {"suspected": "not begun", "verifying": "under way"}.get(clock.state, f"ended, {clock.state}")
    end = "then policy presumes" if policy.presume else "then people are paged again for"
    missing = f"; {end} {', '.join(clock.missing)}" if clock.missing else ""
    return [f"verification: {state}, until {instant(clock.due_at, now)}{missing}"]


@click.command()
@click.argument("incident_id")
@click.option("--as", "names", required=True, help="Instants, comma separated: controller_aware_at,discovered_at")
@click.option("--at", required=True, help="ISO 8601 with an offset.")
@click.option("--what-if", is_flag=True, help="Show what would move; record nothing.")
@reason_option
@token_option
@as_json_option
@click.pass_obj
def aware(
    parts: Parts,
    incident_id: str,
    names: str,
    at: str,
    what_if: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Record since when the company is aware; the recorded clocks start there. Corrections keep history."""
    actor = authenticated(parts, token_file)
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    store, now, law = parts.get(CaseStore), parts.get(Clock).now(), parts.get(LawInForce)()
    if what_if:
        actor.acting_for(Act.VIEW_INCIDENT)
        values = recording.awareness_values(chosen, instant_of(at), now)
        moved = duties.what_if(store, incident_id, values, law)[0]
        if as_json:
            print_json({"what_if": values, "moved": _as_moves(moved)})
            return
        _say_moved(incident_id, moved, would=True)
        click.echo("nothing was recorded")
        return
    moved = recording.record_awareness(store, incident_id, chosen, instant_of(at), actor, now, reason, law)
    if as_json:
        print_json({"recorded": chosen, "moved": _as_moves(moved)})
        return
    click.echo(f"{incident_id}: {', '.join(chosen)} recorded")
    _say_moved(incident_id, moved)
    say_next(parts, incident_id)


@click.command()
@click.argument("incident_id")
@click.option(
    "--without-rows",
    is_flag=True,
    help="A false alarm: nothing leaked that could be compared. A dpo or counsel decides.",
)
@reason_option
@token_option
@click.pass_obj
def dismiss(parts: Parts, incident_id: str, without_rows: bool, reason: str | None, token_file: Path | None) -> None:
    """Say that it is no incident: the first person proposes, a second one decides. Takes a match test without a match."""
    actor = authenticated(parts, token_file)
    done = verification.dismiss(
        parts.get(CaseStore), incident_id, actor, parts.get(Clock).now(), reason, without_rows=without_rows
    )
    if done.state != "dismissed":
        untested = done.record.match_test_id is None
        who = "a dpo or counsel other than you" if untested else "a second person"
        click.echo(f"proposed by {actor.person_id}; nothing has changed yet")
        click.echo(f"next: tocsin incident dismiss {incident_id}{' --without-rows' if untested else ''} --reason TEXT   "
                   f"({who}, under their own token)")  # fmt: skip
        return
    click.echo(f"{incident_id} is dismissed: proposed by {done.record.proposed_by}, decided by {actor.person_id}; "
               f"{done.contacts_removed:,} sealed contacts removed")  # fmt: skip


# --- facts -------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("incident_id")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Record a fact; VALUE is JSON or a word.")
@click.option("--unset", "unset", multiple=True, metavar="NAME", help="Make a fact unknown again; its history stays.")
@click.option("--what-if", is_flag=True, help="Show what would move; record nothing.")
@click.option("--history", "with_history", is_flag=True, help="Every record of every fact, oldest first.")
@reason_option
@token_option
@as_json_option
@click.pass_obj
def facts(
    parts: Parts,
    incident_id: str,
    pairs: tuple[str, ...],
    unset: tuple[str, ...],
    what_if: bool,
    with_history: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Show the recorded facts, or record some with --set and --unset; `--what-if` shows first what would move."""
    actor = authenticated(parts, token_file)
    store, now = parts.get(CaseStore), parts.get(Clock).now()
    values: dict[str, Any] = {name: value_of(texts[-1]) for name, texts in assignments(pairs).items()}
    for name in unset:
        if name in values:
            raise BadInput(f"--unset {name}: is set in the same breath; leave one of them out")
        values[name] = None
    if what_if:
        actor.acting_for(Act.VIEW_INCIDENT)
        _show_what_if(parts, incident_id, values, as_json=as_json)
        return
    moved: Sequence[Movement] | None = None
    if values:
        moved = recording.record_facts(store, incident_id, values, actor, now, reason, parts.get(LawInForce)())
    actor.acting_for(Act.VIEW_INCIDENT)
    _show_facts(parts, incident_id, moved, now, with_history=with_history, as_json=as_json)


def _show_what_if(parts: Parts, incident_id: str, values: Mapping[str, Any], *, as_json: bool) -> None:
    if not values:
        raise BadInput("--what-if: say which facts: --set NAME=VALUE or --unset NAME")
    instants = {name: value for name, value in values.items() if name not in AWARENESS}
    recording.checked_facts(incident_id, instants)
    moved, _ = duties.what_if(parts.get(CaseStore), incident_id, values, parts.get(LawInForce)())
    if as_json:
        print_json({"what_if": values, "moved": _as_moves(moved)})
        return
    _say_moved(incident_id, moved, would=True)
    click.echo("nothing was recorded")


def _show_facts(
    parts: Parts,
    incident_id: str,
    moved: Sequence[Movement] | None,
    now: datetime,
    *,
    with_history: bool,
    as_json: bool,
) -> None:
    incident, records = recording.history(parts.get(CaseStore), incident_id)
    newest = {record.name: record for record in records}
    known: dict[str, Any] = {"detected_at": incident.detected_at.isoformat()}
    known |= {name: record.value for name, record in newest.items()}
    missing = [name for name in Facts.model_fields if known.get(name) is None]
    presumed = sorted(
        name for name, record in newest.items() if record.recorded_by is None and record.value is not None
    )
    if as_json:
        shown: dict[str, Any] = {"known": known, "unknown": missing, "presumed_by_policy": presumed}
        if with_history:
            shown["history"] = [asdict(record) for record in records]
        if moved is not None:
            shown["moved"] = _as_moves(moved)
        print_json(shown)
        return
    if with_history:
        rows = [
            {
                "recorded": instant(each.recorded_at, now), "by": each.recorded_by or verification.PRESUMED_BY_POLICY,
                "fact": each.name, "value": "unknown again" if each.value is None else each.value, "reason": each.reason,
            }
            for each in records
        ]  # fmt: skip
        print_table(rows, ("recorded", "by", "fact", "value", "reason"), title="history")
    rows = [
        {
            "fact": name,
            "value": value,
            "by": "the alert" if name == "detected_at" else newest[name].recorded_by or verification.PRESUMED_BY_POLICY,
        }
        for name, value in sorted(known.items())
        if value is not None
    ]
    print_table(rows, ("fact", "value", "by"))
    click.echo(f"unknown: {', '.join(missing)}")
    if moved is not None:
        _say_moved(incident_id, moved)


# --- risk --------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("incident_id")
@click.option("--set", "pairs", multiple=True, metavar="FACTOR=VALUE", help=f"Change a factor: {', '.join(ALLOWED)}.")
@click.option("--confirm", is_flag=True, help="Record it: gdpr_risk follows.")
@click.option("--risk", type=click.Choice(assessing.RISKS), help="Record this risk instead of what the method says.")
@reason_option
@token_option
@as_json_option
@click.pass_obj
def assess(
    parts: Parts,
    incident_id: str,
    pairs: tuple[str, ...],
    confirm: bool,
    risk: str | None,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Propose how severe it is for people, by ENISA's method; a person confirms or changes it with a reason."""
    actor = authenticated(parts, token_file)
    store, law = parts.get(CaseStore), parts.get(LawInForce)()
    changes = {name: texts[-1] for name, texts in assignments(pairs).items()}
    actor.acting_for(Act.VIEW_INCIDENT)
    seen = assessing.proposal(store, incident_id, law, changes)
    decided = None
    if confirm or risk is not None:
        decided = assessing.confirm(
            store, incident_id, actor, parts.get(Clock).now(), law, changes=changes, risk=risk, reason=reason
        )
    severity = seen.severity
    if as_json:
        print_json(
            {
                "severity": severity.hundredths / 100, "level": severity.level, "proposed_risk": severity.risk,
                "factors": [asdict(each) for each in severity.factors], "flags": severity.flags,
                "elements": seen.elements, "recorded_risk": decided[0].risk if decided else seen.recorded_risk,
                "moved": _as_moves(decided[1]) if decided else None,
            }
        )  # fmt: skip
        return
    rows = [
        {
            "factor": each.name,
            "value": show(each.value) + (f" (proposed {show(each.proposed)})" if each.value != each.proposed else ""),
            "why": each.why if each.value == each.proposed else "changed by you",
        }
        for each in severity.factors
    ]
    print_table(rows, ("factor", "value", "why"), title="ENISA, Severity of personal data breaches (2013)")
    breach = sum(each.value for each in severity.factors if each.name.startswith("cb_"))
    click.echo(f"SE = DPC {show(severity.dpc)} x EI {show(severity.value_of('ei'))} + CB {show(breach)} = "
               f"{show(severity.hundredths)}: {severity.level.replace('_', ' ')}, usually gdpr_risk={severity.risk}")  # fmt: skip
    for flag in severity.flags:
        click.echo(f"flag: {flag}")
    if decided is not None:
        click.echo(f"recorded by {actor.person_id}: gdpr_risk={decided[0].risk}")
        _say_moved(incident_id, decided[1])
        say_next(parts, incident_id)
        return
    if seen.decided is not None:
        click.echo(f"decided before by {seen.decided.assessed_by}: gdpr_risk={seen.decided.risk}")
    sets = "".join(f" --set {name}={text}" for name, text in changes.items())
    click.echo(f"A proposal; the method answers neither Art. 33 nor Art. 34. next: tocsin incident assess {incident_id}"
               f"{sets} --confirm --reason TEXT")  # fmt: skip


# --- duties ------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("incident_id")
@click.option(
    "--all", "everything", is_flag=True, help="Also what was considered and is not due, and each line in full."
)
@click.option("--what-if", "pairs", multiple=True, metavar="NAME=VALUE", help="As though this fact were recorded.")
@token_option
@as_json_option
@click.pass_obj
def obligations(
    parts: Parts, incident_id: str, everything: bool, pairs: tuple[str, ...], token_file: Path | None, as_json: bool
) -> None:
    """Show every duty by its recipient: by when, why, under which law, and which facts are missing."""
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    store, now, law = parts.get(CaseStore), parts.get(Clock).now(), parts.get(LawInForce)()
    moved: Sequence[Movement] | None = None

    def work(case: CaseWork) -> tuple[Sequence[ObligationRecord], Mapping[Any, Any], Mapping[str, Any], bool, str]:
        incident = found(case, incident_id)
        in_force = adopted(law.rules, case.adoptions())
        counted = case.exposures(incident_id) is not None
        return case.obligations(incident_id), in_force, known_facts(case, incident), counted, incident.state

    records, in_force, known, counted, state = store.look(work)
    if pairs:
        changes = {name: value_of(texts[-1]) for name, texts in assignments(pairs).items()}
        moved, rows = duties.what_if(store, incident_id, changes, law)
        stood = {(each.controller, each.regime_id): each for each in records}
        told = {each.controller for each in records if each.all_told}
        records = [_as_record(row, stood.get((row.controller, row.regime_id)), told) for row in rows]
    chosen = [each for each in records if everything or each.status in OPEN or each.met is not None]
    chosen.sort(key=lambda each: (each.watched_at is None, each.watched_at or now, each.regime_id, each.controller))

    def is_adopted(each: ObligationRecord) -> bool:
        return (each.detail.get("regime_id"), each.detail.get("version")) in in_force

    if as_json:
        listed = [
            {
                "controller": each.controller, "met": None if each.met is None else asdict(each.met),
                "all_told": each.all_told,
                "adopted": is_adopted(each), "watched_at": each.watched_at,
                "counted": None if each.watched_at is None else "recorded" if each.deadline_at else "conservative",
                **each.detail,
            }
            for each in chosen
        ]  # fmt: skip
        print_json(listed if moved is None else {"what_if": changes, "moved": _as_moves(moved), "obligations": listed})
        return
    if not records:
        click.echo(f"{incident_id} has no duties yet; the clock stage works them out: is `tocsin run clock` up?")
        return
    if moved is not None:
        _say_moved(incident_id, moved, would=True)
    if state in ENDED:
        click.echo(f"{incident_id} is {state}: this is how its duties stood then, and nobody watches them any more")
    for line in obligation_lines(chosen, now, is_adopted, counted=counted, full=everything):
        click.echo(line)
    click.echo(f"{len(records) - len(chosen)} considered and not due{'' if everything else ' (--all shows them)'}")
    for line in _missing_lines(chosen, known):
        click.echo(line)
    unadopted = sum(not is_adopted(each) for each in chosen)
    if unadopted:
        click.echo(f"{unadopted} of {len(chosen)} duties shown are {NOT_ADOPTED}: tocsin law review")
    click.echo("No legal advice: check each line against its citation, and ask counsel where it says so.")


def _as_record(row: DutyRow, stood: ObligationRecord | None, told: Collection[str]) -> ObligationRecord:
    return ObligationRecord(
        row.controller, row.regime_id, row.status, row.recipient, row.deadline_at, row.conservative_deadline_at,
        row.detail, None if stood is None else stood.met, row.recipient == "individual" and row.controller in told,
    )  # fmt: skip


def obligation_lines(
    chosen: Sequence[ObligationRecord], now: datetime, is_adopted: Any, *, counted: bool, full: bool
) -> Iterable[str]:
    """Yield the duties by recipient, one line each, most urgent first.

    Until people are counted most duties wait for who lives where: those are one line a recipient unless `full`.
    """
    width = console().width
    several = len({each.controller for each in chosen}) > 1
    for recipient in dict.fromkeys(each.recipient for each in chosen):
        group = [each for each in chosen if each.recipient == recipient]
        waiting = [] if counted or full else [each for each in group if "residents" in each.detail["missing_facts"]]
        shown = [each for each in group if each not in waiting]
        none_adopted = not any(is_adopted(each) for each in group)
        heading = f"{recipient.replace('_', ' ').upper()} ({len(group)}"
        yield f"{heading}, {NOT_ADOPTED})" if none_adopted else f"{heading})"
        if shown:
            id_width = max(len(each.regime_id) for each in shown)
            by = [_by(each, now) for each in shown]
            by_width = max(map(len, by))
            for each, when in zip(shown, by, strict=True):
                head = f"  {when:<{by_width}}  {each.regime_id:<{id_width}}"
                if several:
                    head += f"  {each.controller}"
                words = [_standing(each, now)]
                if each.detail.get("ask_counsel"):
                    words.append("ask counsel")
                if not none_adopted and not is_adopted(each):
                    words.append(NOT_ADOPTED)
                line = f"{head}  {'; '.join(words)}"
                citation = str(each.detail.get("citation") or "")
                room = width - len(line) - 2
                if full or len(citation) <= room:
                    yield f"{line}  {citation}"
                elif room > 12:
                    yield f"{line}  {citation[: room - 1]}…"
                else:
                    yield line
                if full:
                    yield from (f"      {reason}" for reason in each.detail.get("because", ()))
        if waiting:
            first = min((each for each in waiting if each.watched_at), key=_watched, default=None)
            sooner = "" if first is None else f"; the earliest {_by(first, now)} {first.regime_id}"
            yield f"  {len(waiting)} wait for how many people live where{sooner} (--all shows them)"


def _watched(each: ObligationRecord) -> datetime:
    assert each.watched_at is not None
    return each.watched_at


def _by(each: ObligationRecord, now: datetime) -> str:
    at = each.watched_at
    if at is None:
        return "no date"
    local = at.astimezone()
    zoned = f"{at:%Y-%m-%d %H:%MZ}"
    if local.utcoffset():
        zoned = f"{local:%Y-%m-%d %H:%M %Z} ({zoned[5:]})"
    counted = "" if each.deadline_at else " conservative"
    # what is done has a date still, and no time left that runs
    left = "" if each.met is not None or each.all_told else f" {_left(at, now)}"
    return f"{zoned}{left}{counted}"


def _left(at: datetime, now: datetime) -> str:
    """Return how far a deadline is: in hours where days would hide one."""
    hours = (at - now).total_seconds() / 3600
    return (
        f"in {hours:.0f} h"
        if 0 <= hours <= 96
        else f"MISSED {-hours:.0f} h ago"
        if -96 <= hours < 0
        else in_words(at, now)
    )


def _standing(each: ObligationRecord, now: datetime) -> str:
    if each.met is not None:
        number = f", no. {each.met.reference}" if each.met.reference else ""
        return f"met {each.met.met_at:%Y-%m-%d %H:%MZ} by {each.met.recorded_by}{number}"
    if each.all_told:
        return "everybody was told"
    words = each.status.replace("_", " ")
    if each.deadline_at is not None and each.conservative_deadline_at not in (None, each.deadline_at):
        words += f" (conservative {_left(each.conservative_deadline_at or now, now)})"
    missing = each.detail.get("missing_facts", ())
    if each.status == Status.PENDING and missing:
        more = f" +{len(missing) - 1}" if len(missing) > 1 else ""
        words += f": {missing[0]}{more}"
    elif each.status == Status.PENDING:
        words += ": a person decides"
    return words


def _missing_lines(chosen: Sequence[ObligationRecord], known: Mapping[str, Any]) -> Iterable[str]:
    """Name each missing fact once, those that settle most first."""
    waiting: dict[str, int] = {}
    for each in chosen:
        for fact in each.detail.get("missing_facts", ()):
            waiting[fact] = waiting.get(fact, 0) + 1
    if waiting:
        ordered = sorted(waiting.items(), key=lambda item: (-item[1], item[0]))
        words = "missing: " + ", ".join(f"{fact} ({number})" for fact, number in ordered)
        yield from textwrap.wrap(words, console().width, subsequent_indent="  ", break_long_words=False)
        if not any(known.get(name) for name in AWARENESS):
            yield "awareness is not recorded: every date runs from the detection"


@click.command()
@click.argument("incident_id")
@click.argument("regime_id")
@click.option("--controller", help="Whose duty it is; needed where several controllers have it.")
@click.option("--at", help="When it was met, ISO 8601 with an offset; default now.")
@click.option("--reference", help="The authority's reference number.")
@click.option("--file", "file", type=click.File("rb"), help="What was submitted; kept in the artefact store.")
@click.option("--withdraw", is_flag=True, help="It was recorded in error; the record stays, marked.")
@reason_option
@token_option
@click.pass_obj
def duty(
    parts: Parts,
    incident_id: str,
    regime_id: str,
    controller: str | None,
    at: str | None,
    reference: str | None,
    file: Any,
    withdraw: bool,
    reason: str | None,
    token_file: Path | None,
) -> None:
    """Record that a duty was met: when, under which reference number, with which file."""
    actor = authenticated(parts, token_file)
    store, now, law = parts.get(CaseStore), parts.get(Clock).now(), parts.get(LawInForce)()
    if withdraw:
        if at or reference or file:
            raise BadInput(
                "--withdraw takes back what was recorded; --at, --reference and --file belong to a new record"
            )
        duties.withdraw_met(
            store, incident_id, regime_id, actor, now, law, controller=controller, reason=reason
        )  # fmt: skip
        click.echo(f"{regime_id}: taken back; its clock runs again")
        return
    if reference is not None and len(reference) > 200:
        raise BadInput(f"--reference: {len(reference)} characters; at most 200")
    actor.acting_for(Act.RECORD_DUTY)
    kept = None
    if file is not None:
        content = file.read()
        if not content:
            raise Refused(f"{file.name} is empty; name the file that was submitted")
        # A crash after this leaves a file that nothing names; the record below says which was submitted.
        kept = (Path(str(file.name)).name, parts.get(SubmittedFiles).put(content))
    record, moved = duties.record_met(
        store, incident_id, regime_id, actor, now, law,
        met_at=now if at is None else instant_of(at), controller=controller, reference=reference, file=kept,
        reason=reason,
    )  # fmt: skip
    number = f", number {record.reference}" if record.reference else ""
    filed = f", file {record.file_sha256[:12]}" if record.file_sha256 else ""
    click.echo(f"{record.regime_id} ({record.controller}) met {instant(record.met_at, now)}{number}{filed}")
    _say_moved(incident_id, moved)
    say_next(parts, incident_id)


SUBCOMMANDS: Sequence[click.Command] = (verify, aware, dismiss, facts, assess, obligations, duty)
COMMANDS: list[click.Command] = []
"""None of its own: `consumers.case.commands` puts these under `tocsin incident`."""
