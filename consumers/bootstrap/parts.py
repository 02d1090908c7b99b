"""What commands may ask for, by name; nothing is built before it is asked for."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.contracts.errors import BadInput
from bridge.contracts.events import Channel
from bridge.contracts.queries import HeldContacts, IndexAnswers
from bridge.runtime.clock import Clock, SystemClock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings, load_settings
from bridge.runtime.telemetry import Health
from consumers.bootstrap.common import AskedIndex, artefacts_of, bundles_of, database_of, index_client_of
from consumers.bootstrap.ledger import comparison_of, ledger_of
from consumers.bootstrap.process import Process
from consumers.bootstrap.providers import (
    AllYear,
    AskedProviders,
    aws_config,
    canary_routes,
    live_guard,
    third_parties_of,
)

if TYPE_CHECKING:
    from bridge.magento.answers import SqlStoreAnswers
    from bridge.magento.references import StoreReferences
    from bridge.runtime.sealing import Opener
    from consumers.adapters.case_store.engine import CaseDatabase
    from consumers.adapters.case_store.erasures import Erasures
    from consumers.adapters.case_store.held_contacts import SqlHeldContacts
    from consumers.adapters.case_store.incidents import SqlCaseStore
    from consumers.adapters.case_store.ledger import Ledger
    from consumers.adapters.case_store.progress import SqlProgress
    from consumers.adapters.correction_texts import ApprovedCorrections
    from consumers.adapters.evidence_package import EvidencePackages
    from consumers.adapters.frozen_answers import FrozenAnswers
    from consumers.adapters.leak_matcher import IndexMatcher
    from consumers.adapters.letter_batches import PostedLetters
    from consumers.adapters.notice_samples import ApprovedSamples
    from consumers.adapters.proof_subjects import CaseProofSubjects
    from consumers.adapters.public_texts import ApprovedPublicTexts
    from consumers.adapters.sender_book import MailSenders, SenderBook
    from consumers.adapters.ses_identities import SesIdentities
    from consumers.adapters.tile_store import FolderToRotate
    from consumers.case.checking import CheckMeans
    from consumers.case.dossier import AuthorityBook
    from consumers.case.registry import RegistryWatch
    from consumers.case.rewriting import ScopeRewriter
    from consumers.case.verification import AwarenessPolicy
    from consumers.law.in_force import FolderLaw
    from consumers.law.loader import LawFolder


def parts_for(config: Path | None) -> Parts:
    """Return the registry of everything that commands and stages may ask for; nothing is built before it is asked for.

    Parts are named, not imported: a process imports what it asks for, and no more.
    """
    parts = Parts()
    parts.provide(Settings, lambda: load_settings(config))
    parts.provide(Clock, SystemClock)
    parts.provide(IndexAnswers, lambda: index_client_of(parts))
    _provide_law(parts, config)
    for provide in (
        _provide_delivery, _provide_evidence, _provide_case_store, _provide_notices, _provide_log_to_rotate,
    ):  # fmt: skip
        provide(parts)
    return parts


def _references(parts: Parts) -> "StoreReferences":
    from bridge.magento.references import StoreReferences

    return StoreReferences(parts.get(Settings).store)


def _registry_watch(parts: Parts) -> "RegistryWatch":
    from consumers.adapters.case_store.registry import RegistryTables
    from consumers.case.registry import RegistryWatch

    settings = parts.get(Settings).registry
    if settings.kind == "none":
        raise BadInput('no model registry is set up: registry.kind = "yaml" or "mlflow" in the settings names one')
    records = RegistryTables(database_of(parts))
    if settings.kind == "yaml" and settings.file is not None:
        from consumers.adapters.yaml_registry import YamlRegistry

        return RegistryWatch(YamlRegistry(settings.file), records, look_seconds=settings.look_seconds)
    from consumers.adapters.mlflow_registry import MlflowRegistry

    return RegistryWatch(MlflowRegistry(settings.uri or ""), records, look_seconds=settings.look_seconds)


def _scope_rewriter(parts: Parts) -> "ScopeRewriter":
    from bridge.runtime.sealing import hashed_email_hmac, load_join_key
    from consumers.adapters.case_store.lineage import LineageTables
    from consumers.case.registry import RegistryWatch
    from consumers.case.rewriting import ScopeRewriter

    settings = parts.get(Settings)
    watch = None if settings.registry.kind == "none" else parts.get(RegistryWatch)
    lineage = LineageTables(database_of(parts))
    return ScopeRewriter(
        watch, lineage, lambda sha256: hashed_email_hmac(load_join_key(settings.paths.join_key), sha256)
    )


def _provide_delivery(parts: Parts) -> None:
    def ledger() -> "Ledger":
        return ledger_of(parts, Process("delivery", Health(), parts.get(Clock)))

    def post() -> "PostedLetters":
        from consumers.adapters.letter_batches import PostedLetters

        return PostedLetters(parts.get(Settings).paths.letters, ledger())

    parts.provide("consumers.stages.delivery_commands.DeliveryNumbers", ledger)
    parts.provide("consumers.case.posting.LetterPost", post)
    parts.provide(
        "consumers.case.third_party_commands.ThirdPartyStates", lambda: third_parties_of(parts, parts.get(Clock))
    )
    parts.provide("consumers.case.checking.CheckMeans", lambda: _check_means(parts))


def _check_means(parts: Parts) -> "CheckMeans":
    from bridge.runtime.redrive import dead_letters
    from consumers.adapters.canary_lanes import by_email
    from consumers.adapters.case_store.canary_messages import CanaryTables
    from consumers.adapters.receipt_surroundings import AwsSurroundings
    from consumers.adapters.ses import SesEmail
    from consumers.adapters.ses_identities import SesIdentities
    from consumers.case.checking import EXPECTED, CheckMeans
    from consumers.domain.canary_messages import CanaryRoute
    from consumers.domain.simulators import simulated_email

    settings, clock = parts.get(Settings), parts.get(Clock)
    delivery = settings.delivery
    config = replace(aws_config(settings), read_timeout_seconds=10, retries=2)
    guard = live_guard(parts, Process("delivery", Health(), clock), config)
    if guard is not None:
        guard.refuse_difference()
    ses = SesEmail(config, delivery.configuration_set)
    senders = {scenario: by_email(ses, delivery.from_address, simulated_email(scenario)) for scenario in EXPECTED}
    return CheckMeans(
        route=CanaryRoute(Channel.EMAIL, "ses", delivery.aws_region),
        tried=canary_routes(settings),
        book=CanaryTables(database_of(parts), clock),
        surroundings=AwsSurroundings(
            config,
            delivery.configuration_set,
            delivery.receipts_queue,
            partial(SesIdentities(config).objection, delivery.from_address),
            settings.paths.run,
            partial(dead_letters, settings.kafka),
        ),
        send=lambda scenario, message_id: senders[scenario](message_id),
        now=clock.now,
        pause=time.sleep,
    )


def _provide_evidence(parts: Parts) -> None:
    def packages() -> "EvidencePackages":
        from consumers.adapters.case_store.evidence_rows import EvidenceRows
        from consumers.adapters.evidence_package import EvidencePackages
        from consumers.evidence.keys import read_vkey, vkey_path

        paths = parts.get(Settings).paths
        return EvidencePackages(
            paths.evidence,
            read_vkey(str(vkey_path(paths.evidence_key))),
            EvidenceRows(database_of(parts)),
            artefacts_of(parts),
        )

    def erasures() -> "Erasures":
        from consumers.adapters.case_store.erasures import Erasures
        from consumers.adapters.letter_batches import WrittenLetters

        return Erasures(database_of(parts), parts.get(Clock), WrittenLetters(parts.get(Settings).paths.letters))

    def subjects() -> "CaseProofSubjects":
        from consumers.adapters.case_store.evidence_rows import EvidenceRows
        from consumers.adapters.proof_subjects import CaseProofSubjects
        from consumers.case.prompts import authenticated
        from consumers.case.store import CaseStore

        return CaseProofSubjects(
            EvidenceRows(database_of(parts)), parts.get(CaseStore), partial(authenticated, parts), parts.get(Clock)
        )

    commands = "consumers.case.evidence_commands"
    parts.provide(f"{commands}.Packages", packages)
    parts.provide(
        f"{commands}.StoreComparison", lambda: comparison_of(parts, Process("restore", Health(), parts.get(Clock)))
    )
    parts.provide(f"{commands}.ErasureRequests", erasures)
    parts.provide("consumers.evidence.commands.ProofSubjects", subjects)


def _provide_law(parts: Parts, config: Path | None) -> None:
    def folder() -> "LawFolder":
        from consumers.commands import shipped_templates
        from consumers.law.loader import LawFolder

        own = parts.get(Settings).paths.templates / "law"
        # without settings a plan needs nothing but its facts: counsel's copy here, else the rules as they were shipped
        return LawFolder(own if config is not None or own.is_dir() else shipped_templates() / "law")

    def in_force() -> "FolderLaw":
        from consumers.law.in_force import FolderLaw

        return FolderLaw(the_folder().path)

    def the_folder() -> "LawFolder":
        from consumers.law.loader import LawFolder

        return parts.get(LawFolder)

    def policy() -> "AwarenessPolicy":
        from consumers.case.verification import AwarenessPolicy

        clocks = parts.get(Settings).clocks
        return AwarenessPolicy(
            timedelta(hours=clocks.warn_after_hours),
            timedelta(hours=clocks.presume_after_hours),
            clocks.awareness == "presume",
        )

    parts.provide("consumers.law.loader.LawFolder", folder)
    parts.provide("consumers.case.review_commands.RulesFolder", the_folder)
    parts.provide("consumers.domain.duties.LawInForce", in_force)
    parts.provide("consumers.case.verification.AwarenessPolicy", policy)


def _provide_case_store(parts: Parts) -> None:
    def database() -> "CaseDatabase":
        from consumers.adapters.case_store.engine import CaseDatabase, migrate

        opened = CaseDatabase(parts.get(Settings).case_store.url.get_secret_value())
        migrate(opened)
        return opened

    def matcher() -> "IndexMatcher":
        from bridge.runtime.sealing import load_join_key
        from consumers.adapters.leak_matcher import IndexMatcher

        return IndexMatcher(index_client_of(parts), load_join_key(parts.get(Settings).paths.join_key))

    def store_answers() -> "SqlStoreAnswers":
        from bridge.magento.answers import SqlStoreAnswers
        from bridge.runtime.sealing import load_join_key

        settings = parts.get(Settings)
        return SqlStoreAnswers(settings.store, parts.get(Clock), load_join_key(settings.paths.join_key))

    def opener() -> "Opener":
        from bridge.runtime.sealing import Opener, load_private_keys

        private_keys = partial(load_private_keys, parts.get(Settings).paths.sealing_private_key)
        return Opener(private_keys(), reload=private_keys)

    def progress() -> "SqlProgress":
        from consumers.adapters.case_store.progress import SqlProgress

        return SqlProgress(database_of(parts), parts.get(Clock))

    def case_store() -> "SqlCaseStore":
        from consumers.adapters.case_store.incidents import SqlCaseStore

        return SqlCaseStore(database_of(parts), parts.get(Clock))

    def frozen() -> "FrozenAnswers":
        from consumers.adapters.frozen_answers import FrozenAnswers

        return FrozenAnswers(artefacts_of(parts))

    def held_contacts() -> "SqlHeldContacts":
        from bridge.contracts.topics import AFFECTED_CUSTOMERS
        from bridge.runtime.topic_ids import TopicIds
        from consumers.adapters.case_store.held_contacts import SqlHeldContacts

        def topic_id() -> str | None:
            ids = TopicIds(parts.get(Settings).kafka, [AFFECTED_CUSTOMERS])
            ids.ask()
            return ids.get(AFFECTED_CUSTOMERS.name)

        return SqlHeldContacts(database_of(parts), topic_id)

    parts.provide("consumers.case.verification.LeakMatcher", matcher)
    parts.provide("consumers.case.duty_commands.SubmittedFiles", lambda: artefacts_of(parts))
    parts.provide("consumers.adapters.case_store.engine.CaseDatabase", database)
    parts.provide("consumers.case.looking.ContactOpener", opener)
    parts.provide("consumers.case.progress.ProgressSource", progress)
    parts.provide("consumers.case.store.CaseStore", case_store)
    parts.provide("consumers.case.reproducing.FrozenFiles", frozen)
    parts.provide("bridge.contracts.store_answers.StoreAnswers", store_answers)
    parts.provide("consumers.case.reproducing.AnswerIndex", lambda: index_client_of(parts))
    parts.provide("consumers.case.identifying.References", lambda: _references(parts))
    parts.provide("consumers.case.registry.RegistryWatch", lambda: _registry_watch(parts))
    parts.provide("consumers.case.rewriting.ScopeRewriter", lambda: _scope_rewriter(parts))
    parts.provide(HeldContacts, held_contacts)
    parts.provide("consumers.case.scoping.ScopeIndex", lambda: AskedIndex(index_client_of(parts)))


def _provide_log_to_rotate(parts: Parts) -> None:
    def log() -> "FolderToRotate":
        from consumers.adapters.tile_store import FolderToRotate

        return FolderToRotate(parts.get(Settings).paths.evidence)

    parts.provide("consumers.evidence.key_commands.LogToRotate", log)


def _provide_notices(parts: Parts) -> None:
    def samples() -> "ApprovedSamples":
        from consumers.adapters.case_store.bundles import NoticeBundles
        from consumers.adapters.notice_samples import ApprovedSamples

        return ApprovedSamples(bundles_of(parts.get(Settings)), NoticeBundles(database_of(parts)))

    def page() -> Any:
        from consumers.adapters.sheet_page import sheet_page

        return sheet_page

    def pdf() -> Any:
        from consumers.adapters.dossier_page import dossier_pdf

        return dossier_pdf

    def corrections() -> "ApprovedCorrections":
        from consumers.adapters.case_store.bundles import NoticeBundles
        from consumers.adapters.correction_texts import ApprovedCorrections
        from consumers.adapters.template_catalog import TemplateCatalog

        settings = parts.get(Settings)
        rows = NoticeBundles(database_of(parts))
        return ApprovedCorrections(
            TemplateCatalog(settings.paths.templates, bundles_of(settings), rows, parts.get(Clock))
        )

    def public_texts() -> "ApprovedPublicTexts":
        from consumers.adapters.public_texts import ApprovedPublicTexts

        return ApprovedPublicTexts(bundles_of(parts.get(Settings)))

    def book() -> "SenderBook":
        from consumers.adapters.sender_book import SenderBook
        from consumers.domain.duties import LawInForce

        return SenderBook(parts.get(Settings), parts.get(LawInForce))

    def identities() -> "SesIdentities":
        from consumers.adapters.ses_identities import SesIdentities

        return SesIdentities(aws_config(parts.get(Settings)))

    def senders() -> "MailSenders":
        from consumers.adapters.sender_book import MailSenders, SenderBook
        from consumers.adapters.ses_identities import SesIdentities

        return MailSenders(parts.get(SenderBook), lambda: parts.get(SesIdentities).objection)

    parts.provide("consumers.case.sheet.Artefacts", lambda: artefacts_of(parts))
    parts.provide("consumers.case.sheet.NoticeSamples", samples)
    parts.provide("consumers.case.sheet_commands.SheetPage", page)
    parts.provide("consumers.case.dossier_commands.DossierPdf", pdf)
    parts.provide("consumers.case.correcting.CorrectionTexts", corrections)
    parts.provide("consumers.case.publishing.PublicTexts", public_texts)
    parts.provide("consumers.case.dossier.AuthorityBook", lambda: _authorities(parts))
    parts.provide("consumers.adapters.sender_book.SenderBook", book)
    parts.provide("consumers.case.sheet_commands.Providers", lambda: AskedProviders(parts))
    parts.provide("consumers.adapters.ses_identities.SesIdentities", identities)
    parts.provide("consumers.case.sheet_commands.MailSenders", senders)
    parts.provide("consumers.case.readiness_commands.ReadinessSource", lambda: AllYear(parts))


def _authorities(parts: Parts) -> "AuthorityBook":
    from consumers.case.dossier import AuthorityEntry
    from consumers.domain.duties import LawInForce
    from consumers.law.authorities import load_authorities
    from consumers.law.loader import LawFolder

    rows = load_authorities(parts.get(LawFolder).path, parts.get(LawInForce)().rules.by_id)
    fields = AuthorityEntry.__slots__

    def book(regime_id: str, country: str | None) -> Sequence[AuthorityEntry]:
        return [
            AuthorityEntry(**{name: getattr(each, name) for name in fields})
            for each in rows.of_duty(regime_id, country)
        ]

    return book
