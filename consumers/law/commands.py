"""`tocsin law`: check the rules, plan an incident's duties from a file of facts, explain a rule, show what changed.

Prints and nothing else; every answer comes from `consumers.domain.obligations`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from bridge.contracts.errors import BadInput, Refused
from bridge.runtime.parts import Parts
from bridge.runtime.printing import in_words, print_json
from consumers.domain.elements import Combination
from consumers.domain.facts import Facts, parse_facts
from consumers.domain.obligations import Obligation, Status, obligations_for
from consumers.domain.rules import Duty, DutyVersion, Rules
from consumers.law.authorities import load_authorities
from consumers.law.calendar import Entry, icalendar
from consumers.law.changes import Change, changes, in_short
from consumers.law.loader import AUTHORITIES, CONTROLLERS, LawFolder, load_controllers, load_regions, load_rules

ADVICE = "This is no legal advice: check each line against its citation, and ask counsel where it says so."
CHECK_EVERY = timedelta(days=92)
"""A rule is to be looked at again a quarter after it was last checked."""
_SETTLED = (Status.NOT_DUE, Status.NOT_IN_FORCE, Status.SUPERSEDED)
_SCOPE_FACTS = ("role", "entity", "licensee", "ai_system", "establishments", "targets", "residents")
"""Facts that say whether a duty binds this controller at all."""
_MANY = 3
"""From so many pending duties on that wait for the same one of them, they are shown together."""


def _folder(parts: Parts, templates: Path | None) -> Path:
    return templates if templates is not None else parts.get(LawFolder).path


_templates = click.option(
    "--templates",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the rules; default: paths.templates/law of the settings.",
)


@click.group()
def law() -> None:
    """Duties to notify: their rules, deadlines and reasons."""


@law.command()
@click.option("--json", "as_json", is_flag=True, help="What was checked, as JSON.")
@_templates
@click.pass_obj
def check(parts: Parts, as_json: bool, templates: Path | None) -> None:
    """Validate every rule; name file, line and key of what is wrong. Exit code 1 if there is something."""
    folder = _folder(parts, templates)
    try:
        rules = load_rules(folder)
        controllers = load_controllers(folder) if (folder / CONTROLLERS).exists() else None
        if controllers is not None:
            load_regions(folder, controllers)
        if (folder / AUTHORITIES).exists():
            load_authorities(folder, rules.by_id)
    except BadInput as error:
        if not folder.is_dir():
            raise
        number = len(str(error).splitlines())
        raise Refused(f"{error}\n{number} {'thing is' if number == 1 else 'things are'} wrong in {folder}") from None
    checked = {
        "duties": len(rules.duties),
        "versions": sum(len(duty.versions) for duty in rules.duties),
        "combinations": sum(map(len, rules.combinations.values())),
        "elements": len(rules.elements),
        "notices": len(rules.notices),
        "controllers": len(controllers.by_key) if controllers else 0,
    }
    if as_json:
        print_json({**checked, "rules_version": rules.rules_version, "folder": str(folder)})
        return
    click.echo(
        "{duties} duties in {versions} versions, {combinations} combinations of {elements} data elements, "
        "{notices} notices to individuals, {controllers} controllers: all valid; ".format_map(checked)
        + f"rules {rules.rules_version[:12]} in {folder}"
    )


@law.command()
@click.argument("facts_file", metavar="FACTS.json", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--as-of", metavar="INSTANT", help="As though it were this instant (ISO 8601 with offset).")
@click.option("--json", "as_json", is_flag=True, help="Every duty considered, as JSON.")
@click.option("--all", "show_all", is_flag=True, help="Show the duties that are not due, too.")
@_templates
@click.pass_obj
def plan(
    parts: Parts, facts_file: Path, as_of: str | None, as_json: bool, show_all: bool, templates: Path | None
) -> None:
    """Print every duty that follows from FACTS.json, in the order of deadlines."""
    facts = read_facts(facts_file)
    now = _instant(as_of) if as_of else datetime.now(UTC)
    rules = load_rules(_folder(parts, templates))
    obligations = obligations_for(facts, rules, now)
    if as_json:
        print_json([as_record(obligation) for obligation in obligations])
        return
    shown = [each for each in obligations if show_all or each.status not in _SETTLED]
    together = _waiting_together([] if show_all else shown)
    for obligation in shown:
        if not any(obligation in waiting for waiting in together.values()):
            for line in _lines(obligation, facts, now):
                click.echo(line)
    for missing, waiting in together.items():
        for line in _lines_together(missing, waiting, facts, now):
            click.echo(line)
    settled = sum(obligation.status in _SETTLED for obligation in obligations)
    click.echo(f"{len(obligations)} considered, {settled} not due" + ("" if show_all else " (--all shows them)"))
    _say_what_is_missing(obligations)
    click.echo(ADVICE)


@law.command()
@click.argument("regime_id")
@click.option("--json", "as_json", is_flag=True, help="The rule as JSON.")
@_templates
@click.pass_obj
def explain(parts: Parts, regime_id: str, as_json: bool, templates: Path | None) -> None:
    """Say in words what the rule REGIME_ID demands, in every version."""
    rules = load_rules(_folder(parts, templates))
    duty = rules.duty(regime_id)
    if as_json:
        print_json(
            {
                **_plain(duty),
                "combinations": _plain(rules.combinations.get(duty.definition_of, ())),
                "notice": _plain(rules.notices.get(duty.regime_id)),
                "rules_version": rules.rules_version,
                "advice": ADVICE,
            }
        )
        return
    click.echo(f"{duty.regime_id}: tell {_human(duty.recipient)}, law of {duty.jurisdiction}")
    click.echo(f"last checked on {duty.last_checked_on}; rules {rules.rules_version[:12]}")
    for version in duty.versions:
        click.echo("")
        for line in _explanation(duty, version):
            click.echo(line)
    for combination in rules.combinations.get(duty.definition_of, ()):
        click.echo(f"  covers {_combination_line(combination)}")
    if duty.regime_id in rules.notices:
        for line in _notice_lines(rules, duty.regime_id):
            click.echo(line)
    click.echo(ADVICE)


@law.command()
@click.argument("first", metavar="DATE1")
@click.argument("second", metavar="DATE2")
@click.option("--json", "as_json", is_flag=True, help="The changes as JSON.")
@_templates
@click.pass_obj
def diff(parts: Parts, first: str, second: str, as_json: bool, templates: Path | None) -> None:
    """Show which duties began, ended or read otherwise between DATE1 and DATE2."""
    rules = load_rules(_folder(parts, templates))
    found = changes(rules, _day(first), _day(second))
    if as_json:
        print_json([_change_record(change) for change in found])
        return
    for change in found:
        click.echo(f"{change.on or '-'}  {change.duty.regime_id} {change.kind} ({_human(change.duty.recipient)})")
        shown = change.after or change.before
        if change.kind != "changes" and shown is not None:
            click.echo(f"  {shown.citation}: {_human(shown.period)}")
        for name, old, new in change.values():
            click.echo(f"  {_human(name)}: {old} -> {new}")
    click.echo(f"{len(found)} of {len(rules.duties)} duties differ between {first} and {second}")


@law.command()
@click.argument("facts_file", metavar="[FACTS.json]", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--as-of", metavar="INSTANT", help="As though it were this instant (ISO 8601 with offset).")
@_templates
@click.pass_obj
def calendar(parts: Parts, facts_file: Path | None, as_of: str | None, templates: Path | None) -> None:
    """Print an iCalendar file: the deadlines that follow from FACTS.json, else the days on which the law changes."""
    rules = load_rules(_folder(parts, templates))
    now = _instant(as_of) if as_of else datetime.now(UTC)
    if facts_file is None:
        click.echo(icalendar(_law_entries(rules, now), now), nl=False)
        return
    obligations = obligations_for(read_facts(facts_file), rules, now)
    click.echo(icalendar(_deadline_entries(obligations), now), nl=False)


@law.command()
@click.option("--json", "_as_json", is_flag=True, help="Print JSON, as without it.")
@_templates
@click.pass_obj
def schema(parts: Parts, templates: Path | None, _as_json: bool) -> None:
    """Print the JSON Schema of facts files."""
    print_json(facts_schema(load_rules(_folder(parts, templates))))


def facts_schema(rules: Rules) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of facts files, with the data elements that `rules` know."""
    found = Facts.model_json_schema()
    for choice in found["properties"]["data_elements"]["anyOf"]:
        if choice["type"] == "array":
            choice["items"]["enum"] = sorted(rules.elements)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def read_facts(path: Path) -> Facts:
    """Return the facts in the JSON file at `path`. Raises BadInput naming file and key; a key written twice is one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: _unique(path, pairs))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"{path}: no JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}: facts are one JSON object of fact: value")
    return parse_facts(value, source=path.name)


def as_record(obligation: Obligation) -> dict[str, Any]:
    """Return the obligation as the JSON that `plan --json` prints: instants as ISO 8601 with offset."""
    return {
        "regime_id": obligation.regime_id,
        "version": obligation.version,
        "recipient": obligation.recipient,
        "jurisdiction": obligation.jurisdiction,
        "status": obligation.status.value,
        "deadline_local": _iso(obligation.deadline_local),
        "deadline_utc": _iso(obligation.deadline_at),
        "zone": obligation.zone,
        "relief_latest_utc": _iso(obligation.relief_latest_at),
        "conservative_deadline_utc": _iso(obligation.conservative_deadline_at),
        "clock_starts": obligation.clock_starts,
        "started_at": _iso(obligation.started_at),
        "law": obligation.law,
        "citation": obligation.citation,
        "confidence": obligation.confidence,
        "ask_counsel": obligation.ask_counsel,
        "because": list(obligation.because),
        "information": list(obligation.information),
        "missing_facts": list(obligation.missing_facts),
    }


def _plain(value: Any) -> Any:
    """Return a rule, or a part of one, as JSON holds it: by the names of its fields, sets sorted."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Set):
        return sorted(map(_plain, value))
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat().replace("+00:00", "Z")


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadInput(f"{path.name}: key {key!r} is written twice")
        found[key] = value
    return found


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--as-of {text!r} is no ISO 8601 instant; write it like 2026-06-08T03:12:00Z") from None
    if at.utcoffset() is None:
        raise BadInput(f"--as-of {text!r} has no offset; write Z or +02:00 behind it")
    return at


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{text!r} is no date; write it like 2026-01-01") from None


def _change_record(change: Change) -> dict[str, Any]:
    shown = change.after or change.before
    return {
        "regime_id": change.duty.regime_id,
        "recipient": change.duty.recipient,
        "change": change.kind,
        "on": None if change.on is None else change.on.isoformat(),
        "version_before": change.before.version if change.before else None,
        "version_after": change.after.version if change.after else None,
        "citation": shown.citation if shown else None,
        "values": [{"name": name, "before": old, "after": new} for name, old, new in change.values()],
    }


def _deadline_entries(obligations: Iterable[Obligation]) -> Iterator[Entry]:
    for each in obligations:
        conservative = each.deadline_at is None
        at = each.conservative_deadline_at if conservative else each.deadline_at
        if at is None or each.status not in (Status.DUE, Status.PENDING):
            continue
        whom = f"{_human(each.recipient)} ({each.jurisdiction})"
        waits = f"Missing: {', '.join(each.missing_facts) or 'see why'}\n" if conservative else ""
        yield Entry(
            uid=f"{each.regime_id}.{each.jurisdiction.lower()}@tocsin",
            at=at,
            summary=f"{'Conservative date, pending' if conservative else 'Deadline'}: tell {whom}",
            description=f"{each.regime_id}: {each.citation}\n{waits}{chr(10).join(each.because)}\n{ADVICE}",
            alarm_hours=(24, 4),
        )


def _law_entries(rules: Rules, now: datetime) -> Iterator[Entry]:
    """Yield the days to come on which a text begins or ends, and those on which rules are to be looked at again."""
    today = now.date()
    for duty in rules.duties:
        for version in duty.versions:
            for word, on in (("begins", version.in_force_from), ("ends", version.in_force_to)):
                if on is not None and today <= on < date.max.replace(month=1, day=1):
                    yield Entry(
                        uid=f"{duty.regime_id}.{version.version}.{word}@tocsin",
                        at=on,
                        summary=f"{duty.regime_id} {word}: {_human(duty.recipient)}, {_human(version.period)}",
                        description=f"{version.citation}\n{version.note or ''}",
                    )
    checks: dict[date, list[str]] = {}
    for duty in rules.duties:
        checks.setdefault(duty.last_checked_on + CHECK_EVERY, []).append(duty.regime_id)
    for on, regimes in checks.items():
        yield Entry(
            uid=f"review.{on.isoformat()}@tocsin",
            at=on,
            summary=f"{len(regimes)} rules are due for re-checking",
            description=f"tocsin law review\n{', '.join(sorted(regimes))}",
        )


def _waiting_together(obligations: Iterable[Obligation]) -> dict[tuple[str, ...], list[Obligation]]:
    """Return the pending duties of which nobody knows yet whether they bind at all, by the facts that would settle it."""
    waiting: dict[tuple[str, ...], list[Obligation]] = {}
    for obligation in obligations:
        settles = tuple(fact for fact in _SCOPE_FACTS if fact in obligation.missing_facts)
        if obligation.status is Status.PENDING and settles:
            waiting.setdefault(settles, []).append(obligation)
    return {settles: found for settles, found in waiting.items() if len(found) >= _MANY}


def _lines_together(settles: tuple[str, ...], waiting: list[Obligation], facts: Facts, now: datetime) -> Iterator[str]:
    yield f"PENDING on {' and '.join(settles)}: {len(waiting)} duties bind only some; say what the controller is"
    for each in waiting:
        line = f"  {each.regime_id}: {_human(each.recipient)}, {each.citation}"
        if each.conservative_deadline_at is not None:
            line += f"; conservative {_when(each.conservative_deadline_at, facts.controller_zone or each.zone, now)}"
        further = [fact for fact in each.missing_facts if fact not in settles]
        line += f"; then {', '.join(further)}" if further else ""
        yield f"{line}; ask counsel" if each.ask_counsel else line


def _lines(obligation: Obligation, facts: Facts, now: datetime) -> Iterator[str]:
    """Yield what a reader needs to check one answer against its citation."""
    zone = facts.controller_zone or obligation.zone
    yield f"{obligation.status.replace('_', ' ').upper()}: {_human(obligation.recipient)} ({obligation.jurisdiction})"
    if obligation.deadline_at is not None:
        yield f"  until         {_when(obligation.deadline_at, zone, now)}"
    if obligation.relief_latest_at is not None:
        yield f"  relief until  {_when(obligation.relief_latest_at, zone, now)}"
    if obligation.conservative_deadline_at is not None:
        yield f"  conservative  {_when(obligation.conservative_deadline_at, zone, now)}"
    for sentence in obligation.because:
        yield f"  because       {sentence}"
    for sentence in obligation.information:
        yield f"  note          {sentence}"
    if obligation.missing_facts:
        yield f"  missing       {', '.join(obligation.missing_facts)}"
    counsel = "; ask counsel" if obligation.ask_counsel else ""
    yield f"  rule          {obligation.regime_id}: {obligation.citation} (confidence {obligation.confidence}{counsel})"


def _when(at: datetime, zone: str, now: datetime) -> str:
    local = at.astimezone(ZoneInfo(zone))
    return f"{local:%Y-%m-%d %H:%M %Z} ({at:%Y-%m-%dT%H:%MZ}, {in_words(at, now)})"


def _say_what_is_missing(obligations: Iterable[Obligation]) -> None:
    """Name each missing fact once, with how many duties wait for it: one answer often settles many."""
    waiting: dict[str, int] = {}
    for obligation in obligations:
        for fact in obligation.missing_facts:
            waiting[fact] = waiting.get(fact, 0) + 1
    for fact, number in sorted(waiting.items(), key=lambda item: -item[1]):
        meaning = " ".join((Facts.model_fields[fact].description or "").split())
        click.echo(f"missing: {fact} ({number} {'duty waits' if number == 1 else 'duties wait'} for it): {meaning}")


def _explanation(duty: Duty, version: DutyVersion) -> Iterable[str]:
    since, until = version.in_force_from or "a date not recorded", version.in_force_to or "further notice"
    yield f"version {version.version}: {version.law}, in force from {since} until {until}"
    yield f"  citation: {version.citation} (confidence {version.confidence})"
    start = f" from {version.clock_starts}" if version.clock_starts else ""
    yield f"  period: {_human(version.period)}{start}{f', {_human(version.counting)}' if version.counting else ''}"
    yield f"  zone: {duty.zone}; territory: {_human(duty.territory)}"
    named = version.entities | version.licensees | version.ai_systems
    optional = {
        "applies when": version.applies_when,
        "binds": ", ".join(sorted(named)),
        "not": ", ".join(sorted(version.not_entities)),
        "only if": "" if not version.trigger else in_short(version.trigger),
        "harm test": str(version.harm or ""),
        "threshold": str(version.threshold or ""),
        "follows": duty.follows,
        "superseded for": ", ".join(sorted(version.superseded_for)),
        "hold by law enforcement": _human(version.hold or "does not move this clock"),
        "period otherwise": str(version.period_if or ""),
        "or, if sooner": version.earlier_of,
        "relief": _human(version.relief or ""),
        "relief not for": ", ".join(sorted(version.relief_not_for)),
        "permitted delay": version.permitted_delay,
        "GLBA": "" if version.glba.effect == "none" else str(version.glba),
        "HIPAA": "" if version.hipaa.effect == "none" else str(version.hipaa),
        "to be told": version.content,
        "scope": version.scope_note,
        "note": version.note,
    }
    for name, value in optional.items():
        if value:
            yield f"  {name}: {value}"


_NAMES = {
    "initial_and_last": "first name or initial and last name, with ",
    "first_and_last": "first and last name, with ",
    "any_identifier": "",
    "not_needed": "without any name, ",
}


def _combination_line(combination: Combination) -> str:
    """Return a combination in words: what must be exposed together, since when, and what a person decides."""
    parts_of = " or ".join(sorted(combination.any_of)) or "any personal data"
    line = f"{combination.combination_id}: {_NAMES[combination.name]}{parts_of}"
    if combination.and_one_of:
        line += f", together with {' or '.join(sorted(combination.and_one_of))}"
    for word, on in (("since", combination.in_force_from), ("until", combination.in_force_to)):
        line += f", {word} {on}" if on else ""
    if combination.condition:
        line += f"; a person decides: {combination.condition}"
    if combination.without_name_if:
        line += f"; without the name {combination.without_name_if}: a person decides"
    if combination.exempt_when:
        line += f"; not if {', '.join(sorted(combination.exempt_when))}"
    return f"{line} [{combination.citation}; confidence {combination.confidence}]"


def _notice_lines(rules: Rules, regime_id: str) -> Iterator[str]:
    notice = rules.notices[regime_id]
    yield ""
    yield f"the notice must say ({notice.content_reference}):"
    for requirement in notice.content:
        when = f" [{_human(requirement.when)}]" if requirement.when else ""
        sure = "" if requirement.confidence == "high" else f" ({requirement.confidence})"
        yield f"  {_human(requirement.section)}: {requirement.text}{when}{sure}"
    yield f"it may come by ({notice.media_reference}):"
    for rule in notice.media:
        yield f"  {_human(rule.medium)}: {rule.allowed}{f', {rule.condition}' if rule.condition else ''}"
    substitute = next((rule.substitute for rule in notice.media if rule.substitute), None)
    if substitute is not None:
        grounds = [
            substitute.also_if,
            f"cost over USD {substitute.cost_over_usd:,}" if substitute.cost_over_usd else None,
            f"more than {substitute.people_over:,} people" if substitute.people_over else None,
        ]
        yield f"  substitute notice if {' or '.join(filter(None, grounds)) or 'allowed'}: {substitute.requires or '-'}"


def _human(word: str) -> str:
    return word.replace("_", " ")


COMMANDS: list[click.Command] = [law]
