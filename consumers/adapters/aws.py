"""AWS clients as Tocsin wants them: one frozen configuration, no retry where a repeat could reach a person twice.

Credentials come from the environment as boto3 finds them, except for a loopback endpoint (the sandbox), which gets
made-up ones: no real credential is ever sent to it. Nothing here says what is sent; see `ses`, `sns_sms`,
`sqs_receipts`, `sms_status`.
"""

import ipaddress
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
)

from bridge.contracts.errors import BadInput, Unreachable
from consumers.domain.sending import SendState

NEVER_SENT = (
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
)
"""Failures in which no byte of a request can have been taken."""

TOO_MANY = 429
THROTTLINGS = frozenset(
    {"Throttling", "ThrottlingException", "Throttled", "ThrottledException", "TooManyRequestsException"}
)
"""Error codes that only ask for less, whatever the HTTP status."""

SES_EVENT_TYPES = ("SEND", "DELIVERY", "BOUNCE", "COMPLAINT", "DELIVERY_DELAY", "REJECT", "RENDERING_FAILURE")


@dataclass(frozen=True, slots=True)
class AwsConfig:
    """Where AWS is and how patient we are."""

    region: str
    endpoint_url: str | None = None
    """The sandbox's address (loopback), or None for AWS itself."""
    connect_timeout_seconds: float = 5
    read_timeout_seconds: float = 30
    """Longer than a long poll (20 s). A send that takes longer is `UNKNOWN`."""
    retries: int = 4
    """Attempts for calls that are safe to repeat. Sends are never repeated here: dispatch owns that decision."""
    max_connections: int = 16
    """Kept open: as many as dispatch ever has calls in flight, or each of the others would be opened anew."""

    def __post_init__(self) -> None:
        if self.endpoint_url is not None and not is_loopback(urlsplit(self.endpoint_url).hostname or ""):
            raise BadInput(
                f"AWS endpoint {self.endpoint_url!r}: only a loopback address (the sandbox), or none for AWS"
            )


def client(config: AwsConfig, service: str, *, may_repeat: bool, check_parameters: bool = True) -> Any:
    """Return a boto3 client for `service` (`sesv2`, `sns`, `sqs`, `sts`, `logs`). Raises Unreachable without credentials:
    those of a machine's role are asked for over its network, which may be away for a moment, and a stage that ended for good
    would send nothing any more.

    `may_repeat` says whether the SDK may repeat a call whose answer was lost; `check_parameters` whether it compares each
    request with its model first, which costs more than to send it.
    """
    made_up: dict[str, str] = {}
    settings: dict[str, Any] = {}
    if config.endpoint_url is not None:
        made_up = {"aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox"}
        settings = {"proxies": {}, "ignore_configured_endpoint_urls": True}
    core = botocore.session.get_session()
    core.register_component("data_loader", _service_models())
    session = boto3.session.Session(botocore_session=core, region_name=config.region, **made_up)
    if session.get_credentials() is None:
        raise Unreachable(
            "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role (or wait, where it is a "
            "role's: they could not be had now)"
        )
    return session.client(
        service,
        endpoint_url=config.endpoint_url,
        config=Config(
            connect_timeout=config.connect_timeout_seconds,
            read_timeout=config.read_timeout_seconds,
            retries={"total_max_attempts": config.retries if may_repeat else 1, "mode": "standard"},
            max_pool_connections=config.max_connections,
            parameter_validation=check_parameters,
            user_agent=_user_agent(),
            **settings,
        ),
    )


@cache
def _service_models() -> Any:
    """Return what reads AWS's descriptions of its services, and keeps them: or each client would parse megabytes anew."""
    return botocore.session.get_session().get_component("data_loader")


@cache
def _user_agent() -> str:
    """Return how AWS's logs name us. The SDK's own text is composed anew twice a call, which takes as long as to sign it."""
    return (
        f"tocsin/{version('tocsin')} Boto3/{version('boto3')} Botocore/{version('botocore')} "
        f"Python/{platform.python_version()}"
    )


def caller_account(config: AwsConfig) -> str:
    """Return the 12-digit AWS account that our credentials belong to. Raises Unreachable."""
    with unreachable("AWS STS"):
        account: str = client(config, "sts", may_repeat=True).get_caller_identity()["Account"]
    return account


@contextmanager
def unreachable(what: str) -> Iterator[None]:
    """Turn whatever keeps AWS from answering into Unreachable; `what` names the part, for example `SQS queue x`."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise Unreachable(f"{what}: no usable AWS credentials ({type(error).__name__})") from None
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise Unreachable(f"{what}: {error.operation_name} answered {code}") from None
    except BotoCoreError as error:
        raise Unreachable(f"{what}: {type(error).__name__}; is the network open and the region right?") from None


def failed_call_state(error: BotoCoreError | ClientError, rejections: frozenset[str]) -> tuple[SendState, str]:
    """Return what a failed send means for everything in it, and the provider's word for it.

    `rejections` are the error codes that blame the message itself. Any other refusal (4xx) took nothing and may pass
    later: too fast, or credentials, quota, pauses, an unverified sender. Every 5xx and every lost connection may have been
    taken.
    """
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
        if status >= 500:
            return SendState.UNKNOWN, code
        if code in rejections:
            return SendState.REJECTED, code
        return (SendState.THROTTLED if status == TOO_MANY or code in THROTTLINGS else SendState.UNAVAILABLE), code
    code = type(error).__name__
    return (SendState.UNAVAILABLE if isinstance(error, NEVER_SENT) else SendState.UNKNOWN), code


def provision_sandbox(
    config: AwsConfig,
    *,
    sender_domain: str,
    configuration_set: str,
    receipts_queue: str,
    receipt_lease_seconds: int = 30,
) -> None:
    """Create in the sandbox what a real account is given by its owners: the sender, the configuration set, and the way
    of receipts: from SES through SNS into the queue, from SMS into the logs. May be repeated.

    `receipt_lease_seconds`: after so long the queue gives a receipt again that somebody took and did not settle.

    Raises BadInput if `config` is not the sandbox: in a real account this is infrastructure, and not ours to make.
    """
    if config.endpoint_url is None:
        raise BadInput("only the sandbox is provisioned by Tocsin; in an AWS account create these resources yourself")
    ses, sns, sqs = (client(config, service, may_repeat=True) for service in ("sesv2", "sns", "sqs"))
    with unreachable("AWS sandbox"):
        lease = {"VisibilityTimeout": str(receipt_lease_seconds)}
        queue_url = sqs.create_queue(QueueName=receipts_queue, Attributes=lease)["QueueUrl"]
        queue_arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        topic = sns.create_topic(Name=f"{configuration_set}-ses-events", Attributes={"SignatureVersion": "2"})[
            "TopicArn"
        ]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn)
        sns.set_sms_attributes(
            attributes={
                "DeliveryStatusIAMRole": f"arn:aws:iam::{queue_arn.split(':')[4]}:role/tocsin-sms-status",
                "DeliveryStatusSuccessSamplingRate": "100",
            }
        )
        with _existing(ses.exceptions.AlreadyExistsException):
            ses.create_email_identity(EmailIdentity=sender_domain)
        with _existing(ses.exceptions.AlreadyExistsException):
            # its own suppression: a complaint about advertising must not keep a notice of a leak from anybody
            ses.create_configuration_set(
                ConfigurationSetName=configuration_set, SuppressionOptions={"SuppressedReasons": ["BOUNCE"]}
            )
        with _existing(ses.exceptions.AlreadyExistsException):
            ses.create_configuration_set_event_destination(
                ConfigurationSetName=configuration_set,
                EventDestinationName="receipts",
                EventDestination={
                    "Enabled": True,
                    "MatchingEventTypes": list(SES_EVENT_TYPES),
                    "SnsDestination": {"TopicArn": topic},
                },
            )


@contextmanager
def _existing(already_exists: type[ClientError]) -> Iterator[None]:
    try:
        yield
    except already_exists:
        return


def is_loopback(host: str) -> bool:
    """Say whether `host` (a name or an address, no port) is this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
