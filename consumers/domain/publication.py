"""Public communication: a web notice or press text that stands in for people to whom nothing else leads.

Conservative: somebody is told in public only where every regime that owes them a notice provides for a substitute, all
media of that substitute stand, and they stand for this controller and where the person lives. Not for the texts
(`notices`) nor for whether a channel is left (`delivery`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from consumers.domain.notice_rules import NoticeRule
from consumers.domain.segments import covers

MEDIA: tuple[str, ...] = ("website_posting", "state_media")
"""The public ones of `notice_rules.MEDIA`."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A notice that stands in public, as the decision sees it."""

    publication_id: str
    medium: str
    controller: str
    covers: tuple[str, ...]
    """Jurisdictions whose people it is for, or `*`."""
    needs: Mapping[str, frozenset[str]]
    """Regimes whose substitute notice it is part of, and by which media that must stand together."""


def substitute_media(rule: NoticeRule) -> frozenset[str]:
    """Return the public media that make up a regime's substitute notice; empty: the regime provides for none.

    Where a law leaves a choice between media, all of them are asked for.
    """
    return frozenset(each.medium for each in rule.media if each.medium in MEDIA and each.substitute is not None)


def needs_of(medium: str, notices: Mapping[str, NoticeRule]) -> dict[str, list[str]]:
    """Return the regimes whose substitute notice `medium` is part of, each with all media of it, sorted."""
    needed = {regime: substitute_media(rule) for regime, rule in notices.items()}
    return {regime: sorted(media) for regime, media in sorted(needed.items()) if medium in media}


def stand_in(
    owed: Collection[str], homes: Collection[str], controller: str, standing: Sequence[Publication]
) -> tuple[str, ...]:
    """Return the ids of the publications that stand in for somebody's notice, sorted; empty: none does.

    `owed`: the regimes whose notice they are owed. Who is owed none gets no substitute for it either.
    """
    own = [each for each in standing if each.controller == controller and covers(each.covers, homes)]
    media = {each.medium for each in own}
    used: set[str] = set()
    for regime in owed:
        needed = next((each.needs[regime] for each in own if regime in each.needs), None)
        if needed is None or not needed <= media:
            return ()
        used.update(each.publication_id for each in own if each.medium in needed)
    return tuple(sorted(used))
