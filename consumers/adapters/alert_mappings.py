"""Turns an AI monitor's own payload into alerts by mappings that are data: JMESPath expressions in YAML.

An expression sees `payload` (the JSON body), `item` (one element where the mapping has `each`, else the payload) and
`headers` (lower-case names). What a monitor leaves out or writes oddly never loses the alert: only a body that is not
JSON, or not an alert at all, is unreadable. Not here: whether names in the scope are known (`consumers.case.alerts`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jmespath
import yaml
from jmespath.exceptions import JMESPathError
from jmespath.parser import ParsedResult

from bridge.contracts.errors import BadInput, nearest
from bridge.contracts.events import AlertReceived
from bridge.contracts.scope import AskedScope
from consumers.case.alerts import ReadAlert, Unreadable

DEFAULT = "generic"
_KEYS = ("name", "each", "fields", "scope", "commas_separate")
_FIELDS = ("fingerprint", "title", "status", "detected_at", "scenario", "exercise")
_MAX_ALERTS = 500
"""More in one message is no alert but a mistake; the whole of it is kept as one unreadable alert."""


@dataclass(frozen=True, slots=True)
class CompiledMapping:
    """One mapping, compiled."""

    name: str
    each: ParsedResult | None
    fields: Mapping[str, ParsedResult]
    scope: ParsedResult | Mapping[str, ParsedResult]
    commas_separate: bool


class AlertMappings:
    """The mappings of a directory, by name, and which source uses which (`generic` where none is named)."""

    def __init__(self, directory: Path, by_source: Mapping[str, str]) -> None:
        """Load what `by_source` names (shipped names or files) and the default. Raises BadInput: file, key, what to do."""
        self._directory = directory
        self._loaded: dict[str, CompiledMapping] = {}
        self._by_source = dict(by_source)
        for name in {DEFAULT, *self._by_source.values()}:
            self._loaded[name] = load_mapping(self._path(name))

    def _path(self, name: str) -> Path:
        if name.endswith((".yaml", ".yml")):
            return Path(name) if Path(name).is_absolute() else self._directory / name
        path = self._directory / f"{name}.yaml"
        if not path.exists():
            known = sorted(each.stem for each in self._directory.glob("*.yaml"))
            raise BadInput(f"intake.mappings: no mapping {name!r} in {self._directory}{nearest(name, known)}")
        return path

    def read(self, source: str, body: bytes, headers: Mapping[str, str], arrived_at: datetime) -> Sequence[ReadAlert]:
        """Return the alerts in `body`, at least one. Raises Unreadable, which shows nothing of the body."""
        mapping = self._loaded[self._by_source.get(source, DEFAULT)]
        try:
            payload = json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise Unreadable(f"{source}: the body is not JSON") from None
        if not isinstance(payload, dict):
            raise Unreadable(f"{source}: the body is not a JSON object")
        try:
            items = [payload] if mapping.each is None else mapping.each.search({"payload": payload, "headers": headers})
        except JMESPathError as error:
            raise Unreadable(f"{source}: mapping {mapping.name}: each: {type(error).__name__}") from None
        if not isinstance(items, list) or not items or len(items) > _MAX_ALERTS:
            raise Unreadable(f"{source}: mapping {mapping.name} finds no alerts in the body")
        if not all(isinstance(item, dict) for item in items):
            raise Unreadable(f"{source}: mapping {mapping.name}: an alert is not an object")
        return [
            _read(mapping, source, {"payload": payload, "item": item, "headers": dict(headers)}, arrived_at)
            for item in items
        ]


def load_mapping(path: Path) -> CompiledMapping:
    """Read and compile one mapping. Raises BadInput."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({type(error).__name__})") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise BadInput(f"{path}: must hold {', '.join(_KEYS)}")
    _refuse_unknown(path, "", document, _KEYS)
    fields = document.get("fields")
    if not isinstance(fields, dict):
        raise BadInput(f"{path}: fields: missing; expressions for {', '.join(_FIELDS)}")
    _refuse_unknown(path, "fields.", fields, _FIELDS)
    scope = document.get("scope")
    if isinstance(scope, dict):
        _refuse_unknown(path, "scope.", scope, (*AskedScope.model_fields, "emails"))
        compiled: ParsedResult | dict[str, ParsedResult] = {
            name: _compiled(path, f"scope.{name}", text) for name, text in scope.items()
        }
    else:
        compiled = _compiled(path, "scope", scope)
    each = document.get("each")
    commas = document.get("commas_separate", False)
    if not isinstance(commas, bool):
        raise BadInput(f"{path}: commas_separate: {commas!r}: must be true or false")
    return CompiledMapping(
        name=str(document.get("name", path.stem)),
        each=None if each is None else _compiled(path, "each", each),
        fields={name: _compiled(path, f"fields.{name}", text) for name, text in fields.items()},
        scope=compiled,
        commas_separate=commas,
    )


def _refuse_unknown(path: Path, place: str, given: Mapping[Any, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise BadInput(f"{path}: {place}{key}: unknown key{nearest(str(key), known)} (known: {', '.join(known)})")


def _compiled(path: Path, place: str, text: Any) -> ParsedResult:
    if not isinstance(text, str):
        raise BadInput(f"{path}: {place}: {text!r}: must be a JMESPath expression")
    try:
        return jmespath.compile(text)
    except JMESPathError as error:
        raise BadInput(f"{path}: {place}: {text!r}: {' '.join(str(error).split())}") from None


def _read(mapping: CompiledMapping, source: str, seen: Mapping[str, Any], arrived_at: datetime) -> ReadAlert:
    found = {name: _search(expression, seen) for name, expression in mapping.fields.items()}
    given = _given(mapping, seen)
    fingerprint = found.get("fingerprint")
    if isinstance(fingerprint, bool) or not isinstance(fingerprint, (str, int)) or not str(fingerprint).strip():
        # no name for the leak: the same words are the same leak
        canonical = json.dumps(seen["item"], sort_keys=True, separators=(",", ":"))
        fingerprint = f"body-{hashlib.sha256(canonical.encode()).hexdigest()}"
    fingerprint = str(fingerprint)
    if len(fingerprint) > 200 or not fingerprint.isprintable():
        fingerprint = hashlib.sha256(json.dumps(fingerprint).encode()).hexdigest()
    title, scenario, status = found.get("title"), found.get("scenario"), found.get("status")
    return ReadAlert(
        AlertReceived(
            source=source,
            fingerprint=fingerprint,
            title=_printable(title)[:300] if isinstance(title, str) else "",
            # whatever is not plainly over still burns
            status="resolved" if status == "resolved" else "firing",
            detected_at=_instant(found.get("detected_at")) or arrived_at,
            scenario=_printable(scenario)[:100] if isinstance(scenario, str) and scenario else None,
            exercise=found.get("exercise") in (True, "true"),
        ),
        given,
    )


def _search(expression: ParsedResult, seen: Mapping[str, Any]) -> Any:
    try:
        return expression.search(seen)
    except JMESPathError:
        # a function met a type that it does not take: as though the field were not there
        return None


def _given(mapping: CompiledMapping, seen: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(mapping.scope, dict):
        raw: Any = {name: _search(expression, seen) for name, expression in mapping.scope.items()}
    else:
        raw = _search(mapping.scope, seen)  # type: ignore[arg-type]  # a dict was the other case
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        return {"scope": str(raw)[:200]}
    given = {str(name): value for name, value in raw.items() if value is not None and value not in ("", [])}
    if mapping.commas_separate:
        given = {
            name: [part.strip() for part in value.split(",") if part.strip()]
            if isinstance(value, str) and not name.endswith(("_from", "_to"))
            else value
            for name, value in given.items()
        }
    return given


def _instant(value: Any) -> datetime | None:
    """Return an ISO 8601 instant with an offset, else None: a naive time could be anywhere in the world."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
        # Alertmanager writes year 1 for "not yet"
        return at.astimezone(UTC) if at.tzinfo is not None and at.year > 1970 else None
    except (ValueError, OverflowError):
        return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text).strip()
