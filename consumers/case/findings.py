"""What the partitions' answers amount to: somebody, nobody, none found, everybody. Pure; counts only."""

from bridge.contracts.scope import Scope
from consumers.case.records import IncidentRecord, PartitionsRecord
from consumers.domain.coverage import is_complete
from consumers.domain.standing import matches_everybody


def finding(incident: IncidentRecord, partitions: PartitionsRecord) -> str:
    """Return who is affected as far as is known: `people`, `nobody`, `none_found` or `unknown`.

    `nobody` only where every partition says so by full coverage: a finding, with which an incident can be closed.
    `none_found` is no such thing: some coverage is missing, or its names are in doubt, and there may be somebody.
    """
    if partitions.affected_count or partitions.late_count:
        return "people"
    if incident.scope is None or partitions.partition_count is None or partitions.answered < partitions.partition_count:
        return "unknown"
    if incident.scope_unresolved:
        # by names that may not exist nobody is found
        return "none_found"
    exposed_from = Scope.model_validate(incident.scope).exposed_from
    return "nobody" if is_complete(list(partitions.coverage), exposed_from) else "none_found"


def everybody_in_words(incident: IncidentRecord, partitions: PartitionsRecord) -> str | None:
    """Return in one sentence that the scope is about everybody, or nearly; None where it is not."""
    if incident.scope is None:
        return None
    scope = Scope.model_validate(incident.scope)
    affected = partitions.affected_count + partitions.late_count
    if not matches_everybody(scope, affected, partitions.people_count):
        return None
    known = "" if partitions.people_count is None else f" of {partitions.people_count:,} known"
    return f"the scope is about everybody, or nearly: {affected:,} accounts and orders{known}"
