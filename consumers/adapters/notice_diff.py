"""What changed between two versions of a notice, as its readers see it: rendered, by language, medium and audience.

Every variant of both versions is composed; a comparison is shown only if it holds a change that no earlier one showed, so
that all changes are seen and each passage once. Not for the source of templates: counsel never needs to read it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from bridge.contracts.errors import TocsinError
from consumers.adapters.notice_renderer import compose, sample_key, variants
from consumers.adapters.notice_samples import sample_of
from consumers.adapters.template_catalog import Bundle
from consumers.case.sheet import Rendered
from consumers.domain.disclosure import parse_key
from consumers.domain.segments import Rule, SegmentKey, SegmentPolicy, When

_SAME, _OLD, _NEW = "same", "old", "new"
_WORD = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of words: in both versions (`same`), only in the old or only in the new one."""

    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One paragraph side by side; None where it is in one version only."""

    before: tuple[Piece, ...] | None
    after: tuple[Piece, ...] | None

    @property
    def changed(self) -> bool:
        """Whether the two sides differ."""
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class Comparison:
    """One medium of one variant, side by side. `audience` says in words whose text it is."""

    locale: str
    medium: str
    audience: str
    rows: tuple[Row, ...]
    before_html: str | None
    after_html: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """All that differs. `policy` lists what changed in who gets what, as (before, after); an empty one is "was not there"."""

    comparisons: tuple[Comparison, ...]
    policy: tuple[tuple[str, str], ...]

    @property
    def empty(self) -> bool:
        """Whether readers would see no difference."""
        return not self.comparisons and not self.policy


def compare(before: Bundle, after: Bundle) -> Difference:
    """Return what readers of `after` see otherwise than readers of `before`. Raises BadInput for unusable bundle data."""
    return Difference(tuple(_comparisons(before, after)), tuple(_policy(before.policy, after.policy)))


def _comparisons(before: Bundle, after: Bundle) -> Iterator[Comparison]:
    for locale in sorted({*before.locales, *after.locales}):
        shown: dict[str, set[tuple[str, str]]] = {}
        for key in _keys(before, after, locale):
            one, other = _rendered(before, key, locale), _rendered(after, key, locale)
            for medium in [*one, *(name for name in other if name not in one)]:
                if one.get(medium) == other.get(medium):
                    continue
                rows = _rows(one.get(medium), other.get(medium))
                changes = {(_text(row.before), _text(row.after)) for row in rows if row.changed}
                if not changes - shown.setdefault(medium, set()):
                    continue
                shown[medium] |= changes
                yield Comparison(
                    locale, medium, audience(key), rows,
                    one[medium].html if medium in one else None, other[medium].html if medium in other else None,
                )  # fmt: skip


def _keys(before: Bundle, after: Bundle, locale: str) -> Iterable[SegmentKey]:
    """Return the variants of both, each once, and every sentence of the disclosure."""
    keys: dict[SegmentKey, None] = {}
    for bundle in (before, after):
        if locale not in bundle.locales:
            continue
        everything = bundle.sentences[locale].keys()
        for kind in dict.fromkeys(key.kind for key in everything):
            disclosures = tuple(str(key) for key in everything if key.kind is kind)
            keys[replace(sample_key(bundle, locale, disclosures=disclosures), bundle="")] = None
        for key in variants(bundle, locale):
            keys[replace(key, bundle="")] = None
    return keys


def _rendered(bundle: Bundle, key: SegmentKey, locale: str) -> dict[str, Rendered]:
    """Return a variant by medium; empty where the version has no such language, or cannot say it."""
    if locale not in bundle.locales:
        return {}
    try:
        notice = compose(bundle, key)
    except TocsinError as error:
        return {"email": Rendered("email", "", f"(cannot be composed: {str(error).splitlines()[0]})")}
    return {each.medium: each for each in sample_of(notice, key).media}


def audience(key: SegmentKey) -> str:
    """Return in words who reads the text of a sample's key."""
    kinds = sorted({parse_key(each).kind.value for each in key.disclosures})
    words = [f"{', '.join(kinds)} data" if kinds else "nothing on record", f"affected as {key.standing}"]
    words += [f"scenario {key.scenario}"] if key.scenario else []
    words += [f"living in {', '.join(key.states)}"] if key.states else []
    words += ["told a second time, of more"] if key.supplement else []
    words += [f"may not be told {', '.join(each.replace('_', ' ') for each in key.forbids)}"] if key.forbids else []
    words += ["with everything that a law may ask"] if key.asks and not key.states else []
    words += ["SMS with details"] if key.sms_details else []
    words += ["begin of the exposure unknown"] if key.exposed_from is None else []
    words += ["exposure not ended"] if key.exposed_from and key.exposed_to is None else []
    return "; ".join(words)


def _paragraphs(rendered: Rendered | None) -> list[str]:
    if rendered is None:
        return []
    return [line for line in (rendered.title, *rendered.text.splitlines()) if line.strip()]


def _rows(before: Rendered | None, after: Rendered | None) -> tuple[Row, ...]:
    one, other = _paragraphs(before), _paragraphs(after)
    rows: list[Row] = []
    for tag, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if tag == "equal":
            rows += [Row(_whole(text), _whole(text)) for text in one[a:b]]
            continue
        pairs = max(b - a, d - c)
        for n in range(pairs):
            old = one[a + n] if a + n < b else None
            new = other[c + n] if c + n < d else None
            rows.append(_row(old, new))
    return tuple(rows)


def _whole(text: str, where: str = _SAME) -> tuple[Piece, ...]:
    return (Piece(where, text),)


def _row(old: str | None, new: str | None) -> Row:
    if old is None or new is None:
        return Row(None if old is None else _whole(old, _OLD), None if new is None else _whole(new, _NEW))
    one, other = _WORD.findall(old), _WORD.findall(new)
    left: list[Piece] = []
    right: list[Piece] = []
    for tag, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        gone, come = "".join(one[a:b]), "".join(other[c:d])
        if tag == "equal":
            left.append(Piece(_SAME, gone))
            right.append(Piece(_SAME, come))
            continue
        left += [Piece(_OLD, gone)] if gone else []
        right += [Piece(_NEW, come)] if come else []
    return Row(tuple(left), tuple(right))


def _text(side: Sequence[Piece] | None) -> str:
    return "" if side is None else "".join(piece.text for piece in side)


def marked(side: Sequence[Piece] | None) -> str:
    """Return one side as plain text: what only the old version says as [-...-], what only the new one says as {+...+}."""
    wrap = {_SAME: "{}", _OLD: "[-{}-]", _NEW: "{{+{}+}}"}
    return "" if side is None else "".join(wrap[piece.where].format(piece.text) for piece in side)


def _policy(before: SegmentPolicy, after: SegmentPolicy) -> Iterator[tuple[str, str]]:
    one, other = _policy_lines(before), _policy_lines(after)
    for name in dict.fromkeys([*one, *other]):
        if one.get(name) != other.get(name):
            yield one.get(name, ""), other.get(name, "")


def _policy_lines(policy: SegmentPolicy) -> dict[str, str]:
    lines = {f"rule {rule.name}": _rule(number, rule) for number, rule in enumerate(policy.rules, 1)}
    lines |= {f"group {name}": f"group {name}: {', '.join(sorted(codes))}" for name, codes in policy.own_texts.items()}
    lines |= {
        f"offer {name}": f"offer {name}: {', '.join(f'{key} {text}' for key, text in sorted(fields.items()))}"
        for name, fields in policy.offers.items()
    }
    return lines


def _rule(number: int, rule: Rule) -> str:
    offer = f", offer {rule.offer}" if rule.offer else ""
    details = "may say what leaked" if rule.sms_details else "only leads to the account page"
    return (
        f"{number}. {rule.name}: {_when(rule.when)} get {rule.bundle} by {rule.fallback}; an SMS {details}; "
        f"lane {rule.lane}, priority {rule.priority}{offer}"
    )


def _when(when: When) -> str:
    if when.always:
        return "all others"
    words = []
    for name in When.__slots__:
        value = getattr(when, name)
        if value:
            listed = value if isinstance(value, str) else ", ".join(sorted(map(str, value)))
            words.append(f"{name.replace('_', ' ')} {listed}")
    return "people with " + "; ".join(words)
