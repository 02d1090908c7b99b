"""Every row of the reference data stands in the rules, value for value: `reference/` is a copy that nobody edits.

A rule that is corrected on better knowledge than the copy's is named in `CORRECTED`, with the reason.
"""

import csv
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest

from consumers.domain import facts as facts_module
from consumers.domain.elements import Combination
from consumers.domain.facts import Facts
from consumers.domain.rules import Duty, DutyVersion, Rules

REFERENCE = Path(__file__).parent / "reference"
CORRECTED: Mapping[tuple[str, str, str], str] = {
    ("kr-pipc", "1", "trigger"): "the prose in elements(...) is written as the elements that it names",
    ("kr-pipc", "2", "trigger"): "the prose in elements(...) is written as the elements that it names",
}
"""By regime, version and value: why a rule differs from the copy."""
_OPERATORS = {"over": ">", "at_least": ">=", "fewer_than": "<"}
_NAMES = {"any_identifier": "any_personal_data", "not_needed": "none"}


def _rows(name: str) -> list[dict[str, str]]:
    with (REFERENCE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _words(names: Any) -> frozenset[str]:
    return frozenset(names.split()) if isinstance(names, str) else frozenset(names)


def _entity_scope(text: str) -> dict[str, frozenset[str]]:
    """`licensee:x`, `ai_system:x y`, `NOT:x`, or values of entity."""
    kind, colon, names = text.partition(":")
    return {(kind if colon else "entity"): _words(names if colon else text)} if text else {}


def _wanted(row: dict[str, str]) -> dict[str, Any]:
    """What a row of duties.csv says, in the rules' words."""
    return {
        "jurisdiction": row["jurisdiction"],
        "law": row["law"],
        "recipient": row["recipient"],
        "in_force_from": row["in_force_from"],
        "in_force_to": row["in_force_to"],
        "citation": row["citation"],
        "confidence": row["confidence"],
        "territory": row["territory"],
        "roles": frozenset() if row["role_scope"] == "any" else _words(row["role_scope"]),
        "entity_scope": _entity_scope(row["entity_scope"]),
        "superseded_for": _words(row["superseded_for"]),
        "follows": row["follows"],
        "limb_of": row["limb_of"],
        "harm": (row["harm_threshold"], row["harm_fact"]),
        "harm_confidence": row["harm_confidence"] if row["harm_threshold"] != "none" else "",
        "threshold": (row["counts_whom"], row["threshold_operator"], row["threshold_value"]),
        "trigger": row["trigger_facts"],
        "clock_fact": row["clock_fact"],
        "clock_regime": row["clock_regime"],
        "period": row["period"],
        "period_if": row["period_if"],
        "anchor": row["anchor"],
        "zone": row["zone"],
        "relief": row["relief"],
        "hold_rule": row["hold_rule"],
        "glba": (row["glba_effect"], row["glba_confidence"]),
        "hipaa": (row["hipaa_effect"], row["hipaa_confidence"]),
        "scope_note": row["scope_note"],
        "content": "" if row["content_requirements"] == "-" else row["content_requirements"],
        "notes": row["notes"],
        "permitted_delay": row["permitted_delay"],
        "trigger_threshold": row["trigger_threshold"],
    }


def _found(duty: Duty, version: DutyVersion) -> dict[str, Any]:
    """What the rule says, in the same words."""
    scope = {"entity": version.entities, "licensee": version.licensees, "ai_system": version.ai_systems}
    harm, threshold, choice = version.harm, version.threshold, version.period_if
    period_if = f"earlier_of:{version.earlier_of}" if version.earlier_of else ""
    return {
        "jurisdiction": duty.jurisdiction,
        "law": version.law,
        "recipient": duty.recipient,
        "in_force_from": str(version.in_force_from or ""),
        "in_force_to": str(version.in_force_to or ""),
        "citation": version.citation,
        "confidence": version.confidence,
        "territory": duty.territory,
        "roles": duty.roles,
        "entity_scope": {key: names for key, names in {**scope, "NOT": version.not_entities}.items() if names},
        "superseded_for": version.superseded_for,
        "follows": duty.follows or "",
        "limb_of": duty.limb_of or "",
        "harm": (harm.test if harm else "none", (harm.fact or "") if harm else ""),
        "harm_confidence": harm.confidence if harm else "",
        "threshold": (threshold.counts, _OPERATORS[threshold.operator], str(threshold.value))
        if threshold
        else ("none", "", ""),
        "trigger": " | ".join(" & ".join(map(str, terms)) for terms in version.trigger),
        "clock_fact": version.clock_starts or "",
        "clock_regime": duty.clock_of or "",
        "period": version.period,
        "period_if": f"{choice.fact}={choice.value}:{choice.period}" if choice else period_if,
        "anchor": version.counting or "",
        "zone": duty.zone,
        "relief": version.relief or "none",
        "hold_rule": version.hold or "none",
        "glba": (version.glba.effect, version.glba.confidence),
        "hipaa": (version.hipaa.effect, version.hipaa.confidence),
        "scope_note": version.scope_note or "",
        "notes": version.note or "",
        "permitted_delay": version.permitted_delay or "",
        "trigger_threshold": version.applies_when or "",
    }


def test_every_row_of_the_duties_is_a_rule(rules: Rules) -> None:
    rows = _rows("duties.csv")
    assert len(rows) == 247
    found = {(duty.regime_id, str(v.version)): _found(duty, v) for duty in rules.duties for v in duty.versions}
    assert sorted(found) == sorted((row["regime_id"], row["version"]) for row in rows)
    differences = [
        (regime_id, version, key, wanted, found[regime_id, version].get(key))
        for row in rows
        for regime_id, version in [(row["regime_id"], row["version"])]
        for key, wanted in _wanted(row).items()
        if found[regime_id, version].get(key) != wanted and (regime_id, version, key) not in CORRECTED
    ]
    assert differences == []
