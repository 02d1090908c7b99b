"""The composition root: every part's name is that of a type, and naming parts imports nothing."""

import importlib
import subprocess
import sys
from threading import Event
from typing import Any

import pytest

from bridge.contracts.errors import MustStop, Refused
from bridge.runtime.clock import SystemClock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings
from bridge.runtime.telemetry import Health
from consumers.bootstrap import stages
from consumers.bootstrap.parts import parts_for
from consumers.bootstrap.process import Accompanied, Process
from consumers.bootstrap.providers import canary_routes
from consumers.domain.simulators import SIMULATED_PHONE

OWN = {"email_to": "canary@shop.example.com", "sms_to": "+4915100000001", "sms_gateway_to": "+4915100000001"}


def test_every_part_is_named_by_the_type_that_askers_import() -> None:
    """A misspelt name would be found only by the one command that asks for it."""
    for name in parts_for(None).names:
        module, _, kind = name.rpartition(".")
        assert getattr(importlib.import_module(module), kind).__module__ == module, name


def test_naming_all_parts_imports_no_room() -> None:
    """Each stage and each command begins with this: what it imports, everybody waits for."""
    script = (
        "import sys; from consumers.bootstrap.parts import parts_for; parts_for(None); "
        "found = [name for name in sys.modules if name.startswith(('consumers.', 'sqlalchemy', 'boto', 'alembic'))]; "
        "print([name for name in found if not name.startswith('consumers.bootstrap')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_stage_ends_when_what_watches_it_says_so_and_not_for_its_bugs() -> None:
    heard: list[str] = []

    class Waiting:
        def run(self, stop: Event) -> None:
            heard.append("stopped" if stop.wait(20) else "gave up")

    def bug(over: Event) -> None:
        heard.append("bug")
        over.set()
        raise ValueError

    def look(_: Event) -> None:
        raise MustStop("the case store was put back in time")

    with pytest.raises(MustStop, match="put back in time"):
        Accompanied(Waiting(), [look]).run(Event())
    stop = Event()
    stop.set()
    Accompanied(Waiting(), [bug]).run(stop)
    assert sorted(heard) == ["bug", "stopped", "stopped"]


@pytest.mark.parametrize("name", ["release", "dispatch", "receipts"])
def test_who_moves_attempts_refuses_a_case_store_that_was_put_back_in_time(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Receipts, too: one of a message that such a store does not know would leave its queue, and be forgotten."""

    def refuse(*_: object) -> None:
        raise Refused("it was restored from a backup")

    monkeypatch.setattr(stages, "refuse_restored_store", refuse)
    parts = Parts()
    parts.provide(Settings, lambda: Settings.model_validate({"delivery": {"endpoint_url": "http://127.0.0.1:9"}}))
    with pytest.raises(Refused, match="restored"):
        stages.STAGES[name](parts, Process(name, Health(), SystemClock()))


@pytest.mark.parametrize(
    ("mode", "chosen", "routes"),
    [
        ("live", {}, ["ses"]),
        ("sandbox", {}, ["ses"]),
        ("live", OWN, ["ses", "smtp", "sns", "sms_gateway"]),
        ("simulator", OWN, ["ses"]),
        ("simulator", {"sms_to": SIMULATED_PHONE}, ["ses", "sns"]),
        ("live", OWN | {"every_minutes": 0}, []),
    ],
)
def test_canary_messages_go_to_simulators_and_to_what_is_named_and_nowhere_else(
    mode: str, chosen: dict[str, Any], routes: list[str]
) -> None:
    delivery = {
        "mode": mode,
        "aws_account": "000000000000",
        "base_url": "https://shop.example.com/",
        "smtp": {"host": "127.0.0.1", "return_path": "bounce@shop.example.com", "reports_maildir": "reports",
                 "region": "eu-north-1"},
        "sms_gateway": {
            "url": "https://sms.example.com", "account_sid": "AC", "auth_token": "x", "sender": "MG1",
            "callback_url": "https://shop.example.com/sms",
        } if mode != "sandbox" else None,
        "canary_messages": chosen,
    }  # fmt: skip
    settings = Settings.model_validate({"delivery": delivery, "pager": {"email_to": ["sre@shop.example.com"]}})
    found = canary_routes(settings)
    assert [route.provider for route in found] == routes
    assert {route.provider: route.region for route in found if route.provider == "smtp"} in ({}, {"smtp": "eu-north-1"})
    assert {route.region for route in found if route.provider != "smtp"} <= {"eu-central-1"}, "where nothing is said"
