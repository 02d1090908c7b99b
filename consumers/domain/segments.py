"""Who shares one notice: the segment policy as data, and the key that all people of a segment have in common.

The policy is an ordered list; the first rule that matches decides, and the last one matches everybody, so that each
person falls in exactly one segment. Not for what the notice says (`notices`, `disclosure`) nor for whom it is approved.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bridge.contracts.errors import BadInput, nearest
from bridge.contracts.events import SENSITIVITY_ORDER, Channel, Kind, Sensitivity
from consumers.domain.fallback import Fallback, parse_steps, parse_timeouts
from consumers.domain.jurisdictions import EEA, EU, UNKNOWN_RESIDENCE, jurisdictions

GROUPS: Mapping[str, frozenset[str]] = {"EU": EU, "EEA": EEA}
"""Names for several jurisdictions. A country stands for its subdivisions, too (`US` for `US-CA`); `*` for everybody."""
_TOP = ("own_texts", "offers", "rules")
_RULE = ("name", "when", "bundle", "channels", "timeouts", "lane", "priority", "sms_details", "offer")
_WHEN = (
    "sensitivity_at_least", "kinds", "categories", "residences", "locales", "controllers", "websites", "stores",
    "scenarios", "standing",
)  # fmt: skip
_OFFER = {
    "service": True,
    "provider": True,
    "months": True,
    "enrol": True,
    "until": True,
    "telephone": False,
    "code": False,
}
"""Fields of a protective offer, and whether it must have them."""
STANDINGS = ("recorded", "possible", "named")
"""By a record; by a value without a record; by the incident's scope alone, which lists people or means everybody."""


def covers(codes: Collection[str], residences: Collection[str]) -> bool:
    """Return whether every one of `residences` (none: unknown) is covered by `codes` (jurisdictions, groups or `*`)."""
    return all(_covered(codes, home) for home in residences or (UNKNOWN_RESIDENCE,))


def touches(codes: Collection[str], residences: Collection[str]) -> bool:
    """Return whether any of `residences` (none: unknown) is covered by `codes`."""
    return any(_covered(codes, home) for home in residences or (UNKNOWN_RESIDENCE,))


def _covered(codes: Collection[str], home: str) -> bool:
    return any(
        code in ("*", home) or home.startswith(f"{code}-") or home in GROUPS.get(code, frozenset()) for code in codes
    )


def check_codes(codes: Collection[str]) -> None:
    """Raise BadInput for a code that names no jurisdiction, group, `unknown` or `*`."""
    known = (*jurisdictions(), *GROUPS, UNKNOWN_RESIDENCE, "*")
    for code in codes:
        if code not in known:
            raise BadInput(
                f"{code!r} is no jurisdiction{nearest(code, known)}; use codes such as DE, US-CA, EU, unknown, *"
            )


@dataclass(frozen=True, slots=True)
class Addressee:
    """What the policy looks at in one person."""

    sensitivity: Sensitivity
    kinds: frozenset[Kind]
    categories: frozenset[str]
    residences: tuple[str, ...]
    """Jurisdictions where the person may live; empty is unknown."""
    locale: str
    controller: str
    website_id: int
    standing: str
    store_id: int = 0
    scenario: str = ""
    """Of the incident, as its alert named it."""


@dataclass(frozen=True, slots=True)
class When:
    """Conditions of a rule, all of which must hold; within one, any of its values. Empty: no condition."""

    sensitivity_at_least: Sensitivity | None = None
    kinds: frozenset[Kind] = frozenset()
    categories: frozenset[str] = frozenset()
    residences: frozenset[str] = frozenset()
    locales: frozenset[str] = frozenset()
    controllers: frozenset[str] = frozenset()
    websites: frozenset[int] = frozenset()
    standing: str | None = None
    stores: frozenset[int] = frozenset()
    scenarios: frozenset[str] = frozenset()

    @property
    def always(self) -> bool:
        """Whether the rule matches everybody."""
        return self == When()

    def matches(self, person: Addressee) -> bool:
        """Return whether all conditions hold for `person`. A locale `de` stands for `de_AT`, too."""
        if self.sensitivity_at_least is not None and SENSITIVITY_ORDER.index(
            person.sensitivity
        ) < SENSITIVITY_ORDER.index(self.sensitivity_at_least):
            return False
        return (
            (not self.kinds or bool(self.kinds & person.kinds))
            and (not self.categories or bool(self.categories & person.categories))
            and (not self.residences or touches(self.residences, person.residences))
            and (not self.locales or person.locale in self.locales or person.locale.partition("_")[0] in self.locales)
            and (not self.controllers or person.controller in self.controllers)
            and (not self.websites or person.website_id in self.websites)
            and (not self.stores or person.store_id in self.stores)
            and (not self.scenarios or person.scenario in self.scenarios)
            and (self.standing is None or person.standing == self.standing)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: which bundle, which channels in which order, how urgent, and whether an SMS may say what leaked."""

    name: str
    when: When
    bundle: str
    fallback: Fallback
    lane: str
    priority: int
    """Lower goes first among equal deadlines."""
    sms_details: bool
    offer: str | None = None
    """Name of the protective offer that these people are made."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels in order of fallback."""
        return self.fallback.order


@dataclass(frozen=True, slots=True)
class SegmentPolicy:
    """The whole policy. `own_texts` names groups of jurisdictions whose law asks for a text of their own, first match;
    `offers` the protective offers, by the fields of `SegmentKey.offer`.
    """

    rules: tuple[Rule, ...]
    own_texts: Mapping[str, frozenset[str]]
    offers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def offer_of(self, rule: Rule) -> tuple[tuple[str, str], ...]:
        """Return what `rule` offers its people, sorted by field; empty: nothing."""
        return () if rule.offer is None else tuple(sorted(self.offers[rule.offer].items()))

    def rule_for(self, person: Addressee) -> Rule:
        """Return the one rule that decides for `person`."""
        return next(rule for rule in self.rules if rule.when.matches(person))

    def group_of(self, residences: Sequence[str]) -> str:
        """Return the first group that any residence falls in; `general` for all others.

        One claim is enough: whoever may live where a text is forbidden does not get it.
        """
        return next((name for name, codes in self.own_texts.items() if touches(codes, residences)), GENERAL)


GENERAL = "general"


@dataclass(frozen=True, slots=True)
class SegmentKey:
    """All that the people of one segment share. What is in here, and only that, may a notice depend on."""

    incident_id: str
    revision: int
    controller: str
    locale: str
    """The language of the notice after fallback, or what was asked for while no bundle is approved."""
    disclosures: tuple[str, ...]
    policy: str
    """Name of the rule that decided."""
    group: str
    standing: str
    bundle: str
    bundle_sha256: str | None
    """None: no approved bundle covers these people; they are held."""
    channels: tuple[str, ...]
    sms_details: bool
    scenario: str
    detected_on: str
    exposed_from: str | None
    exposed_to: str | None
    """ISO dates."""
    sender: tuple[tuple[str, str], ...]
    """Who writes: fields of `notices.Sender`, as they were when the segment was made."""
    asks: tuple[str, ...] = ()
    """Sections that the laws of these people ask for (`notice_rules.Section`), conditions applied; sorted."""
    forbids: tuple[str, ...] = ()
    """Sections that may not stand in their notice; sorted."""
    states: tuple[str, ...] = ()
    """Where they may live, of those jurisdictions that have a block of their own; sorted."""
    facts: tuple[tuple[str, str], ...] = ()
    """What the notice says of the incident because a law asks for it: `people`, `delayed_by_law_enforcement` ..."""
    offer: tuple[tuple[str, str], ...] = ()
    """The protective offer: `service`, `provider`, `months`, `enrol`, `telephone`, `code`, `until`. Empty: none is made."""
    supplement: bool = False
    """For people who were told before, and of whom more was found since."""
    together: tuple[tuple[str, ...], ...] = ()
    """Those of `channels` that are begun together (`fallback.Fallback`)."""
    timeouts: tuple[tuple[str, int], ...] = ()
    """How many seconds a channel may take for its last word, where the policy says so; sorted."""

    def as_json(self) -> dict[str, Any]:
        """Return the key as the case store keeps it; `segment_key_from` reads it back."""
        pairs = ("sender", "facts", "offer", "timeouts")
        written = {**asdict(self), **{name: dict(getattr(self, name)) for name in pairs}}
        for name in ("together", "timeouts"):
            # left out where the policy is a plain order, so that such a segment keeps the id it had
            if not written[name]:
                del written[name]
        return written

    @property
    def segment_id(self) -> str:
        """SHA-256, in hex, of the canonical JSON of the key."""
        text = json.dumps(self.as_json(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def segment_key_from(value: Mapping[str, Any]) -> SegmentKey:
    """Return what `SegmentKey.as_json` wrote. Raises BadInput if it is something else."""
    try:
        return SegmentKey(
            **{
                **value,
                "disclosures": tuple(value["disclosures"]),
                "channels": tuple(value["channels"]),
                **{name: tuple(value.get(name, ())) for name in ("asks", "forbids", "states")},
                **{
                    name: tuple(sorted(value.get(name, {}).items()))
                    for name in ("sender", "facts", "offer", "timeouts")
                },
                "together": tuple(tuple(step) for step in value.get("together", ())),
            }
        )
    except (KeyError, TypeError, AttributeError):
        raise BadInput("a segment's key is not what this version writes; plan the incident anew") from None


def parse_policy(content: Any) -> SegmentPolicy:
    """Return the parsed YAML of `segments.yaml`. Raises BadInput listing every problem as `path.of.keys: problem`."""
    problems: list[str] = []
    top = content if isinstance(content, dict) else {}
    _refuse_unknown(top, _TOP, "", problems)
    own_texts: dict[str, frozenset[str]] = {}
    for name, codes in (top.get("own_texts") or {}).items():
        own_texts[str(name)] = frozenset(_words(codes, f"own_texts.{name}", problems))
        _check(own_texts[str(name)], f"own_texts.{name}", problems)
    offers = _offers(top.get("offers") or {}, problems)
    raw_rules = top.get("rules")
    if not isinstance(raw_rules, list) or not raw_rules:
        raise BadInput("\n".join([*problems, "rules: write a list of rules; the last one without `when`"]))
    rules = [_rule(raw, f"rules.{index}", problems) for index, raw in enumerate(raw_rules)]
    for index, rule in enumerate(rules):
        if rule.offer is not None and rule.offer not in offers:
            known = ", ".join(offers) or "none is written under `offers`"
            problems.append(
                f"rules.{index}.offer: no offer is named {rule.offer!r}{nearest(rule.offer, offers)} ({known})"
            )
        last = index == len(rules) - 1
        if last and not rule.when.always:
            problems.append(f"rules.{index}: the last rule must have no `when`: nobody may fall out")
        if not last and rule.when.always:
            problems.append(f"rules.{index}: has no `when`, so that the rules after it never match; move it to the end")
        if rule.name in {other.name for other in rules[:index]}:
            problems.append(f"rules.{index}.name: {rule.name!r} is taken by an earlier rule")
    if GENERAL in own_texts:
        problems.append(f"own_texts.{GENERAL}: this name is for everybody else")
    if problems:
        raise BadInput("\n".join(problems))
    return SegmentPolicy(tuple(rules), own_texts, offers)


def _offers(raw: Any, problems: list[str]) -> dict[str, Mapping[str, str]]:
    if not isinstance(raw, dict):
        problems.append("offers: write a name for each offer, and its fields below it")
        return {}
    offers: dict[str, Mapping[str, str]] = {}
    for name, value in raw.items():
        where, fields = f"offers.{name}", value if isinstance(value, dict) else {}
        _refuse_unknown(fields, tuple(_OFFER), where, problems)
        for field_name, is_needed in _OFFER.items():
            text = fields.get(field_name)
            empty = isinstance(text, bool | dict | list) or not str("" if text is None else text).strip()
            if empty and (is_needed or text is not None):
                problems.append(f"{where}.{field_name}: missing; write it as the notice should say it")
            elif text is not None and re.search(r"[{}<>\x00-\x1f]", str(text)):
                problems.append(f"{where}.{field_name}: holds a brace, an angle bracket or a line break")
        offers[str(name)] = {key: str(text) for key, text in fields.items() if key in _OFFER and text is not None}
    return offers


def _rule(raw: Any, where: str, problems: list[str]) -> Rule:
    fields = raw if isinstance(raw, dict) else {}
    _refuse_unknown(fields, _RULE, where, problems)
    for name in ("name", "bundle", "lane"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            problems.append(f"{where}.{name}: missing")
    named = f"{where} ({fields['name']})" if isinstance(fields.get("name"), str) else where
    steps = parse_steps(fields.get("channels"), f"{named}.channels", problems)
    timeouts = parse_timeouts(fields["timeouts"], steps, f"{named}.timeouts", problems) if "timeouts" in fields else {}
    fallback = Fallback(steps, timeouts)
    priority, details = fields.get("priority"), fields.get("sms_details", False)
    if not isinstance(priority, int) or isinstance(priority, bool):
        problems.append(f"{where}.priority: write a whole number; lower goes first")
    if not isinstance(details, bool):
        problems.append(f"{where}.sms_details: write true or false")
    return Rule(
        name=str(fields.get("name")),
        when=_when(fields.get("when") or {}, f"{where}.when", problems),
        bundle=str(fields.get("bundle")),
        fallback=fallback,
        lane=str(fields.get("lane")),
        priority=priority if isinstance(priority, int) else 0,
        sms_details=details is True,
        offer=None if fields.get("offer") is None else str(fields["offer"]),
    )


def _when(raw: Any, where: str, problems: list[str]) -> When:
    fields = raw if isinstance(raw, dict) else {}
    if fields is not raw:
        problems.append(f"{where}: write conditions here ({', '.join(_WHEN)})")
    _refuse_unknown(fields, _WHEN, where, problems)
    least, standing = fields.get("sensitivity_at_least"), fields.get("standing")
    if least is not None and least not in set(Sensitivity):
        problems.append(f"{where}.sensitivity_at_least: one of {', '.join(Sensitivity)}")
        least = None
    if standing is not None and standing not in STANDINGS:
        problems.append(f"{where}.standing: one of {', '.join(STANDINGS)}")
        standing = None

    def words(name: str, known: Sequence[str] = ()) -> list[str]:
        return _words(fields[name], f"{where}.{name}", problems, known=known) if name in fields else []

    residences = words("residences")
    _check(residences, f"{where}.residences", problems)

    def ids(name: str) -> frozenset[int]:
        value = fields.get(name, [])
        if not isinstance(value, list) or not all(
            isinstance(each, int) and not isinstance(each, bool) for each in value
        ):
            problems.append(f"{where}.{name}: write a list of {name.removesuffix('s')} ids")
            return frozenset()
        return frozenset(value)

    return When(
        sensitivity_at_least=None if least is None else Sensitivity(least),
        kinds=frozenset(Kind(kind) for kind in words("kinds", list(Kind)) if kind in set(Kind)),
        categories=frozenset(words("categories")),
        residences=frozenset(residences),
        locales=frozenset(words("locales")),
        controllers=frozenset(words("controllers")),
        websites=ids("websites"),
        standing=standing,
        stores=ids("stores"),
        scenarios=frozenset(words("scenarios")),
    )


def _words(value: Any, where: str, problems: list[str], *, known: Sequence[str] = ()) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        problems.append(f"{where}: write a list of words")
        return []
    problems.extend(
        f"{where}: {word!r} is not known{nearest(word, known)}; one of {', '.join(known)}"
        for word in value
        if known and word not in known
    )
    return list(value)


def _check(codes: Collection[str], where: str, problems: list[str]) -> None:
    try:
        check_codes(codes)
    except BadInput as error:
        problems.append(f"{where}: {error}")


def _refuse_unknown(fields: Mapping[Any, Any], known: Sequence[str], where: str, problems: list[str]) -> None:
    for name in fields:
        if name not in known:
            place = f"{where}.{name}".lstrip(".")
            problems.append(f"{place}: unknown key{nearest(str(name), known)} (known: {', '.join(known)})")


def policy_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of `segments.yaml`."""

    def listed(items: Mapping[str, Any], about: str) -> dict[str, Any]:
        return {"type": "array", "items": dict(items), "minItems": 1, "uniqueItems": True, "description": about}

    text = {"type": "string", "minLength": 1}
    codes = {"type": "string", "description": "jurisdiction (DE, US-CA), country (US), EU, EEA, unknown or *"}
    when = {
        "sensitivity_at_least": {
            "enum": list(Sensitivity),
            "description": "the person's most sensitive record is at least so",
        },
        "kinds": listed({"enum": list(Kind)}, "any of the person's records is of such a kind"),
        "categories": listed(text, "any of the person's records is of such a category"),
        "residences": listed(codes, "the person may live there"),
        "locales": listed(text, "the store view's language; de stands for de_AT, too"),
        "controllers": listed(text, "the legal entity, by its key in law/controllers.yaml"),
        "websites": listed({"type": "integer"}, "Magento website ids"),
        "stores": listed({"type": "integer"}, "Magento store view ids"),
        "scenarios": listed(text, "the incident's scenario, as its alert names it"),
        "standing": {"enum": list(STANDINGS), "description": "how it is known that the person is affected"},
    }
    rule = {
        "name": {**text, "description": "names the segment on the sheet; unique"},
        "when": {
            "type": "object", "properties": when, "additionalProperties": False,
            "description": "all must hold, within one any value will do; the last rule has none and matches everybody",
        },
        "bundle": {**text, "description": "which notice, a folder of notices/"},
        "channels": listed(
            {"anyOf": [{"enum": list(Channel)}, listed({"enum": list(Channel)}, "begun together")]},
            "in order of fallback; a list in it names channels that are begun together, where a law asks for two",
        ),
        "timeouts": {
            "type": "object", "additionalProperties": False,
            "properties": {name: {"type": "string", "pattern": r"^P(\d{1,3}D|T\d{1,4}H|T\d{1,5}M)$"} for name in Channel},
            "description": "how long a channel may take for its last word (PT12H, P3D) before the next one begins; where "
            "none is written, delivery.*_timeout_seconds of the settings",
        },
        "lane": {**text, "description": "by which queue: urgent, standard"},
        "priority": {"type": "integer", "description": "lower goes first among equal deadlines"},
        "sms_details": {"type": "boolean", "default": False,
                        "description": "may an SMS say what leaked, or only lead to the account page behind log-in"},
        "offer": {**text, "description": "the protective offer, by its name under offers"},
    }  # fmt: skip
    offer = {
        "type": "object", "properties": {name: {"type": ["string", "integer"]} for name in _OFFER},
        "required": [name for name, is_needed in _OFFER.items() if is_needed], "additionalProperties": False,
    }  # fmt: skip
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "segments.yaml: who gets which notice, by which channels, how soon; the first rule that matches decides",
        "type": "object",
        "additionalProperties": False,
        "required": ["rules"],
        "properties": {
            "own_texts": {
                "type": "object", "additionalProperties": listed(codes, "jurisdictions of the group"),
                "description": "groups of jurisdictions whose law asks for words of its own, first match",
            },
            "offers": {"type": "object", "additionalProperties": offer, "description": "protective offers by name"},
            "rules": {
                "type": "array", "minItems": 1,
                "items": {
                    "type": "object", "properties": rule, "additionalProperties": False,
                    "required": ["name", "bundle", "channels", "lane", "priority"],
                },
            },
        },
    }  # fmt: skip
