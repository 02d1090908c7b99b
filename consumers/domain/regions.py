"""Through which regions of a provider a notice may pass, and where data may lie: by residence and controller.

Rules are read in order and the first one that names a pair decides. A person with several homes in doubt is covered only
if each of them is. Somebody whose residence nobody knows is covered by a rule that names `unknown` or everybody; where
none does, every rule of the controller must allow it. Pure; `consumers.law` reads the file.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from consumers.domain.jurisdictions import UNKNOWN_RESIDENCE, members

EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class RegionRule:
    """Who, and where their notices may pass and their data may lie. Regions may end in `*` (`eu-*`)."""

    residences: frozenset[str]
    controllers: frozenset[str]
    providers: tuple[str, ...]
    storage: tuple[str, ...]

    def names(self, home: str, controller: str) -> bool:
        """Say whether this rule is about people who live in `home`, of `controller`."""
        if not {EVERYBODY, controller} & self.controllers:
            return False
        return any(_lives_in(home, code) for code in self.residences)


def _lives_in(home: str, code: str) -> bool:
    return code in (EVERYBODY, home) or home in members(code) or home.startswith(f"{code}-")


@dataclass(frozen=True, slots=True)
class Regions:
    """All rules, in order."""

    rules: tuple[RegionRule, ...]

    def objection(self, homes: Collection[str], controller: str, provider: str, storage: str | None) -> str | None:
        """Return why a notice to somebody who may live in `homes` may not pass through region `provider`, or None.

        `storage` is where this installation keeps its data; None: nobody has said. The reason names the uncovered pair.
        """
        for pair, named in self._ruling(homes, controller):
            if not named:
                return f"regions.yaml has no rule for {pair}"
            if not all(_allows(rule.providers, provider) for rule in named):
                return f"regions.yaml does not let notices to {pair} pass through {provider}"
            if storage is None and not all(EVERYBODY in rule.storage for rule in named):
                return f"regions.yaml limits where data on {pair} may lie; say where they do: case_store.region"
            if storage is not None and not all(_allows(rule.storage, storage) for rule in named):
                return f"regions.yaml does not let data on {pair} lie in {storage}"
        return None

    def objection_to_second(self, homes: Collection[str], controller: str, name: str, region: str) -> str | None:
        """Return why a notice may not pass through the provider `name`, which is in `region`, or None.

        Where data may lie is no matter of it.
        """
        for pair, named in self._ruling(homes, controller):
            if not named:
                return f"regions.yaml has no rule for {pair}"
            if not all(_allows(rule.providers, region) for rule in named):
                return f"regions.yaml does not let notices to {pair} pass through {region} ({name})"
        return None

    def closed_to(self, region: str) -> list[str]:
        """Return in words of whom no notice may pass through a provider in `region`; whom an earlier rule lets pass is named."""
        closed: list[str] = []
        passing: list[RegionRule] = []
        for rule in self.rules:
            if _allows(rule.providers, region):
                passing.append(rule)
                continue
            but = [_who(each) for each in passing if _meet(each, rule)]
            closed.append(_who(rule) + (f" but {' and '.join(but)}" if but else ""))
        return closed

    def _ruling(self, homes: Collection[str], controller: str) -> Iterable[tuple[str, Sequence[RegionRule]]]:
        """Yield each place where somebody may live, in words, with the rules that decide about it."""
        for home in sorted(homes) or [UNKNOWN_RESIDENCE]:
            named = [rule for rule in self.rules if rule.names(home, controller)]
            if not named and home == UNKNOWN_RESIDENCE:
                named = [rule for rule in self.rules if {EVERYBODY, controller} & rule.controllers]
            else:
                named = named[:1]
            yield f"people in {home} of controller {controller}", named


def _meet(one: RegionRule, other: RegionRule) -> bool:
    """Say whether both rules may name the same person."""
    if not (EVERYBODY in one.controllers | other.controllers or one.controllers & other.controllers):
        return False
    return any(
        _lives_in(here, there) or _lives_in(there, here) or not members(here).isdisjoint(members(there))
        for here in one.residences
        for there in other.residences
    )


def _who(rule: RegionRule) -> str:
    return f"{_listed(rule.residences, 'everybody', 'people in ')}{_listed(rule.controllers, '', ' of controller ')}"


def _listed(names: Collection[str], everybody: str, before: str) -> str:
    return everybody if EVERYBODY in names else before + ", ".join(sorted(names))


def _allows(patterns: Sequence[str], region: str) -> bool:
    return any(fnmatchcase(region, pattern) for pattern in patterns)


ANYWHERE = Regions((RegionRule(frozenset({EVERYBODY}), frozenset({EVERYBODY}), (EVERYBODY,), (EVERYBODY,)),))
"""No limit at all."""
