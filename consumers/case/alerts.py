"""What an alert means before anything is written: its scope against the names that the index knows.

An alert is never refused for its meaning. What is not understood makes the scope *unresolved*: it says which names are
unknown, which known ones are near, and what to type. Not here: mappings (an adapter), signatures (`webhooks`), and
opening the incident (`intake_rules`).
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, Protocol

from pydantic import ValidationError

from bridge.contracts.errors import BadInput
from bridge.contracts.events import AlertReceived
from bridge.contracts.scope import AskedScope, Rewriting, Scope
from consumers.case.rewriting import ScopeRewriter
from consumers.domain.contacts import spellings

_AHEAD = timedelta(minutes=5)
"""How far a monitor's clock may be ahead before a window counts as lying in the future."""


_LATELY = timedelta(minutes=2)
"""The index notes after each answer and every half minute what it has read to the end, and under load that of the time before."""
_AT_ALL_TIMES = datetime.max.replace(tzinfo=UTC)


class Unreadable(BadInput):
    """The bytes are no alert under the source's mapping. They are kept, and a person looks."""


@dataclass(frozen=True, slots=True)
class ScopeFault:
    """One thing in a scope that could not be understood."""

    field: str
    value: str
    why: str
    nearest: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadAlert:
    """An alert as its mapping gives it. The event's own `scope` is None; `given` is the scope as the monitor wrote it."""

    alert: AlertReceived
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """The names in the provenance index."""

    versions_by_model: Mapping[str, frozenset[str]]
    attributes: frozenset[str]
    complete: bool = True
    """Every partition answered, and from a file that was read to its end once and is not being rebuilt."""
    read_to_end_at: datetime = _AT_ALL_TIMES
    """Where `complete`: what was published before it is among them."""
    beat_at: datetime = _AT_ALL_TIMES
    """What the store held before it is among them."""
    lacking: str = ""
    """Where not `complete`: why, in words."""

    def hold_all_of(self, at: datetime) -> bool:
        """Return whether what was published before `at` is among them: only then is a name wrong that is not."""
        return self.complete and self.read_to_end_at >= at

    def are_current(self, now: datetime) -> bool:
        """Return whether it was read to its end lately: else a person is not told that a name is wrong either."""
        return self.hold_all_of(now - _LATELY)

    def joined(self, models: Mapping[str, frozenset[str]]) -> "Known":
        """Return these names and those of the model registry, which may know versions that wrote nothing themselves."""
        versions = {
            model_id: self.versions_by_model.get(model_id, frozenset()) | models.get(model_id, frozenset())
            for model_id in {*self.versions_by_model, *models}
        }
        return replace(self, versions_by_model=versions)


class KnownNames(Protocol):
    """Where known names come from: the index."""

    def known_names(self) -> Known:
        """Return the known names. Raises Unreachable when no partition answers."""
        ...


@dataclass(frozen=True, slots=True)
class JudgedScope:
    """A scope that can be resolved, or why not. `unchecked`: the index may not have read its names yet."""

    scope: Scope | None
    faults: tuple[ScopeFault, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    unchecked: bool = False
    rewriting: Rewriting | None = None
    """How the scope came about, where it was asked for in other words."""

    def unresolved(self, incident_id: str) -> dict[str, Any] | None:
        """Return what the incident keeps as `scope_unresolved`; None when everything was understood."""
        if self.scope is not None:
            return {"unchecked": True} if self.unchecked else None
        return {**in_doubt(self.faults, incident_id), "as_given": dict(self.given)}


NAMES = frozenset({"model_ids", "model_versions", "attributes", "model_aliases"})
"""What may become known by itself: the index reads on, and the registry is looked at again."""


def in_doubt(faults: Sequence[ScopeFault], incident_id: str) -> dict[str, Any]:
    """Return what an incident keeps of `faults`: each with near names, and what to type."""
    return {
        "unknown": [{"field": each.field, "value": each.value, "why": each.why} for each in faults],
        "nearest": {each.value: list(each.nearest) for each in faults if each.nearest},
        "type": f"tocsin incident rescope {incident_id} {_what_to_set(faults)} --reason TEXT",
    }


_NOTHING_KNOWN = ScopeRewriter()


def judge_scope(
    given: Mapping[str, Any], known: Known | None, arrived_at: datetime, rewriter: ScopeRewriter = _NOTHING_KNOWN
) -> JudgedScope:
    """Return the scope in `given` if every name in it is known and its windows make sense; else what is wrong.

    `known` None: the index did not answer, so the scope is taken as given and marked unchecked; so it is where a name is not
    known, and the index may not have read yet all that was published when the alert came. A scope that restricts
    nothing is not taken to mean everything. Aliases, descendants and addresses are rewritten by what `rewriter` knows; what
    it cannot know of descendants stops nothing and is noted, an alias that leads nowhere is a fault.
    """
    if not given:
        return JudgedScope(None, (ScopeFault("scope", "", "the alert names none"),))
    given, address_faults = without_addresses(given, rewriter.keyed)
    if address_faults:
        return JudgedScope(None, tuple(address_faults), given)
    try:
        asked = AskedScope.model_validate(listed(given))
    except ValidationError as error:
        return JudgedScope(None, tuple(faults_of(error, given)), given)
    if not asked.canonical():
        return JudgedScope(None, (ScopeFault("scope", "", "it restricts nothing"),), given)
    faults = list(_window_faults(asked, arrived_at))
    done = rewriter.rewrite(asked)
    faults += [
        ScopeFault("model_aliases", each.value, each.why, rewriter.aliases_near(each.value)) for each in done.faults
    ]
    unchecked = known is None
    if known is not None:
        unknown = wrong_names(asked, known, rewriter)
        unchecked = bool(unknown) and not known.hold_all_of(arrived_at)
        faults += [] if unchecked else unknown
    if faults or done.scope is None:
        return JudgedScope(None, tuple(faults), given)
    return JudgedScope(done.scope, given=given, unchecked=unchecked, rewriting=done.rewriting)


def wrong_names(asked: AskedScope, known: Known, rewriter: ScopeRewriter) -> Sequence[ScopeFault]:
    """Return the names that neither the index nor the model registry knows."""
    unknown = list(unknown_names(asked, known))
    return list(unknown_names(asked, known.joined(rewriter.models()))) if unknown else ()


def without_addresses(
    given: Mapping[str, Any], keyed: Callable[[str], str]
) -> tuple[dict[str, Any], Sequence[ScopeFault]]:
    """Return `given` with `emails` and `email_sha256s`, at any depth, as `email_hmacs`, and what is wrong with them.

    After it no address is left that could be kept or shown; faults name none either.
    """
    result: dict[str, Any] = {}
    hmacs: list[Any] = []
    faults: list[ScopeFault] = []
    for name, value in given.items():
        if name in _NESTED and isinstance(value, list):
            parts = [without_addresses(part, keyed) if isinstance(part, Mapping) else (part, ()) for part in value]
            result[name] = [part for part, _ in parts]
            faults += [fault for _, each in parts for fault in each]
        elif name in ("emails", "email_sha256s"):
            for item in value if isinstance(value, list) else [value]:
                hashed = _hashed(item)
                if not hashed:
                    faults.append(
                        ScopeFault(name, "", "it holds an entry that is neither an address nor a SHA-256 in hex")
                    )
                    continue
                try:
                    hmacs += [keyed(each) for each in hashed]
                except BadInput as error:
                    faults.append(ScopeFault(name, "", str(error)))
        else:
            result[name] = value
    if hmacs:
        before = result.get("email_hmacs") or []
        result["email_hmacs"] = [*(before if isinstance(before, list) else [before]), *hmacs]
    return result, list(dict.fromkeys(faults))


def _hashed(item: Any) -> Sequence[str]:
    """Return the hashes of an address in each form in which the shop may have it, or the one that it is; none of all else."""
    if isinstance(item, str) and re.fullmatch(r"[^@\s]+@[^@\s]+", item.strip()):
        return [hashlib.sha256(each.encode()).hexdigest() for each in spellings(item.strip().lower())]
    if isinstance(item, str) and re.fullmatch(r"[0-9a-fA-F]{64}", item.strip()):
        return [item.strip().lower()]
    return ()


def listed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` with a single value where the scope has a list made a list; nulls are left out."""
    result: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in _NESTED and isinstance(value, list):
            result[name] = [listed(part) if isinstance(part, Mapping) else part for part in value]
        elif name in _LISTS and not isinstance(value, list):
            result[name] = [value]
        else:
            result[name] = value
        if name in _TEXTS and isinstance(result[name], list):
            # a monitor may well write version 7 as a number
            result[name] = [str(item) if type(item) in (int, float) else item for item in result[name]]
    return result


_NESTED = ("all_of", "any_of", "none_of")
_WINDOWS = ("generated_from", "generated_to", "exposed_from", "exposed_to", "aliases_at")
_NUMBERS = ("website_ids", "store_ids")
_LISTS = frozenset(AskedScope.model_fields) - {*_WINDOWS, *_NESTED, "everyone", "with_descendants"}
_TEXTS = _LISTS - frozenset(_NUMBERS)


def faults_of(error: ValidationError, given: Mapping[str, Any]) -> Iterable[ScopeFault]:
    """Return what is wrong with the scope in `given`, field by field, at most twenty faults."""
    for item in error.errors(include_url=False)[:20]:
        place = ".".join(str(part) for part in item["loc"]) or "scope"
        top = str(item["loc"][0]) if item["loc"] else "scope"
        if item["type"] == "extra_forbidden":
            close = tuple(get_close_matches(str(item["loc"][-1]), list(AskedScope.model_fields), n=3))
            yield ScopeFault(place, str(item["loc"][-1])[:200], "a scope has no such field", close)
        else:
            value = given.get(top, "") if len(item["loc"]) == 1 else item.get("input", "")
            yield ScopeFault(place, str(value)[:200] if top != "scope" else "", item["msg"])


def _window_faults(scope: Scope, arrived_at: datetime) -> Iterable[ScopeFault]:
    for name in ("generated_from", "exposed_from"):
        start = getattr(scope, name)
        if start is not None and start > arrived_at + _AHEAD:
            yield ScopeFault(name, start.isoformat(), "lies in the future")
    for part in (*scope.all_of, *scope.any_of, *scope.none_of):
        yield from _window_faults(part, arrived_at)


def unknown_names(scope: Scope, known: Known) -> Iterable[ScopeFault]:
    """Return the names in `scope`, at any depth, that `known` lacks, each with the nearest known ones."""
    models = known.versions_by_model
    versions: set[str] = set()
    for model_id in scope.model_ids or models:
        versions |= models.get(model_id, frozenset())
    all_versions = {version for each in models.values() for version in each}
    for name, values, names in (
        ("model_ids", scope.model_ids, set(models)),
        ("model_versions", scope.model_versions, versions or all_versions),
        ("attributes", scope.attributes, set(known.attributes)),
    ):
        for value in values:
            if value not in names:
                close = get_close_matches(value, sorted(names), n=3, cutoff=0.5)
                if not close and name == "model_versions":
                    close = sorted(names)[-3:]
                yield ScopeFault(name, value, "the index knows no such name", tuple(close))
    for part in (*scope.all_of, *scope.any_of, *scope.none_of):
        yield from unknown_names(part, known)


def _what_to_set(faults: Sequence[ScopeFault]) -> str:
    settings = []
    for each in faults:
        if each.field in AskedScope.model_fields:
            settings.append(f"--set {each.field}={each.nearest[0] if each.nearest else 'VALUE'}")
    return " ".join(dict.fromkeys(settings)) or "--scope FILE"
