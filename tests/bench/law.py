"""What an answer costs: an incident that touches 60 jurisdictions, over all rules, against loading those rules.

Loading and answering take turns in one process; medians. The rules are those shipped.
"""

from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

from consumers.domain.facts import Facts, parse_facts
from consumers.domain.jurisdictions import EEA, US_STATES
from consumers.domain.obligations import obligations_for
from consumers.law.loader import load_rules

LAW = Path(__file__).parents[2] / "templates" / "law"
AS_OF = datetime(2026, 11, 23, 12, tzinfo=UTC)
ELSEWHERE = ("GB", "CH", "TR", "CA-QC", "CA-ON", "BR", "AU", "NZ", "SG", "JP")


def incident() -> Facts:
    """Return the facts of an incident over 60 jurisdictions, every one of them with a law that may apply."""
    homes = [*sorted(US_STATES & {f"US-{code}" for code in _STATES.split()}), *sorted(EEA)[:20], *ELSEWHERE]
    assert len(homes) == 60
    at = "2026-06-09T14:00:00Z"
    return parse_facts(
        {
            "detected_at": "2026-06-08T03:12:00Z",
            **dict.fromkeys(("controller_aware_at", "aware_at", "discovered_at", "determined_at", "confirmed_at"), at),
            "role": "controller",
            "entity": ["payment_institution", "online_retailer"],
            "licensee": "none",
            "establishments": ["DE"],
            "targets": ["DE", "GB", "US"],
            "residents": dict.fromkeys(homes, 1001),
            "data_elements": ["full_name", "ssn", "account_number", "access_code", "fraud_score"],
            "sensitivity": "real",
            "encrypted": False,
            "gdpr_risk": "high",
            "harm_likely": True,
            "significant_harm": True,
            "glba_exempt": False,
        }
    )


_STATES = "AL AZ AR CA CO CT DC DE FL HI IA IL IN LA MA MD ME MI MN MO NC NJ NM NY OH OR PA TX VT WA"


def main(size: str) -> dict[str, object]:
    """Return both medians in milliseconds and their ratio; full size is 15 turns, toy one."""
    facts = incident()
    loading, answering = [], []
    for turn in range(15 if size == "full" else 1):
        began = perf_counter()
        rules = load_rules(LAW)
        loaded = perf_counter()
        answers = obligations_for(facts, rules, AS_OF)
        answered = perf_counter()
        assert len({answer.regime_id for answer in answers}) == len(rules.duties)
        if turn or size != "full":  # the first turn reads holidays and zones from disk
            loading.append(loaded - began)
            answering.append(answered - loaded)
    return {
        "loading_ms": round(1000 * median(loading), 1),
        "answering_ms": round(1000 * median(answering), 1),
        "answering_by_loading": round(median(answering) / median(loading), 3),
    }
