"""`tocsin index` and `tocsin data-map`: what the provenance index holds, for people and for pipes."""

import contextlib
import csv
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.queries import DataMap, Gathered
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json, print_table
from bridge.runtime.settings import Settings
from consumers.adapters.history_files import Reading, format_of, length_of, read_history
from consumers.adapters.index_client import IndexClient
from consumers.adapters.provenance_import import (
    Progress,
    ProgressFile,
    RefusedRow,
    RestProvenance,
    read_store_token,
    send_history,
)
from consumers.adapters.provenance_index import ProvenanceIndex
from consumers.case.registry import RegistryWatch


def _client(parts: Parts) -> IndexClient:
    return IndexClient(parts.get(Settings).paths.run)


def _say_from_how_many(answer: Gathered) -> None:
    answered = answer.partition_count - len(answer.silent_partitions)
    click.echo(f"{answered} of {answer.partition_count} partitions answered")
    if answer.silent_partitions:
        silent = ", ".join(map(str, answer.silent_partitions))
        click.echo(f"not counted: partitions {silent}; start their worker with `tocsin run index`")


@click.group()
def index() -> None:
    """The provenance index: which model wrote what about whom."""


@index.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_obj
def status(parts: Parts, as_json: bool) -> None:
    """Say where every partition stands; exit code 1 if one does not answer."""
    answer = _client(parts).status()
    if as_json:
        print_json(answer.model_dump(mode="json"))
    else:
        print_table(
            [each.model_dump(mode="json") | {"resolved": len(each.resolved)} for each in answer.partitions],
            [
                "partition",
                "position_offset",
                "customer_count",
                "order_count",
                "departed_count",
                "record_count",
                "resolved",
                "head_at",
                "file_bytes",
                "rebuilding",
            ],
        )
        _say_from_how_many(answer)
        if rebuilding := [str(each.partition) for each in answer.partitions if each.rebuilding]:
            click.echo(
                f"being rebuilt: partitions {', '.join(rebuilding)}; the old file answers until the new one is whole"
            )
    if not answer.complete:
        raise Refused(f"partitions without an owner that answers: {', '.join(map(str, answer.silent_partitions))}")


@index.command()
@click.argument("root")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_obj
def inspect(parts: Parts, root: str, as_json: bool) -> None:
    """Show what the index holds of ROOT (customer/42, order/77); never a contact."""
    kind, _, number = root.partition("/")
    if kind not in ("customer", "order") or not number.isdecimal():
        raise BadInput(f"{root!r} is no root; write customer/<id> or order/<id>")
    answer = _client(parts).inspect(root)
    if as_json:
        print_json(answer.model_dump(mode="json"))
        return
    person = answer.person.model_dump(mode="json")
    print_table(
        [{"fact": name, "value": _flat(value)} for name, value in person.items()],
        ["fact", "value"],
        title=f"{root}, partition {answer.partition}",
    )
    print_table(
        [
            record.model_dump(mode="json") | {"model": f"{record.model_id}@{record.model_version}"}
            for record in answer.records
        ],
        ["record_id", "attribute", "model", "kind", "sensitivity", "generated_at", "deleted_at"],
    )


@index.command()
@click.option("--partition", "partitions", type=click.IntRange(min=0), multiple=True, help="only these; default: all")
@click.option("--dry-run", is_flag=True, help="say what would be rebuilt")
@click.pass_obj
def rebuild(parts: Parts, partitions: tuple[int, ...], dry_run: bool) -> None:
    """Ask the owners to rebuild their files from the topics; they begin within a minute."""
    directory: Path = parts.get(Settings).paths.index
    present = sorted(int(path.stem[1:]) for path in directory.glob("p*.duckdb") if path.stem[1:].isdecimal())
    unknown = set(partitions) - set(present)
    if unknown or not present:
        wanted = ", ".join(map(str, sorted(unknown))) or "any partition"
        raise BadInput(f"{directory} holds no file of {wanted}; it holds {', '.join(map(str, present)) or 'none'}")
    chosen = sorted(set(partitions)) or present
    files = ProvenanceIndex(directory)
    for partition in chosen:
        if not dry_run:
            files.ask_rebuild(partition)
        click.echo(f"partition {partition}: {'would be rebuilt' if dry_run else 'rebuild asked for'}")


_REFUSED_SHOWN = 20


@index.command("import-provenance")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--format", "kind", type=click.Choice(["csv", "ndjson", "parquet"]), help="Default: by the file's name.")
@click.option("--map", "columns", multiple=True, metavar="FIELD=COLUMN", help="A column with another name; repeatable.")
@click.option("--set", "constants", multiple=True, metavar="FIELD=VALUE", help="The same for every row; repeatable.")
@click.option("--skip", "skipped", multiple=True, metavar="COLUMN", help="Leave a column out; repeatable.")
@click.option("--zone", help="Time zone of instants that name none, such as UTC or Europe/Berlin.")
@click.option("--url", help="The store's address; default: store.base_url.")
@click.option(
    "--store-token-file", type=click.Path(path_type=Path, dir_okay=False), help="File with the store's token."
)
@click.option(
    "--refused", "refused_file", type=click.Path(path_type=Path, dir_okay=False), help="Write what is wrong here."
)
@click.option("--dry-run", is_flag=True, help="Check every row and send none.")
@click.option("--again", is_flag=True, help="From the first row, although it was sent before.")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_obj
def import_provenance(
    parts: Parts,
    file: Path,
    kind: str | None,
    columns: tuple[str, ...],
    constants: tuple[str, ...],
    skipped: tuple[str, ...],
    zone: str | None,
    url: str | None,
    store_token_file: Path | None,
    refused_file: Path | None,
    dry_run: bool,
    again: bool,
    as_json: bool,
) -> None:
    """Load provenance history from FILE (CSV, NDJSON or Parquet) through the store's API; exit code 1 if rows are refused.

    Columns are named as the fields of a record (record_id, entity_type, entity_id, attribute, model_id, model_version,
    generated_at, kind, sensitivity, ...). May be stopped and run again: it goes on where it was, and what the store has
    already changes nothing.
    """
    settings = parts.get(Settings)
    reading = Reading(_pairs("--map", columns), _pairs("--set", constants), frozenset(skipped), _zone(zone))
    found = format_of(file, kind)
    service = None
    address = url or settings.store.base_url
    if not dry_run:
        service = RestProvenance(address, read_store_token(os.environ, store_token_file))
    how = {"url": address, "format": found, "columns": reading.columns, "constants": reading.constants,
           "skipped": sorted(skipped), "zone": zone}  # fmt: skip
    kept = ProgressFile.of(settings.paths.data / "imports", file, how)
    if dry_run or again:
        kept = ProgressFile(kept.path)
    progress = kept.progress
    if progress.finished:
        raise Refused(
            f"{file} was imported before: {progress.recorded:,} recorded, {progress.refused:,} refused; --again sends it again"
        )
    if progress.line:
        click.echo(f"going on behind line {progress.line:,}", err=True)
    refused: list[RefusedRow] = []
    with contextlib.ExitStack() as stack:
        written = None if refused_file is None else stack.enter_context(refused_file.open("a", encoding="utf-8"))

        def refuse(row: RefusedRow) -> None:
            if len(refused) < _REFUSED_SHOWN:
                refused.append(row)
            if written is not None:
                written.write(json.dumps({"line": row.line, "faults": row.faults}) + "\n")

        bar: Any = stack.enter_context(
            click.progressbar(length=max(1, length_of(file, found) - progress.line), label="rows", file=sys.stderr)
        )
        rows = read_history(file, found, reading, parts.get(Clock).now(), after=progress.line)
        send_history(
            rows, service, progress, save=(lambda: None) if dry_run else kept.save, refused=refuse, moved=bar.update
        )
    _say_imported(progress, refused, dry_run=dry_run, as_json=as_json)


def _say_imported(progress: Progress, refused: list[RefusedRow], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        facts = asdict(progress) | {"dry_run": dry_run, "refused_rows": [asdict(each) for each in refused]}
        print_json(facts)
    else:
        for each in refused:
            click.echo(f"line {each.line}: {'; '.join(each.faults)}")
        if progress.refused > len(refused):
            click.echo(f"and {progress.refused - len(refused):,} more; --refused FILE keeps all")
        if dry_run:
            click.echo(
                f"checked up to line {progress.line:,}: {progress.refused:,} rows would be refused; nothing was sent"
            )
        else:
            click.echo(
                f"{progress.recorded:,} recorded, {progress.repeated:,} were there already, {progress.retired:,} marked as "
                f"removed, {progress.refused:,} refused; the index has them once the relay has carried them"
            )
    if progress.refused:
        raise Refused(f"{progress.refused:,} rows are refused; put them right and run it with a file of these")


def _pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name or name in pairs:
            raise BadInput(
                f"{option} {each}: write {option} FIELD={'COLUMN' if option == '--map' else 'VALUE'}, each field once"
            )
        pairs[name] = value
    return pairs


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise BadInput(f"--zone {name}: no such time zone; write UTC, or one as Europe/Berlin") from None


@click.command("data-map")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.option("--csv", "as_csv", is_flag=True, help="print CSV, gaps as rows without a model")
@click.pass_obj
def data_map(parts: Parts, as_json: bool, as_csv: bool) -> None:
    """Show which AI system wrote which attribute, and which values nothing explains."""
    if as_json and as_csv:
        raise BadInput("--json and --csv exclude each other")
    answer = _client(parts).data_map()
    registered = _registered(parts)
    rows = [
        {name: _flat(value) for name, value in row.model_dump(mode="json").items()}
        | {"registry": registered(row.model_id, row.model_version)}
        for row in answer.rows
    ]
    if as_json:
        facts = answer.model_dump(mode="json")
        for shown, row in zip(facts["rows"], rows, strict=True):
            shown["registry"] = row["registry"]
        print_json(facts)
        return
    if as_csv:
        _data_map_as_csv(rows, answer)
        return
    print_table(
        [
            {
                "AI system": row["source_system"] or "-",
                "model": f"{row['model_id']}@{row['model_version']}" + (f" ({row['registry']})" if row["registry"] else ""),
                "attribute": f"{row['entity_type']}.{row['attribute']}",
                "records": row["record_count"],
                "people and orders": row["root_count"],
                "sensitivity": row["highest_sensitivity"],
                "legal basis": row["legal_bases"] or "none said",
                "stored in": row["storage_locations"] or "not said",
                "last seen": row["last_generated_at"],
            }
            for row in rows
        ],
        (
            "AI system", "model", "attribute", "records", "people and orders", "sensitivity", "legal basis", "stored in",
            "last seen",
        ),
    )  # fmt: skip
    for gap in answer.gaps:
        since = (
            f" since {gap.first_seen_at:%A, %d %B %Y}" if gap.first_seen_at is not None else ", from before we watched"
        )
        writes = f"{gap.write_count:,} untagged writes{since}" if gap.write_count else f"values without a record{since}"
        click.echo(f"gap: {gap.attribute}: {writes}; {gap.people_count:,} people hold such a value now")
    _say_from_how_many(answer)


_MAP_COLUMNS = (
    "source_system", "model_id", "model_version", "registry", "entity_type", "attribute", "record_count", "deleted_count",
    "root_count", "highest_sensitivity", "kinds", "categories", "legal_bases", "storage_locations", "last_generated_at",
)  # fmt: skip
_GAP_COLUMNS = ("untagged_people_count", "untagged_write_count", "untagged_first_seen_at", "untagged_last_seen_at")


def _data_map_as_csv(rows: Sequence[Mapping[str, Any]], answer: DataMap) -> None:
    """Write CSV to standard output. Raises Refused after it if a partition is missing: what was written is not whole."""
    writer = csv.DictWriter(sys.stdout, (*_MAP_COLUMNS, *_GAP_COLUMNS))
    writer.writeheader()
    writer.writerows(rows)
    for gap in answer.gaps:
        facts = gap.model_dump(mode="json")
        untagged = {f"untagged_{name}": value for name, value in facts.items() if name != "attribute"}
        writer.writerow({"entity_type": "customer", "attribute": gap.attribute, **untagged})
    if not answer.complete:
        silent = ", ".join(map(str, answer.silent_partitions))
        raise Refused(f"the map is incomplete: partitions {silent} did not answer")


def _registered(parts: Parts) -> Callable[[str, str], str]:
    """Return what says how the model registry knows a version; nothing where none is set up."""
    if parts.get(Settings).registry.kind == "none":
        return lambda _model_id, _version: ""
    memory = parts.get(RegistryWatch).memory()
    aliases: dict[tuple[str, str], list[str]] = {}
    for (model_id, alias), version in sorted(memory.aliases().items()):
        aliases.setdefault((model_id, version), []).append(alias)

    def known(model_id: str, version: str) -> str:
        found = memory.versions.get((model_id, version))
        if found is None:
            return "not in the registry"
        return "gone from the registry" if found.gone else ", ".join(aliases.get((model_id, version), ["registered"]))

    return known


def _flat(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


COMMANDS: list[click.Command] = [index, data_map]
