"""The composition root: which part is built from what, and which stage from which parts. Sees everything, decides nothing.

A process imports only what its own stage needs, so imports stand in the functions that build.
"""

import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from bridge.contracts.errors import BadInput, MustStop
from bridge.contracts.events import Channel
from bridge.contracts.queries import HeldContacts, IndexAnswers
from bridge.runtime.clock import Clock, SystemClock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings, SmsGateway, Smtp, load_settings
from bridge.runtime.telemetry import Health

if TYPE_CHECKING:
    from bridge.contracts.queries import Preview
    from bridge.contracts.scope import Scope
    from bridge.magento.answers import SqlStoreAnswers
    from bridge.magento.references import StoreReferences
    from bridge.runtime.dead_letters import DeadLetters
    from bridge.runtime.kafka import Publisher
    from bridge.runtime.sealing import Opener
    from consumers.adapters.artefact_store import DirectoryArtefactStore
    from consumers.adapters.aws import AwsConfig
    from consumers.adapters.case_store.comparing import Comparison
    from consumers.adapters.case_store.engine import CaseDatabase
    from consumers.adapters.case_store.erasures import Erasures
    from consumers.adapters.case_store.held_contacts import SqlHeldContacts
    from consumers.adapters.case_store.incidents import SqlCaseStore
    from consumers.adapters.case_store.ledger import Ledger
    from consumers.adapters.case_store.positions import Silence
    from consumers.adapters.case_store.progress import SqlProgress
    from consumers.adapters.case_store.third_parties import ThirdPartyTables
    from consumers.adapters.correction_texts import ApprovedCorrections
    from consumers.adapters.delivery_reports import ReturnPath
    from consumers.adapters.evidence_package import EvidencePackages
    from consumers.adapters.frozen_answers import FrozenAnswers
    from consumers.adapters.index_client import IndexClient
    from consumers.adapters.leak_matcher import IndexMatcher
    from consumers.adapters.letter_batches import PostedLetters
    from consumers.adapters.live_guard import LiveGuard
    from consumers.adapters.notice_samples import ApprovedSamples
    from consumers.adapters.proof_subjects import CaseProofSubjects
    from consumers.adapters.provider_lanes import CircuitLane
    from consumers.adapters.provider_watch import ProviderWatch, WatchPolicy
    from consumers.adapters.public_texts import ApprovedPublicTexts
    from consumers.adapters.sender_book import MailSenders, SenderBook
    from consumers.adapters.ses_identities import SesIdentities
    from consumers.adapters.sms_gateway import GatewayAccount
    from consumers.adapters.smtp_email import SmtpServer
    from consumers.adapters.template_catalog import ApprovedBundles
    from consumers.adapters.tile_store import FolderToRotate
    from consumers.case.alerts import Known
    from consumers.case.channel_preflight import ProviderStanding
    from consumers.case.checking import CheckMeans
    from consumers.case.dossier import AuthorityBook
    from consumers.case.readiness import YearRound
    from consumers.case.registry import RegistryWatch
    from consumers.case.rewriting import ScopeRewriter
    from consumers.case.verification import AwarenessPolicy
    from consumers.domain.canary_messages import CanaryLane, CanaryRoute, Send
    from consumers.domain.circuit import CircuitPolicy
    from consumers.domain.duties import LawInForce
    from consumers.domain.sending import Allowance, EmailProvider, ReceiptSource, SmsProvider
    from consumers.evidence.note import VerifierKey
    from consumers.law.in_force import FolderLaw
    from consumers.law.loader import LawFolder


class Stage(Protocol):
    """One step of the flow, in a process of its own."""

    def run(self, stop: Event) -> None:
        """Work until `stop` is set; what is in hand is finished first."""
        ...


@dataclass(frozen=True, slots=True)
class Process:
    """What a stage's process is."""

    name: str
    health: Health
    clock: Clock

    @property
    def holder(self) -> str:
        """A name that no other process has, for leases and claims."""
        return f"{self.name}@{socket.gethostname()}:{os.getpid()}"


def parts_for(config: Path | None) -> Parts:
    """Return the registry of everything that commands and stages may ask for; nothing is built before it is asked for.

    Parts are named, not imported: a process imports what it asks for, and no more.
    """
    parts = Parts()
    parts.provide(Settings, lambda: load_settings(config))
    parts.provide(Clock, SystemClock)
    parts.provide(IndexAnswers, lambda: _index_client(parts))
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
    records = RegistryTables(_database(parts))
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
    lineage = LineageTables(_database(parts))
    return ScopeRewriter(
        watch, lineage, lambda sha256: hashed_email_hmac(load_join_key(settings.paths.join_key), sha256)
    )


def _index_client(parts: Parts) -> "IndexClient":
    from consumers.adapters.index_client import IndexClient

    return IndexClient(parts.get(Settings).paths.run)


def _provide_delivery(parts: Parts) -> None:
    def ledger() -> "Ledger":
        return _ledger(parts, Process("delivery", Health(), parts.get(Clock)))

    def post() -> "PostedLetters":
        from consumers.adapters.letter_batches import PostedLetters

        return PostedLetters(parts.get(Settings).paths.letters, ledger())

    parts.provide("consumers.stages.delivery_commands.DeliveryNumbers", ledger)
    parts.provide("consumers.case.posting.LetterPost", post)
    parts.provide(
        "consumers.case.third_party_commands.ThirdPartyStates", lambda: _third_parties(parts, parts.get(Clock))
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
        book=CanaryTables(_database(parts), clock),
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
            EvidenceRows(_database(parts)),
            _artefacts(parts),
        )

    def erasures() -> "Erasures":
        from consumers.adapters.case_store.erasures import Erasures
        from consumers.adapters.letter_batches import WrittenLetters

        return Erasures(_database(parts), parts.get(Clock), WrittenLetters(parts.get(Settings).paths.letters))

    def subjects() -> "CaseProofSubjects":
        from consumers.adapters.case_store.evidence_rows import EvidenceRows
        from consumers.adapters.proof_subjects import CaseProofSubjects
        from consumers.case.prompts import authenticated
        from consumers.case.store import CaseStore

        return CaseProofSubjects(
            EvidenceRows(_database(parts)), parts.get(CaseStore), partial(authenticated, parts), parts.get(Clock)
        )

    commands = "consumers.case.evidence_commands"
    parts.provide(f"{commands}.Packages", packages)
    parts.provide(
        f"{commands}.StoreComparison", lambda: _comparison(parts, Process("restore", Health(), parts.get(Clock)))
    )
    parts.provide(f"{commands}.ErasureRequests", erasures)
    parts.provide("consumers.evidence.commands.ProofSubjects", subjects)


def _comparison(parts: Parts, process: Process) -> "Comparison":
    from consumers.adapters.case_store.comparing import Comparison

    return Comparison(_database(parts), parts.get(Settings).paths.evidence, process.clock, _ledger(parts, process))


def refuse_restored_store(parts: Parts, process: Process) -> "Comparison | None":
    """Keep a case store that was put back in time from telling people twice. Raises Refused.

    For those who move attempts: also what waits there in vain for a dispatcher must not be taken for unsent.
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
    comparison = _comparison(parts, process)
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


def _kept_law(parts: Parts) -> "LawInForce":
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


def _provide_case_store(parts: Parts) -> None:
    def database() -> "CaseDatabase":
        from consumers.adapters.case_store.engine import CaseDatabase, migrate

        opened = CaseDatabase(parts.get(Settings).case_store.url.get_secret_value())
        migrate(opened)
        return opened

    def matcher() -> "IndexMatcher":
        from bridge.runtime.sealing import load_join_key
        from consumers.adapters.leak_matcher import IndexMatcher

        return IndexMatcher(_index_client(parts), load_join_key(parts.get(Settings).paths.join_key))

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

        return SqlProgress(_database(parts), parts.get(Clock))

    def case_store() -> "SqlCaseStore":
        from consumers.adapters.case_store.incidents import SqlCaseStore

        return SqlCaseStore(_database(parts), parts.get(Clock))

    def frozen() -> "FrozenAnswers":
        from consumers.adapters.frozen_answers import FrozenAnswers

        return FrozenAnswers(_artefacts(parts))

    def held_contacts() -> "SqlHeldContacts":
        from bridge.contracts.topics import AFFECTED_CUSTOMERS
        from bridge.runtime.topic_ids import TopicIds
        from consumers.adapters.case_store.held_contacts import SqlHeldContacts

        def topic_id() -> str | None:
            ids = TopicIds(parts.get(Settings).kafka, [AFFECTED_CUSTOMERS])
            ids.ask()
            return ids.get(AFFECTED_CUSTOMERS.name)

        return SqlHeldContacts(_database(parts), topic_id)

    parts.provide("consumers.case.verification.LeakMatcher", matcher)
    parts.provide("consumers.case.duty_commands.SubmittedFiles", lambda: _artefacts(parts))
    parts.provide("consumers.adapters.case_store.engine.CaseDatabase", database)
    parts.provide("consumers.case.looking.ContactOpener", opener)
    parts.provide("consumers.case.progress.ProgressSource", progress)
    parts.provide("consumers.case.store.CaseStore", case_store)
    parts.provide("consumers.case.reproducing.FrozenFiles", frozen)
    parts.provide("bridge.contracts.store_answers.StoreAnswers", store_answers)
    parts.provide("consumers.case.reproducing.AnswerIndex", lambda: _index_client(parts))
    parts.provide("consumers.case.identifying.References", lambda: _references(parts))
    parts.provide("consumers.case.registry.RegistryWatch", lambda: _registry_watch(parts))
    parts.provide("consumers.case.rewriting.ScopeRewriter", lambda: _scope_rewriter(parts))
    parts.provide(HeldContacts, held_contacts)
    parts.provide("consumers.case.scoping.ScopeIndex", lambda: _AskedIndex(_index_client(parts)))


def _provide_log_to_rotate(parts: Parts) -> None:
    def log() -> "FolderToRotate":
        from consumers.adapters.tile_store import FolderToRotate

        return FolderToRotate(parts.get(Settings).paths.evidence)

    parts.provide("consumers.evidence.key_commands.LogToRotate", log)


def _artefacts(parts: Parts) -> "DirectoryArtefactStore":
    from consumers.adapters.artefact_store import DirectoryArtefactStore

    return DirectoryArtefactStore(parts.get(Settings).paths.artefacts)


def _provide_notices(parts: Parts) -> None:
    def samples() -> "ApprovedSamples":
        from consumers.adapters.case_store.bundles import NoticeBundles
        from consumers.adapters.notice_samples import ApprovedSamples

        return ApprovedSamples(_bundles(parts.get(Settings)), NoticeBundles(_database(parts)))

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
        rows = NoticeBundles(_database(parts))
        return ApprovedCorrections(
            TemplateCatalog(settings.paths.templates, _bundles(settings), rows, parts.get(Clock))
        )

    def public_texts() -> "ApprovedPublicTexts":
        from consumers.adapters.public_texts import ApprovedPublicTexts

        return ApprovedPublicTexts(_bundles(parts.get(Settings)))

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

    parts.provide("consumers.case.sheet.Artefacts", lambda: _artefacts(parts))
    parts.provide("consumers.case.sheet.NoticeSamples", samples)
    parts.provide("consumers.case.sheet_commands.SheetPage", page)
    parts.provide("consumers.case.dossier_commands.DossierPdf", pdf)
    parts.provide("consumers.case.correcting.CorrectionTexts", corrections)
    parts.provide("consumers.case.publishing.PublicTexts", public_texts)
    parts.provide("consumers.case.dossier.AuthorityBook", lambda: _authorities(parts))
    parts.provide("consumers.adapters.sender_book.SenderBook", book)
    parts.provide("consumers.case.sheet_commands.Providers", lambda: _AskedProviders(parts))
    parts.provide("consumers.adapters.ses_identities.SesIdentities", identities)
    parts.provide("consumers.case.sheet_commands.MailSenders", senders)
    parts.provide("consumers.case.readiness_commands.ReadinessSource", lambda: _AllYear(parts))


class _AskedProviders:
    """What providers say of themselves, asked anew each time."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def standing(self, *, suppressed: bool = True) -> "ProviderStanding":
        """Return it; what a silent provider would have said is missing, and why is said. `suppressed`: with SES's list."""
        from bridge.contracts.errors import TocsinError
        from bridge.runtime.sealing import load_join_key
        from consumers.adapters.case_store.providers import ProviderTables
        from consumers.adapters.ses_account import SesAccount, hashed_suppressions
        from consumers.adapters.sns_account import SnsAccount
        from consumers.case.channel_preflight import ProviderStanding, SecondProvider
        from consumers.domain.accounts import month_began

        settings, clock = self._parts.get(Settings), self._parts.get(Clock)
        policy, regions = watch_policy(settings), second_regions(settings)
        said = {name for name, each in _seconds(settings).items() if each.region is not None}
        sent = (
            ProviderTables(_database(self._parts), clock).sent_through(month_began(clock.now()))
            if policy.second
            else {}
        )
        standing = ProviderStanding(
            second={
                channel: SecondProvider(name, policy.prices[name], sent.get(name, 0), regions[name], name in said)
                for channel, name in policy.second.items()
            },
            numbers_needed=settings.delivery.sms_numbers_needed,
            live=policy.live,
        )
        try:
            config = replace(aws_config(settings), read_timeout_seconds=10)
            email = SesAccount(config, settings.delivery.configuration_set, clock)
            standing = replace(standing, email=email.read())
            if suppressed:
                listed = hashed_suppressions(email.suppressed(), load_join_key(settings.paths.join_key))
                standing = replace(standing, suppressed=listed)
            return replace(standing, sms=SnsAccount(config, clock).read(lists=True))
        except TocsinError as error:
            return replace(standing, not_asked=(str(error),))


class _AllYear:
    """What readiness looks at: counts of the index, providers' accounts, and what earlier incidents taught."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def look(self, *, lists: bool = True) -> "YearRound":
        """Return it. Raises Unreachable when no index worker answers, or the case store does not."""
        from consumers.adapters.case_store.hard_bounces import counted
        from consumers.adapters.index_client import IndexClient
        from consumers.case.readiness import YearRound

        settings, clock = self._parts.get(Settings), self._parts.get(Clock)
        delivery = settings.delivery
        index = IndexClient(settings.paths.run)
        reach = index.reach()
        standing = _AskedProviders(self._parts).standing(suppressed=lists)
        suppressed = None
        if lists and standing.email is not None:
            found = index.match(list(standing.suppressed), []).by_email_hmac if standing.suppressed else {}
            suppressed = sum(len(roots) for roots in found.values())
        with _database(self._parts).read() as connection:
            hard_bounced = counted(connection)
        return YearRound(
            reach=reach,
            standing=standing,
            now=clock.now(),
            bound=timedelta(hours=delivery.readiness.bound_hours),
            per_second={Channel.EMAIL: delivery.email_per_second, Channel.SMS: delivery.sms_per_second},
            sms_part_price=delivery.sms_price_per_part,
            currency=delivery.price_currency,
            mode=delivery.mode,
            hard_bounced=hard_bounced,
            suppressed=suppressed,
            not_live=self._not_live(),
        )

    def _not_live(self) -> str:
        settings = self._parts.get(Settings)
        if settings.delivery.mode != "live":
            return ""
        process = Process("readiness", Health(), self._parts.get(Clock))
        guard = live_guard(self._parts, process, aws_config(settings), pages=False)
        assert guard is not None
        guard.look()
        return guard.difference()


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


class HeldLease:
    """A lease of the case store, renewed well before it ends. `take` is cheap to call often."""

    def __init__(
        self, database: "CaseDatabase", name: str, holder: str, clock: Clock, *, seconds: float = 10.0
    ) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._clock = clock
        self._seconds = seconds
        self._renew_after = 0.0
        self._silence: Silence | None = None

    def take(self) -> bool:
        """Return whether this process holds the lease now."""
        from consumers.adapters.case_store.positions import Silence, take_lease

        if time.monotonic() < self._renew_after:
            return True
        if self._silence is None:
            self._silence = Silence()
        asked, now = time.monotonic(), self._clock.now()
        held = take_lease(self._database, self._name, self._holder, now, self._seconds, self._silence) is not None
        self._renew_after = asked + self._seconds / 3 if held else 0.0
        return held

    def release(self) -> None:
        """Give it up."""
        from consumers.adapters.case_store.positions import release_lease

        self._renew_after = 0.0
        release_lease(self._database, self._name, self._holder)


def _publisher(parts: Parts, transactional_id: str | None = None) -> "Publisher":
    from bridge.runtime.kafka import Publisher

    return Publisher(parts.get(Settings).kafka, transactional_id=transactional_id)


def _dead_letters(parts: Parts, process: Process) -> "DeadLetters":
    from bridge.runtime.dead_letters import DeadLetters

    return DeadLetters(lambda: _publisher(parts), process.name, process.clock)


def _database(parts: Parts) -> "CaseDatabase":
    from consumers.adapters.case_store.engine import CaseDatabase

    return parts.get(CaseDatabase)


def _ledger(
    parts: Parts,
    process: Process,
    takers: Callable[[Channel], Collection[str]] | None = None,
    topic_ids: Mapping[str, str] | None = None,
) -> "Ledger":
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
    return Ledger(_database(parts), process.clock, policy, NO_TOPIC_IDS if topic_ids is None else topic_ids)


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


def second_regions(settings: Settings) -> Mapping[str, str]:
    """Return where the second providers of the settings are, by name."""
    return {name: settings.delivery.region_of(each) for name, each in _seconds(settings).items()}


def _seconds(settings: Settings) -> Mapping[str, Smtp | SmsGateway]:
    seconds = {"smtp": settings.delivery.smtp, "sms_gateway": settings.delivery.sms_gateway}
    return {name: each for name, each in seconds.items() if each is not None}


def aws_config(settings: Settings) -> "AwsConfig":
    """Return where AWS is. Raises BadInput in sandbox mode without the sandbox's address: AWS itself is never meant."""
    from consumers.adapters.aws import AwsConfig

    if settings.delivery.mode == "sandbox" and settings.delivery.endpoint_url is None:
        raise BadInput(
            'delivery.mode = "sandbox" needs delivery.endpoint_url, the address of the AWS sandbox; start one with '
            "`python -m consumers.sandbox`"
        )
    return AwsConfig(
        region=settings.delivery.aws_region,
        endpoint_url=settings.delivery.endpoint_url,
        read_timeout_seconds=settings.delivery.aws_timeout_seconds,
    )


def _relay(parts: Parts, process: Process) -> Stage:
    from bridge.magento.store import open_store
    from bridge.relay import TRANSACTIONAL_ID, RelayStage
    from bridge.runtime.sealing import Sealer, load_join_key, load_public_key

    settings = parts.get(Settings)
    join_key = load_join_key(settings.paths.join_key)
    public_key = partial(load_public_key, settings.paths.sealing_public_key)
    return RelayStage(
        open_store(settings.store, process.clock),
        lambda: _publisher(parts, TRANSACTIONAL_ID),
        Sealer(public_key(), process.clock, join_key, reload=public_key),
        join_key,
        settings.relay,
        process.clock,
        process.health,
        **({"may_publish": _IndexKeepsUp(settings)} if settings.kafka.embedded else {}),
    )


class _IndexKeepsUp:
    """Holds the relay back while the index lags or is away: the embedded Kafka keeps but a few MB a partition, and what
    it has dropped before it was read would be lost. A real Kafka keeps everything, and nobody waits for anybody.
    """

    _MOST_UNREAD = 1500
    """Messages a partition; the relay's batches add about as many again."""

    def __init__(self, settings: Settings) -> None:
        from consumers.adapters.incident_feed import TopicHeads
        from consumers.adapters.index_client import IndexClient

        self._client = IndexClient(settings.paths.run, timeout_seconds=5.0)
        self._heads = TopicHeads(settings.kafka)
        self._asked = 0.0
        self._answer = False
        self._positions: Mapping[int, int] = {}
        """How far the index had read when it was asked last."""

    def __call__(self) -> bool:
        if time.monotonic() - self._asked > 0.25:
            # The index counts what it holds for its answer: a relay at rest does not make it do so all day.
            self._answer = self._little_is_unread() or self._keeps_up()
            self._asked = time.monotonic()
        return self._answer

    def _keeps_up(self) -> bool:
        from bridge.contracts.errors import Unreachable

        try:
            status = self._client.status()
        except Unreachable:
            self._positions = {}
            return False
        self._positions = (
            {each.partition: each.position_offset for each in status.partitions} if status.complete else {}
        )
        return self._little_is_unread()

    def _little_is_unread(self) -> bool:
        """Return whether all that came since `_positions` is little, even if nothing of it was read meanwhile."""
        from bridge.contracts.errors import Unreachable
        from bridge.contracts.topics import STORE_CHANGES

        try:
            return bool(self._positions) and all(
                self._heads.bounds(STORE_CHANGES, partition)[1] - position <= self._MOST_UNREAD
                for partition, position in self._positions.items()
            )
        except Unreachable:
            return False


def _account_notices(parts: Parts, process: Process) -> Stage:
    from bridge.account_notices import AccountNoticesStage
    from bridge.magento.notices import AccountNoticeTable

    settings = parts.get(Settings)
    return AccountNoticesStage(
        AccountNoticeTable(settings.store), settings.kafka, _dead_letters(parts, process), process.health,
        test_store=settings.delivery.test_store,
    )  # fmt: skip


class _AskedIndex:
    """The index in the case room's words."""

    def __init__(self, client: "IndexClient") -> None:
        self._client = client

    def known_names(self) -> "Known":
        """Return the known names. Raises Unreachable when no partition answers."""
        from consumers.case.alerts import Known

        names = self._client.known_names()
        versions = {model: frozenset(versions) for model, versions in names.models.items()}
        return Known(versions, frozenset(names.attributes), names.complete)

    def preview(self, scope: "Scope") -> "Preview":
        """Return how many a scope concerns now. Raises Unreachable when no partition answers."""
        return self._client.preview(scope)


def _intake(parts: Parts, process: Process) -> Stage:
    from bridge.contracts.topics import LEAK_ALERTS
    from bridge.runtime.topic_ids import TopicIds
    from consumers.adapters.alert_mappings import AlertMappings
    from consumers.adapters.case_store.incidents import SqlCaseStore
    from consumers.adapters.case_store.lineage import LineageTables
    from consumers.adapters.index_client import IndexClient
    from consumers.case.registry import RegistryWatch
    from consumers.case.rewriting import ScopeRewriter
    from consumers.case.webhooks import load_secrets, load_token
    from consumers.stages.intake import IntakeStage, RegistryLooks

    settings = parts.get(Settings)
    looks = None
    if settings.registry.kind != "none":
        lease = HeldLease(
            _database(parts), "registry", process.holder, process.clock, seconds=settings.registry.look_seconds * 1.5
        )
        looks = RegistryLooks(parts.get(RegistryWatch), lease, process.clock, settings.registry.look_seconds)
    topic_ids = TopicIds(settings.kafka, [LEAK_ALERTS])
    return IntakeStage(
        store=SqlCaseStore(_database(parts), process.clock, topic_ids),
        topic_ids=topic_ids,
        reader=AlertMappings(settings.paths.templates / "alert-mappings", settings.intake.mappings),
        names=_AskedIndex(IndexClient(settings.paths.run)),
        rewriter=parts.get(ScopeRewriter),
        looks=looks,
        lineage=LineageTables(_database(parts)),
        lineage_tokens={source: load_token(source, file) for source, file in settings.intake.lineage_tokens.items()},
        secrets={source: load_secrets(source, file) for source, file in settings.intake.secrets.items()},
        settings=settings.intake,
        kafka=settings.kafka,
        run_file=settings.paths.run / "intake.json",
        clock=process.clock,
        dead_letters=lambda: _dead_letters(parts, process),
        health=process.health,
    )


def _bundles(settings: Settings) -> "ApprovedBundles":
    from consumers.adapters.artefact_store import DirectoryArtefactStore
    from consumers.adapters.template_catalog import ApprovedBundles

    return ApprovedBundles(settings.paths.templates, DirectoryArtefactStore(settings.paths.artefacts))


def _planning(parts: Parts, process: Process) -> Stage:
    from bridge.contracts.topics import AFFECTED_CUSTOMERS, RESOLUTIONS
    from bridge.runtime.topic_ids import TopicIds
    from consumers.adapters.case_store.bundles import NoticeBundles
    from consumers.adapters.case_store.planning import PlanningTables
    from consumers.adapters.notice_renderer import compose
    from consumers.adapters.sender_book import SenderBook
    from consumers.adapters.template_catalog import TemplateCatalog
    from consumers.stages.planning import Planning, PlanningStage

    settings = parts.get(Settings)
    law = _kept_law(parts)
    law()  # rules that are wrong are said at the start, not at the first incident
    database = _database(parts)
    lease = HeldLease(database, "planning", process.holder, process.clock)

    senders = SenderBook(settings, law)
    senders.senders()  # as with the rules

    topic_ids = TopicIds(settings.kafka, [AFFECTED_CUSTOMERS, RESOLUTIONS])
    handler = Planning(
        PlanningTables(database, process.clock, law, _ledger(parts, process).take_back, topic_ids),
        law,
        TemplateCatalog(settings.paths.templates, _bundles(settings), NoticeBundles(database), process.clock),
        compose,
        senders,
        lease,
        process.clock,
        senders_mark=senders.mark,
        regions=(settings.delivery.aws_region, settings.case_store.region),
    )
    return PlanningStage(settings.kafka, handler, lease, _dead_letters(parts, process), process.health, topic_ids)


def _dispatch(parts: Parts, process: Process) -> Stage:
    from bridge.contracts.topics import DELIVERY_COMMANDS
    from bridge.runtime.sealing import Opener, load_private_keys
    from bridge.runtime.topic_ids import TopicIds
    from consumers.adapters.case_store.canary_messages import CanaryTables
    from consumers.adapters.case_store.providers import ProviderTables
    from consumers.adapters.letter_batches import LetterFolder
    from consumers.adapters.notice_texts import Addresses, ApprovedTexts
    from consumers.adapters.provider_lanes import CircuitTeller
    from consumers.adapters.ses_identities import SesIdentities
    from consumers.adapters.sns_topic import SnsTopic
    from consumers.adapters.texts_in_flight import TextsInFlight
    from consumers.stages.canary_messages import CanaryMessages
    from consumers.stages.dispatch import Dispatch, DispatchStage
    from consumers.stages.third_parties import ThirdPartyNotices

    settings = parts.get(Settings)
    config = aws_config(settings)
    guard = live_guard(parts, process, config)
    if guard is not None:
        guard.refuse_difference()
    compared = refuse_restored_store(parts, process)
    watch = _provider_watch(parts, process, config, announces=False)
    bound = watch.bound if guard is None else _live_bound(guard, watch)
    email, sms = _email_lane(settings, config, process.clock, bound), _sms_lane(settings, config, process.clock, bound)
    teller = CircuitTeller((email, sms), ProviderTables(_database(parts), process.clock), process.holder[:64])
    private_keys = partial(load_private_keys, settings.paths.sealing_private_key)
    lanes: Mapping[Channel, CircuitLane[Any]] = {Channel.EMAIL: email, Channel.SMS: sms}
    topic_ids = TopicIds(settings.kafka, [DELIVERY_COMMANDS])
    handler = Dispatch(
        _ledger(parts, process, lambda channel: lanes[channel].takers(), topic_ids),
        Opener(private_keys(), reload=private_keys),
        ApprovedTexts(
            _bundles(settings),
            settings.delivery.from_address,
            settings.delivery.reply_to,
            process.clock,
            may_not_send=SesIdentities(replace(config, read_timeout_seconds=5, retries=1)).known_objection,
        ),
        Addresses(settings.delivery.mode, test_store=settings.delivery.test_store),
        email,
        sms,
        process.clock,
        process.holder,
        LetterFolder(settings.paths.letters),
        guard,
        TextsInFlight(settings.paths.texts_in_flight),
    )
    stage = DispatchStage(settings.kafka, handler, _dead_letters(parts, process), process.health, topic_ids)
    companions: list[Callable[[Event], None]] = [watch.run_accounts, teller.run]
    if guard is not None:
        companions.append(guard.run)
    if canary_lanes := _canary_lanes(settings, process.clock):
        canaries = CanaryTables(_database(parts), process.clock, [lane.route for lane in canary_lanes])
        lease = HeldLease(_database(parts), "canary-messages", process.holder, process.clock)
        companions.append(CanaryMessages(canaries, canary_lanes, _OnlyWhileLive(lease, guard), process.clock).run)
    if compared is not None:
        companions.append(compared.follow)
    if settings.delivery.third_parties and settings.delivery.mode != "simulator":
        lease = HeldLease(_database(parts), "third-parties", process.holder, process.clock)
        told = ThirdPartyNotices(_third_parties(parts, process.clock), SnsTopic(config), _OnlyWhileLive(lease, guard))
        companions.append(told.run)
    return _Accompanied(stage, companions)


def _live_bound(guard: "LiveGuard", watch: "ProviderWatch") -> "Callable[[str], Allowance]":
    """Return what a provider's account allows, and nothing of any while account or store differs: also in the middle of
    a batch.
    """
    from consumers.domain.sending import Allowance

    nothing = Allowance(at_most=0)
    return lambda provider: nothing if guard.differs() else watch.bound(provider)


def _third_parties(parts: Parts, clock: Clock) -> "ThirdPartyTables":
    from consumers.adapters.case_store.third_parties import ThirdPartyTables
    from consumers.domain.third_parties import ThirdParty

    delivery = parts.get(Settings).delivery
    parties = [
        ThirdParty(name, each.topic_arn, each.role, frozenset(each.models))
        for name, each in sorted(delivery.third_parties.items())
    ]
    return ThirdPartyTables(_database(parts), clock, parties, tells_of_exercises=delivery.mode == "sandbox")


class _Accompanied:
    """A stage with others beside it, in threads of their own, which end with it."""

    def __init__(self, stage: Stage, companions: Sequence[Callable[[Event], None]]) -> None:
        self._stage = stage
        self._companions = companions
        self._found: MustStop | None = None

    def run(self, stop: Event) -> None:
        """Run the stage until `stop`, or until one of the others says that it must stop. Raises MustStop then."""
        from threading import Thread

        over = Event()
        threads = [Thread(target=self._keep, args=(each, over, stop), daemon=True) for each in self._companions]
        for thread in threads:
            thread.start()
        try:
            self._stage.run(stop)
        finally:
            over.set()
            for thread in threads:
                thread.join(timeout=5)
        if self._found is not None:
            raise self._found

    def _keep(self, companion: Callable[[Event], None], over: Event, stop: Event) -> None:
        """Run a companion; a bug in one must not end the stage that it watches over."""
        import structlog

        while not over.is_set():
            try:
                companion(over)
            except MustStop as found:
                self._found = found
                stop.set()
                return
            except Exception as error:
                where = getattr(companion, "__qualname__", "companion")
                structlog.get_logger().error("began anew", part=where, error=type(error).__name__)
                over.wait(5)


def _provider_watch(parts: Parts, process: Process, config: "AwsConfig", *, announces: bool) -> "ProviderWatch":
    from consumers.adapters.case_store.providers import ProviderTables
    from consumers.adapters.provider_watch import ProviderWatch
    from consumers.adapters.ses_account import SesAccount
    from consumers.adapters.sns_account import SnsAccount
    from consumers.domain.duties import LawInForce

    settings, law = parts.get(Settings), parts.get(LawInForce)
    regions = second_regions(settings)
    config = replace(config, read_timeout_seconds=10, retries=2)
    return ProviderWatch(
        SesAccount(config, settings.delivery.configuration_set, process.clock),
        SnsAccount(config, process.clock),
        ProviderTables(_database(parts), process.clock),
        process.clock,
        watch_policy(settings),
        announces=announces,
        closed_to=lambda name: law().regions.closed_to(regions[name]),
    )


def watch_policy(settings: Settings) -> "WatchPolicy":
    """Return what the settings say of providers, their prices and budgets."""
    from consumers.adapters.provider_watch import WatchPolicy
    from consumers.domain.accounts import Price, ReputationBounds

    delivery = settings.delivery
    second: dict[Channel, str] = {}
    prices: dict[str, Price] = {}
    if delivery.smtp is not None:
        thousand = delivery.smtp.price_per_thousand
        second[Channel.EMAIL] = "smtp"
        prices["smtp"] = Price(None if thousand is None else thousand / 1000, delivery.smtp.budget_per_month)
    if delivery.sms_gateway is not None:
        gateway = delivery.sms_gateway
        second[Channel.SMS] = "sms_gateway"
        prices["sms_gateway"] = Price(gateway.price_per_message, gateway.budget_per_month)
    return WatchPolicy(
        live=delivery.mode == "live",
        second=second,
        prices=prices,
        stop_over_budget=delivery.over_budget == "stop",
        reputation=ReputationBounds(**delivery.reputation.model_dump()),
        belt=timedelta(seconds=delivery.belt_seconds),
    )


def _email_lane(
    settings: Settings, config: "AwsConfig", clock: Clock, bound: "Callable[[str], Allowance]"
) -> "CircuitLane[EmailProvider]":
    from consumers.adapters.provider_lanes import CircuitLane
    from consumers.adapters.ses import SesEmail
    from consumers.adapters.smtp_email import SmtpEmail

    providers: list[EmailProvider] = [SesEmail(config, settings.delivery.configuration_set)]
    if (server := _smtp_server(settings)) is not None:
        providers.append(SmtpEmail(server, clock, _return_path(settings)))
    return CircuitLane(Channel.EMAIL, providers, _circuit_policy(settings), clock, bound=bound)


def canary_routes(settings: Settings) -> "Sequence[CanaryRoute]":
    """Return the routes that are tried all year: those that the settings name a destination for.

    In simulator mode nothing but simulators is written to.
    """
    from consumers.domain.canary_messages import CanaryRoute
    from consumers.domain.simulators import SIMULATED_PHONES

    delivery, chosen = settings.delivery, settings.delivery.canary_messages
    if not chosen.every_minutes:
        return ()
    people, regions = delivery.mode != "simulator", second_regions(settings)
    named = {
        CanaryRoute(Channel.EMAIL, "ses", delivery.aws_region): True,
        CanaryRoute(Channel.EMAIL, "smtp", regions.get("smtp", "")): chosen.email_to is not None and people,
        CanaryRoute(Channel.SMS, "sns", delivery.aws_region): chosen.sms_to in SIMULATED_PHONES
        or (chosen.sms_to is not None and people),
        CanaryRoute(Channel.SMS, "sms_gateway", regions.get("sms_gateway", "")): chosen.sms_gateway_to is not None
        and people,
    }
    return [route for route, is_tried in named.items() if is_tried]


def _canary_lanes(settings: Settings, clock: Clock) -> "Sequence[CanaryLane]":
    from consumers.domain.canary_messages import CanaryLane

    chosen = settings.delivery.canary_messages
    patience = timedelta(seconds=chosen.wait_seconds)
    minutes = {Channel.EMAIL: chosen.every_minutes, Channel.SMS: chosen.sms_every_minutes}
    return [
        CanaryLane(
            route, timedelta(minutes=minutes[route.channel]), patience, _canary_sender(settings, clock, route.provider)
        )
        for route in canary_routes(settings)
    ]


def _canary_sender(settings: Settings, clock: Clock, provider: str) -> "Send":
    """Return what sends one message by `provider`, over a connection of its own: no notice waits for it."""
    from consumers.adapters.canary_lanes import by_email, by_sms
    from consumers.adapters.ses import SesEmail
    from consumers.adapters.sms_gateway import GatewaySms
    from consumers.adapters.smtp_email import SmtpEmail
    from consumers.adapters.sns_sms import SnsSms
    from consumers.domain.simulators import simulated_email

    delivery, chosen = settings.delivery, settings.delivery.canary_messages
    server, account = _smtp_server(settings), _gateway_account(settings)
    if provider == "ses":
        ses = SesEmail(replace(aws_config(settings), max_connections=1), delivery.configuration_set)
        return by_email(ses, delivery.from_address, simulated_email())
    if provider == "smtp" and server is not None and chosen.email_to is not None:
        return by_email(SmtpEmail(server, clock, _return_path(settings)), delivery.from_address, chosen.email_to)
    if provider == "sns" and chosen.sms_to is not None:
        return by_sms(SnsSms(replace(aws_config(settings), max_connections=1)), chosen.sms_to)
    if provider == "sms_gateway" and account is not None and chosen.sms_gateway_to is not None:
        return by_sms(GatewaySms(account), chosen.sms_gateway_to)
    raise BadInput(f"no destination is named for canary messages by {provider}: see delivery.canary_messages")


def _smtp_server(settings: Settings) -> "SmtpServer | None":
    from consumers.adapters.smtp_email import SmtpServer

    smtp = settings.delivery.smtp
    if smtp is None:
        return None
    password = smtp.password.get_secret_value() if smtp.password is not None else None
    return SmtpServer(smtp.host, smtp.port, smtp.encryption, smtp.username, password, smtp.timeout_seconds)


def _return_path(settings: Settings) -> "ReturnPath | None":
    from bridge.runtime.sealing import load_join_key
    from consumers.adapters.delivery_reports import ReturnPath

    smtp = settings.delivery.smtp
    if smtp is None or smtp.return_path is None:
        return None
    return ReturnPath(smtp.return_path, load_join_key(settings.paths.report_key))


def _sms_lane(
    settings: Settings, config: "AwsConfig", clock: Clock, bound: "Callable[[str], Allowance]"
) -> "CircuitLane[SmsProvider]":
    from consumers.adapters.provider_lanes import CircuitLane
    from consumers.adapters.sms_gateway import GatewaySms
    from consumers.adapters.sns_sms import SnsSms

    providers: list[SmsProvider] = [SnsSms(config)]
    if (account := _gateway_account(settings)) is not None:
        providers.append(GatewaySms(account))
    return CircuitLane(Channel.SMS, providers, _circuit_policy(settings), clock, bound=bound)


def _gateway_account(settings: Settings) -> "GatewayAccount | None":
    from consumers.adapters.sms_gateway import GatewayAccount

    gateway = settings.delivery.sms_gateway
    if gateway is None:
        return None
    return GatewayAccount(
        gateway.url,
        gateway.account_sid,
        gateway.auth_token.get_secret_value(),
        gateway.sender,
        gateway.callback_url,
        gateway.timeout_seconds,
    )


def _circuit_policy(settings: Settings) -> "CircuitPolicy":
    from consumers.domain.circuit import CircuitPolicy

    circuit = settings.delivery.circuit
    return CircuitPolicy(
        in_a_row=circuit.in_a_row,
        window=timedelta(seconds=circuit.window_seconds),
        at_least=circuit.at_least,
        error_share=circuit.error_share,
        slow_after=timedelta(seconds=circuit.slow_after_seconds),
        open_for=timedelta(seconds=circuit.open_seconds),
        probes=circuit.probes,
    )


def live_guard(parts: Parts, process: Process, config: "AwsConfig", *, pages: bool = True) -> "LiveGuard | None":
    """Return what compares AWS and the store with what `delivery.mode = "live"` names; None in every other mode."""
    from bridge.magento.identity import base_url_of
    from consumers.adapters.aws import caller_account
    from consumers.adapters.case_store.providers import ProviderTables
    from consumers.adapters.live_guard import LiveGuard, Named

    settings = parts.get(Settings)
    delivery = settings.delivery
    if delivery.mode != "live":
        return None
    patient = replace(config, read_timeout_seconds=10, retries=2)
    return LiveGuard(
        Named(str(delivery.aws_account), str(delivery.base_url)),
        lambda: caller_account(patient),
        lambda: base_url_of(settings.store),
        ProviderTables(_database(parts), process.clock) if pages else None,
        process.clock,
        process.health,
    )


class _OnlyWhileLive:
    """A lease that is taken only while nothing differs: what a copy of the shop must not do."""

    def __init__(self, lease: HeldLease, guard: "LiveGuard | None") -> None:
        self._lease = lease
        self._guard = guard

    def take(self) -> bool:
        """Return whether this process holds the lease now and may act."""
        return (self._guard is None or self._guard.may_hand_over(())) and self._lease.take()

    def release(self) -> None:
        """Give it up."""
        self._lease.release()


def _outbox(parts: Parts, process: Process) -> Stage:
    from consumers.adapters.case_store.outbox import Outbox
    from consumers.stages.outbox import OutboxStage

    database = _database(parts)
    return OutboxStage(
        Outbox(database),
        HeldLease(database, "outbox", process.holder, process.clock),
        lambda: _publisher(parts, "outbox"),
        process.clock,
        process.health,
    )


def _release(parts: Parts, process: Process) -> Stage:
    from consumers.adapters.readiness_watch import ReadinessWatch
    from consumers.stages.release import ReleaseStage

    settings = parts.get(Settings)
    compared = refuse_restored_store(parts, process)
    watch = guard = None
    if settings.delivery.mode != "sandbox" or settings.delivery.endpoint_url is not None:
        config = aws_config(settings)
        watch = _provider_watch(parts, process, config, announces=True)
        guard = live_guard(parts, process, config)
    stage = ReleaseStage(
        _ledger(parts, process, None if watch is None else watch.takers),
        HeldLease(_database(parts), "release", process.holder, process.clock),
        settings.delivery,
        process.health,
        rates=watch,
        stands_still=None if guard is None else guard.differs,
    )
    companions: list[Callable[[Event], None]] = [] if compared is None else [compared.follow]
    if watch is None:
        return _Accompanied(stage, companions)
    readiness = ReadinessWatch(
        partial(_AllYear(parts).look, lists=False),
        timedelta(hours=settings.delivery.readiness.bound_hours),
        timedelta(minutes=settings.delivery.readiness.check_minutes),
    )
    companions += [watch.run_accounts, watch.run_circuits, readiness.run]
    if guard is not None:
        guard.look()
        companions.append(guard.run)
    return _Accompanied(stage, companions)


def _clock(parts: Parts, process: Process) -> Stage:
    from consumers.adapters.case_store.clocks import Clocks
    from consumers.adapters.case_store.erasures import Erasures
    from consumers.adapters.case_store.figures import Figures
    from consumers.adapters.case_store.incident_metrics import IncidentMetrics
    from consumers.adapters.case_store.incidents import SqlCaseStore
    from consumers.adapters.letter_batches import WrittenLetters
    from consumers.case.verification import AwarenessPolicy
    from consumers.case.watch import IncidentWatch
    from consumers.stages.clock import DIFFERING, ClockStage

    database, law = _database(parts), _kept_law(parts)
    law()  # rules that are wrong are said at the start
    watch = IncidentWatch(SqlCaseStore(database, process.clock), law, parts.get(AwarenessPolicy))
    letters = WrittenLetters(parts.get(Settings).paths.letters)
    erasures, comparison = Erasures(database, process.clock, letters), _comparison(parts, process)
    stage = ClockStage(
        Clocks(database, process.clock), watch, process.clock, process.health,
        chores=(erasures.carry_out_due, lambda: DIFFERING.set(comparison.reconcile_ended())),
        figures=Figures(database, process.clock).read,
    )  # fmt: skip
    delivery = parts.get(Settings).delivery
    most = {Channel.EMAIL: delivery.email_per_second, Channel.SMS: delivery.sms_per_second}
    return _Accompanied(stage, [IncidentMetrics(database, process.clock, most).run])


def _pager(parts: Parts, process: Process) -> Stage:
    from consumers.adapters.case_store.paging import PagingTable
    from consumers.adapters.pager_receivers import Alertmanager, LastResortEmail, Webhook
    from consumers.domain.paging import PagingPolicy, ReceiverKind
    from consumers.stages.pager import PagerStage, Receiver

    settings = parts.get(Settings)
    chosen = settings.pager
    database = _database(parts)
    receivers: list[Receiver] = [
        Alertmanager(f"alertmanager/{number}", url) for number, url in enumerate(chosen.alertmanager_urls, start=1)
    ]
    for kind, hook in ((ReceiverKind.ON_CALL, chosen.on_call), (ReceiverKind.ESCALATION, chosen.escalation)):
        if hook is not None:
            secret = None if hook.secret is None else hook.secret.get_secret_value()
            receivers.append(Webhook(kind, hook.url.get_secret_value(), hook.service, secret))
    if chosen.email_to:
        receivers.append(LastResortEmail(aws_config(settings), settings.delivery.from_address, chosen.email_to))
    policy = PagingPolicy(
        repeat_critical=timedelta(minutes=chosen.repeat_critical_minutes),
        repeat_warning=timedelta(minutes=chosen.repeat_warning_minutes),
        escalate_after=timedelta(minutes=chosen.escalate_after_minutes),
        last_resort_after=timedelta(minutes=chosen.email_after_minutes),
    )
    lease = HeldLease(database, "pager", process.holder, process.clock)
    table = PagingTable(database, process.clock)
    return PagerStage(table, receivers, policy, lease, process.clock, process.health)


def _receipts(parts: Parts, process: Process) -> Stage:
    from bridge.contracts.topics import DELIVERY_OUTCOMES
    from bridge.runtime.sealing import load_public_key, seal_bytes
    from bridge.runtime.topic_ids import TopicIds
    from consumers.adapters.case_store.canary_messages import CanaryTables
    from consumers.adapters.case_store.providers import ProviderTables
    from consumers.adapters.delivery_reports import MaildirReports
    from consumers.adapters.letter_batches import LetterBatches
    from consumers.adapters.sms_gateway import GatewayCallbacks, GatewayStatuses
    from consumers.adapters.sms_status import CloudWatchSmsStatus
    from consumers.adapters.sqs_receipts import SnsSignatures, SqsReceipts
    from consumers.stages.receipts import Receipts, ReceiptsStage

    settings = parts.get(Settings)
    config = aws_config(settings)
    emails = SqsReceipts(
        config,
        settings.delivery.receipts_queue,
        SnsSignatures(settings.delivery.certificate_hosts, account=settings.delivery.aws_account),
    )
    texts = CloudWatchSmsStatus(
        config, process.clock, every=timedelta(seconds=settings.delivery.sms_status_poll_seconds)
    )
    sources: list[ReceiptSource] = [emails, texts, LetterBatches(settings.paths.letters, process.clock)]
    gateway, account = settings.delivery.sms_gateway, _gateway_account(settings)
    if gateway is not None and account is not None and account.callback_url is not None:
        sources.append(GatewayCallbacks(account, gateway.callback_host, gateway.callback_port, process.clock))
    if account is not None:
        every = settings.delivery.sms_status_poll_seconds
        messages = ProviderTables(_database(parts), process.clock)
        sources.append(GatewayStatuses(account, messages, process.clock, every_seconds=every))
    smtp, return_path = settings.delivery.smtp, _return_path(settings)
    if smtp is not None and smtp.reports_maildir is not None and return_path is not None:
        sources.append(MaildirReports(smtp.reports_maildir, return_path, process.clock))
    dead_letters = _dead_letters(parts, process)
    public_key = load_public_key(settings.paths.sealing_public_key)
    topic_ids = TopicIds(settings.kafka, [DELIVERY_OUTCOMES])
    handler = Receipts(
        _ledger(parts, process, topic_ids=topic_ids), sources, dead_letters, process.health,
        lambda raw: seal_bytes(public_key, raw),
        CanaryTables(_database(parts), process.clock, canary_routes(settings)),
    )  # fmt: skip
    return ReceiptsStage(settings.kafka, handler, dead_letters, process.health, topic_ids)


def rebuild_after(settings: Settings) -> timedelta:
    """Return after how long an index file may have missed a tombstone: as set, and within what the topic keeps them."""
    from bridge.contracts.topics import STORE_CHANGES

    imposed = settings.kafka.topic_settings.get(STORE_CHANGES.name, {})
    kept = timedelta(
        milliseconds=int(imposed.get("delete.retention.ms", STORE_CHANGES.settings["delete.retention.ms"]))
    )
    # A day of seven is left for whoever is behind; a broker that keeps less leaves less.
    return min(timedelta(days=settings.index.rebuild_after_days), kept * 6 / 7)


def _index(parts: Parts, process: Process) -> Stage:
    from bridge.contracts.topics import DEPARTED_CUSTOMERS, INCIDENTS, STORE_CHANGES
    from bridge.runtime.allocation import keep_freed_memory
    from bridge.runtime.generations import read_name
    from bridge.runtime.kafka import cluster_id
    from bridge.runtime.topic_ids import TopicIds
    from consumers.adapters.artefact_store import DirectoryArtefactStore
    from consumers.adapters.incident_feed import IncidentFeed, TopicHeads
    from consumers.adapters.index_server import IndexServer
    from consumers.adapters.provenance_index import ProvenanceIndex, keep_what_duckdb_frees
    from consumers.stages.index import IndexStage

    settings = parts.get(Settings)
    dead_letters = _dead_letters(parts, process)
    keep_freed_memory()
    keep_what_duckdb_frees()
    index = ProvenanceIndex(settings.paths.index, rebuild_after=rebuild_after(settings))
    return IndexStage(
        settings,
        topic_ids=TopicIds(settings.kafka, [STORE_CHANGES, DEPARTED_CUSTOMERS, INCIDENTS]),
        index=index,
        artefacts=DirectoryArtefactStore(settings.paths.artefacts),
        incidents=IncidentFeed(settings.kafka, dead_letters),
        heads=TopicHeads(settings.kafka),
        outgoing=_publisher(parts),
        api=IndexServer(settings.index.host, settings.paths.run, index),
        dead_letters=dead_letters,
        clock=process.clock,
        cluster=cluster_id(settings.kafka),
        health=process.health,
        read_as=partial(read_name, settings.kafka),
        rules_sha256=lambda: _rules_sha256(parts),
    )


def _rules_sha256(parts: Parts) -> str | None:
    """Return the version of the law in force; None where it is wrong, which keeps nobody from being found."""
    from bridge.contracts.errors import TocsinError
    from consumers.domain.duties import LawInForce

    try:
        return parts.get(LawInForce)().rules.rules_version
    except TocsinError:
        return None


def _evidence(parts: Parts, process: Process) -> Stage:
    from consumers.adapters.tile_store import TileFolder
    from consumers.evidence.keys import read_signing_key
    from consumers.evidence.leaves import discover
    from consumers.evidence.log import LogWriter
    from consumers.stages.evidence import EvidenceStage

    settings = parts.get(Settings)
    given = settings.evidence.private_key
    key = read_signing_key(
        settings.paths.evidence_key, settings.evidence.origin, text=given.get_secret_value() if given else None
    )
    stage = EvidenceStage(
        settings.kafka,
        lambda: LogWriter.open(TileFolder(settings.paths.evidence), key),
        discover(),
        secret=key.derived_secret("unlisted"),
        clock=process.clock,
        dead_letters=_dead_letters(parts, process),
        health=process.health,
        batch_seconds=settings.evidence.batch_seconds,
    )
    whole: Stage = stage
    if settings.evidence.timestamp_url is not None:
        whole = _stamped(whole, settings)
    if settings.evidence.port is not None:
        whole = _served(whole, parts, process, key.verifier)
    return whole


def _served(stage: Stage, parts: Parts, process: Process, key: "VerifierKey") -> Stage:
    from consumers.adapters.log_server import LogServer, PublishedLog, Readers, Served
    from consumers.case.prompts import staff_key
    from consumers.case.store import CaseStore

    settings = parts.get(Settings)
    chosen, paths = settings.evidence, settings.paths
    readers = Readers(paths.people, partial(staff_key, settings), partial(parts.get, CaseStore), process.clock)
    published = PublishedLog(paths.evidence, [key], None if chosen.public_tiles else readers)
    return Served(
        stage,
        lambda: LogServer(published, chosen.host, chosen.port or 0, run_file=paths.run / "log.json"),
        process.health,
    )


def _stamped(stage: Stage, settings: Settings) -> Stage:
    from consumers.adapters.time_stamper import Stamped, TimeStamper, asked_over_http
    from consumers.evidence.timestamps import read_roots

    chosen = settings.evidence
    roots = () if chosen.timestamp_roots is None else read_roots(chosen.timestamp_roots.read_bytes())
    ask = asked_over_http(str(chosen.timestamp_url))
    return Stamped(
        stage, TimeStamper(settings.paths.evidence, ask, every_seconds=chosen.timestamp_seconds, roots=roots)
    )


STAGES: dict[str, Callable[[Parts, Process], Stage]] = {
    "relay": _relay,
    "account-notices": _account_notices,
    "intake": _intake,
    "index": _index,
    "planning": _planning,
    "release": _release,
    "dispatch": _dispatch,
    "receipts": _receipts,
    "clock": _clock,
    "pager": _pager,
    "evidence": _evidence,
    "outbox": _outbox,
}
"""Every stage by the name that `tocsin run` knows, in the order of the flow."""
