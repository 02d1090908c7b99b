"""The parts of a mail and the slots in them, filled as SES fills them: `{{name}}` by the raw value, nothing escaped.

SES's templates are Handlebars; scalar slots are all that Tocsin uses, so every other expression is refused rather than
half understood. Syntax: https://docs.aws.amazon.com/ses/latest/dg/send-personalized-email-advanced.html
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_SLOT = re.compile(r"(?<![{\\])\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


class UnknownExpression(ValueError):
    """A template expression that is no scalar slot."""


@dataclass(frozen=True, slots=True)
class Text:
    """Subject, HTML part and text part. `slots` is None for a text that is sent as it stands."""

    subject: str
    html: str
    text: str
    slots: frozenset[str] | None = None
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        parts = [self.subject, self.html, self.text, self.slots is not None]
        object.__setattr__(self, "sha256", hashlib.sha256(json.dumps(parts).encode()).hexdigest())

    def missing(self, values: Mapping[str, str]) -> str | None:
        """Return the first slot that `values` lacks, in alphabetical order."""
        return min(self.slots - values.keys(), default=None) if self.slots else None

    def filled(self, values: Mapping[str, str]) -> "Text":
        """Return the text as one recipient gets it. Raises KeyError for a missing slot."""
        if self.slots is None:
            return self
        return Text(_fill(self.subject, values), _fill(self.html, values), _fill(self.text, values))

    def filled_subject(self, values: Mapping[str, str]) -> str:
        """Return the subject line alone as one recipient gets it. Raises KeyError for a missing slot."""
        return self.subject if self.slots is None else _fill(self.subject, values)


def template(subject: str, html: str, text: str) -> Text:
    """Return a text with slots. Raises UnknownExpression that names what is no scalar slot."""
    names: set[str] = set()
    for part in (subject, html, text):
        names.update(_SLOT.findall(part))
        rest = _SLOT.sub("", part)
        if "{{" in rest:
            at = rest.index("{{")
            raise UnknownExpression(
                f"the sandbox fills scalar slots like {{{{name}}}} only, not {rest[at : at + 20]!r}"
            )
    return Text(subject, html, text, frozenset(names))


def slot_values(*documents: str | None) -> dict[str, str]:
    """Merge JSON objects of scalars, later ones winning. Raises ValueError for anything else."""
    values: dict[str, str] = {}
    for document in documents:
        if not document:
            continue
        parsed = json.loads(document)
        if not isinstance(parsed, dict):
            raise ValueError("template data is no JSON object")
        for name, value in parsed.items():
            if isinstance(value, bool):
                values[name] = "true" if value else "false"
            elif isinstance(value, str | int | float):
                values[name] = str(value)
            else:
                raise ValueError(f"slot {name}: no scalar")
    return values


def _fill(part: str, values: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda slot: values[slot[1]], part)
