"""`tocsin incident`, `tocsin alert` and `tocsin people`: what staff type. Wiring around the rules of this room.

Whatever decides asks who (a token from --token-file, TOCSIN_TOKEN_FILE or TOCSIN_TOKEN), and is checked and recorded
there, not here.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from bridge.contracts.envelope import seal_bytes
from bridge.contracts.errors import BadInput, Refused, Unreachable, nearest
from bridge.contracts.events import AlertReceived, json_schema
from bridge.contracts.partitioner import partition_of
from bridge.contracts.scope import AskedScope, Rewriting
from bridge.contracts.topics import LEAK_ALERTS
from bridge.runtime.clock import Clock
from bridge.runtime.kafka import Publisher
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json, print_table
from bridge.runtime.sealing import email_hmac, hashed_email_hmac, load_join_key
from bridge.runtime.settings import Settings
from consumers.case import releasing, workflow
from consumers.case.acting import record_act
from consumers.case.alerts import Known
from consumers.case.correction_commands import correct
from consumers.case.dossier_commands import dossier
from consumers.case.duty_commands import SUBCOMMANDS, verification_lines
from consumers.case.finding_commands import SUBCOMMANDS as FINDING_COMMANDS
from consumers.case.finding_commands import print_coverage
from consumers.case.intake_rules import ENDED
from consumers.case.overview import Overview, overview
from consumers.case.people import add_person, load_people, staff_commitment
from consumers.case.permissions import Act, Role, permitting_roles
from consumers.case.preflight_commands import preflight
from consumers.case.prompts import as_json_option as _as_json
from consumers.case.prompts import assignments, authenticated, instant_of, staff_key
from consumers.case.prompts import reason_option as _reason
from consumers.case.prompts import token_option as _token_file
from consumers.case.records import IncidentRecord, MatchTestRecord
from consumers.case.rewriting import ScopeRewriter, rewriting_in_words
from consumers.case.scoping import ScopeIndex, narrowed, parse_scope, preview_in_words, refuse_unknown
from consumers.case.sheet_commands import preparing, seen_sheet, sheet, unseen_policy
from consumers.case.standing import late_lines
from consumers.case.store import CaseStore
from consumers.case.verification import AwarenessPolicy, finding_of, verification_clock
from consumers.case.webhooks import Secrets, load_secrets
from consumers.domain.approvals import APPROVING_ROLES, Mode, can_be_met
from consumers.domain.canary import CanaryPolicy
from consumers.domain.duties import OPEN
from consumers.domain.jurisdictions import UNKNOWN_RESIDENCE
from consumers.domain.standing import matches_everybody

# --- tocsin incident ---------------------------------------------------------------------------------------------


@click.group()
def incident() -> None:
    """Incidents: what leaked, who is concerned, who decides what next."""


@incident.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that have ended.")
@_token_file
@_as_json
@click.pass_obj
def list_(parts: Parts, everything: bool, token_file: Path | None, as_json: bool) -> None:
    """List incidents, newest first."""
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    now = parts.get(Clock).now()
    records = [
        each
        for each in parts.get(CaseStore).look(lambda case: case.incidents())
        if everything or each.state not in ("dismissed", "closed")
    ]
    if as_json:
        print_json([_incident_facts(each) for each in records])
        return
    rows = [
        {
            "incident": each.incident_id + (" (exercise)" if each.exercise else ""),
            "state": each.state,
            "detected": instant(each.detected_at, now),
            "repeats": each.repeat_count,
            "scope": "resolved" if each.scope is not None else "UNRESOLVED",
            "title": each.title,
        }
        for each in records
    ]
    if not rows:
        click.echo(
            "no incident yet" if everything else "no open incident; `tocsin incident list --all` shows those that ended"
        )
        return
    print_table(rows, ("incident", "state", "detected", "repeats", "scope", "title"))


def _incident_facts(record: IncidentRecord) -> dict[str, Any]:
    return asdict(record)


@incident.command()
@click.argument("incident_id")
@_token_file
@_as_json
@click.pass_obj
def show(parts: Parts, incident_id: str, token_file: Path | None, as_json: bool) -> None:
    """Show one incident: what is known, what is not, both clocks, who must do what next."""
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    seen = overview(parts.get(CaseStore), incident_id)
    if as_json:
        facts = asdict(seen)
        facts["partitions"].pop("coverage")
        print_json({**facts, "coverage": [each.model_dump(mode="json") for each in seen.partitions.coverage]})
        return
    for line in show_lines(seen, parts.get(Clock).now(), parts.get(AwarenessPolicy)):
        click.echo(line)


def show_lines(seen: Overview, now: datetime, policy: AwarenessPolicy) -> list[str]:
    """Return one screen about an incident; its last line begins with `next:`."""
    record = seen.incident
    lines = [
        f"{record.incident_id}{' (exercise)' if record.exercise else ''} {record.state}: {record.title}",
        f"detected:     {instant(record.detected_at, now)} by {record.source}"
        + (f", {record.repeat_count} repeats" if record.repeat_count else ""),
        f"acknowledged: {instant(record.acknowledged_at, now)} by {record.acknowledged_by}"
        if record.acknowledged_at
        else "acknowledged: no",
        f"scope:        revision {record.revision}, "
        + (json.dumps(record.scope, sort_keys=True) if record.scope is not None else "unresolved"),
        f"people:       {seen.people}",
    ]
    if record.scope_rewriting is not None:
        rewriting = Rewriting.model_validate(record.scope_rewriting)
        lines.insert(4, f"asked for:    {json.dumps(rewriting.asked, sort_keys=True)}")
        lines[5:5] = [f"rewritten:    {each}" for each in rewriting_in_words(rewriting)]
    if record.state not in ("dismissed", "closed"):
        lines += verification_lines(verification_clock(record, seen.history, policy), policy, now)
    lines += [_tested(each, now) for each in seen.match_tests[:1]]
    lines += _where_they_live(seen)
    presumed = {each.name for each in seen.history if each.recorded_by is None}
    presumed -= {each.name for each in seen.history if each.recorded_by is not None}
    lines += [
        f"known:        {name} = {value}{' (presumed by policy)' if name in presumed else ''}"
        for name, value in sorted(seen.facts.items())
        if value is not None
    ]
    lines += [f"not known:    {each}" for each in seen.not_known]
    lines += _clock_lines(seen, now)
    cap = next((each.record.late_cap for each in seen.releases if each.record.state not in ("void", "withdrawn")), None)
    lines += late_lines(seen.late, cap)
    if seen.everybody is not None:
        lines.append(f"everybody:    {seen.everybody}")
    lines += [f"held:         {each.kind} for {each.whom} ({each.gate_id})" for each in seen.gates]
    lines += [
        f"proposed:     another scope: tocsin incident rescope {record.incident_id} --proposal {each.proposal_id} "
        "--reason TEXT"
        for each in seen.proposals
    ]
    if seen.segments_without_text:
        lines.append(f"no text:      {len(seen.segments_without_text)} segments have no approved text")
    for view in seen.releases:
        if view.record.state == "void":
            continue
        who = "; ".join(f"{person} as {role}" for person, role, _at in view.approvals) or "nobody yet"
        lines.append(
            f"release:      {view.record.release_id} {view.record.state} ({view.record.mode}), approved by {who}"
            + (f"; missing: {view.missing}" if view.missing else "")
        )
    if seen.ends:
        total = sum(seen.ends.values())
        lines.append(
            "reached:      " + ", ".join(f"{state} {n:,}" for state, n in sorted(seen.ends.items())) + f" of {total:,}"
        )
    if seen.next is None:
        lines.append("next: nothing; it has ended")
    else:
        lines.append(f"who is next:  {seen.next.who} ({seen.next.why})")
        lines.append(f"next: {seen.next.command}")
    return lines


def _tested(test: MatchTestRecord, now: datetime) -> str:
    return (
        f"match test:   {test.counts['matched_count']:,} of {test.counts['row_count']:,} rows match, "
        f"{finding_of(test.counts, test.silent_count).replace('_', ' ')} ({instant(test.tested_at, now)} by {test.tested_by})"
    )


def _where_they_live(seen: Overview) -> list[str]:
    """Return, by controller, how many people live where, and how many of them the law there protects by what leaked."""
    lines = []
    for each in seen.exposures:
        homes = sorted(((n, code) for code, n in each.residents.items() if code != UNKNOWN_RESIDENCE), reverse=True)
        shown = ", ".join(
            f"{code} {n:,}" + (f" ({triggers:,} trigger)" if (triggers := each.triggering.get(code, 0)) != n else "")
            for n, code in homes[:12]
        )
        more = f" and {len(homes) - 12} more" if len(homes) > 12 else ""
        unknown = each.residents.get(UNKNOWN_RESIDENCE, 0)
        apart = f"; residence unknown {unknown:,}, told under the strictest law" if unknown else ""
        whose = f" ({each.controller})" if len(seen.exposures) > 1 else ""
        lines.append(f"live in:      {shown or 'nowhere known'}{more} of {each.people_count:,}{apart}{whose}")
    return lines


def _clock_lines(seen: Overview, now: datetime) -> list[str]:
    open_duties = [each for each in seen.obligations if each.status in OPEN]
    told = [each for each in open_duties if each.all_told and each.met is None]
    waiting = [each for each in open_duties if not each.all_told and each.met is None]
    running = [each for each in waiting if each.watched_at is not None]
    running.sort(key=lambda each: (each.watched_at or now, each.regime_id))
    ended = seen.incident.state in ENDED
    lines = []
    for each in [] if ended else running[:6]:
        conservative = instant(each.conservative_deadline_at, now) if each.conservative_deadline_at else "none"
        recorded = instant(each.deadline_at, now) if each.deadline_at else "not started"
        lines.append(
            f"clock:        {each.regime_id} to {each.recipient} ({each.controller}, {each.status}): "
            f"conservative {conservative}; recorded {recorded}"
        )
    if seen.obligations:
        met = sum(each.met is not None for each in seen.obligations)
        done = f"{len(told)} to people who were all told, " if told else ""
        considered = sum(each.status not in OPEN and each.met is None for each in seen.obligations)
        lines.append(f"duties:       {len(running)} with a date, {len(waiting) - len(running)} without one, "
                     f"{met} met, {done}{considered} considered and not due"
                     f"{', watched no more' if ended else ''}; "
                     f"tocsin incident obligations {seen.incident.incident_id}")  # fmt: skip
    if seen.movements:
        last = seen.movements[-1]
        same = [each for each in seen.movements if each.moved_at == last.moved_at]
        more = f", and {len(same) - 1} more" if len(same) > 1 else ""
        lines.append(f"moved:        {instant(last.moved_at, now)}: {same[0].movement.sentence}{more}")
    return lines


@incident.command()
@click.argument("incident_id")
@_reason
@_token_file
@click.pass_obj
def ack(parts: Parts, incident_id: str, reason: str | None, token_file: Path | None) -> None:
    """Acknowledge: you are looking. Pages about it stop."""
    actor = authenticated(parts, token_file)
    workflow.acknowledge(parts.get(CaseStore), incident_id, actor, parts.get(Clock).now(), reason)
    _say_next(parts, incident_id, f"{incident_id} is acknowledged")


def _say_next(parts: Parts, incident_id: str, done: str) -> None:
    click.echo(done)
    following = overview(parts.get(CaseStore), incident_id).next
    if following is not None:
        click.echo(f"next: {following.command}")


@incident.command()
@click.argument("incident_id")
@click.option("--proposal", "proposal_id", help="Accept this proposed scope.")
@click.option("--scope", "scope_file", type=click.Path(path_type=Path, dir_okay=False), help="JSON or YAML file.")
@click.option(
    "--set", "pairs", multiple=True, metavar="FIELD=VALUE", help="Change one field; repeat for several values."
)
@click.option(
    "--as-given", is_flag=True, help="Take the scope as it stands, or as the alert gave it, unknown names included."
)
@_reason
@_token_file
@click.pass_obj
def rescope(
    parts: Parts,
    incident_id: str,
    proposal_id: str | None,
    scope_file: Path | None,
    pairs: tuple[str, ...],
    as_given: bool,
    reason: str | None,
    token_file: Path | None,
) -> None:
    """Correct the scope: a new revision, resolved anew. Prepared and running releases become void."""
    if sum((proposal_id is not None, scope_file is not None, bool(pairs))) > 1:
        raise BadInput("one of --proposal, --scope and --set, not several")
    actor = authenticated(parts, token_file)
    actor.acting_for(Act.RESCOPE)
    rewriter = parts.get(ScopeRewriter)
    done = workflow.rescope(
        parts.get(CaseStore),
        incident_id,
        actor,
        parts.get(Clock).now(),
        scope=None if scope_file is None else _read_scope(scope_file),
        settings=assignments(pairs),
        proposal_id=proposal_id,
        as_given=as_given,
        reason=reason,
        rewriter=rewriter,
        known=None if as_given else _names_known(parts, rewriter),
    )
    voided = f"; void now: {', '.join(done.voided)}" if done.voided else ""
    _say_next(parts, incident_id, f"{incident_id}: revision {done.incident.revision} is being resolved{voided}")


def _names_known(parts: Parts, rewriter: ScopeRewriter) -> Known | None:
    try:
        return parts.get(ScopeIndex).known_names().joined(rewriter.models())
    except Unreachable as error:
        click.echo(f"the names in the scope were not compared with the index: {error}", err=True)
        return None


def _read_scope(path: Path) -> AskedScope:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({type(error).__name__})") from None
    return parse_scope(text, str(path))


@incident.command()
@click.argument("scope_file", metavar="SCOPE", type=click.File("r", encoding="utf-8"), required=False)
@click.option("--customers", type=click.File("r", encoding="utf-8"), help="Only these, one id or root a line.")
@click.option("--records", type=click.File("r", encoding="utf-8"), help="Only these provenance records, one id a line.")
@click.option("--emails", type=click.File("r", encoding="utf-8"), help="Only these, one address or SHA-256 a line.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a scope.")
@_token_file
@_as_json
@click.pass_obj
def preview(
    parts: Parts,
    scope_file: Any,
    customers: Any,
    records: Any,
    emails: Any,
    schema: bool,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Count whom SCOPE (a JSON or YAML file, "-" is standard input) concerns, without opening anything."""
    if schema:
        print_json(AskedScope.model_json_schema())
        return
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    if scope_file is None and not (customers or records or emails):
        raise BadInput("name a SCOPE file, - for standard input, or one of --customers, --records, --emails")
    try:
        asked = AskedScope() if scope_file is None else parse_scope(scope_file.read(), scope_file.name)
        asked = narrowed(
            asked,
            customers=customers or (),
            records=records or (),
            addresses=emails or (),
            keyed=_keyed_address(parts.get(Settings)) if emails else str,
        )
    except UnicodeDecodeError as error:
        raise BadInput(f"a file is no UTF-8 text (byte {error.start}); save it as UTF-8") from None
    index = parts.get(ScopeIndex)
    rewriter = parts.get(ScopeRewriter)
    names, now = index.known_names().joined(rewriter.models()), parts.get(Clock).now()
    refuse_unknown(asked, names, now)
    if not names.are_current(now):
        click.echo("the index has not read everything yet: names may be missing, and people", err=True)
    done = rewriter.rewritten(asked)
    scope = done.scope
    assert scope is not None
    found = index.preview(scope)
    everybody = matches_everybody(scope, found.affected_count, found.people_count)
    if as_json:
        rewriting = None if done.rewriting is None else done.rewriting.model_dump(mode="json")
        print_json({"scope": scope.canonical(), "scope_sha256": scope.sha256(), "rewriting": rewriting,
                    **found.model_dump(mode="json"), "matches_everybody": everybody})  # fmt: skip
        return
    click.echo(f"{preview_in_words(found, scope)}. Scope {scope.sha256()[:16]}, nothing is opened.")
    for line in [] if done.rewriting is None else rewriting_in_words(done.rewriting):
        click.echo(f"rewritten:    {line}")
    if everybody:
        known = "" if found.people_count is None else f" of {found.people_count:,} known"
        click.echo(f"warning: this scope is about everybody, or nearly: {found.affected_count:,} accounts and orders{known}. "
                   "An incident with it needs `tocsin incident confirm-everybody` before it is approved.")  # fmt: skip
    for name in ("jurisdiction", "kind", "sensitivity", "channel"):
        counted: dict[str, int] = getattr(found, f"by_{name}")
        rows = [{name: each, "people": count} for each, count in sorted(counted.items(), key=lambda pair: -pair[1])]
        if rows:
            print_table(rows, (name, "people"))
    print_coverage(found.coverage, scope.exposed_from)


def _keyed_address(settings: Settings) -> Callable[[str], str]:
    key = load_join_key(settings.paths.join_key)
    return lambda text: (email_hmac if "@" in text else hashed_email_hmac)(key, text)


@incident.command()
@click.argument("incident_id")
@click.option("--late-cap", type=click.IntRange(min=0), help="How many late additions the approval covers.")
@click.option("--canary", type=click.IntRange(min=0), help="Try so many of each segment first; 0: nobody.")
@_reason
@_token_file
@_as_json
@click.pass_obj
def prepare(
    parts: Parts,
    incident_id: str,
    late_cap: int | None,
    canary: int | None,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Freeze what would be released, for two people to approve."""
    actor = authenticated(parts, token_file)
    approvals = parts.get(Settings).approvals
    tried = parts.get(Settings).delivery.canary
    per_segment = tried.per_segment if canary is None else canary
    done = releasing.prepare(
        parts.get(CaseStore),
        incident_id,
        actor,
        parts.get(Clock).now(),
        mode=Mode(approvals.mode),
        late_cap=approvals.late_cap if late_cap is None else late_cap,
        for_those_waiting=late_cap is None,
        canary=CanaryPolicy(per_segment, tried.wait_seconds, tried.bound_percent) if per_segment else None,
        reason=reason,
        preflight=preparing(parts),
    )
    policy = done.release.policy
    if as_json:
        print_json({"release_id": done.release.release_id, "policy_sha256": done.release.policy_sha256, "policy": policy,
                    "ended_count": done.ended_count,
                    "people_without_text": done.people_without_text, "late_count": done.late_count,
                    "everybody": done.everybody})  # fmt: skip
        return
    click.echo(f"release {done.release.release_id}{' (prepared before)' if done.again else ''}: "
               f"{policy['recipient_count']:,} people in {len(policy['segments'])} segments, mode {policy['mode']}, "
               f"{done.late_count:,} late of at most {policy['late_cap']:,}")  # fmt: skip
    if done.ended_count:
        click.echo(f"{done.ended_count:,} of them have an end already, and are not told again; "
                   f"{policy['recipient_count'] - done.ended_count:,} are to be told")  # fmt: skip
    if per_segment:
        click.echo(f"canary: the first {per_segment:,} of each segment, then receipts are waited for (at most "
                   f"{tried.wait_seconds} s); more than {tried.bound_percent} % that did not arrive hold the rest")  # fmt: skip
    if done.everybody is not None:
        click.echo(f"warning: {done.everybody}")
    if done.people_without_text:
        click.echo(f"{done.people_without_text:,} of them have no approved text ({len(done.segments_without_text)} "
                   f"segments) and will wait: tocsin notices segments {incident_id}")  # fmt: skip
    click.echo(f"policy {done.release.policy_sha256}")
    click.echo(
        f"next: tocsin incident sheet {incident_id} -o sheet.html   (two people read it and approve by its hash)"
    )


@incident.command()
@click.argument("name", metavar="INCIDENT_OR_RELEASE")
@click.option("--sheet", "sheet_sha256", metavar="SHA256", help="The hash on the sheet that you have read.")
@click.option("--policy", help="The policy's SHA-256, where no sheet was made.")
@click.option("--role", type=click.Choice([str(role) for role in Role]), help="The role you act under.")
@_reason
@_token_file
@_as_json
@click.pass_obj
def approve(
    parts: Parts,
    name: str,
    sheet_sha256: str | None,
    policy: str | None,
    role: str | None,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Approve what was prepared, as the sheet shows it. The approval that satisfies the rule starts the release."""
    if (sheet_sha256 is None) == (policy is None):
        raise BadInput(
            f"say what you approve: --sheet SHA256, as the page of `tocsin incident sheet {name} -o sheet.html` shows it "
            "(or --policy SHA256 alone)"
        )
    actor = authenticated(parts, token_file)
    seen = None if sheet_sha256 is None else seen_sheet(parts, sheet_sha256, name)
    done = releasing.approve(
        parts.get(CaseStore),
        name,
        seen.policy_sha256 if seen is not None else str(policy),
        actor,
        parts.get(Clock).now(),
        mode=Mode(parts.get(Settings).approvals.mode),
        role=None if role is None else Role(role),
        reason=reason,
        sheet=seen,
        preflight=unseen_policy(parts) if seen is None else None,
    )
    if as_json:
        print_json({"release_id": done.release.release_id, "state": done.release.state, "role": done.role,
                    "releasing": done.releasing, "missing": done.missing})  # fmt: skip
        return
    click.echo(f"approved by {actor.person_id} as {done.role}")
    click.echo(f"{'releasing now' if done.release.state == 'releasing' else 'approved, and paused with its incident'}: "
               f"tocsin incident watch {done.release.incident_id}" if done.releasing
               else f"still missing: {done.missing}")  # fmt: skip


@incident.command()
@click.argument("incident_id")
@click.option("--break-glass", is_flag=True, help="Release at once to those whose deadline falls within 24 h.")
@_reason
@_token_file
@_as_json
@click.pass_obj
def release(
    parts: Parts, incident_id: str, break_glass: bool, reason: str | None, token_file: Path | None, as_json: bool
) -> None:
    """Say whether the release runs or which approvals are missing (exit code 1); with --break-glass, release on one word."""
    actor = authenticated(parts, token_file)
    store = parts.get(CaseStore)
    if break_glass:
        started = releasing.break_glass(store, incident_id, actor, parts.get(Clock).now(), reason)
        if as_json:
            print_json({"release_id": started.release_id, "state": started.state, "missing": None,
                        "deadline_before": started.policy["deadline_before"]})  # fmt: skip
            return
        click.echo(f"release {started.release_id} runs, for people whose deadline lies before "
                   f"{started.policy['deadline_before']}; all approvers are paged")  # fmt: skip
        return
    actor.acting_for(Act.VIEW_INCIDENT)
    record, missing = releasing.release_status(store, incident_id)
    if as_json:
        print_json({"release_id": record.release_id, "state": record.state, "missing": missing})
    if missing is not None:
        raise Refused(f"release {record.release_id} waits; missing: {missing}. The approval that completes it starts it: "
                      f"tocsin incident sheet {record.incident_id} -o sheet.html")  # fmt: skip
    if not as_json:
        click.echo(f"release {record.release_id} is {record.state}; see tocsin delivery status {record.incident_id}")


@incident.command()
@click.argument("incident_id")
@click.option("--unnotified", is_flag=True, help="Close although people are without an end state.")
@_reason
@_token_file
@click.pass_obj
def close(parts: Parts, incident_id: str, unnotified: bool, reason: str | None, token_file: Path | None) -> None:
    """Close an incident: its sealed contacts are removed, the index stops answering for it."""
    actor = authenticated(parts, token_file)
    done = workflow.close(
        parts.get(CaseStore), incident_id, actor, parts.get(Clock).now(), unnotified=unnotified, reason=reason
    )
    click.echo(f"{incident_id} is closed; {done.contacts_removed:,} sealed contacts removed, "
               f"{done.without_end:,} people without an end state")  # fmt: skip
    if done.unmet:
        click.echo(f"owed without a record that it was met, and watched no more: {', '.join(done.unmet)}")
    if done.told_wrongly:
        click.echo(f"told what is not true of them, and put right no more: {done.told_wrongly:,} people")
    if done.finding == "nobody":
        click.echo("finding: nobody is affected, say all partitions by full coverage; the evidence log has it")


@incident.command()
@click.argument("incident_id")
@click.option("--kind", type=click.Choice(workflow.GATE_KINDS), required=True)
@click.option("--covers", multiple=True, help="Jurisdiction (DE, US-CA, unknown) or '*'; repeatable.")
@click.option("--segment", "segments", multiple=True, metavar="SEGMENT_ID", help="A whole segment; repeatable.")
@click.option("--person", "persons", multiple=True, metavar="ROOT", help="One person, customer/<id>; repeatable.")
@click.option("--until", metavar="INSTANT", help="Until when it was asked for; you are paged then, and lift it or not.")
@click.option(
    "--as-given", is_flag=True, help="Take a jurisdiction where nobody lives so far, for whoever comes later."
)
@click.option("--dry-run", is_flag=True, help="Say whom it would cover; hold nobody.")
@_reason
@_token_file
@_as_json
@click.pass_obj
def hold(
    parts: Parts,
    incident_id: str,
    kind: str,
    covers: tuple[str, ...],
    segments: tuple[str, ...],
    persons: tuple[str, ...],
    until: str | None,
    as_given: bool,
    dry_run: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Keep some people from being told, also in the middle of a release, until it is lifted; all others go on."""
    actor = authenticated(parts, token_file)
    done = workflow.hold_people(
        parts.get(CaseStore), incident_id, kind, actor, parts.get(Clock).now(), covers=covers, segments=segments,
        people=persons, until=None if until is None else instant_of(until, "--until"), as_given=as_given,
        reason=reason, dry_run=dry_run,
    )  # fmt: skip
    if as_json:
        print_json({"incident_id": incident_id, "dry_run": dry_run, **asdict(done)})
        return
    whom = [f"{done.covered:,} people"] if covers or segments else []
    whom += [f"{done.named:,} named"] if done.named else []
    click.echo(f"{'would be held' if dry_run else 'held'}: {' and '.join(whom)}"
               + (f"; {done.covered_told:,} of them have an end already" if done.covered_told else ""))  # fmt: skip
    if done.gate_id is not None:
        click.echo(f"lift it with: tocsin incident lift {incident_id} {done.gate_id} --reason TEXT")


@incident.command()
@click.argument("incident_id")
@click.argument("gate_id")
@_reason
@_token_file
@click.pass_obj
def lift(parts: Parts, incident_id: str, gate_id: str, reason: str | None, token_file: Path | None) -> None:
    """Lift a hold."""
    actor = authenticated(parts, token_file)
    workflow.lift_gate(parts.get(CaseStore), incident_id, gate_id, actor, parts.get(Clock).now(), reason)
    click.echo(f"lifted: {gate_id}")


# --- tocsin alert ------------------------------------------------------------------------------------------------


@click.group()
def alert() -> None:
    """Leak alerts, as an AI monitor would send them."""


@alert.command("schema")
@click.option("--json", "_as_json", is_flag=True, help="Print JSON, as without it.")
def alert_schema(_as_json: bool) -> None:
    """Print the JSON Schema of an alert in Tocsin's own format."""
    schema = json_schema(AlertReceived)
    # the source is who signs, not what the body says
    schema["properties"].pop("source", None)
    schema["required"] = [name for name in schema.get("required", []) if name not in ("source", "detected_at")]
    print_json(schema)


@alert.command()
@click.argument("file", type=click.File("rb"))
@click.option("--source", help="Name of the monitor in intake.secrets; needed where there are several.")
@click.option("--exercise", is_flag=True, help="Mark the incident as an exercise.")
@click.option("--http", "by_http", is_flag=True, help="Post to the running intake instead of the topic.")
@_as_json
@click.pass_obj
def send(parts: Parts, file: Any, source: str | None, exercise: bool, by_http: bool, as_json: bool) -> None:
    """Sign the alert in FILE ("-" is standard input) and send it to intake."""
    settings = parts.get(Settings)
    name, signer = _signer(settings, source)
    body: bytes = file.read()
    if exercise:
        body = _as_exercise(body)
    webhook_id = f"msg_{uuid.uuid4().hex}"
    headers = signer.sign(webhook_id, parts.get(Clock).now(), body) if signer is not None else {}
    if by_http:
        answer = _post(settings, name, headers, body)
        print_json(answer) if as_json else click.echo(f"taken: {', '.join(answer['incident_ids'])}")
        return
    _publish(settings, name, headers, body, parts.get(Clock).now())
    if as_json:
        print_json({"topic": LEAK_ALERTS.name, "source": name, "webhook_id": webhook_id, "signed": signer is not None})
    else:
        click.echo(f"sent to {LEAK_ALERTS.name} as {name}{'' if signer else ', unsigned'}; see: tocsin incident list")


def _publish(settings: Settings, source: str, headers: Mapping[str, str], body: bytes, at: datetime) -> None:
    message = seal_bytes(
        body, ce_type=AlertReceived.ce_type, key=source, root=source, source=f"/monitors/{source}", at=at
    )
    publisher = Publisher(settings.kafka)
    try:
        signature = [(name, value.encode()) for name, value in headers.items()]
        partition = partition_of(source, publisher.partition_count(LEAK_ALERTS))
        publisher.send_raw(LEAK_ALERTS, partition, source.encode(), body, [*message.headers, *signature])
        publisher.flush()
    finally:
        publisher.close()


def _signer(settings: Settings, source: str | None) -> tuple[str, Secrets | None]:
    known = settings.intake.secrets
    if known and source is not None and source not in known:
        # unsigned under a mistyped name it would be another incident beside the monitor's own
        raise BadInput(f"--source {source}: intake.secrets names no such monitor{nearest(source, known)}; "
                       f"known: {', '.join(sorted(known))}")  # fmt: skip
    if source is None:
        if len(known) > 1:
            raise BadInput(f"--source: which one? intake.secrets names {', '.join(sorted(known))}")
        source = next(iter(known), "operator")
    return source, load_secrets(source, known[source]) if source in known else None


def _as_exercise(body: bytes) -> bytes:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise BadInput("--exercise: FILE must hold a JSON object in the format of `tocsin alert schema`")
    return json.dumps({**document, "exercise": True}).encode()


def _post(settings: Settings, source: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    run_file = settings.paths.run / "intake.json"
    try:
        address = json.loads(run_file.read_text(encoding="utf-8"))["alerts"]
    except (OSError, ValueError, KeyError):
        raise Unreachable(f"no address of intake in {run_file}; start it with `tocsin run intake`") from None
    parts = urlsplit(address)
    connection = HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=30)
    try:
        connection.request("POST", f"{parts.path}/{source}", body, dict(headers))
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    except (OSError, ValueError) as error:
        raise Unreachable(f"intake at {address} does not answer ({type(error).__name__})") from None
    finally:
        connection.close()
    if response.status != 202:
        raise Refused(f"intake answers {response.status}: {answer.get('error', '')}")
    return answer


# --- tocsin people -----------------------------------------------------------------------------------------------


@click.group()
def people() -> None:
    """Staff: who they are, which roles they have."""


@people.command()
@click.argument("name")
@click.option("--id", "person_id", required=True, help="Short id: lower-case letters, digits, '-'.")
@click.option("--role", "roles", multiple=True, required=True, type=click.Choice([str(role) for role in Role]))
@_token_file
@click.pass_obj
def add(parts: Parts, name: str, person_id: str, roles: tuple[str, ...], token_file: Path | None) -> None:
    """Add a person and print their token, once. The first person of an empty file needs no token."""
    settings = parts.get(Settings)
    path = settings.paths.people
    actor = authenticated(parts, token_file) if path.exists() and len(load_people(path)) else None
    role = None if actor is None else actor.acting_for(Act.MANAGE_PEOPLE)
    token = add_person(path, person_id, name, [Role(each) for each in roles])
    if actor is not None and role is not None:
        who, acting = actor, role
        body = {"person": staff_commitment(staff_key(settings), person_id), "roles": list(roles)}
        now = parts.get(Clock).now()
        parts.get(CaseStore).change(lambda case: record_act(case, who, acting, "people.added", body, at=now))
    click.echo(f"{person_id} is in {path}. Their token, shown only now:", err=True)
    click.echo(token)


@people.command("list")
@_as_json
@click.pass_obj
def list_people(parts: Parts, as_json: bool) -> None:
    """List staff by id, with their roles; names stay in the file."""
    everybody = load_people(parts.get(Settings).paths.people)
    rows = [
        {"id": each.person_id, "roles": ", ".join(each.roles), "tokens": len(each.token_hashes)} for each in everybody
    ]
    print_json(rows) if as_json else print_table(rows, ("id", "roles", "tokens"))


@people.command()
@_as_json
@click.pass_obj
def check(parts: Parts, as_json: bool) -> None:
    """Check the people file, and whether the approval rule can be met by who is in it."""
    settings = parts.get(Settings)
    everybody = load_people(settings.paths.people)
    approvers = [each for each in everybody if set(each.roles) & set(APPROVING_ROLES)]
    preparers = [each for each in everybody if set(each.roles) & set(permitting_roles(Act.PREPARE))]
    met = can_be_met(
        Mode(settings.approvals.mode),
        [(each.person_id, [str(role) for role in each.roles]) for each in everybody],
        [str(role) for role in permitting_roles(Act.PREPARE)],
    )
    if as_json:
        print_json({"people": len(everybody), "approvers": len(approvers), "preparers": len(preparers),
                    "mode": settings.approvals.mode, "can_be_met": met})  # fmt: skip
    else:
        click.echo(f"{len(everybody)} people, {len(preparers)} may prepare, {len(approvers)} may approve")
    if not met:
        raise Refused(
            f"approvals.mode = {settings.approvals.mode} cannot be met by these people; add one with another role "
            "of dpo, counsel or approver"
        )


for subcommand in (*SUBCOMMANDS, *FINDING_COMMANDS, sheet, dossier, correct, preflight):
    incident.add_command(subcommand)

COMMANDS: list[click.Command] = [incident, alert, people]
