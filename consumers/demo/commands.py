"""`tocsin demo`."""

from pathlib import Path

import click

from consumers.demo.kills import MIDDLE


@click.command()
@click.option("--exit", "exit_at_end", is_flag=True, help="End by itself; exit code 0 only if all witnesses agree.")
@click.option("--customers", type=click.IntRange(min=50), default=10_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same shop.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Leave everything in this new folder.")
@click.option("--before-end", help="Shell command to run while all processes are still up; sees TOCSIN_DEMO_DIR.")
@click.option(
    "--kill",
    multiple=True,
    type=click.Choice(list(MIDDLE)),
    help="SIGKILL this stage in the middle of its work; repeatable.",
)
@click.pass_context
def demo(
    context: click.Context,
    exit_at_end: bool,
    customers: int,
    seed: int,
    keep: Path | None,
    before_end: str | None,
    kill: tuple[str, ...],
) -> None:
    """A made-up shop, a leak, and everything that Tocsin does about it; needs nothing but Python."""
    from consumers.demo.run import Options, run_demo  # everything at once: slow to import, and only needed here

    context.exit(run_demo(Options(customers, seed, keep, exit_at_end, before_end, kill)))


COMMANDS: list[click.Command] = [demo]
