"""Whom a duty's recipient is: authorities with address and channel, as far as they are known, from `authorities.yaml`.

Every row carries how sure it is and whether it must be confirmed before first use. Not for whether a duty exists.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bridge.contracts.errors import BadInput
from consumers.domain.rules import Confidence
from consumers.law.loader import AUTHORITIES
from consumers.law.schema import Entry
from consumers.law.source import read

_COUNTRY = re.compile(r"country=([A-Z]{2})(?:-([A-Z]{2}))?\b")


class Authority(Entry):
    """One authority. What is empty is not known."""

    jurisdiction: str
    authority: str
    kind: Literal[
        "attorney_general", "cert", "consumer_agency", "consumer_reporting_agency", "federal", "financial_supervisor",
        "supervisory_authority",
    ]  # fmt: skip
    regimes: tuple[str, ...] = ()
    named: bool
    address: str = ""
    telephone: str = ""
    website: str = ""
    channel: str = ""
    confidence: Confidence
    confirm: bool
    note: str = ""

    @property
    def country(self) -> str | None:
        """The Member State of an authority under EU law; None: the note names none."""
        match = _COUNTRY.search(self.note)
        return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Authorities:
    """All of them."""

    rows: tuple[Authority, ...]

    def of_duty(self, regime_id: str, country: str | None) -> tuple[Authority, ...]:
        """Return the authorities of a duty; of those of Member States only the ones of `country` (None: all)."""
        found = [each for each in self.rows if regime_id in each.regimes]
        return tuple(each for each in found if country is None or each.country in (None, country))


def load_authorities(folder: Path, regimes: Collection[str]) -> Authorities:
    """Return the authorities in the folder of rules. Raises BadInput naming line and key, also for a duty unknown."""
    document = read(folder / AUTHORITIES)
    content = document.content if isinstance(document.content, dict) else {}
    raw = content.get("authorities")
    problems: list[str] = []
    if set(content) != {"authorities"} or not isinstance(raw, list) or not raw:
        raise BadInput(f"{AUTHORITIES}:1: write one list under `authorities`")
    rows = []
    for index, value in enumerate(raw):
        where = document.at(("authorities", index))
        try:
            row = Authority.model_validate(value)
        except ValueError as error:
            problems.extend(f"{where}: {' '.join(line.split())}" for line in str(error).splitlines()[1:3])
            continue
        unknown = [name for name in row.regimes if name not in regimes]
        problems.extend(f"{where}: no rule is named {name!r}" for name in unknown)
        rows.append(row)
    if problems:
        raise BadInput("\n".join(problems))
    return Authorities(tuple(rows))
