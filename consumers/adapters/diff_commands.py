"""`tocsin notices diff`: counsel compares a notice with the one approved last, as readers see both. Changes nothing."""

from pathlib import Path

import click
from rich.table import Table

from bridge.contracts.errors import BadInput, Unreachable
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import console, print_json
from bridge.runtime.settings import Settings
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store.bundles import NoticeBundles
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.notice_diff import Comparison, Difference, compare, marked
from consumers.adapters.page_templates import page_environment
from consumers.adapters.template_catalog import ApprovedBundles, Bundle, read_bundle

_CONTEXT = 1
"""Unchanged paragraphs shown around a change."""


@click.command()
@click.argument("name")
@click.option("--before", "before_sha256", metavar="BUNDLE", help="Approved bundle; default: the one approved last.")
@click.option("--after", "after_sha256", metavar="BUNDLE", help="Approved bundle; default: the folder as it is now.")
@click.option("--locale", help="Only this language.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write a page, side by side.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def diff(
    parts: Parts,
    name: str,
    before_sha256: str | None,
    after_sha256: str | None,
    locale: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show what readers of NAME would see otherwise than in the version approved last, side by side."""
    settings = parts.get(Settings)
    approved = ApprovedBundles(settings.paths.templates, DirectoryArtefactStore(settings.paths.artefacts))
    rows = NoticeBundles(parts.get(CaseDatabase)).ever_approved(name)

    def approved_bundle(digits: str) -> Bundle:
        named = [row for row in rows if row.bundle_sha256.startswith(digits)]
        if len(named) != 1 or len(digits) < 8:
            raise BadInput(f"{digits!r} names {len(named)} approved bundles of {name}; give at least 8 digits of one")
        return approved.load(named[0].bundle_sha256)

    after = read_bundle(settings.paths.templates, name) if after_sha256 is None else approved_bundle(after_sha256)
    if problems := after.problems():
        raise BadInput("\n".join([*problems, f"{name} cannot be compared as it is"]))
    if before_sha256 is None:
        others = [row for row in rows if after_sha256 is None or row.bundle_sha256 != after.sha256]
        if not others:
            raise BadInput(
                f"{name} was never approved, so there is nothing to compare with; see `tocsin notices preview {name}`"
            )
        before = approved.load(others[0].bundle_sha256)
    else:
        before = approved_bundle(before_sha256)
    found = compare(before, after)
    if locale is not None:
        chosen = tuple(each for each in found.comparisons if each.locale == locale)
        if not chosen and locale not in {*before.locales, *after.locales}:
            raise BadInput(f"--locale {locale}: {name} is written in {', '.join(after.locales)}")
        found = Difference(chosen, found.policy)
    labels = _label(before, rows, parts), _label(after, rows, parts)
    if output is not None:
        _write(output, name, labels, found)
    if as_json:
        print_json(_as_json(before, after, found))
        return
    click.echo(f"before: {labels[0]}\nafter:  {labels[1]}")
    if found.empty:
        click.echo(
            "no reader would see a difference" + ("" if before.sha256 == after.sha256 else ", although files differ")
        )
    for old, new in found.policy:
        click.echo(f"\nwho gets what\n- {old or '(was not there)'}\n+ {new or '(is gone)'}")
    for each in found.comparisons:
        click.echo(f"\n{each.locale}, {each.medium.replace('_', ' ')}; read by: {each.audience}")
        console().print(_side_by_side(each))
    if output is not None:
        click.echo(f"page: {output}")


def _label(bundle: Bundle, rows: object, parts: Parts) -> str:
    sha256 = bundle.sha256
    known = next((row for row in rows if row.bundle_sha256 == sha256), None) if isinstance(rows, tuple) else None
    if known is None:
        return f"the folder as it is now ({sha256[:12]}), not approved"
    over = "" if known.valid_until > parts.get(Clock).now() else ", no longer in force"
    return f"{sha256[:12]}, approved {known.approved_at:%Y-%m-%d} until {known.valid_until:%Y-%m-%d}{over}"


def _side_by_side(comparison: Comparison) -> Table:
    table = Table(show_lines=True, expand=True)
    table.add_column("before", overflow="fold", ratio=1)
    table.add_column("after", overflow="fold", ratio=1)
    near = {
        n + step
        for n, row in enumerate(comparison.rows)
        if row.changed
        for step in range(-_CONTEXT, _CONTEXT + 1)
    }  # fmt: skip
    skipped = False
    for n, row in enumerate(comparison.rows):
        if n in near:
            table.add_row(marked(row.before), marked(row.after))
            skipped = False
        elif not skipped:
            table.add_row("...", "...")
            skipped = True
    return table


def _as_json(before: Bundle, after: Bundle, found: Difference) -> dict[str, object]:
    return {
        "before": before.sha256,
        "after": after.sha256,
        "policy": [{"before": old, "after": new} for old, new in found.policy],
        "changes": [
            {
                "locale": each.locale, "medium": each.medium, "audience": each.audience,
                "rows": [{"before": marked(row.before), "after": marked(row.after)} for row in each.rows if row.changed],
            }
            for each in found.comparisons
        ],
    }  # fmt: skip


def _write(path: Path, name: str, labels: tuple[str, str], found: Difference) -> None:
    page = (
        page_environment()
        .get_template("diff.html.j2")
        .render(name=name, before=labels[0], after=labels[1], difference=found)
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise Unreachable(f"{path} cannot be written: {error.strerror}") from None


SUBCOMMANDS: dict[str, list[click.Command]] = {"notices": [diff]}
COMMANDS: list[click.Command] = []
"""None of its own: it stands under `tocsin notices`."""
