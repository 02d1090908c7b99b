"""Runs the demo: a shop, the real processes, a leak, two approvals, and the story of it.

Every process is the one that production runs. Kafka, store and case store are what `surroundings` brings up; AWS is
the sandbox. People act through the command line, with their own tokens.
"""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from bridge.contracts.errors import TocsinError
from bridge.contracts.topics import STORE_CHANGES
from bridge.runtime.settings import load_settings
from bridge.runtime.supervisor import Supervisor, die_with_parent, stop_on_signals
from consumers.adapters.aws import provision_sandbox
from consumers.adapters.incident_feed import TopicHeads
from consumers.adapters.index_client import IndexClient
from consumers.bootstrap.providers import aws_config
from consumers.bootstrap.stages import STAGES
from consumers.case.people import add_person
from consumers.case.permissions import Role
from consumers.commands import initialise, metrics_addresses, stage_command
from consumers.demo import oracle, shop, witnesses
from consumers.demo.kills import RECEIPT_LEASE_SECONDS, UNHURRIED, Killer, Scene
from consumers.demo.narrator import Narrator
from consumers.demo.on_call import HURRY, Monitoring, OnCall
from consumers.demo.progress import Progress, open_changes
from consumers.demo.surroundings import BringUp, embedded, open_engine
from consumers.demo.typist import Typist
from consumers.evidence.keys import read_vkey, vkey_path
from consumers.evidence.leaves import discover
from consumers.evidence.reader import LogFolder
from consumers.evidence.verifier import verify_log

MONITOR = "model-monitor"
_OFFER = """
offers:
  credit-watch:
    service: identity theft protection and credit monitoring
    provider: Example Watch
    months: "24"
    enrol: shop.example.com/protection
    telephone: 1-800-555-0100
    until: 31 December 2030
"""
_OFFERED = """  - name: united-states
    when:
      residences: [US]
    bundle: ai-data-leak
    channels: [email, sms, account_notice]
    lane: urgent
    priority: 10
    sms_details: false
    offer: credit-watch

"""
STAFF: Mapping[str, tuple[str, Role]] = {
    "rosa": ("Rosa Responder", Role.RESPONDER),
    "dora": ("Dora Dpo", Role.DPO),
    "carl": ("Carl Counsel", Role.COUNSEL),
    "ada": ("Ada Approver", Role.APPROVER),
}
"""Who acts. Named after what they do."""


_PATIENCE_SECONDS = 20
_SNS_REFUSES = 2
_SOFT = "soft bounce"
_Counts = Mapping[tuple[str, str], int]
_FALLBACKS: Mapping[str, tuple[Callable[[_Counts], Any], str]] = {
    "delivered": (
        lambda counts: counts.get(("email", "delivered")),
        "First notice delivered {seconds:.0f} s after the start.",
    ),
    "bounced": (
        lambda counts: any(channel == "sms" for channel, _ in counts),
        "A mail bounced: its reader now gets an SMS without details that leads to the account page.",
    ),
    "soft bounce": (
        lambda counts: counts.get(("email", _SOFT)),
        "A mailbox was full until SES gave up on it: its reader gets the next channel, too.",
    ),
    "account page": (
        lambda counts: any(channel == "account_notice" for channel, _ in counts),
        "Neither mail nor SMS reached somebody: the notice waits on their account page now.",
    ),
    "complained": (
        lambda counts: counts.get(("email", "complained")),
        "Somebody marked the mail as spam: it has arrived, and nothing more is sent to them.",
    ),
    "silent": (
        lambda counts: counts.get(("email", "expired")),
        "Of some mails nothing was heard for {patience:.0f} s: their readers get the next channel.",
    ),
}
"""What is told once when the ledger shows it."""


class DemoFailed(TocsinError):
    """The demo did not come to its end, or its witnesses disagree."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    customers: int
    seed: int
    keep: Path | None
    exit_at_end: bool
    before_end: str | None
    kill: Sequence[str] = ()
    watched: bool = True
    """Let Prometheus and Alertmanager watch it, where they are."""


def run_demo(options: Options, bring_up: BringUp = embedded) -> int:
    """Run the whole demo; return its exit code.

    0 only if all witnesses agree with what the scenario expects, every stage of `options.kill` was killed, and all
    processes ended cleanly when asked.
    """
    stop = stop_on_signals()
    with ExitStack() as stack:
        if options.keep is None:
            folder = Path(tempfile.mkdtemp(prefix="tocsin-demo-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        else:
            folder = options.keep.resolve()
            if folder.exists() and any(folder.iterdir()):
                raise DemoFailed(f"{folder} is not empty; name a new folder for --keep")
        return _Demo(options, folder, stack, stop, Narrator(), bring_up).run()


class _Demo:
    def __init__(
        self,
        options: Options,
        folder: Path,
        stack: ExitStack,
        stop: threading.Event,
        narrator: Narrator,
        bring_up: BringUp,
    ) -> None:
        self._options = options
        self._folder = folder
        self._stack = stack
        self._stop = stop
        self._tell = narrator
        self._bring_up = bring_up
        self._config = folder / "tocsin.toml"
        self._tokens: dict[str, Path] = {}
        self._supervisor: Supervisor | None = None
        self._killer: Killer | None = None
        self._exit_code = 1
        self._patience = _PATIENCE_SECONDS if options.customers <= 1000 else 2 * _PATIENCE_SECONDS
        """Seconds after which a mail of which nothing was heard counts as lost."""
        # a stage that is killed forgets how its providers are, and what waits for so long is not for its demo
        self._quiet = bool(options.kill)
        self._letters = not self._quiet
        self._posted: set[Path] = set()
        self._monitoring: Monitoring | None = None
        self._seen: list[str] = []
        """What of `_FALLBACKS` was told, in order."""

    # --- the story ---------------------------------------------------------------------------------------------

    def run(self) -> int:
        tell = self._tell
        tell.chapter("A shop whose AI writes about its customers")
        self._set_up()
        self._make_shop()
        self._start_stages()
        self._approve_texts()
        self._carry_changes()
        self._watch_stages()
        incident_id = self._leak()
        self._show_what_is_owed(incident_id)
        self._approve_release(incident_id)
        self._deliver(incident_id)
        faults = [*self._compare(incident_id), *self._unkilled()]
        self._summary(incident_id, faults)
        if self._options.before_end:
            self._before_end(self._options.before_end)
        if not self._options.exit_at_end:
            tell.say("Everything stays up for you to look at. Ctrl-C ends it.")
            self._stop.wait()
        self._end()
        if self._exit_code:
            tell.say("Not every process ended cleanly when it was asked to.")
        return 1 if faults or self._exit_code else 0

    def _set_up(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._typist = Typist()
        self._stack.callback(self._typist.close)
        surroundings = self._bring_up(self._folder, self._spawn)
        sandbox: str = self._spawn(
            "sandbox",
            [sys.executable, "-m", "consumers.sandbox", "--port", "0", "--folder", str(self._folder / "mailbox")],
        )["url"]
        secret = self._folder / "keys" / "model-monitor.secret"
        callback_port = _free_port()
        self._on_call = OnCall(self._folder / "on-call.jsonl")
        self._stack.callback(self._on_call.close)
        pager: dict[str, Any] = {"on_call": {"url": f"{self._on_call.url}/page", "secret": self._on_call.secret}}
        why_not = (
            "nobody asks for them"
            if not self._options.watched
            else "a stage is killed"
            if self._quiet
            else Monitoring.missing()
        )
        if why_not is None:
            self._monitoring = Monitoring(self._folder, self._on_call, _free_port)
            self._stack.callback(self._monitoring.stop)
            self._monitoring.start_alertmanager()
            pager["alertmanager_urls"] = [self._monitoring.alertmanager_url]
        else:
            self._tell.say(f"No Prometheus and Alertmanager watch this demo ({why_not}); pages arrive all the same.")
        changes: dict[str, dict[str, Any]] = {
            "kafka": dict(surroundings.kafka),
            "store": {
                "url": surroundings.store_url,
                "base_url": "https://shop.example.com/",
                "default_country": "DE",
                "registered_attributes": list(shop.REGISTERED_ATTRIBUTES),
            },
            "case_store": {"url": surroundings.case_store_url},
            "paths": {"data": "."},
            "relay": {"departed_retention_days": 365, "departed_legal_ground": "GDPR Art. 17(3)(b)"},
            "intake": {
                "port": 0,
                "secrets": {MONITOR: str(secret.relative_to(self._folder))},
                "mappings": {MONITOR: "generic"},
                "lineage_tokens": {"risk-platform": "keys/risk-platform.token"},
            },
            "registry": {"kind": "yaml", "file": "models.yaml"},
            "delivery": {
                "mode": "sandbox",
                "test_store": True,
                "endpoint_url": sandbox,
                "from_address": "security@shop.example.com",
                "certificate_hosts": ["127.0.0.1"],
                "email_per_second": 200,
                "sms_per_second": 50,
                "receipt_timeout_seconds": self._patience,
                "sms_status_poll_seconds": 0.3,
                "account_notice_timeout_seconds": 15,
                "letter_batch_seconds": 4,
                "sms_gateway": {
                    "url": sandbox,
                    "account_sid": "AC" + "0" * 32,
                    "auth_token": os.urandom(16).hex(),
                    "sender": "+15005550006",
                    "region": "eu-central-1",
                    "callback_url": f"http://127.0.0.1:{callback_port}/sms",
                    "callback_port": callback_port,
                },
                # quick, so that a demo can show it: in an installation thirty seconds and five messages
                "circuit": {"in_a_row": _SNS_REFUSES, "open_seconds": 4, "probes": 1},
            },
            "evidence": {"origin": "demo.example.com/log"},
            "pager": pager,
            "metrics": {"port_base": 0},
        }
        for section, values in UNHURRIED.items() if self._options.kill else ():
            changes[section].update(values)
        admin = initialise(self._folder, admin_name="Adam Admin", admin_id="adam", changes=changes)
        self._keep_token("adam", admin)
        # what counsel fills in for every installation: who the controller is
        controllers = self._folder / "templates" / "law" / "controllers.yaml"
        text = controllers.read_text(encoding="utf-8")
        controllers.write_text(text.replace("The shop's legal entity", "Example Shop"), encoding="utf-8")
        # and what is offered where a law demands it: without this, Californians whose SSN leaked would be held
        segments = self._folder / "templates" / "segments.yaml"
        text = segments.read_text(encoding="utf-8")
        text = text.replace("\nrules:\n", f"{_OFFER}\nrules:\n{_OFFERED}", 1)
        if self._letters:
            text = text.replace("[email, sms, account_notice]\n", "[email, sms, account_notice, letter]\n")
        segments.write_text(text, encoding="utf-8")
        self._settings = load_settings(self._config)
        for person_id, (name, role) in STAFF.items():
            self._keep_token(person_id, add_person(self._settings.paths.people, person_id, name, [role]))
        secret.touch(mode=0o600)
        secret.write_text("whsec_" + os.urandom(24).hex() + "\n", encoding="ascii")
        token = self._folder / "keys" / "risk-platform.token"
        token.touch(mode=0o600)
        token.write_text(os.urandom(24).hex() + "\n", encoding="ascii")
        models = {"models": {name: _registered(name, versions) for name, versions in shop.MODEL_VERSIONS.items()}}
        (self._folder / "models.yaml").write_text(yaml.safe_dump(models, sort_keys=False), encoding="utf-8")
        provision_sandbox(
            aws_config(self._settings),
            sender_domain="shop.example.com",
            configuration_set=self._settings.delivery.configuration_set,
            receipts_queue=self._settings.delivery.receipts_queue,
            **({"receipt_lease_seconds": RECEIPT_LEASE_SECONDS} if self._options.kill else {}),
        )
        self._sandbox = sandbox
        self._store = self._open(self._settings.store.url.get_secret_value())
        self._cases = self._open(self._settings.case_store.url.get_secret_value())
        self._progress = Progress(self._cases)
        if not self._settings.kafka.embedded:
            self._type("adam", "topics", "apply")

    def _make_shop(self) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        self._shop = shop.make_shop(self._options.customers, self._options.seed, now, silence=not self._quiet)
        with self._store.begin() as connection:
            shop.write_base(connection)
            shop.write_people(connection, self._shop)
        people = self._shop.people
        guests = sum(person.customer_id is None for person in people)
        places = len({person.place.code for person in people})
        self._tell.say(
            f"{len(people) - guests:,} customers and {guests:,} guests in {places} jurisdictions; three AI systems in four "
            f"versions each wrote {sum(1 for _ in self._shop.records):,} values about them (seed {self._options.seed})."
        )
        failing = {person.phone: "bounce" for person in people if person.phone and not person.sms_works}
        self._post(f"{self._sandbox}/_control/behaviours", failing)

    def _start_stages(self) -> None:
        before = open_changes(self._store)
        commands = {stage: stage_command(self._config, stage) for stage in STAGES}
        self._supervisor = Supervisor(
            commands, logs=self._folder / "logs", environment=self._environment(), start=self._typist.start
        )
        self._supervising = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._halt = threading.Event()
        self._supervising.start()
        self._stack.callback(self._end)
        self._tell.say(f"{len(STAGES)} processes started: {', '.join(STAGES)}.")
        if self._options.kill:
            scene = Scene(self._store, before, self._progress, self._settings.paths.artefacts)
            self._killer = Killer(self._options.kill, scene, self._supervisor, self._tell.say)
            self._killer.start()

    def _supervise(self) -> None:
        assert self._supervisor is not None
        self._exit_code = self._supervisor.run(self._halt)

    def _approve_texts(self) -> None:
        until = (self._shop.now + timedelta(days=365)).date().isoformat()
        self._type("carl", "notices", "approve", "ai-data-leak", "--jurisdictions", "*", "--until", until)

    def _carry_changes(self) -> None:
        self._tell.chapter("The store's changes travel into the provenance index, contacts sealed")
        self._await_index()
        with self._store.begin() as connection:
            left = shop.delete_leavers(connection, self._shop)
        self._tell.say(f"{left} customers delete their accounts; what leaked about them may still be owed a notice.")
        self._await_index()
        status = IndexClient(self._settings.paths.run).status()
        self._tell.say(
            f"The index holds {sum(each.record_count for each in status.partitions):,} records about "
            f"{sum(each.customer_count + each.order_count for each in status.partitions):,} customers and orders in "
            f"{status.partition_count} partitions."
        )

    def _watch_stages(self) -> None:
        if self._monitoring is not None:
            self._monitoring.start_prometheus(metrics_addresses(self._settings))
            self._until(self._monitoring.answers, "Prometheus and Alertmanager answer", 30)
            self._tell.say(
                f"Prometheus watches every process by the rules that are shipped, {HURRY} times as fast: "
                f"{self._monitoring.prometheus_url}"
            )

    def _leak(self) -> str:
        start, end = shop.exposure_window(self._shop.now)
        self._tell.chapter(
            f"A monitor reports: the output log of {shop.LEAKED_MODEL} version {shop.LEAKED_VERSION} lay open from "
            f"{start:%d %b} to {end:%d %b}"
        )
        alert = {
            "source": MONITOR,
            "fingerprint": f"{shop.LEAKED_MODEL}-{shop.LEAKED_VERSION}-output-log",
            "title": f"Output log of {shop.LEAKED_MODEL} {shop.LEAKED_VERSION} was public",
            "detected_at": self._shop.now.isoformat(),
            "scenario": "inference_log_exposed",
            "scope": {
                "model_ids": [shop.LEAKED_MODEL],
                "model_versions": [shop.LEAKED_VERSION],
                "exposed_from": start.isoformat(),
                "exposed_to": end.isoformat(),
            },
        }
        file = self._folder / "alert.json"
        file.write_text(json.dumps(alert, indent=1), encoding="utf-8")
        self._type("rosa", "alert", "send", str(file), "--source", MONITOR)
        incident_id: str = self._until(self._progress.first_incident, "intake opens the incident", 60)
        self._until(
            lambda: self._progress.plan_state(incident_id) == "complete",
            "every partition answers and planning ends",
            180,
        )
        self._tell_page("incident_opened")
        return str(incident_id)

    def _tell_page(self, kind: str) -> None:
        page = self._until(partial(self._on_call.page, kind), f"the page {kind} arrives", 90)
        self._see(
            f"page {kind}", f"PAGE to who is on call (signature verified): {page['summary']}; next: {page['next']}"
        )

    def _show_what_is_owed(self, incident_id: str) -> None:
        self._tell.chapter("Who is affected and why")
        self._type("rosa", "incident", "ack", incident_id)
        self._tell.table(
            [_why(json.loads(event)) for event in self._progress.some_affected(incident_id, 4)],
            ["person", "lives in", "because", "kind of data", "reachable by"],
            "Four of them; contacts stay sealed",
        )
        self._tell.chapter("What each law demands, once the facts are recorded")
        self._type(
            "dora", "incident", "facts", incident_id, "--set", "encrypted=false", "--set", "gdpr_risk=high",
            "--set", "significant_harm=true", "--set", "licensee=none", "--reason", "log was public and in clear",
        )  # fmt: skip
        aware = self._shop.now.isoformat()
        instants = "aware_at,controller_aware_at,discovered_at,determined_at"
        self._type(
            "dora",
            "incident",
            "aware",
            incident_id,
            "--as",
            instants,
            "--at",
            aware,
            "--reason",
            "log seen by our staff",
        )
        self._until(
            lambda: self._progress.duty_count(incident_id, "due") > 0, "planning applies the recorded facts", 60
        )
        self._type("rosa", "incident", "show", incident_id)
        rows = self._progress.duties_due(incident_id)
        self._tell.table(
            [
                {
                    "duty": row["regime_id"],
                    "tell": row["recipient"].replace("_", " "),
                    "by (UTC)": str(row["deadline_at"] or row["status"].replace("_", " "))[:40],
                    "law": json.loads(row["detail"]).get("citation", ""),
                }
                for row in rows
            ],
            ["duty", "tell", "by (UTC)", "law"],
            f"{len(rows)} duties are due; {self._progress.duty_count(incident_id, 'not_due')} were considered and are not",
        )

    def _approve_release(self, incident_id: str) -> None:
        self._tell.chapter("Two people approve what will go out")
        if not self._quiet:
            # before the second approval: SES shall be ill when the first mail goes
            self._fault({"sesv2": {"answer": "403", "operation": "SendBulkEmail"}})
        prepared = json.loads(self._type("rosa", "incident", "prepare", incident_id, "--json", quiet=True))
        self._tell.say(f"rosa prepares a release; its policy is {prepared['policy_sha256'][:16]}...")
        for who, reason in (("dora", "numbers checked"), ("carl", "text and law checked")):
            self._until(partial(self._approve_by_sheet, who, incident_id, reason), f"{who} approves the sheet", 60)

    def _approve_by_sheet(self, who: str, incident_id: str, reason: str) -> bool:
        """Read the sheet and approve it by its hash; return False if it had changed meanwhile, and must be read anew."""
        page = self._folder / "sheet.html"
        words = ("incident", "sheet", incident_id, "--output", str(page))
        sheet = json.loads(self._type(who, *words, "--json", quiet=True))["sheet_sha256"]
        try:
            self._type(who, "incident", "approve", incident_id, "--sheet", sheet, "--reason", reason)
        except DemoFailed as failed:
            if "since this sheet was made" in str(failed):
                return False
            raise
        return True

    def _deliver(self, incident_id: str) -> None:
        self._tell.chapter("Notices leave; what fails moves to the next channel")
        deadline = time.monotonic() + 900
        shown = 0.0
        if not self._quiet:
            self._see_ses_ill()
            # SES is well again; of SNS as many calls as open its circuit: the next one is the probe that finds it well
            self._fault({"sns": {"answer": "403", "operation": "Publish", "calls": _SNS_REFUSES}})
        while True:
            # asked first: what has happened until then is still looked at
            finished = self._progress.is_finished(incident_id)
            counts = self._progress.attempts()
            happened = {**counts, ("email", _SOFT): self._progress.receipt_count("bounced_soft")}
            for what, (seen, words) in _FALLBACKS.items():
                if what not in self._seen and seen(happened):
                    self._see(what, words.format(seconds=self._tell.seconds, patience=self._patience))
            if not self._quiet:
                self._watch_sms_providers()
            self._take_letters_to_the_post(incident_id)
            if time.monotonic() - shown > 3:
                shown = time.monotonic()
                self._tell.say(", ".join(f"{channel} {state} {n:,}" for (channel, state), n in sorted(counts.items())))
            with self._store.begin() as connection:
                shop.read_account_notices(connection, self._shop, datetime.now(UTC))
            if finished:
                break
            if time.monotonic() > deadline or self._stop.is_set() or not self._supervising.is_alive():
                raise DemoFailed(f"the release did not finish; logs are in {self._folder / 'logs'} (use --keep)")
            time.sleep(0.5)
        self._until(lambda: self._progress.outbox_count() == 0, "the outbox is published", 60)
        rows = witnesses.ledger_rows(self._cases, incident_id)
        self._until(
            lambda: not oracle.compare_log(rows, witnesses.log_tally(self._settings.paths.evidence, incident_id)),
            "the evidence log has every attempt",
            60,
            give_up=False,
        )

    def _see_ses_ill(self) -> None:
        """SES refuses every mail until whoever is on call has heard of it; no mail is lost meanwhile."""
        self._tell.say("SES refuses our mails: they wait where they are.")
        self._tell_page("provider.circuit_open")
        if self._monitoring is None:
            return
        alert = self._until(
            partial(self._on_call.alert, "TocsinCircuitOpen", provider="ses"),
            "Prometheus' alert arrives", 60, give_up=False,
        )  # fmt: skip
        if alert:
            words = alert["annotations"]
            self._see("alert", f"ALERT by Prometheus: {words['summary']}; runbook: {words['runbook_url']}")

    def _see(self, what: str, words: str) -> None:
        self._seen.append(what)
        self._tell.say(words)

    def _watch_sms_providers(self) -> None:
        """Tell when the lane of SMS has moved to the second provider, and when it has moved back."""
        circuit, sent = self._progress.circuit("sns"), self._progress.sent_by("sms")
        if "sns ill" not in self._seen:
            if sent.get("sms_gateway"):
                self._see(
                    "sns ill",
                    "SNS refuses SMS: its circuit opens, and SMS take the second provider without anybody's help.",
                )
        elif "sns well" not in self._seen and circuit == "closed" and sent.get("sns"):
            self._see("sns well", "SNS is well again: a real message got through, and SMS go back to it.")

    def _take_letters_to_the_post(self, incident_id: str) -> None:
        """Print what lies ready, hand it to the post, and record it; who lives elsewhere by now sends it back."""
        for manifest in sorted((self._settings.paths.letters / incident_id).glob("[0-9a-f]*/manifest.json")):
            batch = manifest.parent
            if batch in self._posted:
                continue
            self._posted.add(batch)
            with (batch / "addresses.csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            moved = {person.street for person in self._shop.people if person.letter_comes_back}
            back = [row["number"] for row in rows if moved & set(row.values())]
            words = ("delivery", "letters")
            why = ("--reason", "handed over at the counter")
            self._until(
                partial(self._recorded, "rosa", *words, "posted", incident_id, batch.name, *why),
                "letters are known",
                60,
            )
            self._see(
                "letter",
                f"{len(rows)} letters were printed and are with the post: the last channel for whom no other reached.",
            )
            if back:
                self._type("rosa", *words, "returned", incident_id, batch.name, *back, "--reason", "moved away")
                self._see(
                    "letter back", f"{len(back)} letter came back: its reader counts as not reached, and is reported."
                )

    def _recorded(self, who: str, *command: str) -> bool:
        """Type `command`; return False while the ledger has not heard of the batch yet."""
        try:
            self._type(who, *command)
        except DemoFailed as failed:
            if "has no letter batch" in str(failed):
                return False
            raise
        return True

    def _fault(self, faults: Mapping[str, Any]) -> None:
        self._post(f"{self._sandbox}/_control/faults", faults)

    def _compare(self, incident_id: str) -> list[str]:
        self._tell.chapter("Three witnesses are compared with what the scenario expects")
        expected = oracle.expectations(self._shop, letters=self._letters)
        rows = witnesses.ledger_rows(self._cases, incident_id)
        messages = witnesses.mailbox(self._sandbox)
        tally = witnesses.log_tally(self._settings.paths.evidence, incident_id)
        languages = sorted({item.locale.partition("_")[0] for item in expected})
        sentences = witnesses.sentences(self._settings.paths.templates, languages)
        faults = [
            *oracle.compare_ledger(expected, rows),
            *oracle.compare_mailbox(expected, messages, sentences),
            *oracle.compare_log(rows, tally),
        ]
        vkey = vkey_path(self._settings.paths.evidence_key)
        shutil.copyfile(vkey, self._settings.paths.evidence / "log.vkey")
        report = verify_log(LogFolder(self._settings.paths.evidence), [read_vkey(str(vkey))], discover())
        self._tell.say(f"Evidence log, verified offline: {report.sentences()[0]}")
        faults.extend(report.problems)
        for fault in faults:
            self._tell.say(f"DIFFERS: {fault}")
        if not faults and (lost := witnesses.lost_answers(self._sandbox)):
            self._tell.say(
                f"{lost:,} call was taken by SES and its answer lost: receipts settled it, and nobody in it got two mails."
            )
        if not faults:
            self._tell.say(
                f"Ledger, mailbox and evidence log agree with each other and with the scenario for all {len(expected):,} people."
            )
        return faults

    def _unkilled(self) -> Sequence[str]:
        left = self._killer.end() if self._killer is not None else ()
        return [f"{stage} was never seen in the middle of its work, so it was not killed" for stage in left]

    def _summary(self, incident_id: str, faults: Sequence[str]) -> None:
        rows = witnesses.ledger_rows(self._cases, incident_id)
        ends = Counter(row.end or "without an end" for row in rows)
        checkpoint = (self._settings.paths.evidence / "checkpoint").read_text(encoding="utf-8").splitlines()
        addresses = metrics_addresses(self._settings)
        fallbacks = self._fallbacks(rows)
        facts: list[tuple[str, Any]] = [
            ("incident", incident_id),
            ("people affected", f"{len(rows):,}"),
            *((f"  {end}", f"{count:,}") for end, count in sorted(ends.items())),
            *((f"  {what}", f"{count:,}") for what, count in fallbacks.items()),
            ("evidence log", f"{int(checkpoint[1]):,} entries, root {checkpoint[2][:16]}..."),
            ("result", "all witnesses agree" if not faults else f"{len(faults)} differences"),
            ("took", f"{self._tell.seconds:.0f} s"),
            ("mailbox", f"{self._sandbox}/_mailbox"),
            *((("Prometheus", self._monitoring.prometheus_url),) if self._monitoring is not None else ()),
            *((f"metrics of {stage}", address) for stage, address in sorted(addresses.items())),
        ]
        self._tell.table([{"what": what, "value": value} for what, value in facts], ["what", "value"], "Summary")
        summary = {
            "incident": incident_id,
            "kafka": self._settings.kafka.bootstrap_servers,
            "sandbox": self._sandbox,
            "metrics": addresses,
            "prometheus": None if self._monitoring is None else self._monitoring.prometheus_url,
            "alertmanager": None if self._monitoring is None else self._monitoring.alertmanager_url,
            "alerts": self._on_call.alert_names(),
            "seed": self._options.seed,
            "customers": self._options.customers,
            "now": self._shop.now.isoformat(),
            "people": len(rows),
            "ends": dict(ends),
            "fallbacks": fallbacks,
            "seen": self._seen,
            "restarts": dict(self._supervisor.restarts) if self._supervisor is not None else {},
            "faults": list(faults),
        }
        witnesses.keep(self._folder, self._cases, self._sandbox, incident_id)
        (self._folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")

    def _fallbacks(self, rows: Sequence[oracle.LedgerRow]) -> dict[str, int]:
        """Count people by what brought the notice to them, and attempts by what became of them."""
        ways = Counter(tuple(channel for channel, _ in row.steps) for row in rows if row.end == "reached")
        states = Counter(step for row in rows for step in row.steps)
        return {
            "by the first e-mail": ways[("email",)],
            "by SMS, as the e-mail failed": ways[("email", "sms")],
            "on the account page, as those failed": sum(n for way, n in ways.items() if way[-1] == "account_notice"),
            "by letter, as all else failed": sum(n for way, n in ways.items() if way[-1] == "letter"),
            "soft bounces, which SES gave up on": self._progress.receipt_count("bounced_soft"),
            "e-mails of which nothing was heard in time": states["email", "expired"],
            "complaints, which count as arrived": states["email", "complained"],
            "lost answers, settled by receipts": witnesses.lost_answers(self._sandbox),
            "SMS by the second provider": self._progress.sent_by("sms").get("sms_gateway", 0),
        }

    # --- means -------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "AWS_"))}
        return kept | {"PYTHONUNBUFFERED": "1"}

    def _spawn(self, name: str, command: Sequence[str]) -> dict[str, Any]:
        """Start an embedded part; return the JSON line that it prints once it answers."""
        logs = self._folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = self._stack.enter_context((logs / f"{name}.log").open("ab"))
        process = subprocess.Popen(  # noqa: S603  our own modules
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, preexec_fn=die_with_parent(),
            start_new_session=True, env=self._environment(),
        )  # fmt: skip
        self._stack.callback(_terminate, process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise DemoFailed(f"the embedded {name} did not start; see {logs / name}.log")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _open(self, url: str) -> sa.Engine:
        engine = open_engine(url)
        self._stack.callback(engine.dispose)
        return engine

    def _keep_token(self, person_id: str, token: str) -> None:
        path = self._folder / "keys" / f"{person_id}.token"
        path.touch(mode=0o600)
        path.write_text(token + "\n", encoding="utf-8")
        self._tokens[person_id] = path

    def _type(self, who: str, *command: str, quiet: bool = False) -> str:
        """Run a `tocsin` command as `who`; return what it printed. Raises DemoFailed if it does not succeed."""
        done = self._typist.type(
            ["--config", str(self._config), *command],
            environment=self._environment() | {"TOCSIN_TOKEN_FILE": str(self._tokens[who])},
        )
        if done.returncode:
            raise DemoFailed(
                f"`tocsin {' '.join(command)}` by {who} ended with {done.returncode}: {done.stderr.strip()}"
            )
        if not quiet:
            self._tell.typed(who, command, done.stdout)
        return done.stdout

    def _post(self, url: str, body: Mapping[str, Any]) -> None:
        request = urllib.request.Request(  # noqa: S310  loopback
            url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310
            return

    def _until(self, condition: Callable[[], Any], what: str, seconds: float, *, give_up: bool = True) -> Any:
        """Wait until `condition` gives something true; return it. Raises DemoFailed when it takes too long."""
        end = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            if self._stop.is_set():
                raise DemoFailed("stopped")
            if time.monotonic() > end or (self._supervisor is not None and not self._supervising.is_alive()):
                if not give_up:
                    return found
                raise DemoFailed(f"waited {seconds:.0f} s in vain until {what}; logs are in {self._folder / 'logs'}")
            time.sleep(0.3)

    def _await_index(self) -> None:
        """Wait until the relay has published every change and the index has read it."""
        self._until(lambda: open_changes(self._store) == 0, "the relay has carried every change", 240)
        self._until(self._index_has_caught_up, "the index has read every change", 240)
        self._tell.say(f"Relay and index have caught up after {self._tell.seconds:.0f} s.")

    def _index_has_caught_up(self) -> bool:
        try:
            status = IndexClient(self._settings.paths.run).status()
        except TocsinError:
            return False
        if not status.complete:
            return False
        heads = TopicHeads(self._settings.kafka)
        try:
            for each in status.partitions:
                _, end = heads.bounds(STORE_CHANGES, each.partition)
                # a transaction's end mark takes an offset of its own that no reader ever sees
                if not heads.nothing_between(STORE_CHANGES, each.partition, each.position_offset, end):
                    return False
        finally:
            heads.close()
        return True

    def _before_end(self, command: str) -> None:
        done = subprocess.run(  # noqa: S602  the caller's own command
            command, shell=True, check=False, env=dict(os.environ) | {"TOCSIN_DEMO_DIR": str(self._folder)}
        )
        if done.returncode:
            raise DemoFailed(f"--before-end: the command ended with {done.returncode}")

    def _end(self) -> None:
        self._halt.set()
        self._supervising.join(60)


def _registered(model: str, versions: Sequence[str]) -> dict[str, Any]:
    """Return a model as the registry file has it: each version derived from the one before, the newest is champion."""
    above = dict(zip(versions[1:], versions, strict=False))
    return {
        "versions": {each: {"derived_from": [f"{model}@{above[each]}"]} if each in above else {} for each in versions},
        "aliases": {"champion": versions[-1]},
    }


def _why(event: Mapping[str, Any]) -> dict[str, str]:
    """Say why one person is affected, without saying who it is."""
    why = event["why"] or {"attributes": (), "models": (), "kinds": ()}
    return {
        "person": event["root"],
        "lives in": ", ".join(sorted({claim["code"] for claim in event["residence"]})) or "unknown",
        "because": f"{', '.join(why['models'])} wrote {', '.join(why['attributes'])}",
        "kind of data": ", ".join(why["kinds"]),
        "reachable by": ", ".join(event["channels"]),
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _terminate(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
