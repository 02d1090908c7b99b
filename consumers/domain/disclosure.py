"""What a machine made of a person's data, in approved sentences: exactly those that the person's records call for.

A record's key is (kind, AI system, category). Counsel writes one sentence for a key, or one for a kind and category that
holds for every named system. A key without a sentence raises: whoever it concerns is held, never told half of it.
Not for where the sentences stand (`consumers.adapters.template_catalog`) nor for the notice around them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bridge.contracts.errors import BadInput, Refused, nearest
from bridge.contracts.events import Kind

ANY_SYSTEM = "any"
"""In place of a system: the sentence holds for every system that has a plain name."""
_ORDER = {kind: rank for rank, kind in enumerate((Kind.REAL, Kind.DERIVED, Kind.INFERRED, Kind.SYNTHETIC))}
_SECTIONS = ("systems", "sentences", "accuracy")
_SYSTEM_FIELDS = ("name", "purpose")
_FORBIDDEN = re.compile(r"[{}<>\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class DisclosureKey:
    """What one sentence is about."""

    kind: Kind
    system: str
    category: str

    def __str__(self) -> str:
        return f"{self.kind.value}|{self.system}|{self.category}"

    @property
    def order(self) -> tuple[int, str, str]:
        """Real data first, then what was derived, inferred, made up."""
        return (_ORDER[self.kind], self.system, self.category)


def parse_key(text: str) -> DisclosureKey:
    """Return `kind|model_id|category` as a key; the model id may hold bars. Raises BadInput."""
    kind, first, rest = text.partition("|")
    system, second, category = rest.rpartition("|")
    if not first or not second or not system or not category or kind not in set(Kind):
        raise BadInput(f"{text!r} is no disclosure key; it reads kind|model|category, kind one of {', '.join(Kind)}")
    return DisclosureKey(Kind(kind), system, category)


class MissingSentence(Refused):
    """No approved sentence for a key: its people must be held. `keys` names them."""

    def __init__(self, locale: str, keys: Iterable[DisclosureKey | str]) -> None:
        self.keys = tuple(str(key) for key in keys)
        super().__init__(
            f"disclosure/{locale}.yaml has no sentence for {', '.join(self.keys)}; write it and approve anew"
        )


@dataclass(frozen=True, slots=True)
class System:
    """An AI system as readers know it. `name` opens a sentence ("Our fraud check"); `purpose` is a whole sentence."""

    name: str
    purpose: str


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What one audience is told: a sentence for each key, what holds for the kinds among them, what the systems are for."""

    sentences: tuple[str, ...]
    accuracy: tuple[str, ...]
    purposes: tuple[str, ...]


@dataclass(frozen=True)
class Sentences:
    """The approved sentences of one language."""

    locale: str
    systems: Mapping[str, System]
    by_key: Mapping[tuple[Kind, str, str], str]
    accuracy: Mapping[Kind, str]

    @cached_property
    def all_texts(self) -> frozenset[str]:
        """Every sentence that a notice in this language could hold, systems written out."""
        said = {self.sentence(key) for key in self.keys()} | {system.purpose for system in self.systems.values()}
        return frozenset(text for text in (*said, *self.accuracy.values()) if text)

    def sentence(self, key: DisclosureKey) -> str | None:
        """Return the sentence for `key`: its own, else the one for any system; None where there is neither."""
        system = self.systems.get(key.system)
        if system is None:
            return None
        text = self.by_key.get((key.kind, key.system, key.category)) or self.by_key.get(
            (key.kind, ANY_SYSTEM, key.category)
        )
        return None if text is None else text.replace("{system}", system.name)

    def keys(self) -> tuple[DisclosureKey, ...]:
        """Return every key that can be disclosed, systems written out."""
        found = {
            DisclosureKey(kind, system, category)
            for kind, written, category in self.by_key
            for system in (self.systems if written == ANY_SYSTEM else (written,))
        }
        return tuple(sorted(found, key=lambda key: key.order))


def compose(keys: Iterable[str], sentences: Sentences) -> Disclosure:
    """Return the disclosure for a person's or an audience's keys, in a fixed order, nothing twice.

    Raises MissingSentence that names every key without a sentence, a plain name, or a word on accuracy.
    """
    parsed = sorted({parse_key(key) for key in keys}, key=lambda key: key.order)
    texts = [(key, sentences.sentence(key)) for key in parsed]
    missing = [key for key, text in texts if text is None or key.kind not in sentences.accuracy]
    if missing:
        raise MissingSentence(sentences.locale, missing)
    return Disclosure(
        sentences=tuple(dict.fromkeys(text for _, text in texts if text is not None)),
        accuracy=tuple(dict.fromkeys(sentences.accuracy[key.kind] for key in parsed)),
        purposes=tuple(dict.fromkeys(sentences.systems[key.system].purpose for key in parsed)),
    )


def parse_sentences(locale: str, content: Any) -> Sentences:
    """Return the parsed YAML of `disclosure/<locale>.yaml` as Sentences.

    Raises BadInput listing everything wrong with it, one problem a line, each as `path.of.keys: problem`.
    """
    problems: list[str] = []
    top = _mapping(content, "", problems)
    _refuse_unknown(top, _SECTIONS, "", problems)
    systems: dict[str, System] = {}
    for name, raw in _mapping(top.get("systems"), "systems", problems).items():
        fields = _mapping(raw, f"systems.{name}", problems)
        _refuse_unknown(fields, _SYSTEM_FIELDS, f"systems.{name}", problems)
        systems[str(name)] = System(
            *(_text(fields.get(field), f"systems.{name}.{field}", problems) for field in _SYSTEM_FIELDS)
        )
    if ANY_SYSTEM in systems:
        problems.append(f"systems.{ANY_SYSTEM}: this word stands for every system; name the system otherwise")
    by_key: dict[tuple[Kind, str, str], str] = {}
    for kind, by_system in _kinds(top.get("sentences"), "sentences", problems):
        for system, by_category in _mapping(by_system, f"sentences.{kind}", problems).items():
            where = f"sentences.{kind}.{system}"
            if system != ANY_SYSTEM and system not in systems:
                problems.append(f"{where}: no system has this id{nearest(str(system), (*systems, ANY_SYSTEM))}")
            for category, text in _mapping(by_category, where, problems).items():
                by_key[kind, str(system), str(category)] = _text(text, f"{where}.{category}", problems, slot="{system}")
    accuracy = {
        kind: _text(text, f"accuracy.{kind}", problems)
        for kind, text in _kinds(top.get("accuracy"), "accuracy", problems)
    }
    for kind in sorted({kind for kind, _, _ in by_key} - accuracy.keys()):
        problems.append(f"accuracy.{kind}: missing; say whether such data may be wrong")
    if problems:
        raise BadInput("\n".join(problems))
    return Sentences(locale, systems, by_key, accuracy)


def _mapping(value: Any, where: str, problems: list[str]) -> dict[Any, Any]:
    if isinstance(value, dict) and value:
        return value
    problems.append(f"{where or 'the file'}: write keys with values here")
    return {}


def _kinds(value: Any, where: str, problems: list[str]) -> Iterable[tuple[Kind, Any]]:
    for name, inner in _mapping(value, where, problems).items():
        if name in set(Kind):
            yield Kind(name), inner
        else:
            problems.append(f"{where}.{name}: no such kind{nearest(str(name), Kind)}; one of {', '.join(Kind)}")


def _refuse_unknown(fields: Mapping[Any, Any], known: tuple[str, ...], where: str, problems: list[str]) -> None:
    for name in fields:
        if name not in known:
            place = f"{where}.{name}".lstrip(".")
            problems.append(f"{place}: unknown key{nearest(str(name), known)} (known: {', '.join(known)})")


def _text(value: Any, where: str, problems: list[str], *, slot: str = "") -> str:
    if not isinstance(value, str) or not value.strip():
        problems.append(f"{where}: write a sentence")
        return ""
    text = " ".join(value.split())
    found = _FORBIDDEN.search(text.replace(slot, "") if slot else text)
    if found:
        allowed = f"; only {slot} may stand in braces" if slot else ""
        problems.append(f"{where}: holds {found[0]!r}; sentences are plain text{allowed}")
    return text
