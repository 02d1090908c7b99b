"""The ledger of deliveries under the settings' policy, and its comparison with the evidence log."""

from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from bridge.contracts.events import Channel
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings
from consumers.bootstrap.common import database_of
from consumers.bootstrap.process import Process
from consumers.bootstrap.providers import second_regions, watch_policy

if TYPE_CHECKING:
    from consumers.adapters.case_store.comparing import Comparison
    from consumers.adapters.case_store.ledger import Ledger


def comparison_of(parts: Parts, process: Process) -> "Comparison":
    """Return what compares the case store with the evidence log."""
    from consumers.adapters.case_store.comparing import Comparison

    return Comparison(database_of(parts), parts.get(Settings).paths.evidence, process.clock, ledger_of(parts, process))


def refuse_restored_store(parts: Parts, process: Process) -> "Comparison | None":
    """Keep a case store that was put back in time from telling people twice. Raises Refused.

    For those who move attempts: also what waits there in vain for a dispatcher must not be taken for unsent, and a receipt of a
    message that the store does not know yet waits in its queue until it does.
    Returns what keeps the store's mark while its stage runs. None: where the log's folder is on another machine there is
    nothing to compare with; that is said, and the stage goes on.
    """
    import structlog

    from bridge.contracts.errors import Refused
    from consumers.evidence.faults import LogRefused, Malformed

    folder = parts.get(Settings).paths.evidence
    if not (folder / "checkpoint").is_file():
        structlog.get_logger().warning("no evidence log here to compare the case store with", folder=str(folder))
        return None
    comparison = comparison_of(parts, process)
    try:
        gap = comparison.gap_at_start()
    except (LogRefused, Malformed) as fault:
        # people are owed their notice also while the log is damaged; the evidence stage refuses it, and that is an alert
        structlog.get_logger().error("the evidence log cannot be compared with the case store", reason=str(fault))
        return None
    if gap:
        raise Refused(
            f"the evidence log knows {gap}, and the case store does not: it was restored from a backup. Nothing is sent until "
            "`tocsin restore reconcile --reason TEXT` has replayed them"
        )
    return comparison


def ledger_of(
    parts: Parts,
    process: Process,
    takers: Callable[[Channel], Collection[str]] | None = None,
    topic_ids: Mapping[str, str] | None = None,
) -> "Ledger":
    """Return the ledger with the settings' policy. `takers`: who takes a channel's messages now; `topic_ids`: those of the
    topics whose positions it keeps."""
    from consumers.adapters.case_store.changes import DeliveryPolicy
    from consumers.adapters.case_store.ledger import Ledger
    from consumers.adapters.case_store.positions import NO_TOPIC_IDS

    delivery = parts.get(Settings).delivery
    receipts = timedelta(seconds=delivery.receipt_timeout_seconds)
    reading = timedelta(seconds=delivery.account_notice_timeout_seconds)
    posting = timedelta(seconds=delivery.letter_timeout_seconds)
    asks = process.name in ("release", "dispatch")
    policy = DeliveryPolicy(
        {Channel.EMAIL: "ses", Channel.SMS: "sns", Channel.ACCOUNT_NOTICE: "store", Channel.LETTER: "post"},
        {Channel.EMAIL: receipts, Channel.SMS: receipts, Channel.ACCOUNT_NOTICE: reading, Channel.LETTER: posting},
        region_objection=_region_objection(parts) if asks else None,
        second=watch_policy(parts.get(Settings)).second,
        objection_to_second=_objection_to_second(parts) if asks else None,
        takers=takers,
    )
    return Ledger(database_of(parts), process.clock, policy, NO_TOPIC_IDS if topic_ids is None else topic_ids)


def _region_objection(parts: Parts) -> Callable[[Collection[str], str], str | None]:
    """Return what refuses notices that no rule lets pass through the provider's region of the settings."""
    from consumers.domain.duties import LawInForce

    settings, law = parts.get(Settings), parts.get(LawInForce)
    law()  # rules that are wrong are said at the start

    def objection(homes: Collection[str], controller: str) -> str | None:
        regions = law().regions
        return regions.objection(homes, controller, settings.delivery.aws_region, settings.case_store.region)

    return objection


def _objection_to_second(parts: Parts) -> Callable[[Collection[str], str, str], str | None]:
    """Return what refuses notices that no rule lets pass through the region of a second provider."""
    from consumers.domain.duties import LawInForce

    law, regions = parts.get(LawInForce), second_regions(parts.get(Settings))

    def objection(homes: Collection[str], controller: str, name: str) -> str | None:
        return law().regions.objection_to_second(homes, controller, name, regions[name])

    return objection
