"""Which laws speak to an audience about its notice, and what of the incident must be said because they ask.

Joins the notices that are owed (`obligations`), where people live, and the checklist (`notice_checklist`) for one plan.
Pure; not for the texts, nor for who is in the audience (`segments`).
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import date
from functools import cached_property
from typing import Any

from consumers.domain.agencies import Agencies
from consumers.domain.jurisdictions import covers
from consumers.domain.notice_checklist import UNKNOWN_RESIDENCE_ASKS, Checklist, Readings, Situation, checklist
from consumers.domain.notices import Sender
from consumers.domain.obligations import Obligation
from consumers.domain.rules import Rules
from consumers.domain.segments import SegmentKey

ROUNDED_ABOVE = 100
"""A larger number of people is told to two digits, so that a straggler does not change everybody's notice."""


class AudienceLaw:
    """What the laws in force ask of notices about one incident.

    `notices` are the notices to individuals owed or pending, by controller and regime (`notices_to_individuals`);
    `people` the number of people affected, by controller; `facts` what was recorded of the incident.
    """

    def __init__(
        self,
        rules: Rules,
        on: date,
        notices: Mapping[str, Mapping[str, Obligation]],
        people: Mapping[str, int],
        facts: Mapping[str, Any],
    ) -> None:
        self._rules = rules
        self._on = on
        self._notices = notices
        self._people = people
        self._facts = facts
        self._of_residence: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._of_controller: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}

    def regimes_of(self, controller: str, homes: tuple[str, ...], by_elements: Collection[str]) -> tuple[str, ...]:
        """Return the regimes whose notice somebody of `homes` is owed, or may be: those that their own data triggers
        (`by_elements`), and those that hang on what the controller is. Of unknown residence: what the establishment brings.
        """
        key = (controller, homes)
        if key not in self._of_controller:
            found = []
            for regime_id in self._notices.get(controller, {}):
                duty = self._rules.by_id[regime_id]
                if not homes:
                    if duty.territory == "establishment_or_targeting":
                        found.append(regime_id)
                elif not duty.notifies_where_people_live and any(covers(duty.jurisdiction, home) for home in homes):
                    found.append(regime_id)
            self._of_controller[key] = tuple(found)
        own = {name for name in by_elements if name in self._notices.get(controller, {})}
        return tuple(sorted({*own, *self._of_controller[key]}))

    def applied(
        self,
        key: SegmentKey,
        regimes: tuple[str, ...],
        homes: tuple[str, ...],
        elements: Collection[str],
        readings: Readings,
        agencies: Agencies,
    ) -> tuple[SegmentKey, Checklist]:
        """Return `key` with what these people's laws ask and forbid, and the checklist that their notice must pass."""
        situation = Situation(frozenset(elements), Sender(**dict(key.sender)), bool(key.offer))
        found = checklist(self._rules.notices, regimes, self._lived_under(homes), self._on, situation, readings)
        asks = {*found.asked_sections, *(() if homes else UNKNOWN_RESIDENCE_ASKS)} - set(found.forbidden_sections)
        return (
            replace(
                key,
                asks=tuple(sorted(asks)),
                forbids=found.forbidden_sections,
                states=tuple(home for home in homes if home in agencies.states),
                facts=tuple(sorted(self._said(key.controller, asks, regimes).items())),
            ),
            found,
        )

    def _lived_under(self, homes: tuple[str, ...]) -> tuple[str, ...]:
        if homes not in self._of_residence:
            self._of_residence[homes] = tuple(
                regime_id
                for regime_id in self._prohibiting
                if any(covers(self._rules.by_id[regime_id].jurisdiction, home) for home in homes)
            )
        return self._of_residence[homes]

    @cached_property
    def _prohibiting(self) -> tuple[str, ...]:
        return tuple(
            regime_id
            for regime_id, rule in self._rules.notices.items()
            if any(requirement.section == "must_not_state" for requirement in rule.content_on(self._on))
        )

    def _said(self, controller: str, asks: Collection[str], regimes: Collection[str]) -> dict[str, str]:
        said = {}
        if "number_affected" in asks:
            said["people"] = str(_rounded(self._people.get(controller, 0)))
        if "delayed_by_law_enforcement_statement" in asks and self._facts.get("le_hold_from"):
            said["delayed_by_law_enforcement"] = "yes"
        if "authority_notified" in asks and self._authority_was_told(regimes):
            said["authority_notified"] = "yes"
        return said

    def _authority_was_told(self, regimes: Collection[str]) -> bool:
        """Return whether a notification to the authority of each regime that asks it to be said is recorded."""
        recorded = self._facts.get("notification_submitted_at")
        asking = [
            self._rules.by_id[regime_id].jurisdiction
            for regime_id in regimes
            if regime_id in self._rules.notices
            and any(
                each.section == "authority_notified" for each in self._rules.notices[regime_id].content_on(self._on)
            )
        ]
        if not recorded or not asking:
            return False
        if not isinstance(recorded, Mapping):
            return True
        told = {self._rules.by_id[name].jurisdiction if name in self._rules.by_id else name for name in recorded}
        return told.issuperset(asking)


def _rounded(people: int) -> int:
    if people <= ROUNDED_ABOVE:
        return people
    step: int = 10 ** (len(str(people)) - 2)
    return -(-people // step) * step
