"""Wrong or missing settings: every process names the key, the place and what to do, before it touches anything."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any, NoReturn
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import sqlalchemy as sa
import structlog

from bridge.contracts.errors import BadInput
from consumers import cli, commands
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.bootstrap.parts import parts_for
from consumers.bootstrap.process import Process
from consumers.bootstrap.stages import STAGES
from consumers.commands import initialise
from consumers.needs import NEEDS, refuse_unusable

SECRET = "hunter2-in-a-setting"
Break = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation in which every stage could begin."""
    folder = tmp_path_factory.mktemp("whole") / "etc"
    changes: dict[str, dict[str, Any]] = {
        "delivery": {"endpoint_url": "http://127.0.0.1:1"},
        "store": {"url": "mysql+pymysql://tocsin@127.0.0.1:1/magento"},
        "metrics": {"port_base": 0},
    }
    initialise(folder, admin_name="Admin", admin_id="admin", changes=changes)
    return folder


@pytest.fixture
def installation(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, on a machine where whoever connects or listens fails the test."""
    folder = tmp_path / "etc"
    shutil.copytree(whole / "keys", folder / "keys")
    # texts are many, and nobody writes to them
    (folder / "templates").symlink_to(whole / "templates")
    for name in ("tocsin.toml", "people.toml"):
        shutil.copy(whole / name, folder)

    def refused(*_: object) -> NoReturn:
        raise AssertionError("something was connected to, or listened on")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket.socket, "bind", refused)
    monkeypatch.setattr(commands, "configure_logs", lambda _process: None)
    return folder


def written(text: str) -> Break:
    """Put `text` at the end of the settings file."""

    def put(folder: Path, _: pytest.MonkeyPatch) -> None:
        with (folder / "tocsin.toml").open("a", encoding="utf-8") as file:
            file.write(text)

    return put


def changed(old: str, new: str) -> Break:
    def put(folder: Path, _: pytest.MonkeyPatch) -> None:
        file = folder / "tocsin.toml"
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, old
        file.write_text(text.replace(old, new), encoding="utf-8")

    return put


def variable(name: str, value: str) -> Break:
    return lambda _, patch: patch.setenv(name, value)


def gone(name: str) -> Break:
    return lambda folder, _: (folder / name).unlink()


def open_to_all(name: str) -> Break:
    return lambda folder, _: (folder / name).chmod(0o644)


# what is broken -> the key, where it is said to be, what is to be done
BROKEN: dict[str, tuple[Break, str, str, str]] = {
    "brokers": (
        variable("TOCSIN_KAFKA__BOOTSTRAP_SERVERS", "kafka"), "kafka.bootstrap_servers",
        "environment variable TOCSIN_KAFKA__BOOTSTRAP_SERVERS", "write host:port",
    ),
    "a CA file": (
        variable("TOCSIN_KAFKA__CA_FILE", "/nowhere/ca.pem"), "kafka", "tocsin.toml", "name another file in kafka.ca_file",
    ),
    "the store's URL": (
        variable("TOCSIN_STORE__URL", f"//{SECRET}"), "store.url", "environment variable TOCSIN_STORE__URL",
        "looks like mysql+pymysql://user@host/database",
    ),
    "the store's database": (
        changed('url = "mysql+pymysql://tocsin@127.0.0.1:1/magento"', f'url = "mysql+pymysql://x:{SECRET}@127.0.0.1:1"'),
        "store.url", "tocsin.toml:", "looks like mysql+pymysql://user@host/database",
    ),
    "the case store's URL": (
        variable("TOCSIN_CASE_STORE__URL", f"postgres:/{SECRET}"), "case_store.url",
        "environment variable TOCSIN_CASE_STORE__URL", "looks like sqlite:///data/case.db or mysql+pymysql://",
    ),
    "the sandbox's address": (
        changed('endpoint_url = "http://127.0.0.1:1"', ""), "delivery.endpoint_url", "tocsin.toml",
        "start one with `python -m consumers.sandbox`",
    ),
    "the join key": (gone("keys/join.key"), "paths.keys", "tocsin.toml", "`tocsin init` writes it, or set paths.keys"),
    "the public key": (gone("keys/sealing.pub"), "paths.keys", "tocsin.toml", "`tocsin init` writes it, or set paths.keys"),
    "the private key": (open_to_all("keys/sealing.key"), "paths.keys", "tocsin.toml", "run chmod 600"),
    "the log's key": (gone("keys/evidence.key"), "paths.keys", "tocsin.toml", "`tocsin evidence keygen` makes one"),
    "the log's key, given": (
        variable("TOCSIN_EVIDENCE__PRIVATE_KEY", SECRET), "evidence.private_key",
        "environment variable TOCSIN_EVIDENCE__PRIVATE_KEY", "",
    ),
    "time stamp roots": (
        variable("TOCSIN_EVIDENCE__TIMESTAMP_ROOTS", "/nowhere/roots.pem"), "evidence.timestamp_roots",
        "environment variable TOCSIN_EVIDENCE__TIMESTAMP_ROOTS", "name another file in evidence.timestamp_roots",
    ),
    "the rules": (
        variable("TOCSIN_PATHS__TEMPLATES", "/nowhere"), "paths.templates", "environment variable TOCSIN_PATHS__TEMPLATES",
        "/nowhere/law",
    ),
    "an alert's secret": (
        changed('# secrets = {}', 'secrets = { monitor = "keys/none.secret" }'), "intake.secrets", "tocsin.toml:",
        "intake.secrets.monitor",
    ),
    "a lineage token": (
        changed('# lineage_tokens = {}', 'lineage_tokens = { risk = "keys/none.token" }'), "intake.lineage_tokens",
        "tocsin.toml:", "intake.lineage_tokens.risk",
    ),
    "a mapping": (
        changed('# mappings = {}', 'mappings = { monitor = "alertmanagr" }'), "intake.mappings", "tocsin.toml:",
        "did you mean 'alertmanager'",
    ),
    "the registry": (
        variable("TOCSIN_REGISTRY__FILE", "/nowhere/models.yaml"), "registry.file",
        "environment variable TOCSIN_REGISTRY__FILE", "name another file in registry.file",
    ),
    "a mode": (
        changed('# mode = "sandbox"', 'mode = "liv"'), "delivery.mode", "tocsin.toml:", "'sandbox', 'simulator' or 'live'",
    ),
    "a key": (written("\n[deliverry]\n"), "deliverry", "tocsin.toml:", "did you mean 'delivery'"),
}  # fmt: skip

_EVERY = tuple(STAGES)
_KAFKA = tuple(stage for stage in STAGES if stage not in ("release", "clock", "pager"))
_CASES = ("intake", "planning", "release", "dispatch", "receipts", "clock", "pager", "outbox")
NEEDED_BY: dict[str, tuple[str, ...]] = {
    "brokers": _EVERY,
    "a mode": _EVERY,
    "a key": _EVERY,
    "a CA file": _KAFKA,
    "the store's URL": ("relay", "account-notices"),
    "the store's database": ("relay", "account-notices"),
    "the case store's URL": _CASES,
    "the sandbox's address": ("dispatch", "receipts"),
    "the join key": ("relay",),
    "the public key": ("relay", "receipts"),
    "the private key": ("dispatch",),
    "the log's key": ("evidence",),
    "the log's key, given": ("evidence",),
    "time stamp roots": ("evidence",),
    "the rules": ("planning", "release", "dispatch", "clock"),
    "an alert's secret": ("intake",),
    "a lineage token": ("intake",),
    "a mapping": ("intake",),
    "the registry": ("intake",),
}
CASES = [(what, stage) for what, stages in NEEDED_BY.items() for stage in stages]


def files_below(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def refusal(folder: Path, run: Callable[[], object]) -> str:
    """Return what was said; nothing may have been written, and nothing secret said."""
    before = files_below(folder)
    with pytest.raises(BadInput) as refused:
        run()
    assert files_below(folder) == before
    assert SECRET not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(("what", "stage"), CASES, ids=[f"{stage}: {what}" for what, stage in CASES])
def test_a_stage_refuses_before_it_touches_anything(
    what: str, stage: str, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, key, place, remedy = BROKEN[what]
    make(installation, monkeypatch)
    said = refusal(installation, lambda: commands.run_stage(parts_for(installation / "tocsin.toml"), stage))
    assert f"{key}: " in said or f"{key}." in said
    assert place in said
    assert remedy in said


@pytest.mark.parametrize("stage", STAGES)
def test_an_installation_that_lacks_nothing_is_not_refused(stage: str, installation: Path) -> None:
    refuse_unusable(parts_for(installation / "tocsin.toml"), stage)


def test_every_need_of_every_stage_is_tried() -> None:
    assert NEEDS.keys() == STAGES.keys()
    tried = {(stage, BROKEN[what][1].split(".")[0]) for what, stage in CASES}
    assert {(stage, key.split(".")[0]) for stage, needs in NEEDS.items() for key, _ in needs} <= tried | {
        ("pager", "delivery")  # below
    }


def test_last_resort_mail_needs_the_sandbox_too(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed("# email_to = []", 'email_to = ["on-call@shop.example.com"]')(installation, monkeypatch)
    BROKEN["the sandbox's address"][0](installation, monkeypatch)
    said = refusal(installation, lambda: commands.run_stage(parts_for(installation / "tocsin.toml"), "pager"))
    assert "delivery.endpoint_url" in said


def test_all_stages_refuse_before_one_is_started(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    BROKEN["the log's key"][0](installation, monkeypatch)
    file = installation / "tocsin.toml"
    said = refusal(installation, lambda: commands.run_all(parts_for(file), file, _EVERY))
    assert "evidence.key" in said


@pytest.mark.parametrize("what", ["brokers", "a mode", "a key"])
@pytest.mark.parametrize(
    "words",
    [
        ["topics", "diff"], ["topics", "apply"], ["relay", "grants"], ["relay", "status"], ["relay", "verify"],
        ["relay", "backfill"], ["index", "status"], ["dead-letters", "list"], ["incident", "list"], ["delivery", "circuits"],
        ["notices", "check"], ["law", "check"], ["people", "list"], ["config", "show"], ["sealing", "status"], ["run"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_command_refuses_before_it_touches_anything(
    what: str, words: list[str], installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, key, place, remedy = BROKEN[what]
    make(installation, monkeypatch)
    arguments = ["--config", str(installation / "tocsin.toml"), *words]
    said = refusal(installation, lambda: cli.build().main(arguments, standalone_mode=False))
    assert f"{key}: " in said
    assert place in said
    assert remedy in said


@pytest.mark.parametrize("kept_from", ["stage", "database"])
def test_what_a_failure_says_is_in_no_log_and_no_answer_of_the_process(
    kept_from: str, whole: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A library's exception may hold what it was given; where it was raised is logged, and nothing else of it."""
    address = "anna.leaked@mail.example"
    answers: list[str] = []

    class Falls:
        def __init__(self, process: Process) -> None:
            self.process = process

        def run(self, stop: Event) -> NoReturn:
            run_file = whole / "data" / "run" / "clock.metrics.json"
            metrics = str(json.loads(run_file.read_text(encoding="utf-8"))["metrics"])
            try:
                if kept_from == "database":
                    store = CaseDatabase("sqlite://")
                    with store.read() as connection:
                        connection.execute(sa.text("SELECT :value FROM nowhere"), {"value": f"{address} {SECRET}"})
                raise ValueError(f"550 <{address}> password {SECRET}")
            finally:
                for path in ("/metrics", "/readyz", "/healthz"):
                    try:
                        with urlopen(metrics.replace("/metrics", path), timeout=10) as answer:
                            answers.append(answer.read().decode())
                    except HTTPError as refused:
                        with refused:
                            answers.append(refused.read().decode())

    monkeypatch.setitem(STAGES, "clock", lambda _parts, process: Falls(process))
    monkeypatch.setattr(commands, "stop_on_signals", Event)
    monkeypatch.setattr(commands, "collect_seldom", lambda: None)  # or all tests after this would
    monkeypatch.setattr(commands, "log", structlog.get_logger())  # a used one keeps the stream of an earlier test
    assert commands.run_stage(parts_for(whole / "tocsin.toml"), "clock") == 1
    said = capfd.readouterr()
    logged = json.loads(said.err.strip().splitlines()[-1])
    assert (logged["event"], logged["process"]) == ("stage falls", "clock")
    assert logged["error"] == ("OperationalError" if kept_from == "database" else "ValueError")
    assert any(frame.startswith("test_needs.py:") for frame in logged["where"])
    assert len(answers) == 3
    for text in (said.out, said.err, *answers):
        assert address not in text
        assert SECRET not in text


def test_a_failed_statement_of_the_case_store_does_not_show_its_values() -> None:
    with pytest.raises(sa.exc.OperationalError) as failed, CaseDatabase("sqlite://").read() as connection:
        connection.execute(sa.text("SELECT :value FROM nowhere"), {"value": SECRET})
    assert SECRET not in str(failed.value)
