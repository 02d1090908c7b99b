"""The command line `tocsin NOUN VERB`. Each room registers its own commands; here they are found and joined.

A room's module named `commands` or `..._commands` with a list `COMMANDS` is found by walking the packages. A verb for
another room's noun stands in a dict `SUBCOMMANDS` (noun: commands), in a room that is asked before that noun's. Exit codes:
0 done, 1 "no", 2 wrong use or settings, 3 a part is not reachable.
"""

import importlib
import pkgutil
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import click

import bridge
import consumers
from bridge.contracts.errors import BadInput, TocsinError, nearest
from bridge.runtime.telemetry import configure_command_logs
from consumers.bootstrap.parts import parts_for

_ASKED_FIRST = ("consumers", "consumers.case", "consumers.law", "consumers.evidence", "consumers.stages")
"""Packages whose commands cost little to import. Only a matter of speed: all others are asked after them."""


def command_modules(packages: tuple[ModuleType, ...] = (bridge, consumers)) -> list[str]:
    """Return the name of every module that registers commands, in the order in which they are asked; imports none."""
    found: list[str] = []
    for package in packages:
        folders = [(package.__name__, list(package.__path__))]
        while folders:
            prefix, paths = folders.pop()
            for module in pkgutil.iter_modules(paths, f"{prefix}."):
                name = module.name.rpartition(".")[2]
                if module.ispkg:
                    folders.append((module.name, [str(Path(path) / name) for path in paths]))
                elif name == "commands" or name.endswith("_commands"):
                    found.append(module.name)
    ranks = {package: rank for rank, package in enumerate(_ASKED_FIRST)}
    return sorted(found, key=lambda name: (ranks.get(name.rpartition(".")[0], len(ranks)), name))


class Rooms(click.Group):
    """The nouns of all rooms. To run one command it imports rooms only until the noun is found: eleven stages start at
    once, and people type many commands.
    """

    def __init__(self, modules: list[str], **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]  # passed through to click as they come
        self._unasked = modules
        self._registered: dict[str, str] = {}
        self._lent: dict[str, list[click.Command]] = {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command `cmd_name`. Raises BadInput with the nearest noun when no room has it."""
        while cmd_name not in self.commands:
            if not self._unasked:
                raise BadInput(
                    f"no command {cmd_name!r}{nearest(cmd_name, self.commands) or ';'} `tocsin --help` lists all"
                )
            self._ask_next()
        room = self._registered[cmd_name].rpartition(".")[0]
        while self._unasked and self._unasked[0].rpartition(".")[0] == room:  # which may lend it further verbs
            self._ask_next()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every noun. Raises BadInput when two rooms claim one."""
        while self._unasked:
            self._ask_next()
        return super().list_commands(ctx)

    def _ask_next(self) -> None:
        module = self._unasked.pop(0)
        found = importlib.import_module(module)
        lent = getattr(found, "SUBCOMMANDS", None)
        for noun, commands in lent.items() if isinstance(lent, dict) else ():
            self._lent.setdefault(noun, []).extend(commands)
        for command in found.COMMANDS:
            if command.name in self._registered:
                raise BadInput(f"both {self._registered[command.name]} and {module} register `tocsin {command.name}`")
            self._registered[command.name] = module
            self.add_command(command)
        for noun in self._lent.keys() & self._registered.keys():
            group = self.commands[noun]
            for command in self._lent.pop(noun):
                name = str(command.name)
                if not isinstance(group, click.Group) or group.commands.get(name, command) is not command:
                    raise BadInput(f"another room lends `tocsin {noun}` the verb {name}, which it has already")
                group.add_command(command)


def build(modules: list[str] | None = None) -> Rooms:
    """Return the whole command line, made of `modules` or of all that are found."""

    @click.pass_context
    def tocsin(context: click.Context, config: Path | None) -> None:
        here = Path("tocsin.toml")
        parts = parts_for(config if config is not None else here if here.exists() else None)
        context.obj = parts
        context.call_on_close(parts.close)

    group = Rooms(
        command_modules() if modules is None else modules,
        name="tocsin",
        callback=tocsin,
        help="Find whom a leak of AI-made data concerns, tell them as their law demands, and prove it.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    named = click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="TOCSIN_CONFIG",
        help="Settings file; default tocsin.toml in this folder.",
    )
    return click.version_option(version("tocsin"), prog_name="tocsin")(named(group))


def main() -> None:
    """Run the command line and leave with its exit code; our own errors print one sentence, never a traceback."""
    # what a client library logs on the way to the same failure is for stages, which configure their own logs
    configure_command_logs()
    try:
        result = build().main(prog_name="tocsin", standalone_mode=False)
    except TocsinError as error:
        click.echo(f"tocsin: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        # a folder that is not there, a disk that is full: whoever typed the path needs no traceback
        click.echo(f"tocsin: {error.filename}: {error.strerror}", err=True)
        sys.exit(2)
    except click.Abort:
        click.echo("tocsin: stopped", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
