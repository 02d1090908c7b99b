"""Rewrites a scope as asked into one that records alone can answer: aliases, descendants, lineage of runs and datasets.

Pure: what the registry and lineage said is handed in. What could not be known is listed and never guessed. Not for
deciding what an unknown name leads to (an alert opens all the same, a preview refuses): that is the case room's.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bridge.contracts.scope import AskedScope, Rewriting, Scope
from consumers.domain.registry import AliasUnknown, Node, RegistryMemory, alias_at, family_of, named
from consumers.domain.scope_matching import version_within

MOST_RUNS = 10_000
"""More runs do not fit into one message about an incident."""


class Lineage(Protocol):
    """Run and dataset facts, as pipelines reported them."""

    def readers(self, dataset_versions: Collection[str]) -> set[str]:
        """Return the runs that had one of these as an input. A dataset version is written `namespace/name@version`,
        `name@version`, or the version alone; without a version of its own, `namespace/name` or `name`.
        """
        ...

    def outputs(self, run_ids: Collection[str]) -> set[str]:
        """Return what these runs wrote, as `namespace/name@version`."""
        ...

    def children(self, run_ids: Collection[str]) -> set[str]:
        """Return the runs that these started."""
        ...

    def parents(self, run_ids: Collection[str]) -> set[str]:
        """Return the runs that started these."""
        ...


@dataclass(frozen=True, slots=True)
class AliasFault:
    """An alias that leads to no version: unknown then, not set then, or never heard of."""

    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A scope that records can answer, and by which knowledge. `scope` None: an alias leads nowhere, see `faults`."""

    scope: Scope | None
    rewriting: Rewriting | None = None
    """None: there was nothing to rewrite."""
    faults: tuple[AliasFault, ...] = ()


@dataclass(slots=True)
class _Notes:
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    descendants: set[Node] = field(default_factory=set)
    cycles: dict[frozenset[str], tuple[str, ...]] = field(default_factory=dict)
    unlisted: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)
    faults: list[AliasFault] = field(default_factory=list)
    asked_registry: bool = False
    asked_lineage: bool = False


def rewrite(
    asked: AskedScope, registry: RegistryMemory | None, lineage: Lineage | None, *, keyed: Callable[[str], str]
) -> Rewritten:
    """Return `asked` as a scope of what records hold. `keyed` turns an address's SHA-256 into its keyed hash.

    `registry` None: none is set up. Of what is derived nothing is known then, which `unknown` says; what the scope names
    itself is found all the same.
    """
    without_hashes = keyed_addresses(asked, keyed)
    notes = _Notes()
    scope = _level(without_hashes, registry, lineage, notes)
    if notes.faults:
        return Rewritten(None, None, tuple(dict.fromkeys(notes.faults)))
    if len(notes.runs) > MOST_RUNS:
        notes.unknown.append(f"{len(notes.runs):,} runs are concerned, more than a scope can name: narrow it")
    canonical = without_hashes.canonical()
    # What lineage was asked for and did not know yet is kept, too: a run may be reported later.
    if not (notes.asked_registry or notes.asked_lineage or notes.unknown) and canonical == scope.canonical():
        return Rewritten(scope)
    used = registry if notes.asked_registry else None
    return Rewritten(
        scope,
        Rewriting(
            asked=canonical,
            registry=None if used is None else used.registry,
            registry_revision=None if used is None else used.revision,
            registry_changed_at=None if used is None else used.changed_at,
            registry_seen_at=None if used is None else used.looked_at,
            registry_fault=None if used is None else used.fault,
            aliases=notes.aliases,
            descendants=tuple(named(each) for each in sorted(notes.descendants, key=named)),
            cycles=tuple(notes.cycles.values()),
            unlisted=tuple(sorted(notes.unlisted)),
            run_count=len(notes.runs),
            datasets=tuple(sorted(notes.datasets)),
            unknown=tuple(dict.fromkeys(notes.unknown)),
        ),
    )


def keyed_addresses(asked: AskedScope, keyed: Callable[[str], str]) -> AskedScope:
    """Return `asked` with its hashed addresses as keyed hashes, at every depth."""
    update: dict[str, Any] = {
        name: tuple(keyed_addresses(part, keyed) for part in getattr(asked, name))
        for name in _NESTED
        if getattr(asked, name)
    }
    if asked.email_sha256s:
        update["email_sha256s"] = ()
        update["email_hmacs"] = tuple(
            dict.fromkeys((*asked.email_hmacs, *(keyed(each) for each in asked.email_sha256s)))
        )
    return asked.model_copy(update=update) if update else asked


_NESTED = ("all_of", "any_of", "none_of")
_MODEL_FIELDS = ("model_ids", "model_versions", "version_ranges")
_OTHERS = tuple(
    name for name in Scope.model_fields if name not in (*_NESTED, *_MODEL_FIELDS, "run_ids", "dataset_versions")
)


def _level(asked: AskedScope, registry: RegistryMemory | None, lineage: Lineage | None, notes: _Notes) -> Scope:
    nested = {name: [_level(part, registry, lineage, notes) for part in getattr(asked, name)] for name in _NESTED}
    fields: dict[str, Any] = {name: getattr(asked, name) for name in _OTHERS}
    also = nested["all_of"]
    for part in (_models(asked, registry, notes), _runs(asked, lineage, notes), _datasets(asked, lineage, notes)):
        if isinstance(part, Scope):
            also.append(part)
        else:
            fields.update(part)
    return Scope(
        **fields, all_of=tuple(also), any_of=tuple(nested["any_of"]), none_of=tuple(nested["none_of"])
    )  # fmt: skip


def _models(asked: AskedScope, registry: RegistryMemory | None, notes: _Notes) -> Scope | Mapping[str, Any]:
    own: dict[str, Any] = {name: getattr(asked, name) for name in _MODEL_FIELDS}
    aliased = _aliased(asked, registry, notes)
    derives = asked.with_descendants and (aliased is not None or any(own.values()))
    if derives:
        seeds = _seeds(asked, registry, aliased)
        descendants = _descendants(asked, seeds, registry, notes)
        if descendants:
            selected = Scope(**own, all_of=() if aliased is None else (_pairs(aliased),))
            return _either([selected, *_by_model(descendants)])
    if aliased is None:
        return own
    if not any(own.values()):
        return _pairs(aliased)
    return Scope(**own, all_of=(_pairs(aliased),))


def _aliased(asked: AskedScope, registry: RegistryMemory | None, notes: _Notes) -> set[Node] | None:
    if not asked.model_aliases:
        return None
    notes.asked_registry = True
    found: set[Node] = set()
    for each in asked.model_aliases:
        model, _, alias = each.rpartition("@")
        if registry is None:
            notes.faults.append(AliasFault(each, "no model registry is set up; set registry.kind, or name versions"))
            continue
        known = registry.ever()
        models = [model] if model else list(asked.model_ids) or sorted({one for one, name in known if name == alias})
        versions: set[Node] = set()
        why = "the registry knows no such alias"
        for one in models:
            try:
                at = alias_at(registry, one, alias, asked.aliases_at)
            except AliasUnknown as unknown:
                why = f"which version it named then is not known: {unknown}"
                # one model's answer without another's would look whole and be none
                versions.clear()
                break
            if at:
                notes.aliases[f"{one}@{alias}"] = at
                versions.update((one, version) for version in at)
            elif (one, alias) in known:
                why = "it named no version then"
        if not versions:
            notes.faults.append(AliasFault(each, why))
        found |= versions
    return found


def _seeds(asked: AskedScope, registry: RegistryMemory | None, aliased: set[Node] | None) -> set[Node]:
    """Return the versions that the model fields of this one scope name, as far as anybody has named them."""
    listed: set[Node] = set()
    for model_id, versions in (registry.models() if registry is not None else {}).items():
        listed.update((model_id, version) for version in versions)
        listed.add((model_id, None))
    listed |= aliased or set()
    models = set(asked.model_ids)
    listed.update((model_id, version) for model_id in models for version in (*asked.model_versions, None))
    # Of a model without a version only who is derived from the model as such comes, which any of its versions implies.
    chosen = {
        (model_id, version)
        for model_id, version in listed
        if (not models or model_id in models)
        and (version is None or not asked.model_versions or version in asked.model_versions)
        and (version is None or not asked.version_ranges or version_within(asked.version_ranges, version) is not False)
        and (aliased is None or (model_id, version) in aliased)
    }
    with_version = {model_id for model_id, version in chosen if version is not None}
    # which versions there are of a model that nobody listed is not known; where the scope names some itself, it is
    unlisted = set() if asked.model_versions else models
    return {node for node in chosen if node[1] is not None or node[0] in with_version | unlisted}


def _descendants(asked: AskedScope, seeds: set[Node], registry: RegistryMemory | None, notes: _Notes) -> Sequence[Node]:
    notes.asked_registry = True
    if registry is None:
        notes.unknown.append("what is derived from these models: no model registry is set up")
        return ()
    if registry.looked_at is None:
        notes.unknown.append("what is derived from these models: the registry was never seen")
        return ()
    family = family_of(seeds, registry.versions.values())
    notes.descendants.update(family.descendants)
    for cycle in family.cycles:
        notes.cycles.setdefault(frozenset(cycle), cycle)
    models = registry.models()
    for model_id in asked.model_ids:
        if model_id not in models:
            notes.unlisted.add(model_id)
        else:
            missing = [each for each in asked.model_versions if each not in models[model_id]]
            # a version that another of the models has was meant of that one
            notes.unlisted.update(
                named((model_id, each))
                for each in missing
                if not any(each in models.get(other, ()) for other in asked.model_ids)
            )
    for node in [*seeds, *family.descendants]:
        fault = registry.versions[node].fault if node in registry.versions else None
        if fault is not None:
            notes.unknown.append(f"what {named(node)} is derived from: {fault}")
    return family.descendants


def _by_model(nodes: Iterable[Node]) -> list[Scope]:
    versions: dict[str, list[str]] = {}
    for model_id, version in nodes:
        assert version is not None
        versions.setdefault(model_id, []).append(version)
    return [
        Scope(model_ids=(model_id,), model_versions=tuple(sorted(own))) for model_id, own in sorted(versions.items())
    ]  # fmt: skip


def _pairs(nodes: Collection[Node]) -> Scope:
    return _either(_by_model(nodes))


def _either(parts: Sequence[Scope]) -> Scope:
    return parts[0] if len(parts) == 1 else Scope(any_of=tuple(parts))


def _runs(asked: AskedScope, lineage: Lineage | None, notes: _Notes) -> Scope | Mapping[str, Any]:
    if not asked.run_ids or lineage is None:
        return {"run_ids": asked.run_ids}
    notes.asked_lineage = True
    own = set(asked.run_ids)
    started = _closure(own, lineage.children)
    if asked.with_descendants:
        return _derived(set(), started, lineage, notes)
    notes.runs |= started - own
    return {"run_ids": tuple(sorted(started))}


def _datasets(asked: AskedScope, lineage: Lineage | None, notes: _Notes) -> Scope | Mapping[str, Any]:
    own = set(asked.dataset_versions)
    if not own or lineage is None:
        return {"dataset_versions": asked.dataset_versions}
    notes.asked_lineage = True
    readers = _around(lineage.readers(own), lineage)
    if asked.with_descendants:
        return _derived(own, readers, lineage, notes)
    if not readers:
        return {"dataset_versions": asked.dataset_versions}
    notes.runs |= readers
    notes.datasets |= own
    return _either([Scope(dataset_versions=asked.dataset_versions), Scope(run_ids=tuple(sorted(readers)))])


def _derived(datasets: set[str], runs: set[str], lineage: Lineage, notes: _Notes) -> Scope:
    """Return what these runs wrote, and everything that was computed from that."""
    all_runs, all_datasets = set(runs), set(datasets)
    newest = runs
    while newest:
        written = lineage.outputs(newest) - all_datasets
        all_datasets |= written
        newest = _around(lineage.readers(written), lineage) - all_runs if written else set()
        all_runs |= newest
    notes.runs |= all_runs
    notes.datasets |= all_datasets
    parts = []
    if all_datasets:
        # a record may name the dataset without its namespace
        short = {each.rpartition("/")[2] for each in all_datasets - datasets}
        parts.append(Scope(dataset_versions=tuple(sorted(all_datasets | short))))
    if all_runs:
        parts.append(Scope(run_ids=tuple(sorted(all_runs))))
    return _either(parts)


def _around(runs: set[str], lineage: Lineage) -> set[str]:
    """Return these runs, whatever they started, and whatever started them: records may carry any of their ids."""
    return _closure(runs, lineage.children) | _closure(runs, lineage.parents)


def _closure(runs: set[str], step: Callable[[Collection[str]], set[str]]) -> set[str]:
    found, newest = set(runs), set(runs)
    while newest and len(found) <= 10 * MOST_RUNS:
        newest = step(newest) - found
        found |= newest
    return found
