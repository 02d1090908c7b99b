"""Whom notices name: credit reporting agencies, federal agencies, and those of each state whose law asks for them.

Data read from `notices/shared/agencies.yaml`; each entry says how far it was checked. Not for when they are named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.contracts.errors import BadInput, nearest
from consumers.domain.jurisdictions import jurisdictions

_TOP = ("bureaus", "federal", "states")
_FIELDS = ("name", "address", "freeze", "telephone", "website", "confidence")
_STATE = ("name", "names", "agencies")
_CONFIDENCE = ("high", "medium", "low")


@dataclass(frozen=True, slots=True)
class Agency:
    """An agency as a notice names it. Empty fields are not known and not said."""

    name: str
    address: str
    freeze: str
    """Where a security freeze is asked for, if elsewhere."""
    telephone: str
    website: str
    confidence: str

    def line(self, telephone: str) -> str:
        """Return the agency on one line; `telephone` is the language's word for it."""
        freeze = f"(security freeze: {self.freeze})" if self.freeze else ""
        address = " ".join(part for part in (self.address, freeze) if part)
        number = f"{telephone} {self.telephone}" if self.telephone else ""
        return ", ".join(part for part in (self.name, address, number, self.website) if part)


@dataclass(frozen=True, slots=True)
class State:
    """A jurisdiction with a block of its own in notices."""

    name: str
    names: Mapping[str, str]
    """Its name in other languages."""
    agencies: tuple[Agency, ...]

    def name_in(self, locale: str) -> str:
        """Return the name as readers of `locale` write it after "If you live in"."""
        return self.names.get(locale) or self.names.get(locale.partition("_")[0]) or self.name


@dataclass(frozen=True, slots=True)
class Agencies:
    """All of them."""

    bureaus: tuple[Agency, ...]
    federal: tuple[Agency, ...]
    states: Mapping[str, State]


def parse_agencies(content: Any) -> Agencies:
    """Return the parsed YAML of `agencies.yaml`. Raises BadInput listing every problem as `path.of.keys: problem`."""
    problems: list[str] = []
    top = content if isinstance(content, dict) else {}
    problems.extend(f"{name}: unknown key{nearest(str(name), _TOP)}" for name in top if name not in _TOP)
    known = jurisdictions()
    states = {}
    for code, raw in (top.get("states") or {}).items():
        where = f"states.{code}"
        fields = raw if isinstance(raw, dict) else {}
        if code not in known:
            problems.append(f"{where}: is no jurisdiction{nearest(str(code), known)}")
        problems.extend(f"{where}.{key}: unknown key{nearest(str(key), _STATE)}" for key in fields if key not in _STATE)
        if not isinstance(fields.get("name"), str):
            problems.append(f"{where}.name: missing")
        names = fields.get("names") or {}
        states[str(code)] = State(
            str(fields.get("name")),
            {str(locale): str(name) for locale, name in names.items()} if isinstance(names, dict) else {},
            _agencies(fields.get("agencies") or [], f"{where}.agencies", problems),
        )
    found = Agencies(
        _agencies(top.get("bureaus"), "bureaus", problems), _agencies(top.get("federal"), "federal", problems), states
    )
    if problems:
        raise BadInput("\n".join(problems))
    return found


def _agencies(raw: Any, where: str, problems: list[str]) -> tuple[Agency, ...]:
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        problems.append(f"{where}: write a list of agencies")
        return ()
    found = []
    for index, entry in enumerate(raw):
        place = f"{where}.{index}"
        fields = entry if isinstance(entry, dict) else {}
        problems.extend(
            f"{place}.{key}: unknown key{nearest(str(key), _FIELDS)}" for key in fields if key not in _FIELDS
        )
        if not fields.get("name"):
            problems.append(f"{place}.name: missing")
        if fields.get("confidence") not in _CONFIDENCE:
            problems.append(f"{place}.confidence: one of {', '.join(_CONFIDENCE)}")
        values = {key: str(fields.get(key, "")) for key in _FIELDS}
        for key, value in values.items():
            if any(char in "{}<>" or ord(char) < 32 for char in value):
                problems.append(f"{place}.{key}: holds a brace, an angle bracket or a control character")
        found.append(Agency(**values))
    return tuple(found)
