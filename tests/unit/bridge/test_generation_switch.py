"""A new generation is filled as fast as the relay publishes, and nothing is given up while it does."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bridge import generation_switch
from bridge.contracts.errors import Refused
from bridge.generation_switch import GenerationSwitch
from bridge.magento.changelogs import View
from bridge.runtime.settings import Kafka


class Shop:
    """A store whose clock runs on while it is waited for, and whose relay publishes `per_second`."""

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self.seconds = 0.0
        self.backlog = 0.0
        self.most = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.backlog = max(0.0, self.backlog - self.per_second * seconds)

    def waiting(self) -> Mapping[View, int]:
        return {View.CUSTOMER: int(self.backlog)}

    def run(self, name: str, chunk: int) -> Iterator[int]:
        for _ in range(1_000_000 // chunk if name == "customers" else 0):
            self.backlog += chunk
            self.most = max(self.most, self.backlog)
            yield chunk


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(per_second=1000)
    monkeypatch.setattr(generation_switch, "time", shop)
    return shop


def switch_of(shop: Shop, said: list[str]) -> GenerationSwitch:
    needless: Any = None
    store: Any = shop
    kafka = Kafka(bootstrap_servers="127.0.0.1:1")
    return GenerationSwitch(kafka, store, store, needless, needless, Path(), said.append, per_second=50_000)


def test_a_large_store_is_filled_however_long_its_relay_takes(shop: Shop) -> None:
    said: list[str] = []
    switch_of(shop, said).fill()
    assert said[0] == "4 enqueued: 1,000,000 customers"
    assert shop.backlog < 1000
    assert shop.seconds > 900
    assert shop.most < 250_000, "what is enqueued long before it can be published only waits"


def test_a_relay_that_publishes_nothing_is_given_up(shop: Shop) -> None:
    shop.per_second = 0
    with pytest.raises(
        Refused, match=r"nothing moved for 120 s, waiting for the relay.*tocsin relay status.*it goes on"
    ):
        switch_of(shop, []).fill()
    assert 120 < shop.seconds < 150
