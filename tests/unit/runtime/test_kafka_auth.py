"""How clients sign in: the real signer offline, and settings that do not go together."""

import base64
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr, ValidationError

from bridge.contracts.errors import Unreachable
from bridge.runtime.kafka import Publisher
from bridge.runtime.kafka_auth import TOKEN_SOURCES, MskIam, Token, confluent_auth, independent_auth
from bridge.runtime.settings import Kafka

MSK: dict[str, Any] = {"auth": "msk_iam", "aws_region": "eu-central-1"}


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_a_token_of_the_real_signer_names_region_action_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-example")
    token = MskIam("eu-central-1").token()
    url = urlsplit(base64.urlsafe_b64decode(token.value + "=" * (-len(token.value) % 4)).decode())
    asked = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert url.hostname == "kafka.eu-central-1.amazonaws.com"
    assert asked["Action"] == "kafka-cluster:Connect"
    assert asked["X-Amz-Credential"].startswith("AKIDEXAMPLE/")
    assert asked["X-Amz-Expires"] == "900"
    assert 880 < token.ends_at - time.time() <= 901
    assert "secret-example" not in url.query
    assert token.value not in repr(token)


def test_without_credentials_it_says_so() -> None:
    with pytest.raises(Unreachable, match="no AWS credentials"):
        MskIam("eu-central-1").token()


def test_both_clients_get_tokens_and_the_independent_one_keeps_them_for_half_their_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Token] = []

    class Source:
        def token(self) -> Token:
            given.append(Token(f"t{len(given)}", now + 900))
            return given[-1]

    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setitem(TOKEN_SOURCES, "msk_iam", lambda _kafka: Source())
    ours = confluent_auth(Kafka(**MSK))
    assert (ours["security.protocol"], ours["sasl.mechanism"]) == ("SASL_SSL", "OAUTHBEARER")
    assert ours["oauth_cb"]("") == ("t0", 1900.0)
    provider = independent_auth(Kafka(**MSK))["sasl_oauth_token_provider"]
    assert [provider.token(), provider.token()] == ["t1", "t1"]
    now = 1451.0
    assert provider.token() == "t2"


def test_a_token_that_cannot_be_had_is_said_before_there_is_a_client_and_later_ends_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Source:
        away = True
        given = 0

        def token(self) -> Token:
            if self.away:
                raise Unreachable("no AWS credentials to sign with")
            self.given += 1
            return Token(f"t{self.given}", 1900.0)

    monkeypatch.setattr(time, "time", lambda: 1000.0)
    source = Source()
    monkeypatch.setitem(TOKEN_SOURCES, "msk_iam", lambda _kafka: source)
    with pytest.raises(Unreachable, match="no AWS credentials"):
        Publisher(Kafka(**MSK))
    source.away = False
    ask = confluent_auth(Kafka(**MSK))["oauth_cb"]
    assert [ask(""), ask("")] == [("t1", 1900.0), ("t2", 1900.0)]
    source.away = True
    assert [ask(""), ask("")] == [("t2", 1010.0), ("t2", 1010.0)]
    assert "trying again: no AWS credentials to sign with" in caplog.text
    source.away = False
    assert ask("") == ("t3", 1900.0)


def test_a_role_that_may_not_be_taken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_region: str) -> tuple[str, int]:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "arn:aws:iam::1:role/x"}}, "AssumeRole")

    monkeypatch.setattr("aws_msk_iam_sasl_signer.MSKAuthTokenProvider.generate_auth_token", denied)
    with pytest.raises(Unreachable, match=r"no AWS credentials to sign with \(ClientError\)"):
        MskIam("eu-central-1").token()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"auth": "msk_iam"}, "aws_region"),
        (MSK | {"sasl_mechanism": "PLAIN"}, "remove kafka.sasl"),
        ({"security_protocol": "SASL_SSL"}, "do not go together"),
        ({"sasl_mechanism": "PLAIN"}, "do not go together"),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "u"},
            "TOCSIN_KAFKA__SASL_PASSWORD",
        ),
        ({"security_protocol": "SSL", "certificate_file": "c.pem"}, "belong together"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Kafka(**values)


def test_a_password_reaches_both_clients_and_no_repr() -> None:
    kafka = Kafka(
        security_protocol="SASL_PLAINTEXT", sasl_mechanism="SCRAM-SHA-512", sasl_username="relay",
        sasl_password=SecretStr("hunter2"),
    )  # fmt: skip
    assert confluent_auth(kafka)["sasl.password"] == "hunter2"
    assert independent_auth(kafka)["sasl_plain_password"] == "hunter2"
    assert "hunter2" not in repr(kafka)
