"""`tocsin law`: check the rules, plan an incident's duties from a file of facts, explain one rule.

Prints and nothing else; every answer comes from `consumers.domain.obligations`.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from bridge.contracts.errors import BadInput
from bridge.runtime.parts import Parts
from bridge.runtime.printing import in_words, print_json
from consumers.domain.facts import Facts, parse_facts
from consumers.domain.obligations import Obligation, Status, obligations_for
from consumers.domain.rules import HARM_TESTS, Duty, DutyVersion
from consumers.law.loader import CONTROLLERS, LawFolder, load_controllers, load_rules

ADVICE = "This is no legal advice: check each line against its citation, and ask counsel where it says so."
_SETTLED = (Status.NOT_DUE, Status.NOT_IN_FORCE, Status.SUPERSEDED)


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
@_templates
@click.pass_obj
def check(parts: Parts, templates: Path | None) -> None:
    """Validate every rule; name file, line and key of what is wrong."""
    folder = _folder(parts, templates)
    rules = load_rules(folder)
    controllers = load_controllers(folder) if (folder / CONTROLLERS).exists() else None
    versions = sum(len(duty.versions) for duty in rules.duties)
    click.echo(
        f"{len(rules.duties)} duties in {versions} versions, "
        f"{sum(map(len, rules.combinations.values()))} combinations of {len(rules.elements)} data elements, "
        f"{len(controllers.by_key) if controllers else 0} controllers: all valid; rules {rules.rules_version[:12]}"
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
    for obligation in obligations:
        if show_all or obligation.status not in _SETTLED:
            for line in _lines(obligation, facts, now):
                click.echo(line)
    settled = sum(obligation.status in _SETTLED for obligation in obligations)
    click.echo(f"{len(obligations)} considered, {settled} not due" + ("" if show_all else " (--all shows them)"))
    _say_what_is_missing(obligations)
    click.echo(ADVICE)


@law.command()
@click.argument("regime_id")
@_templates
@click.pass_obj
def explain(parts: Parts, regime_id: str, templates: Path | None) -> None:
    """Say in words what the rule REGIME_ID demands, in every version."""
    rules = load_rules(_folder(parts, templates))
    duty = rules.duty(regime_id)
    click.echo(f"{duty.regime_id}: tell {_human(duty.recipient)}, law of {duty.jurisdiction}")
    click.echo(f"last checked on {duty.last_checked_on}; rules {rules.rules_version[:12]}")
    for version in duty.versions:
        click.echo("")
        for line in _explanation(duty, version):
            click.echo(line)
    for combination in rules.combinations.get(duty.definition_of, ()):
        parts_of = " | ".join(sorted(combination.any_of)) or "any element"
        with_one_of = f" with {' | '.join(sorted(combination.and_one_of))}" if combination.and_one_of else ""
        click.echo(
            f"  covers {combination.combination_id}: {_human(combination.name)} name; {parts_of}{with_one_of}"
            f" [{combination.citation}; {combination.confidence}]"
        )
    click.echo(ADVICE)


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
        "missing_facts": list(obligation.missing_facts),
    }


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
        click.echo(f"missing: {fact} ({number} {'duty waits' if number == 1 else 'duties wait'} for it)")


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
        "only if": " or ".join(" and ".join(map(str, terms)) for terms in version.trigger),
        "harm test": f"{HARM_TESTS[version.harm.test]} ({version.harm.confidence})" if version.harm else "",
        "threshold": str(version.threshold or ""),
        "follows": duty.follows,
        "superseded for": ", ".join(sorted(version.superseded_for)),
        "hold by law enforcement": _human(version.hold or "does not move this clock"),
        "relief": _human(version.relief or ""),
        "permitted delay": version.permitted_delay,
        "GLBA": "" if version.glba.effect == "none" else f"{_human(version.glba.effect)} ({version.glba.confidence})",
        "HIPAA": ""
        if version.hipaa.effect == "none"
        else f"{_human(version.hipaa.effect)} ({version.hipaa.confidence})",
        "scope": version.scope_note,
        "note": version.note,
    }
    for name, value in optional.items():
        if value:
            yield f"  {name}: {value}"


def _human(word: str) -> str:
    return word.replace("_", " ")


COMMANDS: list[click.Command] = [law]
