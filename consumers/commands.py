"""`tocsin init`, `config show` and `run`: what belongs to the whole and to no room."""

import json
import shutil
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import structlog

from bridge.contracts.errors import BadInput, Refused, TocsinError, nearest
from bridge.runtime.allocation import collect_all_again, collect_seldom
from bridge.runtime.clock import SystemClock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json
from bridge.runtime.settings import Settings, load_settings
from bridge.runtime.settings_file import commented_settings
from bridge.runtime.supervisor import Supervisor, stop_on_signals
from bridge.runtime.telemetry import Health, TelemetryServer, configure_logs, frames_of
from consumers.bootstrap.process import Process
from consumers.bootstrap.stages import STAGES
from consumers.needs import refuse_unusable
from consumers.surroundings import watch_surroundings

log = structlog.get_logger()


def shipped_templates() -> Path:
    """Return the templates that came with the installation: in the wheel, or beside the packages in a checkout."""
    installed = Path(str(files("consumers") / "shipped_templates"))
    return installed if installed.is_dir() else Path(__file__).resolve().parent.parent / "templates"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("--admin", "admin_name", required=True, help="Name of the first administrator.")
@click.option("--admin-id", default="admin", show_default=True, help="Short id of the first administrator.")
def init(folder: Path, admin_name: str, admin_id: str) -> None:
    """Write settings, people, keys and a copy of the shipped templates into FOLDER; overwrites nothing."""
    token = initialise(folder, admin_name=admin_name, admin_id=admin_id)
    click.echo(f"Wrote {folder / 'tocsin.toml'}, people.toml, keys/ (mode 0600) and templates/.")
    click.echo(f"Token of {admin_name}, shown once; keep it in a file and name it in TOCSIN_TOKEN_FILE:\n{token}")
    click.echo("Next: edit tocsin.toml, then `tocsin relay grants` and `tocsin topics apply`.")


def initialise(
    folder: Path, *, admin_name: str, admin_id: str, changes: dict[str, dict[str, Any]] | None = None
) -> str:
    """Do what `tocsin init` does; return the administrator's token. Raises Refused if anything is there already,
    BadInput for a person without a name or a proper id.

    The settings file is written last: a crash before it leaves no installation that half works.
    """
    from bridge.runtime.sealing import generate_join_key, generate_sealing_keys, write_key_file
    from consumers.case.people import PERSON_ID, add_person
    from consumers.case.permissions import Role
    from consumers.evidence.keys import write_new_key

    # said before anything is written: what was written would have to be moved away before the next try
    if not PERSON_ID.fullmatch(admin_id):
        raise BadInput(f"--admin-id {admin_id!r}: an id has lower-case letters, digits and '-', at most 32")
    if not admin_name.strip():
        raise BadInput("--admin: write the first administrator's name")
    settings_file = folder / "tocsin.toml"
    for path in (settings_file, folder / "people.toml", folder / "keys", folder / "templates"):
        if path.exists():
            raise Refused(f"{path} exists already; nothing was written. Choose another folder or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    text = commented_settings(changes)
    draft = folder / ".tocsin.toml.partial"
    draft.write_text(text, encoding="utf-8")
    settings = load_settings(draft)
    sealing = generate_sealing_keys()
    write_key_file(settings.paths.sealing_private_key, sealing.private)
    write_key_file(settings.paths.sealing_public_key, sealing.public)
    write_key_file(settings.paths.join_key, generate_join_key())
    write_key_file(settings.paths.staff_key, generate_join_key())
    write_key_file(settings.paths.report_key, generate_join_key())
    write_new_key(settings.paths.evidence_key, settings.evidence.origin)
    shutil.copytree(shipped_templates(), settings.paths.templates)
    token = add_person(settings.paths.people, admin_id, admin_name, [Role.ADMIN])
    draft.replace(settings_file)
    return token


@click.group()
def config() -> None:
    """Settings."""


@config.command()
@click.option("--json", "_as_json", is_flag=True, help="Print JSON, as without it.")
@click.pass_obj
def show(parts: Parts, _as_json: bool) -> None:
    """Print the settings in force, secrets masked."""
    print_json(parts.get(Settings).masked())


@click.command()
@click.argument("stages", nargs=-1)
@click.pass_context
def run(context: click.Context, stages: Sequence[str]) -> None:
    """Run one STAGE in this process; several, or all when none is named, each in a process of its own."""
    for stage in stages:
        if stage not in STAGES:
            raise BadInput(f"no stage {stage!r}{nearest(stage, STAGES)}; stages: {', '.join(STAGES)}")
    parts: Parts = context.obj
    if len(stages) == 1:
        context.exit(run_stage(parts, stages[0]))
    context.exit(run_all(parts, context.find_root().params.get("config"), stages or tuple(STAGES)))


def stage_command(config_file: Path | None, stage: str) -> list[str]:
    """Return the command that runs `stage` in a process of its own."""
    named = ["--config", str(config_file)] if config_file is not None else []
    return [sys.executable, "-m", "consumers.cli", *named, "run", stage]


def run_all(parts: Parts, config_file: Path | None, stages: Sequence[str]) -> int:
    """Supervise `stages` until SIGTERM or SIGINT; return the exit code. Raises BadInput before any of them is started, if
    one of them could not begin.
    """
    configure_logs("supervisor")
    for stage in stages:
        refuse_unusable(parts, stage)
    stop = stop_on_signals()
    return Supervisor({stage: stage_command(config_file, stage) for stage in stages}).run(stop)


def run_stage(parts: Parts, stage: str) -> int:
    """Run one stage until SIGTERM or SIGINT; return the exit code. Raises BadInput before it listens, connects or writes, if
    it could not begin.
    """
    configure_logs(stage)
    refuse_unusable(parts, stage)
    settings = parts.get(Settings)
    stop = stop_on_signals()
    health = Health()
    base = settings.metrics.port_base
    telemetry = TelemetryServer(
        settings.metrics.host,
        base + list(STAGES).index(stage) if base else 0,
        health,
        run_file=settings.paths.run / f"{stage}.metrics.json",
    )
    telemetry.start()
    watch_surroundings(parts, stage, health)
    try:
        made = STAGES[stage](parts, Process(stage, health, SystemClock()))
        collect_seldom()
        made.run(stop)
    except TocsinError as error:
        log.error("stage ends", stage=stage, reason=str(error), error=type(error).__name__)
        return error.exit_code
    except Exception as error:
        # a library's words may hold what it was given: an address, a password; where it happened is enough to find it
        log.error("stage falls", stage=stage, error=type(error).__name__, where=frames_of(error))
        return 1
    finally:
        telemetry.stop()
        collect_all_again()
    return 0


def metrics_addresses(settings: Settings) -> dict[str, str]:
    """Return the metrics address of every stage that runs on this machine, by stage."""
    return {
        path.name.removesuffix(".metrics.json"): json.loads(path.read_text(encoding="utf-8"))["metrics"]
        for path in sorted(settings.paths.run.glob("*.metrics.json"))
    }


COMMANDS: list[click.Command] = [init, config, run]
