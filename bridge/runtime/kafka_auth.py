"""How Kafka's clients sign in, by `[kafka]`'s settings: for confluent-kafka and for kafka-python alike.

With `kafka.auth = "msk_iam"` each client asks for tokens that the machine's AWS credentials sign, and gets a new one well
before the old one ends. Not here: what the clients do.
"""

import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from bridge.contracts.errors import BadInput, Unreachable
from bridge.runtime.settings import Kafka

log = logging.getLogger("kafka client")

_RETRY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token of OAUTHBEARER and when it ends (seconds since 1970)."""

    value: str = field(repr=False)
    ends_at: float


class TokenSource(Protocol):
    """Where tokens come from. Asked from the clients' own threads."""

    def token(self) -> Token:
        """Return a token that is good for a while. Raises Unreachable."""
        ...


class MskIam:
    """Tokens for Amazon MSK's IAM access control, signed by the AWS credentials that boto would use on this machine."""

    def __init__(self, region: str) -> None:
        self._region = region

    def token(self) -> Token:
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            value, ends_at_ms = MSKAuthTokenProvider.generate_auth_token(self._region)
        except (BotoCoreError, ClientError, AttributeError, ValueError) as error:
            # The signer trips over credentials that are not there (AttributeError) instead of saying so; a role that this machine
            # may not take is a ClientError.
            raise Unreachable(
                f'kafka.auth = "msk_iam": no AWS credentials to sign with ({type(error).__name__}); set them in the '
                "environment, a profile or the instance's role"
            ) from None
        return Token(value, ends_at_ms / 1000)


def _msk_iam(kafka: Kafka) -> TokenSource:
    return MskIam(str(kafka.aws_region))


TOKEN_SOURCES: dict[str, Callable[[Kafka], TokenSource]] = {"msk_iam": _msk_iam}
"""By `kafka.auth`."""


class _Kept:
    """A source's token for half of its life: kafka-python asks anew for every connection."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._token: Token | None = None
        self._asked_at = 0.0

    def token(self) -> str:
        token, now = self._token, time.time()
        if token is None or now > (self._asked_at + token.ends_at) / 2:
            token, self._asked_at = self._source.token(), now
            self._token = token
        return token.value


class _Renewed:
    """A source's tokens as confluent-kafka asks for them, from a thread of its own.

    What is raised there comes out of whatever the client does next, as an error of something else. So the first token is had
    before there is a client, and while no other can be had the last one is given once more: a broker takes it to its end.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._last = source.token()
        self._given = False

    def __call__(self, _config: object) -> tuple[str, float]:
        if not self._given:
            self._given = True
            return self._last.value, self._last.ends_at
        try:
            self._last = self._source.token()
        except Unreachable as away:
            log.warning("no new token to sign in to Kafka with; trying again: %s", away)
            # So long it is good as far as the client knows, which asks again at four fifths of it.
            return self._last.value, time.time() + _RETRY_SECONDS
        return self._last.value, self._last.ends_at


def confluent_auth(kafka: Kafka) -> dict[str, Any]:
    """Return the part of a confluent-kafka client's configuration that says how to connect and sign in. Raises Unreachable."""
    config: dict[str, Any] = {"security.protocol": kafka.protocol}
    if kafka.auth is not None:
        source = TOKEN_SOURCES[kafka.auth](kafka)
        # librdkafka asks again at four fifths of each token's life, on a thread of its own.
        config |= {"sasl.mechanism": "OAUTHBEARER", "oauth_cb": _Renewed(source)}
    elif kafka.sasl_mechanism is not None:
        config["sasl.mechanism"] = kafka.sasl_mechanism
        config["sasl.username"] = kafka.sasl_username
        config["sasl.password"] = _secret(kafka.sasl_password)
    if kafka.ca_file is not None:
        config["ssl.ca.location"] = str(kafka.ca_file)
    if kafka.certificate_file is not None:
        config["ssl.certificate.location"] = str(kafka.certificate_file)
        config["ssl.key.location"] = str(kafka.key_file)
        if kafka.key_password is not None:
            config["ssl.key.password"] = _secret(kafka.key_password)
    return config


def independent_auth(kafka: Kafka) -> dict[str, Any]:
    """Return the same for a kafka-python client, as its keyword arguments."""
    config: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers.split(","),
        "security_protocol": kafka.protocol,
    }
    if kafka.auth is not None:
        from kafka.net.sasl.oauth import AbstractTokenProvider

        class _Provider(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python has no stubs
            def __init__(self) -> None:
                super().__init__()
                self._kept = _Kept(TOKEN_SOURCES[str(kafka.auth)](kafka))

            def token(self) -> str:
                return self._kept.token()

        config |= {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": _Provider()}
    elif kafka.sasl_mechanism is not None:
        config["sasl_mechanism"] = kafka.sasl_mechanism
        config["sasl_plain_username"] = kafka.sasl_username
        config["sasl_plain_password"] = _secret(kafka.sasl_password)
    if kafka.protocol in ("SSL", "SASL_SSL"):
        config["ssl_context"] = _tls(kafka)
    return config


def _tls(kafka: Kafka) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if kafka.ca_file is None else str(kafka.ca_file))
        if kafka.certificate_file is not None:
            context.load_cert_chain(str(kafka.certificate_file), str(kafka.key_file), _secret(kafka.key_password))
    except (OSError, ssl.SSLError) as error:
        raise BadInput(
            f"kafka.ca_file, certificate_file or key_file cannot be read: {type(error).__name__}; they are PEM files"
        ) from None
    return context


def _secret(value: Any) -> str | None:
    return None if value is None else str(value.get_secret_value())
