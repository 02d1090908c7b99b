"""`tocsin run` ends cleanly when asked by SIGTERM or SIGINT: exit code 0, no process left behind, nothing half done.

All stages run, with work in hand: customers are written to the store just before the signal. What asks them to end is the
supervisor, by SIGTERM, whatever it was asked by itself: for SIGINT a few that are named stand for all.
"""

import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from bridge.runtime.settings import Settings, load_settings
from consumers.adapters.aws import provision_sandbox
from consumers.bootstrap.providers import aws_config
from consumers.bootstrap.stages import STAGES
from consumers.commands import initialise, metrics_addresses
from consumers.demo import shop
from consumers.demo.progress import open_changes
from consumers.demo.surroundings import embedded, open_engine
from tests.e2e.demo_process import ROOT, last_words
from tests.e2e.parts import start_part


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """An installation with an embedded Kafka, an empty store and the AWS sandbox, all up; no stage runs yet."""
    folder = tmp_path_factory.mktemp("installation")
    with ExitStack() as stack:

        def start(name: str, command: Sequence[str]) -> Mapping[str, Any]:
            return stack.enter_context(start_part(name, command, folder))

        surroundings = embedded(folder, start)
        sandbox = start("sandbox", [sys.executable, "-m", "consumers.sandbox", "--folder", str(folder / "mailbox")])
        initialise(
            folder,
            admin_name="Adam Admin",
            admin_id="adam",
            changes={
                "kafka": dict(surroundings.kafka),
                "store": {"url": surroundings.store_url},
                "case_store": {"url": surroundings.case_store_url},
                "paths": {"data": "."},
                "intake": {"port": 0},
                "relay": {"batch_size": 20},
                "delivery": {"endpoint_url": sandbox["url"], "from_address": "security@shop.example.com"},
                "metrics": {"port_base": 0},
            },
        )
        settings = load_settings(folder / "tocsin.toml")
        provision_sandbox(
            aws_config(settings),
            sender_domain="shop.example.com",
            configuration_set=settings.delivery.configuration_set,
            receipts_queue=settings.delivery.receipts_queue,
        )
        with open_engine(settings.store.url.get_secret_value()).begin() as connection:
            shop.write_base(connection)
        yield settings


@pytest.mark.parametrize(
    ("asked_by", "customers", "named"), [(signal.SIGTERM, 200, ()), (signal.SIGINT, 0, ("relay", "index", "dispatch"))]
)
def test_all_stages_end_when_asked(
    installation: Settings, asked_by: signal.Signals, customers: int, named: Sequence[str]
) -> None:
    folder = installation.paths.data
    for old in installation.paths.run.glob("*.metrics.json"):
        old.unlink()
    log = folder / "run.log"
    with log.open("ab") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "consumers.cli", "--config", str(folder / "tocsin.toml"), "run", *named],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _until(lambda: _ready(installation) == set(named or STAGES), "every stage is ready", run, log)
        stages = _children_of(run.pid)
        assert len(stages) == len(named or STAGES)
        store = open_engine(installation.store.url.get_secret_value())
        # a second run takes up what the first had not yet carried when it was asked to end
        _until(lambda: open_changes(store) == 0, "the relay has nothing to do", run, log)
        if customers:
            with store.begin() as connection:
                shop.write_people(connection, shop.make_shop(customers, 1, datetime.now(UTC)))
            before = open_changes(store)
            _until(lambda: open_changes(store) < before, "the relay is at work", run, log)
        run.send_signal(asked_by)
        assert run.wait(45) == 0, last_words(log)
        assert customers == 0 or open_changes(store) > 0, "the relay had no work in hand; nothing was tried"
        store.dispose()
    finally:
        if run.poll() is None:
            run.kill()
            run.wait()
    assert [pid for pid in stages if Path(f"/proc/{pid}").exists()] == []
    said = log.read_text(encoding="utf-8")
    assert "did not end" not in said
    assert "is started again" not in said, last_words(log)


def _ready(settings: Settings) -> set[str]:
    return {stage for stage, address in metrics_addresses(settings).items() if _answers(address)}


def _answers(metrics: str) -> bool:
    try:
        with urllib.request.urlopen(metrics.replace("/metrics", "/readyz"), timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _children_of(pid: int) -> list[int]:
    # what a stage itself starts would be an orphan, too
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            found += [int(child), *_children_of(int(child))]
    return found


def _until(condition: Callable[[], bool], what: str, run: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up_at = time.monotonic() + 90
    while not condition():
        assert run.poll() is None, last_words(log)
        assert time.monotonic() < give_up_at, f"waited in vain until {what}\n{last_words(log)}"
        time.sleep(0.05)
