"""What several stages and commands are built from: the case store, Kafka, artefacts, the index, the law."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings
from consumers.bootstrap.process import Process

if TYPE_CHECKING:
    from bridge.contracts.queries import Preview
    from bridge.contracts.scope import Scope
    from bridge.runtime.dead_letters import DeadLetters
    from bridge.runtime.kafka import Publisher
    from consumers.adapters.artefact_store import DirectoryArtefactStore
    from consumers.adapters.case_store.engine import CaseDatabase
    from consumers.adapters.index_client import IndexClient
    from consumers.adapters.template_catalog import ApprovedBundles
    from consumers.case.alerts import Known
    from consumers.domain.duties import LawInForce


def index_client_of(parts: Parts) -> "IndexClient":
    """Return what asks the index workers of this machine."""
    from consumers.adapters.index_client import IndexClient

    return IndexClient(parts.get(Settings).paths.run)


def kept_law_of(parts: Parts) -> "LawInForce":
    """Return the law in force for a stage that computes duties: each version that it uses is kept in the artefact store, so
    that an auditor can be handed the rules by which a duty was computed.
    """
    from consumers.adapters.artefact_store import DirectoryArtefactStore
    from consumers.domain.duties import Law, LawInForce

    in_force, artefacts = parts.get(LawInForce), DirectoryArtefactStore(parts.get(Settings).paths.artefacts)
    kept: set[str] = set()

    def law() -> Law:
        current = in_force()
        if current.rules.rules_version not in kept:
            artefacts.put(current.rules.text.encode())
            kept.add(current.rules.rules_version)
        return current

    return law


def artefacts_of(parts: Parts) -> "DirectoryArtefactStore":
    """Return the store of what is kept by its hash."""
    from consumers.adapters.artefact_store import DirectoryArtefactStore

    return DirectoryArtefactStore(parts.get(Settings).paths.artefacts)


def publisher_of(parts: Parts, transactional_id: str | None = None) -> "Publisher":
    """Return what publishes to Kafka, in transactions under `transactional_id` if there is one."""
    from bridge.runtime.kafka import Publisher

    return Publisher(parts.get(Settings).kafka, transactional_id=transactional_id)


def dead_letters_of(parts: Parts, process: Process) -> "DeadLetters":
    """Return where a stage puts what it cannot read."""
    from bridge.runtime.dead_letters import DeadLetters

    return DeadLetters(lambda: publisher_of(parts), process.name, process.clock)


def database_of(parts: Parts) -> "CaseDatabase":
    """Return the case store, migrated. Raises Unreachable without it."""
    from consumers.adapters.case_store.engine import CaseDatabase

    return parts.get(CaseDatabase)


_NEVER = datetime.min.replace(tzinfo=UTC)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


class AskedIndex:
    """The index in the case room's words."""

    def __init__(self, client: "IndexClient") -> None:
        self._client = client

    def known_names(self) -> "Known":
        """Return the known names. Raises Unreachable when no partition answers."""
        from consumers.case.alerts import Known

        names = self._client.known_names()
        versions = {model: frozenset(versions) for model, versions in names.models.items()}
        lacking = []
        if names.silent_partitions:
            lacking.append(f"partitions {_listed(names.silent_partitions)} do not answer")
        if names.rebuilding_partitions:
            lacking.append(f"the files of partitions {_listed(names.rebuilding_partitions)} are being rebuilt")
        read_to_end_at = names.read_to_end_at
        return Known(
            versions,
            frozenset(names.attributes),
            complete=not lacking and read_to_end_at is not None,
            read_to_end_at=read_to_end_at or _NEVER,
            beat_at=names.beat_at or _NEVER,
            lacking=" and ".join(lacking) or "it has not read to its end since",
        )

    def preview(self, scope: "Scope") -> "Preview":
        """Return how many a scope concerns now. Raises Unreachable when no partition answers."""
        return self._client.preview(scope)


def bundles_of(settings: Settings) -> "ApprovedBundles":
    """Return the texts that counsel approved."""
    from consumers.adapters.artefact_store import DirectoryArtefactStore
    from consumers.adapters.template_catalog import ApprovedBundles

    return ApprovedBundles(settings.paths.templates, DirectoryArtefactStore(settings.paths.artefacts))


def rules_sha256_of(parts: Parts) -> str | None:
    """Return the version of the law in force; None where it is wrong, which keeps nobody from being found."""
    from bridge.contracts.errors import TocsinError
    from consumers.domain.duties import LawInForce

    try:
        return parts.get(LawInForce)().rules.rules_version
    except TocsinError:
        return None
