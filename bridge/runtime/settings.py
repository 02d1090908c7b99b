"""Settings: one documented model, read from `tocsin.toml` and `TOCSIN_*` environment variables (environment wins).

Unknown keys are refused with the nearest known name. Secrets are files or environment variables, never values in
defaults; `masked()` is what `tocsin config show` prints. `TOCSIN_KAFKA__BOOTSTRAP_SERVERS` sets `kafka.bootstrap_servers`;
with `_FILE` at its end a variable names the file that holds the value, as container secrets do.
"""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from bridge.contracts.errors import BadInput, nearest


class Section(BaseModel):
    """One table of the settings file."""

    # No setting is infinite: who waits for ever, or gets an error far from here, is not told why.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Port = Annotated[int, Field(ge=0, le=65_535)]


class Kafka(Section):
    bootstrap_servers: str = Field(default="127.0.0.1:9092", description="host:port, comma separated")
    topic_prefix: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,100}$",
        description="put before every topic name, for several Tocsins on one cluster",
    )
    auth: Literal["msk_iam"] | None = Field(
        default=None,
        description="msk_iam: sign in to Amazon MSK with this machine's AWS credentials; else sasl_* say how, if at all",
    )
    aws_region: str | None = Field(default=None, description="of the MSK cluster, for kafka.auth = msk_iam")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="with msk_iam always SASL_SSL"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = Field(default=None, description="by environment: TOCSIN_KAFKA__SASL_PASSWORD")
    ca_file: Path | None = Field(default=None, description="PEM; without it the system's certificates are trusted")
    certificate_file: Path | None = Field(
        default=None, description="PEM; for brokers that ask clients for a certificate"
    )
    key_file: Path | None = Field(default=None, description="PEM; of kafka.certificate_file")
    key_password: SecretStr | None = Field(default=None, description="by environment: TOCSIN_KAFKA__KEY_PASSWORD")
    topic_settings: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="what a managed broker imposes: topic -> setting -> value; `tocsin topics apply` names what it refuses",
    )
    embedded: bool = Field(
        default=False, description="the demo's mock cluster: 4 partitions, no topic admin, memory only"
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _named_with_ports(cls, servers: str) -> str:
        for server in servers.split(","):
            found = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/,]+):(\d{1,5})", server.strip())
            if found is None or int(found[2]) > 65_535:
                raise ValueError("write host:port, several with commas between: kafka-1:9092,kafka-2:9092")
        return servers

    @property
    def protocol(self) -> str:
        """How clients connect."""
        return "SASL_SSL" if self.auth is not None else self.security_protocol

    @model_validator(mode="after")
    def _sign_in_is_complete(self) -> "Kafka":
        if self.auth is not None:
            if self.sasl_mechanism is not None or self.sasl_username is not None:
                raise ValueError(f'kafka.auth = "{self.auth}" signs in by itself; remove kafka.sasl_*')
            if not self.aws_region:
                raise ValueError(f'kafka.auth = "{self.auth}" needs kafka.aws_region, the region of the cluster')
            return self
        if self.security_protocol.startswith("SASL") != (self.sasl_mechanism is not None):
            raise ValueError(
                f"kafka.security_protocol {self.security_protocol} and kafka.sasl_mechanism {self.sasl_mechanism} do not go "
                "together: SASL_* protocols need a mechanism, the others take none"
            )
        if self.sasl_mechanism is not None and not (self.sasl_username and self.sasl_password):
            raise ValueError(
                f"kafka.sasl_mechanism {self.sasl_mechanism} needs kafka.sasl_username and TOCSIN_KAFKA__SASL_PASSWORD"
            )
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("kafka.certificate_file and kafka.key_file belong together")
        return self


class Store(Section):
    url: SecretStr = Field(
        default=SecretStr("mysql+pymysql://tocsin@127.0.0.1/magento"),
        description="SQLAlchemy URL of Magento's database; with a password by environment: TOCSIN_STORE__URL",
    )
    replica_url: SecretStr | None = Field(
        default=None,
        description="of a replica that `tocsin incident crosscheck` asks instead: TOCSIN_STORE__REPLICA_URL",
    )
    table_prefix: str = Field(default="", description="Magento's table prefix")
    base_url: str = Field(default="https://shop.invalid/", description="the store's base URL")
    default_country: str | None = Field(default=None, description="ISO 3166-1 code used as the weakest residence claim")
    registered_attributes: tuple[str, ...] = Field(
        default=(),
        description="customer attributes that AI systems write; their values are hashed to find untagged writes",
    )


class CaseStore(Section):
    url: SecretStr = Field(
        default=SecretStr("sqlite:///data/case.db"), description="SQLAlchemy URL: SQLite, or mysql+pymysql://"
    )
    region: str | None = Field(
        default=None, description="where it lies, as regions.yaml names it; needed where that limits storage"
    )


class Paths(Section):
    data: Path = Field(
        default=Path("data"), description="everything that processes keep; relative to the settings file"
    )
    templates: Path = Field(default=Path("templates"), description="counsel's room: law, notices, approved bundles")
    people: Path = Field(default=Path("people.toml"))
    keys: Path = Field(default=Path("keys"), description="key files, mode 0600")

    @property
    def index(self) -> Path:
        return self.data / "index"

    @property
    def artefacts(self) -> Path:
        return self.data / "artefacts"

    @property
    def evidence(self) -> Path:
        return self.data / "evidence"

    @property
    def letters(self) -> Path:
        """Where letters wait for the printer; shared by dispatch, receipts and whoever prints."""
        return self.data / "letters"

    @property
    def relay_verified(self) -> Path:
        """What `relay verify` found last."""
        return self.data / "relay-verified.json"

    @property
    def relay_store(self) -> Path:
        """How far the relay saw the store's heartbeat."""
        return self.data / "relay-store.json"

    @property
    def texts_in_flight(self) -> Path:
        """Where dispatch keeps which texts it is about to hand over; empty while nothing leaves."""
        return self.data / "texts-in-flight"

    @property
    def run(self) -> Path:
        """Where running processes write their addresses."""
        return self.data / "run"

    @property
    def sealing_public_key(self) -> Path:
        return self.keys / "sealing.pub"

    @property
    def sealing_private_key(self) -> Path:
        return self.keys / "sealing.key"

    @property
    def join_key(self) -> Path:
        return self.keys / "join.key"

    @property
    def evidence_key(self) -> Path:
        return self.keys / "evidence.key"

    @property
    def report_key(self) -> Path:
        """Key of the tags by which reports of the SMTP provider are believed; dispatch makes them, receipts checks."""
        return self.keys / "report.key"

    @property
    def staff_key(self) -> Path:
        """Key of the commitments to staff in the evidence log."""
        return self.keys / "staff.key"


class Relay(Section):
    batch_size: int = Field(
        default=5000,
        ge=1,
        le=20_000,
        description="changes of a table in one batch, at most; fewer while batches take long",
    )
    batch_seconds: float = Field(default=0.5, gt=0, description="how long a batch should take")
    idle_seconds: float = Field(
        default=0.05, gt=0, description="longest wait between two looks at the changelogs while nothing changes"
    )
    beat_seconds: float = Field(
        default=5, gt=0, le=5, description="how often the heartbeat row is written, which times the way to the index"
    )
    departed_retention_days: int = Field(default=0, ge=0, description="how long a deleted customer is still reachable")
    departed_legal_ground: str = ""


class Intake(Section):
    host: str = "127.0.0.1"
    port: Port = Field(default=8480, description="0 picks a free port, written to data/run/intake.json")
    secrets: dict[str, Path] = Field(
        default_factory=dict, description="source name -> file with its Standard Webhooks secret (whsec_...)"
    )
    mappings: dict[str, str] = Field(
        default_factory=dict, description="source name -> mapping (alertmanager, cloudevents, generic or a file)"
    )
    trusted_topic_acl: str | None = Field(
        default=None, description="names the ACL on tocsin.leak-alerts that is trusted instead of a signature"
    )
    tolerance_seconds: int = Field(default=300, ge=1)
    lineage_tokens: dict[str, Path] = Field(
        default_factory=dict,
        description="source name -> file with the token (24 characters or more) by which it may send OpenLineage events",
    )


class Registry(Section):
    kind: Literal["none", "yaml", "mlflow"] = Field(
        default="none", description="the model registry: none, a YAML file, or MLflow (pip install tocsin[mlflow])"
    )
    file: Path | None = Field(default=None, description="for kind = yaml; tocsin registry --help shows its form")
    uri: str | None = Field(
        default=None,
        description="for kind = mlflow: the server's address; credentials by environment: MLFLOW_TRACKING_USERNAME, ...",
    )
    look_seconds: float = Field(
        default=60, ge=1, description="how often intake looks: what an alias named in between is not known"
    )

    @model_validator(mode="after")
    def _kind_is_complete(self) -> "Registry":
        if self.kind == "mlflow" and not self.uri:
            raise ValueError('registry.kind = "mlflow" needs registry.uri, the address of its server')
        if self.kind == "yaml" and self.file is None:
            raise ValueError('registry.kind = "yaml" needs registry.file')
        return self


class Approvals(Section):
    mode: Literal["two_approvers", "four_eyes"] = "two_approvers"
    late_cap: int = Field(default=100, ge=0, description="late additions that an approval covers by default")


LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ThirdParty(Section):
    topic_arn: str = Field(
        pattern=r"^arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?$", description="their SNS topic"
    )
    role: Literal["partner", "processor"] = "processor"
    models: tuple[str, ...] = Field(default=(), description="whose incidents concern them; none: every incident")


class Smtp(Section):
    host: str = Field(description="the second e-mail provider, for when SES is ill")
    port: Port = 587
    encryption: Literal["starttls", "tls", "none"] = Field(default="starttls", description="none on loopback only")
    username: str | None = None
    password: SecretStr | None = Field(default=None, description="by environment: TOCSIN_DELIVERY__SMTP__PASSWORD")
    timeout_seconds: float = Field(default=30, gt=0)
    region: str | None = Field(
        default=None,
        max_length=32,
        description="where it is, as regions.yaml writes it (eu-central-1); unless said, it is taken to be where AWS is",
    )
    price_per_thousand: float | None = Field(
        default=None, ge=0, description="what a thousand e-mails cost there, in delivery.price_currency"
    )
    budget_per_month: float | None = Field(
        default=None, ge=0, description="what may be spent there in a calendar month; past it see delivery.over_budget"
    )
    return_path: str | None = Field(
        default=None,
        description="bounce@...: where servers report to, each message under a tag of its own (bounce+TAG@...)",
    )
    reports_maildir: Path | None = Field(default=None, description="where that address's mail is delivered to")

    @model_validator(mode="after")
    def _reports_are_complete(self) -> "Smtp":
        if (self.return_path is None) is not (self.reports_maildir is None):
            raise ValueError("return_path and reports_maildir go together: without both no report is read")
        return self


class SmsGateway(Section):
    url: str = Field(description="a second SMS provider with a Twilio-compatible API, for when SNS is ill")
    account_sid: str
    auth_token: SecretStr = Field(description="by environment: TOCSIN_DELIVERY__SMS_GATEWAY__AUTH_TOKEN")
    sender: str = Field(description="a number in E.164, or a messaging service (MG...)")
    callback_url: str | None = Field(
        default=None,
        description="public address of our listener; where no call comes in the gateway is asked",
    )
    callback_host: str = Field(default="127.0.0.1", description="where the receipts stage listens for it")
    callback_port: Port = 8481
    timeout_seconds: float = Field(default=30, gt=0)
    region: str | None = Field(default=None, max_length=32, description="where it is; as delivery.smtp.region")
    price_per_message: float | None = Field(
        default=None, ge=0, description="what one SMS of ours costs there, all its parts, in delivery.price_currency"
    )
    budget_per_month: float | None = Field(
        default=None, ge=0, description="what may be spent there in a calendar month; past it see delivery.over_budget"
    )


class CircuitBounds(Section):
    """When a provider counts as ill; see consumers/domain/circuit.py."""

    in_a_row: int = Field(default=3, ge=1, description="so many ill calls one after the other")
    window_seconds: float = Field(default=60, gt=0)
    at_least: int = Field(default=10, ge=1, description="calls in the window before their share counts")
    error_share: float = Field(default=0.5, gt=0, le=1)
    slow_after_seconds: float = Field(default=10, gt=0)
    open_seconds: float = Field(default=30, gt=0, description="until a few real messages try it; doubles up to 10 min")
    probes: int = Field(default=5, ge=1)


class ReputationBounds(Section):
    """From which shares of hard bounces and complaints on e-mail slows down; see consumers/domain/accounts.py."""

    bounce_review: float = Field(
        default=0.05, gt=0, le=1, description="SES reviews an account from here on: half the rate"
    )
    bounce_pause: float = Field(default=0.10, gt=0, le=1, description="SES may pause it from here on: a tenth")
    complaint_review: float = Field(default=0.001, gt=0, le=1)
    complaint_pause: float = Field(default=0.005, gt=0, le=1)
    at_least: int = Field(default=1000, ge=1, description="e-mails with an outcome in 24 h before shares count")


class Canary(Section):
    """Whether a release is tried on a few people of each segment first; part of what is approved."""

    per_segment: int = Field(default=0, ge=0, description="so many people of each segment; 0: no canary")
    wait_seconds: int = Field(default=600, ge=1, description="so long receipts are waited for")
    bound_percent: int = Field(
        default=5, ge=0, le=100, description="more that did not arrive hold the rest, until a named person resumes it"
    )


class CanaryMessages(Section):
    """Messages that try delivery all year: to SES's mailbox simulator, and to addresses of your own that are named here."""

    every_minutes: float = Field(
        default=15,
        ge=0,
        description="how often a message follows the whole way of e-mail by SES and its receipt; 0: never",
    )
    wait_seconds: float = Field(default=600, gt=0, description="without its receipt by then it has failed")
    email_to: str | None = Field(
        default=None,
        description="a mailbox of your own, for the second e-mail provider; its server must report arrivals (RFC 3461)",
    )
    sms_to: str | None = Field(
        default=None, description="a number of your own, or AWS's simulated one, in E.164, for SMS by SNS; each costs"
    )
    sms_gateway_to: str | None = Field(
        default=None, description="a number of your own in E.164, for the second SMS provider; each costs"
    )
    sms_every_minutes: float = Field(default=60, gt=0, description="how often by SMS")

    @field_validator("sms_to", "sms_gateway_to")
    @classmethod
    def _is_a_number(cls, number: str | None) -> str | None:
        if number is not None and not re.fullmatch(r"\+[1-9]\d{6,14}", number):
            raise ValueError("write a number of your own in E.164, as in +4915100000001")
        return number

    @field_validator("email_to")
    @classmethod
    def _is_an_address(cls, address: str | None) -> str | None:
        if address is not None and not re.fullmatch(r"[^@\s,;<>]+@[^@\s,;<>]+", address):
            raise ValueError("write one address of your own, as in tocsin-canary@shop.example.com")
        return address


class Readiness(Section):
    """Whether everybody in the index could be told in time, looked at all year; see `tocsin delivery readiness`."""

    bound_hours: float = Field(
        default=24,
        gt=0,
        description="telling everybody may take so long: quotas are raised in days, deadlines run in hours",
    )
    check_minutes: float = Field(default=60, ge=1, le=120, description="how often the stage release looks")


class Delivery(Section):
    mode: Literal["sandbox", "simulator", "live"] = "sandbox"
    aws_region: str = "eu-central-1"
    aws_account: str | None = Field(
        default=None, description="required for live: compared with AWS STS at the start and before each release"
    )
    base_url: str | None = Field(
        default=None,
        description="required for live: compared with the store's own (core_config_data) in the same way; a copy sends nothing",
    )
    endpoint_url: str | None = Field(
        default=None, description="the sandbox's address; loopback only; sandbox mode only"
    )
    configuration_set: str = "tocsin"
    from_address: str = Field(default="security@shop.invalid", description="sender of notices; a verified SES identity")
    reply_to: str | None = None
    receipts_queue: str = Field(default="tocsin-receipts", description="name of the SQS queue")
    certificate_hosts: tuple[str, ...] = Field(
        default=("sns.*.amazonaws.com",), description="hosts whose certificates may sign SNS messages"
    )
    sms_status_poll_seconds: float = Field(
        default=5,
        gt=0,
        description="how often CloudWatch Logs, and the second SMS provider, are asked what became of SMS",
    )
    aws_timeout_seconds: float = Field(
        default=30, gt=0, description="an SES or SNS call without an answer for so long may have been taken: unknown"
    )
    email_per_second: float = Field(default=14, gt=0, description="what SES grants; the meter never exceeds it")
    sms_per_second: float = Field(default=10, gt=0)
    email_price_per_thousand: float | None = Field(
        default=0.10, ge=0, description="what a thousand e-mails cost; the default is SES's list price in USD"
    )
    sms_price_per_part: float | None = Field(
        default=None, ge=0, description="what one part of an SMS costs; differs by country, so nothing is assumed"
    )
    price_currency: str = Field(default="USD", pattern="^[A-Z]{3}$")
    receipt_timeout_seconds: float = Field(
        default=4 * 3600,
        gt=0,
        description="no final receipt by then: the next channel; never later than the deadline allows",
    )
    test_store: bool = Field(
        default=False, description="the store has no real customers: sandbox mode may post notices on its account pages"
    )
    account_notice_timeout_seconds: float = Field(
        default=7 * 24 * 3600, gt=0, description="how long a notice on the account page may wait for its reader"
    )
    third_parties: dict[str, ThirdParty] = Field(
        default={}, description="who is told of every release by a document of ids and counts, by a short name"
    )
    letter_timeout_seconds: float = Field(
        default=14 * 24 * 3600, gt=0, description="how long a letter may wait to be handed to the post"
    )
    letter_batch: int = Field(default=200, gt=0, le=200, description="how many letters are written into one batch")
    letter_batch_seconds: float = Field(
        default=300, gt=0, description="letters are gathered for so long before a batch is written"
    )
    smtp: Smtp | None = Field(default=None, description="without it e-mail waits while SES is ill")
    sms_gateway: SmsGateway | None = Field(default=None, description="without it SMS wait while SNS is ill")
    circuit: CircuitBounds = Field(
        default_factory=CircuitBounds, description="when a provider counts as ill, and how it is tried again"
    )
    reputation: ReputationBounds = Field(
        default_factory=ReputationBounds, description="when bounces and complaints slow e-mail down"
    )
    over_budget: Literal["page", "stop"] = Field(
        default="page", description="past a second provider's budget: page and go on, or let its messages wait"
    )
    sms_numbers_needed: tuple[str, ...] = Field(
        default=("CA", "PR", "US"),
        description="countries (ISO 3166-1) whose carriers take SMS only from a number of that country; check your provider",
    )
    readiness: Readiness = Field(
        default_factory=Readiness,
        description="whether everybody in the index could be told in time, looked at all year",
    )
    canary: Canary = Field(default_factory=Canary, description="how releases are tried on a few people first")
    canary_messages: CanaryMessages = Field(
        default_factory=CanaryMessages, description="how delivery is tried all year, without telling anybody anything"
    )
    belt_seconds: float = Field(
        default=30, gt=0, description="at most this much work lies on the command topic per lane"
    )

    @field_validator("third_parties")
    @classmethod
    def _named_by_slugs(cls, parties: dict[str, ThirdParty]) -> dict[str, ThirdParty]:
        for name in parties:
            if not re.fullmatch(r"[a-z][a-z0-9]*([._-][a-z0-9]+){0,12}", name) or len(name) > 64:
                raise ValueError(
                    f"{name!r} is no short name; write lower-case words joined by '-', as the log shows it"
                )
        return parties

    def region_of(self, second: Smtp | SmsGateway) -> str:
        """Return where a second provider is; unless somebody has said so, it is taken to be where AWS is."""
        return second.region or self.aws_region

    @model_validator(mode="after")
    def _mode_is_complete(self) -> "Delivery":
        if self.mode == "live" and not (self.aws_account and self.base_url):
            raise ValueError('delivery.mode = "live" needs delivery.aws_account and delivery.base_url')
        if self.mode != "sandbox" and self.test_store:
            raise ValueError(f'delivery.test_store is for delivery.mode = "sandbox"; remove it for {self.mode!r}')
        if self.mode != "sandbox" and self.endpoint_url:
            raise ValueError(f'delivery.endpoint_url is for delivery.mode = "sandbox"; remove it for {self.mode!r}')
        if self.endpoint_url and urlsplit(self.endpoint_url).hostname not in LOOPBACK:
            raise ValueError("delivery.endpoint_url must be a loopback address: the sandbox never leaves the machine")
        tried = self.canary_messages
        if tried.email_to and (self.smtp is None or self.smtp.return_path is None):
            raise ValueError(
                "delivery.canary_messages.email_to needs delivery.smtp with return_path and reports_maildir: else nobody "
                "would ever know whether it arrived"
            )
        if tried.sms_gateway_to and (self.sms_gateway is None or self.sms_gateway.callback_url is None):
            raise ValueError(
                "delivery.canary_messages.sms_gateway_to needs delivery.sms_gateway with callback_url: else nobody would "
                "ever know whether it arrived"
            )
        if self.mode == "sandbox" and self.smtp and self.smtp.host not in LOOPBACK:
            raise ValueError(
                'delivery.smtp.host must be a loopback address while delivery.mode = "sandbox": SMTP reaches people'
            )
        if self.mode == "sandbox" and self.sms_gateway and urlsplit(self.sms_gateway.url).hostname not in LOOPBACK:
            raise ValueError(
                'delivery.sms_gateway.url must be loopback while delivery.mode = "sandbox": it reaches people'
            )
        return self


class Evidence(Section):
    origin: str = Field(default="tocsin.invalid/log", description="name of the log, as in its checkpoints")
    private_key: SecretStr | None = Field(
        default=None, description="instead of the key file, by environment: TOCSIN_EVIDENCE__PRIVATE_KEY"
    )
    batch_seconds: float = Field(default=0.5, gt=0)
    host: str = "127.0.0.1"
    port: Port | None = Field(
        default=None,
        description="serves the log for reading (c2sp.org/tlog-tiles); off without it; 0: a free one, see data/run/log.json",
    )
    public_tiles: bool = Field(
        default=False, description="true: tiles and entries without a token; else they take the auditor's role"
    )
    timestamp_url: str | None = Field(
        default=None, description="a time stamp authority (RFC 3161) that stamps checkpoints; none without it"
    )
    timestamp_roots: Path | None = Field(
        default=None, description="PEM file with its root certificates; without it, who stamped is not checked here"
    )
    timestamp_seconds: float = Field(default=3600, gt=0, description="how often, while the log grows")


class Metrics(Section):
    host: str = "127.0.0.1"
    port_base: int = Field(
        default=9480, ge=0, le=65_500, description="stage n listens on port_base + n; 0 picks free ports, see data/run"
    )


class PagerWebhook(Section):
    url: SecretStr = Field(
        description="https, or a loopback address; by environment if it holds a secret, as Slack's do"
    )
    service: Literal["generic", "pagerduty", "opsgenie", "slack"] = Field(
        default="generic", description="generic: JSON signed as Standard Webhooks 1.0.0 says"
    )
    secret: SecretStr | None = Field(
        default=None,
        description="generic: whsec_...; pagerduty: the routing key; opsgenie: the API key. By environment, or _FILE",
    )

    @model_validator(mode="after")
    def _reaches_who_it_should(self) -> "PagerWebhook":
        address = urlsplit(self.url.get_secret_value())
        if address.scheme != "https" and not (address.scheme == "http" and address.hostname in LOOPBACK):
            raise ValueError("the address of a pager's webhook is https, or http on loopback")
        if self.service != "slack" and self.secret is None:
            raise ValueError(f'service = "{self.service}" needs a secret: TOCSIN_PAGER__..._SECRET or ..._SECRET_FILE')
        if self.service == "generic" and not str(self.secret and self.secret.get_secret_value()).startswith("whsec_"):
            raise ValueError('the secret of service = "generic" starts with whsec_, as Standard Webhooks has it')
        return self


class Pager(Section):
    alertmanager_urls: tuple[str, ...] = Field(
        default=(), description="base addresses; pages are alerts there, named TocsinPage, until acknowledged"
    )
    on_call: PagerWebhook | None = Field(default=None, description="who is woken")
    escalation: PagerWebhook | None = Field(default=None, description="who is told when nobody acknowledges")
    email_to: tuple[str, ...] = Field(
        default=(), description="last resort: gets an e-mail by SES when no other receiver takes a page in time"
    )
    repeat_critical_minutes: float = Field(default=15, gt=0)
    repeat_warning_minutes: float = Field(default=240, gt=0)
    escalate_after_minutes: float = Field(default=30, gt=0)
    email_after_minutes: float = Field(default=10, ge=0)

    @property
    def has_receiver(self) -> bool:
        """Whether a page can reach anybody."""
        return bool(self.alertmanager_urls or self.on_call or self.email_to)


class Index(Section):
    host: str = "127.0.0.1"
    rebuild_after_days: float = Field(default=6, gt=0)
    retention_days: int = Field(
        default=1096,
        ge=30,
        description="how long a deleted provenance record answers questions about the time before its deletion",
    )


class Clocks(Section):
    awareness: Literal["presume", "escalate"] = Field(
        default="presume",
        description="past presume_after_hours without recorded awareness: presume it, marked as presumed, or only page",
    )
    presume_after_hours: float = Field(default=24, gt=0, description="counted from the detection")
    warn_after_hours: float = Field(default=12, gt=0, description="people are warned by then; before the bound")

    @model_validator(mode="after")
    def _warned_before_the_bound(self) -> "Clocks":
        if self.warn_after_hours >= self.presume_after_hours:
            raise ValueError(
                f"clocks.warn_after_hours {self.warn_after_hours:g} must be less than clocks.presume_after_hours "
                f"{self.presume_after_hours:g}"
            )
        return self


class Settings(BaseSettings):
    """Everything that can be set. See the commented file that `tocsin init` writes."""

    model_config = SettingsConfigDict(
        env_prefix="TOCSIN_", env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    kafka: Kafka = Field(default_factory=Kafka)
    store: Store = Field(default_factory=Store)
    case_store: CaseStore = Field(default_factory=CaseStore)
    paths: Paths = Field(default_factory=Paths)
    relay: Relay = Field(default_factory=Relay)
    intake: Intake = Field(default_factory=Intake)
    registry: Registry = Field(default_factory=Registry)
    approvals: Approvals = Field(default_factory=Approvals)
    delivery: Delivery = Field(default_factory=Delivery)
    evidence: Evidence = Field(default_factory=Evidence)
    metrics: Metrics = Field(default_factory=Metrics)
    index: Index = Field(default_factory=Index)
    clocks: Clocks = Field(default_factory=Clocks)
    pager: Pager = Field(default_factory=Pager)
    _file: Path | None = PrivateAttr(default=None)

    def place_of(self, key: str) -> str:
        """Return where `key` (such as `store.url`) is set: a variable, a line of the file, or that it is not."""
        return _place_of(self._file, key.split("."))

    @model_validator(mode="after")
    def _somebody_is_paged(self) -> "Settings":
        if self.delivery.mode == "live" and not self.pager.has_receiver:
            raise ValueError(
                'delivery.mode = "live" needs somebody to page: set pager.alertmanager_urls, pager.on_call or pager.email_to'
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, which arrives as init arguments."""
        if isinstance(env_settings, EnvSettingsSource):
            env_settings.env_vars = _with_files_read(env_settings.env_vars)
        return env_settings, init_settings

    def masked(self) -> dict[str, Any]:
        """Return all settings in force with secrets masked."""
        dumped: dict[str, Any] = self.model_dump(mode="json")
        for section in ("store", "case_store"):
            url = getattr(self, section).url.get_secret_value()
            dumped[section]["url"] = _without_password(url)
        if self.store.replica_url is not None:
            dumped["store"]["replica_url"] = _without_password(self.store.replica_url.get_secret_value())
        return {section: _masked(values) for section, values in dumped.items()}


def _masked(value: Any) -> Any:
    """Return `value` without the passwords of addresses in it: also where no secret is expected, somebody may write one."""
    if isinstance(value, dict):
        return {key: _masked(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_masked(each) for each in value]
    if isinstance(value, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*:[^/?#]*@", value):
        return _without_password(value)
    return value


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    scheme, slashes, userinfo = head.partition("://")
    if not at or ":" not in userinfo:
        return url
    return f"{scheme}{slashes}{userinfo.partition(':')[0]}:**********@{tail}"


def _with_files_read(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return `variables` (names in lower case) with TOCSIN_SECTION__KEY_FILE replaced by what that file holds.

    Raises BadInput when the file cannot be read, or when the value is given in both ways.
    """
    read = dict(variables)
    for name, file in variables.items():
        section, _, key = name.removeprefix("tocsin_").partition("__")
        if not (name.startswith("tocsin_") and key.endswith("_file") and file):
            continue
        model = Settings.model_fields[section].annotation if section in Settings.model_fields else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or key in model.model_fields:
            continue
        del read[name]
        value = name.removesuffix("_file")
        if value in variables:
            raise BadInput(f"environment variables {value.upper()} and {name.upper()} are both set; keep one")
        try:
            read[value] = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"environment variable {name.upper()}: cannot read {file}: {type(error).__name__}") from None
    return read


def load_settings(path: Path | None) -> Settings:
    """Read `path` (or only defaults and environment when None); relative paths are relative to the file.

    Raises BadInput that says file, key, value and what to do.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadInput(f"no settings file at {path}; `tocsin init` writes one, or name it with --config") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: not TOML: {error}") from None
    _refuse_unknown_environment()
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise BadInput(_first_fault(error, path)) from None
    settings._file = path
    root = path.resolve().parent if path is not None else Path.cwd()
    return _anchored(settings, root)


def _refuse_unknown_environment() -> None:
    known = {f"TOCSIN_{section.upper()}" for section in Settings.model_fields} | {
        "TOCSIN_CONFIG",
        "TOCSIN_TOKEN",
        "TOCSIN_TOKEN_FILE",
    }
    for name in os.environ:
        if name.startswith("TOCSIN_") and name.partition("__")[0] not in known:
            raise BadInput(f"environment variable {name}: no such setting{nearest(name.partition('__')[0], known)}")


def _place_of(file: Path | None, key: Sequence[str]) -> str:
    """Return where `key` comes from: the environment variable that wins, else the line of the file; a key that stands in
    neither is looked for as its table.
    """
    for length in range(len(key), 1, -1):
        variable = "TOCSIN_" + "__".join(key[:length]).upper()
        for name in (variable, f"{variable}_FILE"):
            if os.environ.get(name):
                return f"environment variable {name}"
    if file is None:
        return "settings (no file)"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return str(file)
    found, table = 0, ""
    for number, line in enumerate(lines, start=1):
        if header := re.match(r"\s*\[+\s*([^\[\]]+?)\s*\]+", line):
            table = f"{header[1]}."
            written = header[1]
        elif assigned := re.match(r"\s*([A-Za-z0-9_.-]+)\s*=", line):
            written = table + assigned[1]
        else:
            continue
        if written == ".".join(key):
            return f"{file}:{number}"
        if not found and ".".join(key).startswith(f"{written}."):
            found = number
    return f"{file}:{found}" if found else str(file)


def _first_fault(error: ValidationError, file: Path | None) -> str:
    item = error.errors(include_url=False)[0]
    parts = [str(part) for part in item["loc"]]
    return f"{_place_of(file, parts)}: {_fault(item)}"


def _fault(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"]) or "settings"
    if item["type"] == "extra_forbidden":
        parent: Any = Settings
        for part in item["loc"][:-1]:
            annotation = parent.model_fields[str(part)].annotation
            parent = annotation
        known = list(parent.model_fields)
        return f"{place}: unknown key{nearest(str(item['loc'][-1]), known)} (known: {', '.join(known)})"
    secret = any(word in place for word in ("password", "url", "secret", "token", "private_key", "account_sid"))
    shown = "" if secret or isinstance(item.get("input"), Mapping) else f", value {item.get('input')!r}"
    return f"{place}: {item['msg'].removeprefix('Value error, ')}{shown}"


def _anchored(settings: Settings, root: Path) -> Settings:
    paths = settings.paths.model_copy(
        update={name: (root / getattr(settings.paths, name)) for name in Paths.model_fields}
    )
    secrets = {source: root / file for source, file in settings.intake.secrets.items()}
    tokens = {source: root / file for source, file in settings.intake.lineage_tokens.items()}
    files = {name: getattr(settings.kafka, name) for name in ("ca_file", "certificate_file", "key_file")}
    update: dict[str, Any] = {
        "paths": paths,
        "intake": settings.intake.model_copy(update={"secrets": secrets, "lineage_tokens": tokens}),
        "kafka": settings.kafka.model_copy(update={name: root / file for name, file in files.items() if file}),
    }
    if (smtp := settings.delivery.smtp) is not None and smtp.reports_maildir is not None:
        reported = smtp.model_copy(update={"reports_maildir": root / smtp.reports_maildir})
        update["delivery"] = settings.delivery.model_copy(update={"smtp": reported})
    if settings.registry.file is not None:
        update["registry"] = settings.registry.model_copy(update={"file": root / settings.registry.file})
    for section in ("case_store", "store"):
        url = getattr(settings, section).url.get_secret_value()
        if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
            anchored = "sqlite:///" + str(root / url.removeprefix("sqlite:///"))
            update[section] = getattr(settings, section).model_copy(update={"url": SecretStr(anchored)})
    return settings.model_copy(update=update)
