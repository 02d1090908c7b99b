"""The command line `tocsin NOUN VERB`. Each room registers its own commands; here they are found and joined.

A room's module named `commands` or `..._commands` with a list `COMMANDS` is found by walking the packages. Exit codes:
0 done, 1 "no", 2 wrong use or settings, 3 a part is not reachable.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click

import bridge
import consumers
from bridge.contracts.errors import BadInput, TocsinError
from consumers.bootstrap import parts_for


def room_commands() -> Iterator[click.Command]:
    """Yield every command that a room registers. Raises BadInput when two rooms claim one noun."""
    seen: dict[str, str] = {}
    for package in (bridge, consumers):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            name = found.name.rpartition(".")[2]
            if name != "commands" and not name.endswith("_commands"):
                continue
            for command in importlib.import_module(found.name).COMMANDS:
                if command.name in seen:
                    raise BadInput(f"both {seen[command.name]} and {found.name} register `tocsin {command.name}`")
                seen[command.name] = found.name
                yield command


def build() -> click.Group:
    """Return the whole command line."""

    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    @click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="TOCSIN_CONFIG",
        help="Settings file; default tocsin.toml in this folder.",
    )
    @click.version_option(version("tocsin"), prog_name="tocsin")
    @click.pass_context
    def tocsin(context: click.Context, config: Path | None) -> None:
        """Find whom a leak of AI-made data concerns, tell them as their law demands, and prove it."""
        here = Path("tocsin.toml")
        parts = parts_for(config if config is not None else here if here.exists() else None)
        context.obj = parts
        context.call_on_close(parts.close)

    for command in sorted(room_commands(), key=lambda command: command.name or ""):
        tocsin.add_command(command)
    return tocsin


def main() -> None:
    """Run the command line and leave with its exit code; our own errors print one sentence, never a traceback."""
    try:
        result = build().main(standalone_mode=False)
    except TocsinError as error:
        click.echo(f"tocsin: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        click.echo("tocsin: stopped", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
