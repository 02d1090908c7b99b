"""Settings: unknown keys, wrong values, the environment, masking, and the file that init writes."""

import re
import tomllib
from pathlib import Path

import pytest

from bridge.contracts.errors import BadInput
from bridge.runtime.settings import Settings, load_settings
from bridge.runtime.settings_file import commented_settings


def written(folder: Path, text: str) -> Path:
    path = folder / "tocsin.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    path = written(tmp_path, '[kafka]\nbootstrap_server = "x:1"\n')
    with pytest.raises(
        BadInput, match=r"tocsin\.toml:2: kafka\.bootstrap_server: unknown key; did you mean 'bootstrap_servers'"
    ):
        load_settings(path)


def test_an_unknown_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'delivery'"):
        load_settings(written(tmp_path, "[deliverry]\n"))


def test_an_unknown_environment_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_KAFKKA__BOOTSTRAP_SERVERS", "x:1")
    with pytest.raises(BadInput, match="did you mean 'TOCSIN_KAFKA'"):
        load_settings(None)


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, '[kafka]\nbootstrap_servers = "file:1"\ntopic_prefix = "p."\n')
    monkeypatch.setenv("TOCSIN_KAFKA__BOOTSTRAP_SERVERS", "env:1")
    kafka = load_settings(path).kafka
    assert (kafka.bootstrap_servers, kafka.topic_prefix) == ("env:1", "p.")


def test_a_secret_may_lie_in_a_file_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("mysql+pymysql://tocsin:s3cret@db/tocsin\n", encoding="utf-8")
    monkeypatch.setenv("TOCSIN_CASE_STORE__URL_FILE", str(tmp_path / "url"))
    settings = load_settings(None)
    assert settings.case_store.url.get_secret_value() == "mysql+pymysql://tocsin:s3cret@db/tocsin"
    # a setting that names a file itself is no such variable
    monkeypatch.setenv("TOCSIN_KAFKA__CA_FILE", str(tmp_path / "ca.pem"))
    assert load_settings(None).kafka.ca_file == tmp_path / "ca.pem"

    monkeypatch.setenv("TOCSIN_CASE_STORE__URL", "sqlite:///x.db")
    with pytest.raises(BadInput, match="TOCSIN_CASE_STORE__URL and TOCSIN_CASE_STORE__URL_FILE are both set"):
        load_settings(None)
    monkeypatch.delenv("TOCSIN_CASE_STORE__URL")
    (tmp_path / "url").unlink()
    with pytest.raises(BadInput, match=r"TOCSIN_CASE_STORE__URL_FILE: cannot read .*url: FileNotFoundError"):
        load_settings(None)


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, '[paths]\ndata = "d"\n'))
    assert settings.paths.data == tmp_path / "d"
    assert settings.case_store.url.get_secret_value() == f"sqlite:///{tmp_path}/data/case.db"


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tocsin init"):
        load_settings(tmp_path / "none.toml")


def test_a_broken_file_says_the_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="line 2"):
        load_settings(written(tmp_path, "[kafka]\nbootstrap_servers = \n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[delivery]\nmode = "live"\n', "aws_account"),
        ('[delivery]\nendpoint_url = "http://10.0.0.8:1"\n', "loopback"),
        ('[delivery]\nmode = "simulator"\nendpoint_url = "http://127.0.0.1:1"\n', "sandbox"),
        ('[delivery]\nmode = "lively"\n', "'lively'"),
        ('[delivery.canary_messages]\nemail_to = "a@shop.example, b@shop.example"\n', "one address of your own"),
        ('[delivery.canary_messages]\nsms_to = "0151 1234"\n', "E.164"),
        ('[delivery.canary_messages]\nemail_to = "a@shop.example"\n', "needs delivery.smtp with return_path"),
        ('[delivery.canary_messages]\nsms_gateway_to = "+4915100000001"\n', "sms_gateway with callback_url"),
    ],
)
def test_delivery_that_could_reach_the_wrong_people_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_settings(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[metrics]\nport_base = 99999\n", "metrics.port_base"),
        ("[intake]\nport = -1\n", "intake.port"),
        ("[evidence]\nport = 65536\n", "evidence.port"),
        ("[relay]\nidle_seconds = inf\n", "relay.idle_seconds"),
        ("[delivery]\nemail_per_second = inf\n", "delivery.email_per_second"),
        ("[delivery.canary_messages]\nevery_minutes = inf\n", "delivery.canary_messages.every_minutes"),
        ('[kafka]\nbootstrap_servers = "kafka:65536"\n', "kafka.bootstrap_servers"),
        ('[kafka]\ntopic_prefix = "shop one/"\n', "kafka.topic_prefix"),
    ],
)
def test_a_number_or_name_that_nothing_can_work_with_is_refused_where_it_stands(
    tmp_path: Path, text: str, place: str
) -> None:
    with pytest.raises(BadInput, match=rf"tocsin\.toml:2: {re.escape(place)}: "):
        load_settings(written(tmp_path, text))


def test_a_password_in_any_address_is_masked(tmp_path: Path) -> None:
    text = (
        '[registry]\nkind = "mlflow"\nuri = "https://user:hunter2@mlflow/x"\n'
        '[pager]\nalertmanager_urls = ["http://am:9093/a@b", "http://user:hunter2@am:9093"]\n'
    )
    shown = load_settings(written(tmp_path, text)).masked()
    assert shown["registry"]["uri"] == "https://user:**********@mlflow/x"
    assert shown["pager"]["alertmanager_urls"] == ["http://am:9093/a@b", "http://user:**********@am:9093"]


def test_passwords_are_masked_and_never_echoed(tmp_path: Path) -> None:
    path = written(tmp_path, '[store]\nurl = "mysql+pymysql://user:hunter2@db/magento"\n')
    shown = str(load_settings(path).masked())
    assert "hunter2" not in shown
    assert "user:**********@db" in shown


def test_live_needs_somebody_to_page(tmp_path: Path) -> None:
    live = '[delivery]\nmode = "live"\naws_account = "123456789012"\nbase_url = "https://shop.example/"\n'
    with pytest.raises(BadInput, match=r"pager\.alertmanager_urls, pager\.on_call or pager\.email_to"):
        load_settings(written(tmp_path, live))
    paged = live + '[pager]\nemail_to = ["on-call@shop.example"]\n'
    assert load_settings(written(tmp_path, paged)).pager.has_receiver
    for hook, message in (
        ('url = "http://pages.example/"', "is https"),
        ('url = "https://pages.example/"', "needs a secret"),
        ('url = "https://pages.example/"\nsecret = "x"', "starts with whsec_"),
    ):
        with pytest.raises(BadInput, match=message):
            load_settings(written(tmp_path, f"[pager.on_call]\n{hook}\n"))


def test_the_default_mode_reaches_nobody() -> None:
    assert Settings().delivery.mode == "sandbox"


def test_the_file_that_init_writes_is_accepted_and_changes_nothing(tmp_path: Path) -> None:
    text = commented_settings({"delivery": {"aws_region": "eu-west-1"}})
    assert tomllib.loads(text)["delivery"] == {"aws_region": "eu-west-1"}
    settings = load_settings(written(tmp_path, text))
    assert settings.delivery.aws_region == "eu-west-1"
    for section in Settings.model_fields:
        assert f"[{section}]" in text
