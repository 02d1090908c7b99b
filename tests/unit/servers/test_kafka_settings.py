"""The same settings reach the broker as a file and as the image's environment."""

from tests.servers.kafka import as_environment, as_properties, broker_settings


def test_properties_are_one_setting_a_line() -> None:
    settings = broker_settings(9092, 9093, "/data")
    lines = as_properties(settings).splitlines()
    assert dict(line.split("=", 1) for line in lines) == settings


def test_the_image_is_told_every_setting() -> None:
    environment = as_environment(broker_settings(9092, 9093, "/data"))
    assert environment["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://127.0.0.1:9092"
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert len(environment) == len(broker_settings(9092, 9093, "/data"))


def test_clients_outside_a_container_are_led_to_loopback() -> None:
    settings = broker_settings(9092, 9093, "/data", bind="0.0.0.0")
    assert settings["listeners"].startswith("PLAINTEXT://0.0.0.0:9092")
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:9092"
