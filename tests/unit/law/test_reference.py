"""Every row of the reference data stands in the rules, value for value: `reference/` is a copy that nobody edits.

A rule that is corrected on better knowledge than the copy's is named in `CORRECTED`, with the reason.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bridge.contracts.errors import BadInput
from consumers.domain.elements import Combination
from consumers.domain.facts import KEYED_INSTANTS, Facts, values_of
from consumers.domain.rules import Duty, DutyVersion, Rules
from consumers.law.authorities import load_authorities
from consumers.law.loader import AUTHORITIES

REFERENCE = Path(__file__).parent / "reference"
SHIPPED = Path(__file__).parents[3] / "templates" / "law"
CORRECTED: Mapping[tuple[str, str, str], str] = {
    ("kr-pipc", "1", "trigger"): "the prose in elements(...) is written as the elements that it names",
    ("kr-pipc", "2", "trigger"): "the prose in elements(...) is written as the elements that it names",
}
"""By regime, version and value: why a rule differs from the copy."""
_OPERATORS = {"over": ">", "at_least": ">=", "fewer_than": "<"}
_NAMES = {"any_identifier": "any_personal_data", "not_needed": "none"}


_SAYS_NOTHING = {"-", "none", "none stated", "any", "any resident notice", "as individual notice", "as above"}
_SIBLING = re.compile(r"as (eu|cn)-[a-z0-9-]+$")
"""`as REGIME`, where the reference says "as above"."""


def _said(text: str) -> str:
    """Prose, or nothing where it only says that there is nothing to say."""
    return "" if text in _SAYS_NOTHING or _SIBLING.match(text) or text == "see notice-contents.csv" else text


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
        "notes": row["notes"],
        "permitted_delay": _said(row["permitted_delay"]),
        "trigger_threshold": _said(row["trigger_threshold"]),
        # What individuals are told stands in the notices, requirement by requirement.
        "content": "" if row["recipient"] == "individual" else _said(row["content_requirements"]),
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
        "content": ""
        if duty.recipient == "individual" or _SIBLING.match(version.content or "")
        else version.content or "",
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


def _combination(regime_id: str, combination: Combination) -> dict[str, Any]:
    condition = f"CONDITION: {combination.condition}" if combination.condition else ""
    return {
        "regime_id": regime_id,
        "combination_id": combination.combination_id,
        "requires_name": _NAMES.get(combination.name, combination.name),
        "any_of": combination.any_of,
        "and_all_of": combination.and_one_of,
        "exempt_when": combination.exempt_when,
        "exempt_for": combination.exempts if combination.exempt_when else "",
        "key_clause": combination.key_clause or "",
        "paper_too": combination.paper_too,
        "in_force_from": str(combination.in_force_from or ""),
        "in_force_to": str(combination.in_force_to or ""),
        "citation": combination.citation,
        "confidence": combination.confidence,
        "note": condition or combination.note or "",
        "without_name_if": combination.without_name_if or "",
    }


def test_every_combination_is_what_a_statute_calls_personal_information(rules: Rules) -> None:
    rows = _rows("personal-information.csv")
    assert len(rows) == 238
    lists = ("any_of", "and_all_of", "exempt_when")
    wanted = [
        {key: frozenset(filter(None, text.split("|"))) if key in lists else text for key, text in row.items()}
        for row in rows
    ]
    for row in wanted:
        if str(row["without_name_if"]).startswith("always") or row["requires_name"] in ("none", "any_personal_data"):
            row["without_name_if"] = ""  # why no name is needed, where none is
    found = [_combination(regime, combination) for regime, own in rules.combinations.items() for combination in own]
    by_id = {(row["regime_id"], row["combination_id"]): row for row in found}
    assert len(by_id) == len(found) == 238
    differences = [
        (*key, name, value, by_id[key][name])
        for row in wanted
        for key in [(row["regime_id"], row["combination_id"])]
        for name, value in row.items()
        if by_id[key][name] != value
    ]
    assert differences == []


def test_the_vocabulary_is_that_of_the_reference(rules: Rules) -> None:
    rows = {row["element"]: row for row in _rows("data-elements.csv")}
    assert rules.elements.keys() == rows.keys()
    for name, row in rows.items():
        element = rules.elements[name]
        found = (element.meaning, element.group, str(element.enisa_dpc), element.typical_magento_field, element.note)
        assert found == tuple(row[key] for key in ("meaning", "group", "enisa_dpc", "typical_magento_field", "note"))


def test_the_zones_of_the_member_states_are_those_of_their_capitals(rules: Rules) -> None:
    assert rules.zones == {row["country"]: row["zone"] for row in _rows("member-state-zones.csv")}


def test_every_requirement_of_a_notice_is_a_rule(rules: Rules) -> None:
    found = [
        {
            "regime_id": notice.regime_id,
            "section": requirement.section,
            "condition": requirement.when or "",
            "requirement": requirement.text,
            "citation": notice.content_reference,
            "confidence": requirement.confidence,
            "note": requirement.note or "",
        }
        for notice in rules.notices.values()
        for requirement in notice.content
    ]
    assert sorted(map(_as_tuple, found)) == sorted(map(_as_tuple, _rows("notice-contents.csv")))


def _as_tuple(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row.values())


def test_every_medium_is_a_rule(rules: Rules) -> None:
    found = {}
    for notice in rules.notices.values():
        for rule in notice.media:
            substitute = rule.substitute
            found[notice.regime_id, rule.medium] = {
                "regime_id": notice.regime_id,
                "medium": rule.medium,
                "allowed": rule.allowed,
                "condition": rule.condition or "",
                "substitute_cost_threshold_usd": str(substitute.cost_over_usd or "") if substitute else "",
                "substitute_person_threshold": str(substitute.people_over or "") if substitute else "",
                "substitute_also_if": (substitute.also_if or "") if substitute else "",
                "substitute_requires": (substitute.requires or "") if substitute else "",
                "citation": notice.media_reference,
                "confidence": rule.confidence,
                "note": rule.note or "",
            }
    assert found == {(row["regime_id"], row["medium"]): row for row in _rows("notice-media.csv")}


def test_the_facts_are_those_of_the_reference() -> None:
    rows = {row["fact"]: row for row in _rows("facts.csv")}
    assert Facts.model_fields.keys() == rows.keys()
    for name, row in rows.items():
        words = set(row["allowed"].split("|")) if row["type"].startswith(("keyword", "boolean")) else set()
        assert set(values_of(name)) == words, name
        assert (name in KEYED_INSTANTS) is (row["keyed"] == "jurisdiction or regime_id"), name


def test_every_authority_is_carried_with_its_confidence(rules: Rules) -> None:
    found = [
        {
            "jurisdiction": each.jurisdiction,
            "authority": each.authority,
            "kind": each.kind,
            "regime_ids": " ".join(each.regimes),
            "needed_in_individual_notice": "yes" if each.named else "no",
            "postal_address": each.address,
            "telephone": each.telephone,
            "website": each.website,
            "notification_channel": each.channel,
            "confidence": each.confidence,
            "must_be_confirmed": "yes" if each.confirm else "no",
            "note": each.note,
        }
        for each in load_authorities(SHIPPED, rules.by_id).rows
    ]
    assert found == _rows("authority-contacts.csv")


def test_of_a_duty_under_union_law_the_authorities_of_one_member_state_are_named(rules: Rules) -> None:
    authorities = load_authorities(SHIPPED, rules.by_id)
    [irish] = authorities.of_duty("eu-gdpr-33", "IE")
    assert irish.authority == "Data Protection Commission (Ireland)"
    assert len(authorities.of_duty("eu-gdpr-33", "DE")) > 10, "those of the Laender: a person decides which"
    assert {each.jurisdiction for each in authorities.of_duty("us-ca-ag", None)} == {"US-CA"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("authorities: []", "write one list"),
        ("authorities: [{jurisdiction: US, authority: A, kind: cert, named: false, confidence: sure, confirm: true}]", "sure"),
        ("authorities: [{jurisdiction: US, authority: A, kind: cert, named: false, confidence: low, confirm: true, "
         "regimes: [us-xx]}]", "no rule is named 'us-xx'"),
    ],
)  # fmt: skip
def test_a_bad_file_of_authorities_is_refused(rules: Rules, tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / AUTHORITIES).write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=complaint):
        load_authorities(tmp_path, rules.by_id)
