"""The incidents worked out by hand in `cases/*.yaml`: facts, expected answers, reasoning and source of each."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CASES = Path(__file__).parent / "cases"
AS_OF = "2026-11-23T12:00:00Z"
"""The instant from which every case is looked at."""
_KEYS = {"name", "rules", "source", "reasoning", "facts", "expect"}


@dataclass(frozen=True)
class Case:
    """One incident. `expect` holds, by regime, the fields of the answer that the case is about."""

    file: str
    name: str
    rules: tuple[str, ...]
    source: str
    reasoning: str
    facts: Mapping[str, Any]
    expect: Mapping[str, Mapping[str, Any]]

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


class _NoDuplicates(yaml.CSafeLoader):
    """Refuses a key that is written twice: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"written twice, {node.start_mark}: {keys}"
        return super().construct_mapping(node, deep)


@cache
def cases() -> tuple[Case, ...]:
    """Return every case; facts of the file's `common` stand unless a case says otherwise, and null takes one away."""
    found = []
    for path in sorted(CASES.glob("*.yaml")):
        content = yaml.load(path.read_text(encoding="utf-8"), _NoDuplicates)
        for case in content["cases"]:
            assert case.keys() <= _KEYS, (path.name, case["name"], case.keys() - _KEYS)
            facts = {key: value for key, value in {**content["common"], **case["facts"]}.items() if value is not None}
            rules = tuple(case.get("rules", ()))
            words = (case["name"], rules, case["source"], case["reasoning"])
            found.append(Case(path.stem, *words, facts, case["expect"]))
    return tuple(found)


def differs(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return, by field, what was wanted and what was found instead; the order of missing facts does not count."""
    plain = {**found, "missing_facts": sorted(found["missing_facts"])}
    tidy = {key: sorted(value) if isinstance(value, list) else value for key, value in wanted.items()}
    return {key: (value, plain[key]) for key, value in tidy.items() if value != plain[key]}
