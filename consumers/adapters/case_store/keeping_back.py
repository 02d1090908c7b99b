"""Who may not be told at this moment although approved: a gate covers them, or no rule lets their notice pass our region."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import Channel, Residence
from bridge.runtime.clock import Clock
from consumers.adapters.case_store.changes import DeliveryPolicy
from consumers.adapters.case_store.engine import upsert
from consumers.adapters.case_store.metering import KeptWhy
from consumers.adapters.case_store.tables import page
from consumers.domain.gates import Gate, gate_for
from consumers.domain.persons import homes_of

_PASSES_NO_REGION = (Channel.ACCOUNT_NOTICE, Channel.LETTER)
"""Channels that leave through no provider's region."""


class KeepingBack:
    """Asked of each person before their command, and before their message. Pages what it refuses by rule."""

    def __init__(self, clock: Clock, policy: DeliveryPolicy) -> None:
        self._clock = clock
        self._policy = policy
        self._objections: dict[tuple[str, str, str], tuple[str | None, str | None]] = {}
        self._objections_due = 0.0

    def __call__(self, connection: sa.Connection, row: Mapping[Any, Any], gates: Sequence[Gate]) -> KeptWhy | None:
        """Say why somebody may not be told now: a gate covers them, or no rule lets their notice pass the region of a provider
        that takes messages.

        Planning holds those whom the first provider's region does not cover; this is for rules that have changed since, and for
        the second one, while the first is ill or its quota used up. Both are said by name.
        """
        residence = row["residence"]
        claims = _claims_in(residence) if isinstance(residence, str) else residence
        if gates and gate_for(_codes(claims), gates, row["controller"], segment_id=row["segment_id"], root=row["root"]):
            return KeptWhy.GATE
        objection, to_second = self._objections_to(row)
        if objection is None and to_second is not None and self._policy.takers is not None:
            channel = Channel(row["channel"])
            takers = self._policy.takers(channel)
            # where nobody takes anything the lane stands still for all
            objection = to_second if takers and set(takers) <= {self._policy.second[channel]} else None
        if objection is None:
            return None
        self._page_region(connection, row["incident_id"], objection)
        return KeptWhy.REGION

    def second_refused(self, row: Mapping[Any, Any]) -> tuple[str, ...]:
        """Return the channel's second provider if no rule lets this notice pass its region, else nothing."""
        refused = self._objections_to(row)[1] is not None
        return (self._policy.second[Channel(row["channel"])],) if refused else ()

    def _objections_to(self, row: Mapping[Any, Any]) -> tuple[str | None, str | None]:
        """Return why somebody's notice may not pass the regions of a channel's first and second provider."""
        channel = Channel(row["channel"])
        if channel in _PASSES_NO_REGION or self._policy.region_objection is None:
            return None, None
        residence = row["residence"]
        # asked once a second for all who live alike
        if time.monotonic() > self._objections_due:
            self._objections, self._objections_due = {}, time.monotonic() + 1
        alike = (channel.value, row["controller"], residence if isinstance(residence, str) else json.dumps(residence))
        if alike not in self._objections:
            claims = _claims_in(residence) if isinstance(residence, str) else residence
            homes = homes_of([Residence.model_validate(claim) for claim in claims])
            second, to_second = self._policy.second.get(channel), None
            if second is not None and self._policy.objection_to_second is not None:
                to_second = self._policy.objection_to_second(homes, row["controller"], second)
            self._objections[alike] = self._policy.region_objection(homes, row["controller"]), to_second
        return self._objections[alike]

    def _page_region(self, connection: sa.Connection, incident_id: str, objection: str) -> None:
        title = f"{incident_id}: a notice is kept back: {objection}"
        upsert(
            connection,
            page,
            [
                {
                    "page_id": hashlib.sha256(title.encode()).hexdigest(),
                    "incident_id": incident_id,
                    "kind": "delivery.region_refused",
                    "severity": "critical",
                    "roles": ["dpo", "sre"],
                    "title": title[:300],
                    "body": {"reason": objection, "next": f"tocsin incident show {incident_id}"},
                    "raised_at": self._clock.now(),
                }
            ],
        )


@lru_cache(maxsize=1024)
def _claims_in(residence: str) -> Sequence[Mapping[str, str]]:
    """Return the claims of a residence that was read as text; very many people share few of them."""
    return tuple(json.loads(residence))


def _codes(residence: Sequence[Mapping[str, str]]) -> list[str]:
    return [claim["code"] for claim in residence]
