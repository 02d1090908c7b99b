"""Which stage is built from what."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

from bridge.contracts.errors import Refused
from bridge.contracts.events import Channel
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings
from bridge.runtime.telemetry import Health
from consumers.bootstrap.common import (
    AskedIndex,
    bundles_of,
    database_of,
    dead_letters_of,
    kept_law_of,
    publisher_of,
    rules_sha256_of,
)
from consumers.bootstrap.ledger import comparison_of, ledger_of, refuse_restored_store
from consumers.bootstrap.process import Accompanied, HeldLease, OnlyWhileLive, Process, Stage
from consumers.bootstrap.providers import (
    AllYear,
    aws_config,
    canary_lanes_of,
    canary_routes,
    email_lane_of,
    gateway_account_of,
    live_bound,
    live_guard,
    provider_watch_of,
    return_path_of,
    sms_lane_of,
    suppressed_addresses_of,
    third_parties_of,
)

if TYPE_CHECKING:
    from consumers.adapters.provider_lanes import CircuitLane
    from consumers.domain.sending import ReceiptSource
    from consumers.evidence.note import VerifierKey


_NAMES_SECONDS = 5.0
"""For so long an alert waits for an index worker that hangs: whoever sent it waits, too."""


def _relay(parts: Parts, process: Process) -> Stage:
    from bridge.magento.store import open_store
    from bridge.put_back import StoreMark
    from bridge.relay import TRANSACTIONAL_ID, RelayStage
    from bridge.runtime.sealing import Sealer, load_join_key, load_public_key

    settings = parts.get(Settings)
    join_key = load_join_key(settings.paths.join_key)
    public_key = partial(load_public_key, settings.paths.sealing_public_key)
    return RelayStage(
        open_store(settings.store, process.clock),
        lambda: publisher_of(parts, TRANSACTIONAL_ID),
        Sealer(public_key(), process.clock, join_key, reload=public_key),
        join_key,
        settings.relay,
        process.clock,
        process.health,
        mark=StoreMark(settings.paths.relay_store, settings.paths.relay_verified),
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
        AccountNoticeTable(settings.store), settings.kafka, dead_letters_of(parts, process), process.health,
        test_store=settings.delivery.test_store,
    )  # fmt: skip


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
            database_of(parts), "registry", process.holder, process.clock, seconds=settings.registry.look_seconds * 1.5
        )
        looks = RegistryLooks(parts.get(RegistryWatch), lease, process.clock, settings.registry.look_seconds)
    topic_ids = TopicIds(settings.kafka, [LEAK_ALERTS])
    return IntakeStage(
        store=SqlCaseStore(database_of(parts), process.clock, topic_ids),
        topic_ids=topic_ids,
        reader=AlertMappings(settings.paths.templates / "alert-mappings", settings.intake.mappings),
        names=AskedIndex(IndexClient(settings.paths.run, timeout_seconds=_NAMES_SECONDS)),
        rewriter=parts.get(ScopeRewriter),
        looks=looks,
        lineage=LineageTables(database_of(parts)),
        lineage_tokens={source: load_token(source, file) for source, file in settings.intake.lineage_tokens.items()},
        secrets={source: load_secrets(source, file) for source, file in settings.intake.secrets.items()},
        settings=settings.intake,
        kafka=settings.kafka,
        run_file=settings.paths.run / "intake.json",
        clock=process.clock,
        dead_letters=lambda: dead_letters_of(parts, process),
        health=process.health,
    )


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
    law = kept_law_of(parts)
    law()  # rules that are wrong are said at the start, not at the first incident
    database = database_of(parts)
    lease = HeldLease(database, "planning", process.holder, process.clock)

    senders = SenderBook(settings, law)
    senders.senders()  # as with the rules

    topic_ids = TopicIds(settings.kafka, [AFFECTED_CUSTOMERS, RESOLUTIONS])
    handler = Planning(
        PlanningTables(database, process.clock, law, ledger_of(parts, process).take_back, topic_ids),
        law,
        TemplateCatalog(settings.paths.templates, bundles_of(settings), NoticeBundles(database), process.clock),
        compose,
        senders,
        lease,
        process.clock,
        senders_mark=senders.mark,
        regions=(settings.delivery.aws_region, settings.case_store.region),
    )
    return PlanningStage(settings.kafka, handler, lease, dead_letters_of(parts, process), process.health, topic_ids)


def _dispatch(parts: Parts, process: Process) -> Stage:
    from bridge.contracts.topics import DELIVERY_COMMANDS
    from bridge.runtime.sealing import Opener, load_join_key, load_private_keys
    from bridge.runtime.topic_ids import TopicIds
    from consumers.adapters.address_marks import AddressMarks
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
    watch = provider_watch_of(parts, process, config, announces=False)
    bound = watch.bound if guard is None else live_bound(guard, watch)
    suppressed = suppressed_addresses_of(settings, replace(config, read_timeout_seconds=10), process.clock)
    email, sms = (
        email_lane_of(settings, config, process.clock, bound, suppressed),
        sms_lane_of(settings, config, process.clock, bound),
    )
    teller = CircuitTeller((email, sms), ProviderTables(database_of(parts), process.clock), process.holder[:64])
    private_keys = partial(load_private_keys, settings.paths.sealing_private_key)
    lanes: Mapping[Channel, CircuitLane[Any]] = {Channel.EMAIL: email, Channel.SMS: sms}
    topic_ids = TopicIds(settings.kafka, [DELIVERY_COMMANDS])
    handler = Dispatch(
        ledger_of(parts, process, lambda channel: lanes[channel].takers(), topic_ids),
        Opener(private_keys(), reload=private_keys),
        ApprovedTexts(
            bundles_of(settings),
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
        AddressMarks(load_join_key(settings.paths.join_key)),
    )
    stage = DispatchStage(settings.kafka, handler, dead_letters_of(parts, process), process.health, topic_ids)
    companions: list[Callable[[Event], None]] = [watch.run_accounts, teller.run]
    if settings.delivery.smtp is not None:
        companions.append(suppressed.run)
    if guard is not None:
        companions.append(guard.run)
    if canary_lanes := canary_lanes_of(settings, process.clock):
        canaries = CanaryTables(database_of(parts), process.clock, [lane.route for lane in canary_lanes])
        lease = HeldLease(database_of(parts), "canary-messages", process.holder, process.clock)
        companions.append(CanaryMessages(canaries, canary_lanes, OnlyWhileLive(lease, guard), process.clock).run)
    if compared is not None:
        companions.append(compared.follow)
    if settings.delivery.third_parties and settings.delivery.mode != "simulator":
        lease = HeldLease(database_of(parts), "third-parties", process.holder, process.clock)
        told = ThirdPartyNotices(third_parties_of(parts, process.clock), SnsTopic(config), OnlyWhileLive(lease, guard))
        companions.append(told.run)
    return Accompanied(stage, companions)


def _outbox(parts: Parts, process: Process) -> Stage:
    from consumers.adapters.case_store.outbox import Outbox
    from consumers.stages.outbox import OutboxStage

    database = database_of(parts)
    return OutboxStage(
        Outbox(database),
        HeldLease(database, "outbox", process.holder, process.clock),
        lambda: publisher_of(parts, "outbox"),
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
        watch = provider_watch_of(parts, process, config, announces=True)
        guard = live_guard(parts, process, config)
    stage = ReleaseStage(
        ledger_of(parts, process, None if watch is None else watch.takers),
        HeldLease(database_of(parts), "release", process.holder, process.clock),
        settings.delivery,
        process.health,
        rates=watch,
        stands_still=None if guard is None else guard.differs,
    )
    companions: list[Callable[[Event], None]] = [] if compared is None else [compared.follow]
    if watch is None:
        return Accompanied(stage, companions)
    readiness = ReadinessWatch(
        partial(AllYear(parts).look, lists=False),
        timedelta(hours=settings.delivery.readiness.bound_hours),
        timedelta(minutes=settings.delivery.readiness.check_minutes),
    )
    companions += [watch.run_accounts, watch.run_circuits, readiness.run]
    if guard is not None:
        guard.look()
        companions.append(guard.run)
    return Accompanied(stage, companions)


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

    database, law = database_of(parts), kept_law_of(parts)
    law()  # rules that are wrong are said at the start
    watch = IncidentWatch(SqlCaseStore(database, process.clock), law, parts.get(AwarenessPolicy))
    letters = WrittenLetters(parts.get(Settings).paths.letters)
    erasures, comparison = Erasures(database, process.clock, letters), comparison_of(parts, process)
    stage = ClockStage(
        Clocks(database, process.clock), watch, process.clock, process.health,
        chores=(erasures.carry_out_due, lambda: DIFFERING.set(comparison.reconcile_ended())),
        figures=Figures(database, process.clock).read,
    )  # fmt: skip
    delivery = parts.get(Settings).delivery
    most = {Channel.EMAIL: delivery.email_per_second, Channel.SMS: delivery.sms_per_second}
    return Accompanied(stage, [IncidentMetrics(database, process.clock, most).run])


def _pager(parts: Parts, process: Process) -> Stage:
    from consumers.adapters.case_store.paging import PagingTable
    from consumers.adapters.pager_receivers import Alertmanager, LastResortEmail, Webhook
    from consumers.domain.paging import PagingPolicy, ReceiverKind
    from consumers.stages.pager import PagerStage, Receiver

    settings = parts.get(Settings)
    chosen = settings.pager
    database = database_of(parts)
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
    from consumers.adapters.set_aside_receipts import SetAsideReceipts
    from consumers.adapters.sms_gateway import GatewayCallbacks, GatewayStatuses
    from consumers.adapters.sms_status import CloudWatchSmsStatus
    from consumers.adapters.sqs_receipts import SnsSignatures, SqsReceipts
    from consumers.stages.receipts import Receipts, ReceiptsStage

    settings = parts.get(Settings)
    compared = refuse_restored_store(parts, process)
    config = aws_config(settings)
    # a copy would take the original's receipts out of their queue; while the store does not answer, all goes on
    guard = live_guard(parts, Process(process.name, Health(), process.clock), config)
    if guard is not None:
        guard.look()
        if guard.differs():
            raise Refused(f"{guard.difference()}; no receipt is taken from its queue")
    emails = SqsReceipts(
        config,
        settings.delivery.receipts_queue,
        SnsSignatures(settings.delivery.certificate_hosts, account=settings.delivery.aws_account),
    )
    texts = CloudWatchSmsStatus(
        config, process.clock, every=timedelta(seconds=settings.delivery.sms_status_poll_seconds)
    )
    sources: list[ReceiptSource] = [emails, texts, LetterBatches(settings.paths.letters, process.clock)]
    gateway, account = settings.delivery.sms_gateway, gateway_account_of(settings)
    if gateway is not None and account is not None and account.callback_url is not None:
        sources.append(GatewayCallbacks(account, gateway.callback_host, gateway.callback_port, process.clock))
    if account is not None:
        every = settings.delivery.sms_status_poll_seconds
        messages = ProviderTables(database_of(parts), process.clock)
        sources.append(GatewayStatuses(account, messages, process.clock, every_seconds=every))
    smtp, return_path = settings.delivery.smtp, return_path_of(settings)
    if smtp is not None and smtp.reports_maildir is not None and return_path is not None:
        sources.append(MaildirReports(smtp.reports_maildir, return_path, process.clock))
    dead_letters = dead_letters_of(parts, process)
    public_key = load_public_key(settings.paths.sealing_public_key)
    topic_ids = TopicIds(settings.kafka, [DELIVERY_OUTCOMES])
    handler = Receipts(
        ledger_of(parts, process, topic_ids=topic_ids), sources, dead_letters, process.health,
        lambda raw: seal_bytes(public_key, raw),
        CanaryTables(database_of(parts), process.clock, canary_routes(settings)),
        str if guard is None else guard.difference,
    )  # fmt: skip
    stage = ReceiptsStage(settings.kafka, handler, dead_letters, process.health, topic_ids)
    companions: list[Callable[[Event], None]] = [SetAsideReceipts(config, settings.delivery.receipts_queue).run]
    if guard is not None:
        companions.append(guard.run)
    return Accompanied(stage, companions if compared is None else [*companions, compared.follow])


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
    from consumers.stages.index.stage import IndexStage

    settings = parts.get(Settings)
    dead_letters = dead_letters_of(parts, process)
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
        outgoing=publisher_of(parts),
        api=IndexServer(settings.index.host, settings.paths.run, index),
        dead_letters=dead_letters,
        clock=process.clock,
        cluster=cluster_id(settings.kafka),
        health=process.health,
        read_as=partial(read_name, settings.kafka),
        rules_sha256=lambda: rules_sha256_of(parts),
    )


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
        dead_letters=dead_letters_of(parts, process),
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
