"""Loads `templates/law/` into Rules, or says everything that is wrong with it: file, line, key, nearest known name.

Nothing is half loaded: one problem anywhere refuses the whole folder, at start as under `tocsin law check`.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from bridge.contracts.errors import BadInput, nearest
from consumers.domain.elements import Combination, Element
from consumers.domain.facts import values_of
from consumers.domain.jurisdictions import EEA, learn_free_zones
from consumers.domain.notice_rules import NoticeRule
from consumers.domain.regions import RegionRule, Regions
from consumers.domain.rules import Duty, DutyVersion, Rules, parse_trigger
from consumers.law.schema import (
    UNCHANGING,
    CombinationEntry,
    ControllerEntry,
    ControllersFile,
    DutyEntry,
    ElementsFile,
    Entry,
    FreeZonesFile,
    JurisdictionFile,
    MemberStatesFile,
    NoticeEntry,
    RegionsFile,
)
from consumers.law.source import Document, Where, read

ELEMENTS, MEMBER_STATES, FREE_ZONES = "data-elements.yaml", "member-states.yaml", "free-zones.yaml"
CONTROLLERS, REGIONS, AUTHORITIES = "controllers.yaml", "regions.yaml", "authorities.yaml"
_TABLES = (ELEMENTS, MEMBER_STATES, FREE_ZONES)
"""Files of the folder that hold no duties."""
UNDATED = "undated"
E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class LawFolder:
    """Where the rules lie."""

    path: Path


@dataclass(frozen=True)
class Controllers:
    """The legal entities behind the shop's websites."""

    by_key: Mapping[str, ControllerEntry]

    def of_website(self, website_id: int) -> tuple[str, ControllerEntry]:
        """Return key and entry of the controller of `website_id`: the one that names it, else the default."""
        for key, controller in self.by_key.items():
            if website_id in controller.websites:
                return key, controller
        return next((key, controller) for key, controller in self.by_key.items() if controller.default)


def load_rules(path: Path) -> Rules:
    """Return the rules in folder `path`. Raises BadInput listing every problem, one a line."""
    if not path.is_dir():
        raise BadInput(f"{path}: no folder of rules; name it with --templates or in settings")
    problems: list[str] = []
    learn_free_zones(_free_zones(path / FREE_ZONES, problems))
    elements = _elements(path / ELEMENTS, problems)
    zones = _zones(path / MEMBER_STATES, problems)
    duties: dict[str, tuple[Duty, Document]] = {}
    combinations: dict[str, tuple[Combination, ...]] = {}
    notices: dict[str, NoticeRule] = {}
    named: set[str] = set()
    canonical: dict[str, Any] = {}
    for file in sorted(path.glob("*.yaml")):
        if file.name in (CONTROLLERS, REGIONS, AUTHORITIES):
            continue
        document = _read(file, problems)
        if document is None:
            continue
        canonical[file.name] = document.content
        if file.name in _TABLES:
            continue
        header = _entry(JurisdictionFile, document, (), document.content, problems)
        if header is None:
            continue
        named.update(header.duties)
        for regime_id, raw in header.duties.items():
            if regime_id in duties:
                first = duties[regime_id][1].path.name
                problems.append(f"{document.at(('duties', regime_id))}: already defined in {first}")
            elif (duty := _duty(document, header, regime_id, raw, problems)) is not None:
                duties[regime_id] = duty, document
        for regime_id, raw in header.personal_information.items():
            combinations[regime_id] = tuple(_combinations(document, regime_id, raw, elements, problems))
            if regime_id not in header.duties:
                where = document.at(("personal_information", regime_id))
                problems.append(f"{where}: no duty of this file has that name{nearest(regime_id, header.duties)}")
        for regime_id, raw in header.notices.items():
            if (notice := _notice(document, header, regime_id, raw, problems)) is not None:
                notices[regime_id] = notice
    if not duties and not problems:
        problems.append(f"{path}: holds no duties")
    problems.extend(_dangling(duties, combinations, named))
    if problems:
        raise BadInput("\n".join(problems))
    text = json.dumps(_plain(canonical), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return Rules(
        duties=tuple(duty for duty, _ in duties.values()),
        combinations=combinations,
        elements=elements,
        notices=notices,
        zones=zones,
        rules_version=hashlib.sha256(text.encode()).hexdigest(),
        text=text,
    )


def load_controllers(path: Path) -> Controllers:
    """Return the controllers named in folder `path`. Raises BadInput; exactly one of them is the default."""
    problems: list[str] = []
    document = _read(path / CONTROLLERS, problems)
    file = _entry(ControllersFile, document, (), document.content, problems) if document else None
    if file is not None and document is not None:
        if sum(controller.default for controller in file.controllers.values()) != 1:
            problems.append(f"{document.at(('controllers',))}: exactly one controller says `default: true`")
        seen: dict[int, str] = {}
        for key, controller in file.controllers.items():
            for website in controller.websites:
                if seen.setdefault(website, key) != key:
                    where = document.at(("controllers", key, "websites"))
                    problems.append(f"{where}: website {website} already belongs to {seen[website]}")
    if problems or file is None:
        raise BadInput("\n".join(problems))
    return Controllers(file.controllers)


def load_regions(path: Path, controllers: Controllers) -> Regions:
    """Return the region rules in folder `path`. Raises BadInput, also for a controller that there is not."""
    problems: list[str] = []
    document = _read(path / REGIONS, problems)
    file = _entry(RegionsFile, document, (), document.content, problems) if document else None
    if file is not None and document is not None:
        for index, entry in enumerate(file.regions):
            for key in entry.controllers:
                if key != "*" and key not in controllers.by_key:
                    where = document.at(("regions", index, "controllers"))
                    problems.append(
                        f"{where}: no controller {key!r} in {CONTROLLERS}{nearest(key, controllers.by_key)}"
                    )
    if problems or file is None:
        raise BadInput("\n".join(problems))
    return Regions(
        tuple(
            RegionRule(frozenset(each.residences), frozenset(each.controllers), each.providers, each.storage)
            for each in file.regions
        )
    )


def _read(path: Path, problems: list[str]) -> Document | None:
    try:
        return read(path)
    except BadInput as error:
        problems.append(str(error))
        return None


def _elements(path: Path, problems: list[str]) -> dict[str, Element]:
    document = _read(path, problems)
    file = _entry(ElementsFile, document, (), document.content, problems) if document else None
    if file is None:
        return {}
    return {
        name: Element(name, entry.meaning, entry.group, entry.enisa, entry.magento, entry.note)
        for name, entry in file.elements.items()
    }


def _free_zones(path: Path, problems: list[str]) -> frozenset[str]:
    document = _read(path, problems)
    file = _entry(FreeZonesFile, document, (), document.content, problems) if document else None
    return frozenset() if file is None else frozenset(file.free_zones)


def _zones(path: Path, problems: list[str]) -> dict[str, str]:
    document = _read(path, problems)
    file = _entry(MemberStatesFile, document, (), document.content, problems) if document else None
    if file is None or document is None:
        return {}
    for country in sorted(EEA ^ file.zones.keys()):
        problem = "missing" if country in EEA else "no Member State"
        problems.append(f"{document.at(('zones', country))}: {problem}")
    return dict(file.zones)


def _duty(
    document: Document, header: JurisdictionFile, regime_id: str, raw: dict[str, Any], problems: list[str]
) -> Duty | None:
    """Return one duty with its versions, newest first, or None after naming what is wrong."""
    where: Where = ("duties", regime_id)
    reference = raw.get("reference")
    if not reference:
        problems.append(f"{document.at(where)}: no citation; write it under `reference`")
        return None
    starts = _starts(document, where, raw, problems)
    if starts is None:
        return None
    before = len(problems)
    entries = []
    for start in starts:
        values = {key: _value_on(value, start) for key, value in raw.items()}
        picked = {key: value for key, value in values.items() if value is not None}
        dated = {key: _date_key(raw[key], start) for key in picked if _is_dated(raw[key])}
        entries.append(_entry(DutyEntry, document, where, picked, problems, dated))
    if len(problems) > before:
        return None
    versions = [entry for entry in entries if entry is not None]
    return Duty(
        regime_id=regime_id,
        jurisdiction=header.jurisdiction,
        recipient=versions[-1].recipient,
        territory=versions[-1].territory,
        roles=frozenset() if versions[-1].roles == "any" else frozenset(versions[-1].roles),
        zone=versions[-1].zone or header.zone,
        follows=versions[-1].follows,
        limb_of=versions[-1].limb_of,
        clock_of=versions[-1].clock_of,
        last_checked_on=versions[-1].last_checked_on or header.last_checked_on,
        versions=tuple(_versions(document, where, starts, versions, problems)),
    )


def _starts(document: Document, where: Where, raw: dict[str, Any], problems: list[str]) -> list[date | None] | None:
    """Return the dates at which the duty changed, oldest first; None stands for a beginning that is not recorded."""
    reference = raw["reference"]
    if not isinstance(reference, dict):
        return [None]
    starts: set[date | None] = {None if key == UNDATED else key for key in reference}
    wrong = [key for key in reference if key != UNDATED and not isinstance(key, date)]
    for key in wrong:
        problems.append(f"{document.at((*where, 'reference', key))}: write a date like 2026-01-01, or {UNDATED}")
    for key, citation in reference.items():
        if not citation:
            problems.append(f"{document.at((*where, 'reference', key))}: no citation")
    for name, value in raw.items():
        for key in value if name != "reference" and _is_dated(value) else ():
            if name in UNCHANGING:
                problems.append(f"{document.at((*where, name, key))}: {name} cannot change over time; use a new duty")
            elif (None if key == UNDATED else key) not in starts:
                problems.append(f"{document.at((*where, name, key))}: no citation bears this date under `reference`")
    return None if wrong else sorted(starts, key=lambda start: start or date.min)


def _is_dated(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(k == UNDATED or isinstance(k, date) for k in value)


def _date_key(value: dict[Any, Any], start: date | None) -> Any:
    keys = [key for key in value if key == UNDATED or (start is not None and key <= start)]
    return max(keys, key=lambda key: date.min if key == UNDATED else key, default=None)


def _value_on(value: Any, start: date | None) -> Any:
    if not _is_dated(value):
        return value
    key = _date_key(value, start)
    return None if key is None else value[key]


def _versions(
    document: Document, where: Where, starts: list[date | None], entries: list[DutyEntry], problems: list[str]
) -> Iterator[DutyVersion]:
    for position in range(len(starts) - 1, -1, -1):
        entry, start = entries[position], starts[position]
        following = starts[position + 1] if position + 1 < len(starts) else None
        end = entry.until or (following - timedelta(days=1) if following else None)
        if entry.until and following and entry.until >= following:
            problems.append(
                f"{document.at((*where, 'until'))}: versions overlap: one ends {entry.until}, the next begins {following}"
            )
        if entry.until and start and entry.until < start:
            problems.append(f"{document.at((*where, 'until'))}: ends {entry.until}, before it begins {start}")
        relief, choice = entry.relief, entry.period_if
        yield DutyVersion(
            version=len(starts) - position,
            in_force_from=start,
            in_force_to=end,
            citation=entry.reference,
            confidence=entry.confidence,
            period=entry.period,
            clock_starts=entry.clock_starts,
            counting="instant" if entry.counting == "elapsed_hours" else entry.counting,
            period_if=choice.choice() if choice else None,
            earlier_of=entry.or_if_sooner,
            relief=relief.until if relief else None,
            relief_not_for=frozenset(relief.not_for) if relief else frozenset(),
            hold=entry.hold,
            harm=entry.harm.harm() if entry.harm else None,
            threshold=entry.threshold.threshold() if entry.threshold else None,
            trigger=parse_trigger(entry.trigger or ""),
            entities=frozenset(entry.entities),
            licensees=frozenset(entry.licensees),
            ai_systems=frozenset(entry.ai_systems),
            not_entities=frozenset(entry.not_entities),
            superseded_for=frozenset(entry.superseded_for),
            glba=entry.glba.of(),
            hipaa=entry.hipaa.of(),
            law=entry.law,
            applies_when=entry.applies_when,
            permitted_delay=entry.permitted_delay,
            content=entry.content,
            note=entry.note,
            scope_note=entry.scope,
        )


def _combinations(
    document: Document, regime_id: str, raw: dict[str, Any], elements: Mapping[str, Element], problems: list[str]
) -> Iterator[Combination]:
    where: Where = ("personal_information", regime_id)
    shared = {key: value for key, value in raw.items() if key != "combinations"}
    own = raw.get("combinations")
    if not isinstance(own, dict) or not own:
        problems.append(f"{document.at(where)}: no combinations; write at least one")
        return
    for combination_id, values in own.items():
        here: Where = (*where, "combinations", combination_id)
        if not isinstance(values, dict):
            problems.append(f"{document.at(here)}: write the keys of a combination")
            continue
        entry = _entry(CombinationEntry, document, here, {**shared, **values}, problems)
        if entry is None:
            continue
        if entry.since and entry.until and entry.until < entry.since:
            problems.append(f"{document.at((*here, 'until'))}: ends {entry.until}, before it begins {entry.since}")
        any_of = () if entry.any_of == "any_element" else entry.any_of
        for name in (*any_of, *entry.and_one_of):
            if elements and name not in elements:
                problems.append(f"{document.at(here)}: {name!r} is no data element{nearest(name, elements)}")
        yield Combination(
            combination_id=combination_id,
            name=entry.name,
            any_of=frozenset(any_of),
            and_one_of=frozenset(entry.and_one_of),
            without_name_if=entry.without_name_if,
            condition=entry.condition,
            exempt_when=frozenset(entry.exempt_when),
            exempts=entry.exempts,
            key_clause=entry.key_clause,
            in_force_from=entry.since,
            in_force_to=entry.until,
            citation=entry.reference,
            confidence=entry.confidence,
            paper_too=entry.paper_too,
            note=entry.note,
        )


def _notice(
    document: Document, header: JurisdictionFile, regime_id: str, raw: dict[str, Any], problems: list[str]
) -> NoticeRule | None:
    where: Where = ("notices", regime_id)
    if header.duties.get(regime_id, {}).get("recipient") != "individual":
        known = [name for name, duty in header.duties.items() if duty.get("recipient") == "individual"]
        problems.append(
            f"{document.at(where)}: no notice to individuals of this file has that name{nearest(regime_id, known)}"
        )
        return None
    entry = _entry(NoticeEntry, document, where, raw, problems)
    if entry is None:
        return None
    return NoticeRule(
        regime_id=regime_id,
        content=tuple(requirement.requirement() for requirement in entry.content),
        content_reference=entry.reference,
        media=entry.media.rules(),
        media_reference=entry.media.reference,
    )


def _dangling(
    duties: Mapping[str, tuple[Duty, Document]],
    combinations: Mapping[str, tuple[Combination, ...]],
    named: Collection[str],
) -> Iterator[str]:
    """Yield a complaint for every name of another rule that leads nowhere. `named` are all duties, broken ones too."""
    limbs = {duty.limb_of for duty, _ in duties.values() if duty.limb_of}
    for regime_id, (duty, document) in duties.items():
        if duty.follows is not None and duty.follows not in named:
            where = document.at(("duties", regime_id, "follows"))
            yield f"{where}: no duty is named {duty.follows!r}{nearest(duty.follows, named)}"
        elif duty.follows is not None and duty.follows in duties and duties[duty.follows][0].follows is not None:
            where = document.at(("duties", regime_id, "follows"))
            yield f"{where}: {duty.follows} itself follows {duties[duty.follows][0].follows}; name that one"
        if duty.clock_of is not None and duty.clock_of not in named and duty.clock_of not in limbs:
            where = document.at(("duties", regime_id, "clock_of"))
            yield f"{where}: no duty is named {duty.clock_of!r}{nearest(duty.clock_of, duties)}"
        for version in duty.versions:
            where = document.at(("duties", regime_id, "trigger"))
            for term in (term for terms in version.trigger for term in terms):
                if term.kind == "elements" and term.value not in combinations:
                    known = nearest(term.value, combinations)
                    yield f"{where}: no personal_information is written for {term.value!r}{known}"
                if term.kind == "count" and version.threshold is None:
                    yield f"{where}: count needs a threshold"
                if term.kind in ("equals", "differs") and term.value not in (known_values := values_of(term.fact)):
                    known = nearest(term.value, known_values)
                    yield f"{where}: {term.value!r} is no value of {term.fact}{known}; write {', '.join(known_values)}"
            choice = version.period_if
            if choice is not None and choice.value not in (known_values := values_of(choice.fact)):
                where = document.at(("duties", regime_id, "period_if"))
                known = nearest(choice.value, known_values)
                yield f"{where}: {choice.value!r} is no value of {choice.fact}{known}; write {', '.join(known_values)}"
    for regime_id in combinations:
        if regime_id in duties and duties[regime_id][0].follows:
            where = duties[regime_id][1].at(("personal_information", regime_id))
            yield f"{where}: the duty follows {duties[regime_id][0].follows}, whose definition counts"


def _entry(
    model: type[E],
    document: Document,
    where: Where,
    value: Any,
    problems: list[str],
    dated: Mapping[str, Any] | None = None,
) -> E | None:
    """Return `value` as `model`, or None after adding each complaint with its line to `problems`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for problem in error.errors():
            loc = tuple(problem["loc"])
            path: Where = (*where, *loc)
            if dated and loc and loc[0] in dated:
                path = (*where, loc[0], dated[str(loc[0])], *loc[1:])
            complaint = f"{document.at(path)}: {_complaint(model, loc, problem)}"
            if complaint not in problems:
                problems.append(complaint)
        return None


def _complaint(model: type[Entry], loc: tuple[int | str, ...], problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        fields = _model_at(model, loc[:-1]).model_fields
        return f"unknown key{nearest(str(loc[-1]), fields)}; known: {', '.join(sorted(fields))}"
    if problem["type"] == "missing":
        return "missing"
    if problem["type"] == "literal_error":
        expected = str(problem["ctx"]["expected"])
        known = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
        return f"{problem['input']!r} is not known{nearest(str(problem['input']), known)}; write {expected}"
    return str(problem["msg"]).removeprefix("Value error, ")


def _model_at(model: type[Entry], loc: tuple[int | str, ...]) -> type[Entry]:
    """Return the model of the mapping at `loc`, so that the nearest key is one of its own."""
    for part in loc:
        annotation = model.model_fields[str(part)].annotation if part in model.model_fields else None
        inner = [arm for arm in (annotation, *get_args(annotation)) if isinstance(arm, type) and issubclass(arm, Entry)]
        if inner:
            model = inner[0]
    return model


def _plain(value: Any) -> Any:
    """Return `value` with every key and date as text, so that it has one canonical JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value
