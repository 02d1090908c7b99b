"""What is remembered of a model registry: versions, what they are derived from, and which version an alias named when.

Registries keep no history of aliases, so we look now and then and remember what changed. Of a time at which nobody
looked nothing is known, and the answer says so. Not for reading a registry (adapters) nor for scopes (`rewriting`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from graphlib import CycleError, TopologicalSorter

DERIVED_FROM = "tocsin.derived_from"
"""The version tag that names parents: `fraud-base@3`, `models:/fraud-base/3` or `fraud-base`, separated by commas."""

Node = tuple[str, str | None]
"""Model id and version; version None: one of its versions, nobody said which."""

_MICROSECOND = timedelta(microseconds=1)


class UnreadableParents(ValueError):
    """The tag does not say whom a version is derived from."""


def parse_parents(text: str) -> tuple[Node, ...]:
    """Return the parents that a tag names, sorted. Raises UnreadableParents that says which part and why."""
    parents: set[Node] = set()
    for part in re.split(r"[,\s]+", text.strip()):
        if not part:
            continue
        if part.startswith("models:/"):
            name, slash, version = part.removeprefix("models:/").rpartition("/")
            if "@" in part:
                raise UnreadableParents(f"{part!r} names an alias, which moves; name the version")
            if not (slash and name and version):
                raise UnreadableParents(f"{part!r} has no version; write models:/NAME/VERSION")
            parents.add((name, version))
            continue
        name, at, version = part.rpartition("@")
        if not at:
            parents.add((version, None))
        elif name and version:
            parents.add((name, version))
        else:
            raise UnreadableParents(f"{part!r} is no parent; write NAME@VERSION")
    return tuple(sorted(parents, key=_written))


def named(node: Node) -> str:
    """Return `model@version`, or the model alone."""
    model_id, version = node
    return model_id if version is None else f"{model_id}@{version}"


def _written(node: Node) -> tuple[str, str]:
    return node[0], node[1] or ""


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One version as the registry has it. `fault` says why its parents could not be read."""

    model_id: str
    version: str
    parents: tuple[Node, ...] = ()
    created_at: datetime | None = None
    fault: str | None = None
    gone: bool = False
    """The registry has it no longer; what it said is remembered."""

    @property
    def node(self) -> Node:
        return self.model_id, self.version


@dataclass(frozen=True, slots=True)
class AliasSpan:
    """That an alias named a version (None: none) from one look to another."""

    model_id: str
    alias: str
    version: str | None
    after: datetime | None
    """The look before, at which it was not so yet; None: nobody looked, or the registry itself states `seen_from`."""
    seen_from: datetime
    ended_at: datetime | None = None
    """The first instant at which it was no longer so, or of which nothing is known; None: it is so still."""
    stated: bool = False
    """The registry itself says since when."""

    def covers(self, at: datetime) -> bool:
        """Return whether it may have been so at `at`: for sure from `seen_from`, possibly since the look before."""
        began = at > self.after if self.after is not None else at >= self.seen_from
        return began and (self.ended_at is None or at < self.ended_at)


@dataclass(frozen=True, slots=True)
class Watch:
    """A time in which somebody looked often enough, both ends included."""

    watched_from: datetime
    watched_until: datetime


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """All that a registry says at one look."""

    versions: tuple[RegisteredVersion, ...]
    aliases: Mapping[tuple[str, str], str]
    """Version by (model id, alias)."""
    stated: tuple[AliasSpan, ...] = ()
    """History that the registry keeps itself."""


@dataclass(frozen=True, slots=True)
class RegistryMemory:
    """What is known of a registry, from all looks together."""

    registry: str
    """Which adapter's."""
    revision: int = 0
    """Counts the looks that found something changed."""
    changed_at: datetime | None = None
    looked_at: datetime | None = None
    """The last look that was answered."""
    fault: str | None = None
    """Why looks since then were not."""
    versions: Mapping[Node, RegisteredVersion] = field(default_factory=dict)
    spans: tuple[AliasSpan, ...] = ()
    """By model, alias and time."""
    watches: tuple[Watch, ...] = ()

    def models(self) -> dict[str, frozenset[str]]:
        """Return versions by model, of what is there and of what was."""
        found: dict[str, set[str]] = {}
        for each in self.versions.values():
            found.setdefault(each.model_id, set()).add(each.version)
            for model_id, version in each.parents:
                found.setdefault(model_id, set()).update(() if version is None else (version,))
        return {model_id: frozenset(versions) for model_id, versions in found.items()}

    def aliases(self) -> dict[tuple[str, str], str]:
        """Return the version of each alias as it was last seen, by (model id, alias)."""
        return {
            (each.model_id, each.alias): each.version
            for each in self.spans
            if each.ended_at is None and each.version is not None
        }

    def ever(self) -> frozenset[tuple[str, str]]:
        """Return every (model id, alias) that was ever seen."""
        return frozenset((each.model_id, each.alias) for each in self.spans if each.version is not None)


def observe(
    memory: RegistryMemory, snapshot: RegistrySnapshot, at: datetime, *, longest_gap: timedelta
) -> RegistryMemory:
    """Return what is known after a look at `at`. Looks further apart than `longest_gap` leave a time of which nothing is
    known, even where both say the same.
    """
    last = memory.watches[-1] if memory.watches else None
    contiguous = last is not None and at - last.watched_until <= longest_gap
    if last is not None and at <= last.watched_until:
        return memory
    versions = _remembered(memory.versions, snapshot.versions)
    watches = memory.watches[:-1] if contiguous else memory.watches
    watches += (Watch(last.watched_from if contiguous and last is not None else at, at),)
    spans = [each for each in memory.spans if not each.stated]
    before = last.watched_until if last is not None else None
    if not contiguous and before is not None:
        # nothing is known from just after the last look
        spans = [replace(each, ended_at=before + _MICROSECOND) if each.ended_at is None else each for each in spans]
    spans = _moved(spans, snapshot.aliases, at, before if contiguous else None)
    now = replace(
        memory, looked_at=at, fault=None, versions=versions, watches=watches,
        spans=tuple(sorted([*spans, *snapshot.stated], key=lambda each: (each.model_id, each.alias, each.seen_from))),
    )  # fmt: skip
    same = (now.versions, now.aliases(), _stated(now)) == (memory.versions, memory.aliases(), _stated(memory))
    if same and memory.revision:
        return now
    return replace(now, revision=memory.revision + 1, changed_at=at)


def _stated(memory: RegistryMemory) -> frozenset[AliasSpan]:
    return frozenset(each for each in memory.spans if each.stated)


def _remembered(
    known: Mapping[Node, RegisteredVersion], seen: Iterable[RegisteredVersion]
) -> dict[Node, RegisteredVersion]:
    present = {each.node: each for each in seen}
    gone = {node: replace(each, gone=True) for node, each in known.items() if node not in present}
    return {**gone, **present}


def _moved(
    spans: Sequence[AliasSpan], aliases: Mapping[tuple[str, str], str], at: datetime, before: datetime | None
) -> list[AliasSpan]:
    result: list[AliasSpan] = []
    unchanged: set[tuple[str, str]] = set()
    for each in spans:
        key = (each.model_id, each.alias)
        if each.ended_at is None:
            if aliases.get(key) == each.version:
                unchanged.add(key)
            else:
                each = replace(each, ended_at=at)
                if key not in aliases:
                    result.append(AliasSpan(*key, None, before, at))
        result.append(each)
    result += [
        AliasSpan(*key, version, before, at) for key, version in aliases.items() if key not in unchanged
    ]  # fmt: skip
    return result


class AliasUnknown(Exception):
    """Nobody knows what an alias named then; the message says why, as a clause."""


def alias_at(memory: RegistryMemory, model_id: str, alias: str, at: datetime | None) -> tuple[str, ...]:
    """Return the versions that `alias` may have named at `at` (None: as last seen), sorted.

    Several where it changed between two looks; none where it was certainly not set. Raises AliasUnknown for a time at
    which nobody looked and of which the registry itself states nothing.
    """
    own = [each for each in memory.spans if (each.model_id, each.alias) == (model_id, alias)]
    last = memory.watches[-1] if memory.watches else None
    if last is None:
        raise AliasUnknown("the registry was never seen")
    if at is None or at >= last.watched_until:
        return tuple(sorted({each.version for each in own if each.ended_at is None and each.version is not None}))
    stated = [each for each in own if each.stated]
    if any(each.seen_from <= at for each in stated):
        return tuple(sorted({each.version for each in stated if each.covers(at) and each.version is not None}))
    if not any(each.watched_from <= at <= each.watched_until for each in memory.watches):
        raise AliasUnknown(_unwatched(memory.watches, at))
    return tuple(
        sorted({each.version for each in own if not each.stated and each.covers(at) and each.version is not None})
    )


def _unwatched(watches: Sequence[Watch], at: datetime) -> str:
    first = watches[0].watched_from
    if at < first:
        return f"the registry is watched since {first:%Y-%m-%d %H:%M} UTC, and keeps no history of aliases itself"
    before = max(each.watched_until for each in watches if each.watched_until < at)
    after = min(each.watched_from for each in watches if each.watched_from > at)
    return f"nobody looked at the registry from {before:%Y-%m-%d %H:%M} to {after:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True, slots=True)
class Family:
    """What is derived from some versions, without these."""

    descendants: tuple[Node, ...]
    cycles: tuple[tuple[str, ...], ...]


_MOST_CYCLES = 20


def family_of(seeds: Iterable[Node], versions: Iterable[RegisteredVersion]) -> Family:
    """Return everything derived from `seeds`, transitively and across models; a cycle is named and walked once.

    Who is derived from a model without a version is derived from each of its versions.
    """
    children: dict[Node, set[Node]] = {}
    parents: dict[Node, set[Node]] = {}
    by_model: dict[str, set[Node]] = {}
    for each in versions:
        by_model.setdefault(each.model_id, set()).add(each.node)
        for parent in each.parents:
            children.setdefault(parent, set()).add(each.node)
    begun = set(seeds)
    reached: set[Node] = set()
    waiting = list(begun)
    while waiting:
        node = waiting.pop()
        for child in children.get(node, set()) | children.get((node[0], None), set()):
            parents.setdefault(child, set()).add(node)
            if child not in reached:
                reached.add(child)
                waiting.append(child)
    return Family(tuple(sorted(reached - begun, key=_written)), _cycles(parents))


def _cycles(parents: Mapping[Node, set[Node]]) -> tuple[tuple[str, ...], ...]:
    edges = {node: set(above) for node, above in parents.items()}
    found: list[tuple[str, ...]] = []
    while len(found) < _MOST_CYCLES:
        try:
            TopologicalSorter(edges).prepare()
        except CycleError as error:
            # first and last are the same; each predecessor stands before its successor
            circle: list[Node] = error.args[1]
            found.append(tuple(named(each) for each in circle))
            edges[circle[1]].discard(circle[0])
            continue
        break
    return tuple(found)
