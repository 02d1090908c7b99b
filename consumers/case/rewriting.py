"""What a scope's words are looked up in when it is rewritten: the registry's memory, lineage, the join key.

The rewriting itself is the domain's. Both are read from the case store, so that a registry that is down stops nothing.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Protocol

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.scope import AskedScope, Rewriting
from consumers.domain.registry import RegistryMemory
from consumers.domain.rewriting import Lineage, Rewritten, rewrite


class RememberedRegistry(Protocol):
    """The registry that is set up, as it is remembered."""

    def memory(self) -> RegistryMemory: ...


def _no_join_key(_sha256: str) -> str:
    raise BadInput("hashed addresses need the join key, which is not here (paths.keys)")


class ScopeRewriter:
    """Rewrites scopes by what is known now."""

    def __init__(
        self,
        registry: RememberedRegistry | None = None,
        lineage: Lineage | None = None,
        keyed: Callable[[str], str] = _no_join_key,
    ) -> None:
        """`keyed` turns the SHA-256 of an address into its keyed hash; raises BadInput without a key."""
        self._registry = registry
        self._lineage = lineage
        self.keyed = keyed

    def models(self) -> Mapping[str, frozenset[str]]:
        """Return the versions that the registry knows or knew, by model. Raises Unreachable."""
        return {} if self._registry is None else self._registry.memory().models()

    def rewrite(self, asked: AskedScope) -> Rewritten:
        """Return `asked` as records can answer it. Raises Unreachable, and BadInput without a join key where it needs one."""
        # Read only where it is needed: a registry can be large, and alerts come in hundreds.
        registry = self._registry.memory() if self._registry is not None and asked.asks_registry else None
        return rewrite(asked, registry, self._lineage, keyed=self.keyed)

    def aliases_near(self, alias: str) -> tuple[str, ...]:
        """Return known aliases that are close to `alias`, as `model@alias`."""
        if self._registry is None:
            return ()
        known = sorted(f"{model}@{name}" for model, name in self._registry.memory().ever())
        if "@" not in alias:
            known += sorted({each.rpartition("@")[2] for each in known})
        return tuple(get_close_matches(alias, known, n=3, cutoff=0.5))

    def rewritten(self, asked: AskedScope) -> Rewritten:
        """Return what `rewrite` does, for a person who can correct it. Raises Refused for an alias that leads nowhere."""
        done = self.rewrite(asked)
        if done.scope is None:
            raise Refused(
                "; ".join(
                    f"alias {each.value!r}: {each.why}"
                    + (f" (near: {', '.join(near)})" if (near := self.aliases_near(each.value)) else "")
                    for each in done.faults
                )
            )
        return done


def rewriting_in_words(rewriting: Rewriting) -> list[str]:
    """Return, line by line, by which knowledge a scope was rewritten and what was not known."""
    lines = []
    if rewriting.registry is not None:
        seen = rewriting.registry_seen_at
        lines.append(
            f"registry {rewriting.registry}, revision {rewriting.registry_revision}, "
            + (f"as seen {seen:%Y-%m-%d %H:%M} UTC" if seen is not None else "never seen")
            + (f"; {rewriting.registry_fault}" if rewriting.registry_fault else "")
        )
    for alias, versions in sorted(rewriting.aliases.items()):
        either = "; it changed between two looks, each is meant" if len(versions) > 1 else ""
        lines.append(f"{alias} named version {' or '.join(versions)}{either}")
    if rewriting.descendants:
        lines.append(f"also what is derived from them ({len(rewriting.descendants):,}): {_some(rewriting.descendants)}")
    lines += [f"derived from itself, counted once: {' -> '.join(cycle)}" for cycle in rewriting.cycles]
    if rewriting.run_count:
        lines.append(f"runs added by lineage: {rewriting.run_count:,}" + (
            f", by {_some(rewriting.datasets)}" if rewriting.datasets else ""
        ))  # fmt: skip
    if rewriting.unlisted:
        lines.append(f"not in the registry, so what is derived from it is not known: {_some(rewriting.unlisted)}")
    lines += [f"not known: {each}" for each in rewriting.unknown]
    return lines


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 12:,} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more
