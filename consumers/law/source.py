"""Reads YAML that people write, remembering the line of every key, and refuses a key that is written twice.

Words stay words: `NO` is Norway, not false. Dates and whole numbers are read as such. Not for what the keys mean.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from bridge.contracts.errors import BadInput

Where = tuple[str | int | date, ...]
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DATE = re.compile(r"^\d{4}-\d{2}-\d{2}$")
_WHOLE = re.compile(r"^-?(0|[1-9]\d*)$")
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}


class _Composer(_PARSER):  # type: ignore[misc]  # the C parser where there is one
    """Makes nodes without guessing their types: `_scalar` decides, and a quarter of the reading time is saved."""

    def resolve(self, *_: Any) -> str:
        return ""

    def descend_resolver(self, *_: Any) -> None: ...

    def ascend_resolver(self) -> None: ...


@dataclass(frozen=True)
class Document:
    """One parsed file. `lines` gives the 1-based line of a value by its path of keys and indexes."""

    path: Path
    content: Any
    lines: Mapping[Where, int] = field(repr=False)

    def at(self, where: Where) -> str:
        """Return `file:line: key.key` for `where`, or for its nearest parent that has a line."""
        for length in range(len(where), -1, -1):
            if where[:length] in self.lines:
                key = ".".join(str(part) for part in where)
                return f"{self.path.name}:{self.lines[where[:length]]}: {key}".removesuffix(": ")
        return self.path.name


def read(path: Path) -> Document:
    """Return the file at `path`. Raises BadInput naming file and line if it is missing, no YAML, or repeats a key."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path.name}: not valid UTF-8 YAML") from None
    return parse(path, text)


def parse(path: Path, text: str) -> Document:
    """Return `text`, the content of the file `path`, parsed. Raises BadInput as `read` does."""
    try:
        node = yaml.compose(text, Loader=_Composer)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid UTF-8 YAML"
        raise BadInput(f"{path.name}{line}: {problem}") from None
    lines: dict[Where, int] = {}
    return Document(path, _build(path, node, (), lines) if node is not None else {}, lines)


def _build(path: Path, node: yaml.Node, where: Where, lines: dict[Where, int]) -> Any:
    lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise BadInput(f"{path.name}:{line}: a key must be one word or a date")
            key = _scalar(key_node)
            here = (*where, key)
            if key in mapping:
                raise BadInput(f"{path.name}:{line}: key {key!s} is written twice; first on line {lines[here]}")
            lines[here] = line
            mapping[key] = _build(path, value_node, here, lines)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(path, item, (*where, index), lines) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node)


def _scalar(node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    if node.style in ("'", '"', "|", ">"):  # quoted and block text is text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.match(text):
        return int(text)
    if _DATE.match(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            return text
    return text


def located(document: Document, problems: str, name: str) -> str:
    """Return problems that read `path.of.keys: what`, one a line, as `<name>:<line>: path.of.keys: what`."""
    found = []
    for problem in problems.splitlines():
        where, _, _ = problem.partition(": ")
        keys = tuple(int(part) if part.isdigit() else part for part in where.split("."))
        line = next((document.lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in document.lines), 1)
        found.append(f"{name}:{line}: {problem}")
    return "\n".join(found)
