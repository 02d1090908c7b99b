"""The command line as a whole: what is found, what it costs to start, and how it says no."""

import importlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click
import pytest

from bridge.contracts.errors import BadInput
from bridge.runtime import topics_admin
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings
from consumers import cli
from consumers.bootstrap.stages import STAGES
from consumers.commands import initialise


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Typed = Callable[..., Done]


@pytest.fixture
def tocsin(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Typed:
    """Type a command, in this process."""
    monkeypatch.delenv("TOCSIN_TOKEN", raising=False)

    def typed(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["tocsin", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, printed.out, printed.err)

    return typed


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An installation as `tocsin init` leaves it, and its administrator's token. Not to be changed."""
    folder = tmp_path_factory.mktemp("installed")
    token = initialise(folder, admin_name="Adam Admin", admin_id="adam")
    return folder / "tocsin.toml", token


@pytest.fixture
def config(shipped: tuple[Path, str]) -> Path:
    """The settings file of an installation; not to be changed."""
    return shipped[0]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that is taken and on which nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def assert_one_sentence(done: Done) -> None:
    assert done.err.startswith("tocsin: ")
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) == 1


def every_command() -> list[tuple[str, ...]]:
    """Return the words of every command and group."""

    def below(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from below(found, (*words, name))

    return list(below(cli.build(), ()))


def test_every_command_explains_itself(tocsin: Typed) -> None:
    commands = every_command()
    assert len(commands) > 40
    for words in commands:
        done = tocsin(*words, "--help")
        assert (done.code, done.err) == (0, "")
        assert f"Usage: tocsin {' '.join(words)}".rstrip() in done.out
        first = done.out.split("\n\n")[1].strip()
        assert first
        assert not first.startswith("Options:"), f"`tocsin {' '.join(words)}` has no help text"


def test_all_rooms_are_found() -> None:
    nouns = {words[0] for words in every_command() if words}
    assert nouns >= {
        "init", "run", "config", "demo", "relay", "topics", "dead-letters", "index", "data-map", "alert", "incident", "law",
        "notices", "delivery", "evidence", "people",
    }  # fmt: skip


def test_two_rooms_cannot_claim_one_noun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one_commands", "two_commands"):
        module = ModuleType(name)
        module.COMMANDS = [click.Command("twice")]  # type: ignore[attr-defined]  # as a room would
        monkeypatch.setitem(sys.modules, name, module)
    rooms = cli.build(["one_commands", "two_commands"])
    with pytest.raises(BadInput, match="both one_commands and two_commands register `tocsin twice`"):
        rooms.list_commands(click.Context(rooms))


def room(monkeypatch: pytest.MonkeyPatch, name: str, commands: list[click.Command], lent: object = None) -> None:
    module = ModuleType(name)
    module.COMMANDS = commands  # type: ignore[attr-defined]  # as a room would
    module.SUBCOMMANDS = lent  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)


def test_a_room_may_lend_a_verb_to_another_rooms_noun(monkeypatch: pytest.MonkeyPatch) -> None:
    noun, lent = click.Group("noun"), click.Command("lent")
    room(monkeypatch, "one.a_commands", [], {"noun": [lent]})
    room(monkeypatch, "two.a_commands", [noun])
    room(monkeypatch, "two.b_commands", [], {"noun": [click.Command("same-room")]})
    for _ in range(2):  # groups live longer than the command line that finds them
        rooms = cli.build(["one.a_commands", "two.a_commands", "two.b_commands"])
        assert rooms.get_command(click.Context(rooms), "noun") is noun
        assert set(noun.commands) == {"lent", "same-room"}


def test_a_verb_cannot_be_lent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    noun = click.Group("noun", commands={"taken": click.Command("taken")})
    room(monkeypatch, "one.a_commands", [noun], {"noun": [click.Command("taken")]})
    rooms = cli.build(["one.a_commands"])
    with pytest.raises(BadInput, match="the verb taken, which it has already"):
        rooms.list_commands(click.Context(rooms))


@pytest.mark.parametrize("command", [("run", "--help"), ("config", "show")])
def test_a_simple_command_imports_no_heavy_library(command: tuple[str, ...], config: Path) -> None:
    """Eleven stages start at once; each imports what it needs itself and nothing of the others."""
    heavy = ("alembic", "boto3", "confluent_kafka", "duckdb", "jinja2", "sqlalchemy", "cryptography")
    look = (
        "import sys; from consumers import cli\n"
        f"sys.argv = ['tocsin', '--config', {str(config)!r}, *{command!r}]\n"
        "try: cli.main()\n"
        f"finally: print(*sorted(set(sys.modules) & set({heavy!r})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == ""


def test_no_arguments_show_the_help(tocsin: Typed) -> None:
    assert "Commands:" in tocsin("--help").out


def test_the_version_is_the_distributions(tocsin: Typed) -> None:
    assert tocsin("--version").out.startswith("tocsin, version 0.")


def test_an_unknown_noun_names_the_nearest(tocsin: Typed) -> None:
    done = tocsin("inciden", "list")
    assert done.code == 2
    assert "did you mean 'incident'?" in done.err
    assert_one_sentence(done)


@pytest.mark.parametrize(
    "wrong", [("incident", "sho"), ("law", "check", "--jsno"), ("law", "explain"), ("index", "inspect")]
)
def test_wrong_use_is_2(tocsin: Typed, config: Path, wrong: tuple[str, ...]) -> None:
    done = tocsin("--config", config, *wrong)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_a_check_that_passes_is_0(tocsin: Typed, config: Path) -> None:
    assert tocsin("--config", config, "law", "check").code == 0
    assert tocsin("--config", config, "notices", "check").code == 0


def test_a_check_that_fails_is_1(tocsin: Typed, config: Path) -> None:
    """One administrator alone cannot release anything."""
    done = tocsin("--config", config, "people", "check")
    assert done.code == 1
    assert_one_sentence(done)


def test_a_part_that_does_not_run_is_3(tocsin: Typed, config: Path) -> None:
    done = tocsin("--config", config, "index", "status")
    assert done.code == 3
    assert_one_sentence(done)


def test_a_broker_that_is_down_is_3(
    tocsin: Typed, config: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics_admin, "_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setenv("TOCSIN_KAFKA__BOOTSTRAP_SERVERS", f"127.0.0.1:{silent_port}")
    done = tocsin("--config", config, "topics", "diff")
    assert done.code == 3
    assert "kafka.bootstrap_servers" in done.err
    assert_one_sentence(done)


def test_a_wrong_settings_key_says_file_key_and_nearest(tocsin: Typed, tmp_path: Path) -> None:
    file = tmp_path / "tocsin.toml"
    file.write_text('[kafka]\nbootstrap_server = "x:1"\n', encoding="utf-8")
    done = tocsin("--config", file, "config", "show")
    assert done.code == 2
    assert f"{file}:2: kafka.bootstrap_server: unknown key; did you mean 'bootstrap_servers'?" in done.err
    assert_one_sentence(done)


def test_a_broken_rule_says_file_and_line(tocsin: Typed, tmp_path: Path) -> None:
    initialise(tmp_path / "here", admin_name="Adam Admin", admin_id="adam")
    rule = tmp_path / "here" / "templates" / "law" / "gb.yaml"
    rule.write_text(rule.read_text(encoding="utf-8").replace("recipient:", "recipent:", 1), encoding="utf-8")
    done = tocsin("--config", tmp_path / "here" / "tocsin.toml", "law", "check")
    assert done.code == 1
    assert "gb.yaml:8: duties.gb-ukgdpr-33.recipent: unknown key; did you mean 'recipient'?" in done.err
    assert "Traceback" not in done.err


def test_a_broken_template_says_where(tocsin: Typed, tmp_path: Path) -> None:
    initialise(tmp_path / "here", admin_name="Adam Admin", admin_id="adam")
    subject = tmp_path / "here" / "templates" / "notices" / "ai-data-leak" / "en" / "subject.j2"
    subject.write_text("Notice {{ slot('case_numbr') }}\n", encoding="utf-8")
    done = tocsin("--config", tmp_path / "here" / "tocsin.toml", "notices", "check")
    assert done.code in (1, 2)
    assert "en/subject.j2" in done.out + done.err
    assert "case_numbr" in done.out + done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("token", "code", "said"), [(None, 2, "who are you?"), ("tocsin_adam_nonsense", 1, "the token is not of anybody")]
)
def test_whoever_is_not_known_is_refused(
    tocsin: Typed, config: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, code: int, said: str
) -> None:
    if token is not None:
        monkeypatch.setenv("TOCSIN_TOKEN", token)
    done = tocsin("--config", config, "incident", "list")
    assert done.code == code
    assert said in done.err
    assert "nonsense" not in done.err
    assert_one_sentence(done)


def test_whoever_is_known_may_work(tocsin: Typed, shipped: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_TOKEN", shipped[1])
    assert tocsin("--config", shipped[0], "people", "list").code == 0


def test_an_unknown_stage_names_the_nearest_and_all(tocsin: Typed, config: Path) -> None:
    done = tocsin("--config", config, "run", "dispach")
    assert done.code == 2
    assert "did you mean 'dispatch'?" in done.err
    assert all(stage in done.err for stage in STAGES)
    assert_one_sentence(done)


@pytest.mark.parametrize("stages", [(), ("intake",), ("intake", "clock")])
def test_run_with_bad_settings_ends_with_2_and_starts_nothing(tmp_path: Path, stages: tuple[str, ...]) -> None:
    file = tmp_path / "tocsin.toml"
    file.write_text('[delivery]\nmode = "live"\n', encoding="utf-8")
    command = [sys.executable, "-m", "consumers.cli", "--config", str(file), "run", *stages]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert_one_sentence(Done(done.returncode, done.stdout, done.stderr))
    assert done.returncode == 2
    assert "delivery.aws_account" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tocsin.toml"]


def test_all_that_later_parts_ask_for_is_provided(config: Path) -> None:
    """Kinds that are slow to name are registered when somebody first asks."""
    from bridge.runtime.clock import Clock
    from consumers.bootstrap.parts import parts_for

    parts: Parts = parts_for(config)
    for module, kind in (
        ("consumers.stages.delivery_commands", "DeliveryNumbers"),
        ("consumers.law.loader", "LawFolder"),
        ("consumers.case.store", "CaseStore"),
        ("consumers.evidence.commands", "ProofSubjects"),
        ("consumers.adapters.case_store.engine", "CaseDatabase"),
    ):
        assert parts.get(getattr(importlib.import_module(module), kind)) is not None
    assert isinstance(parts.get(Settings), Settings)
    assert parts.get(Clock).now().tzinfo is not None
    parts.close()


def test_a_path_that_cannot_be_written_is_named_without_a_traceback(tocsin: Typed, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = tocsin("init", tmp_path / "file" / "folder", "--admin", "Adam Admin")
    assert done.code == 2
    assert done.err == f"tocsin: {tmp_path / 'file' / 'folder'}: Not a directory\n"


ONLY_ACT = {
    "delivery circuits close", "delivery circuits open", "delivery letters posted", "delivery letters returned",
    "delivery publication texts", "delivery publication withdraw", "demo", "evidence erase", "evidence keygen",
    "evidence prove", "evidence rotate", "incident ack", "incident close", "incident confirm-everybody",
    "incident dismiss", "incident duty", "incident lift", "incident rescope", "index rebuild", "init", "law calendar",
    "notices approve", "notices revoke", "people add", "relay backfill", "run", "sealing rotate", "subject export",
    "topics switch-generation",
}  # fmt: skip
"""Commands that do something and say so, or write a file; a calendar is iCalendar."""


def commands(group: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that can be typed, with its words."""
    if isinstance(group, click.Group):
        for name in group.list_commands(context := click.Context(group)):
            yield from commands(group.get_command(context, name) or pytest.fail(name), *path, name)
    else:
        yield " ".join(path), group


def test_what_prints_facts_prints_json_when_asked() -> None:
    found = dict(commands(cli.build()))
    without = {name for name, each in found.items() if not any("--json" in option.opts for option in each.params)}
    assert without == ONLY_ACT
