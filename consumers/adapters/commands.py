"""`tocsin index` and `tocsin data-map`: what the provenance index holds, for people and for pipes."""

import csv
import sys
from pathlib import Path
from typing import Any

import click

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.queries import Gathered
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json, print_table
from bridge.runtime.settings import Settings
from consumers.adapters.index_client import IndexClient
from consumers.adapters.provenance_index import ProvenanceIndex


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
            ],
        )
        _say_from_how_many(answer)
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
    present = sorted(int(path.stem.removeprefix("p")) for path in directory.glob("p*.duckdb"))
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


@click.command("data-map")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.option("--csv", "as_csv", is_flag=True, help="print CSV")
@click.pass_obj
def data_map(parts: Parts, as_json: bool, as_csv: bool) -> None:
    """Show which AI system wrote which attribute, and which values nothing explains."""
    if as_json and as_csv:
        raise BadInput("--json and --csv exclude each other")
    answer = _client(parts).data_map()
    if as_json:
        print_json(answer.model_dump(mode="json"))
        return
    rows = [{name: _flat(value) for name, value in row.model_dump(mode="json").items()} for row in answer.rows]
    columns = [
        "model_id",
        "model_version",
        "entity_type",
        "attribute",
        "record_count",
        "root_count",
        "highest_sensitivity",
        "legal_bases",
        "storage_locations",
        "last_generated_at",
    ]
    if as_csv:
        writer = csv.DictWriter(sys.stdout, columns)
        writer.writeheader()
        writer.writerows(rows)
        if not answer.complete:
            silent = ", ".join(map(str, answer.silent_partitions))
            raise Refused(f"the map is incomplete: partitions {silent} did not answer")
        return
    print_table(rows, columns)
    for attribute, count in answer.untagged.items():
        click.echo(f"{attribute}: {count} values without a record")
    _say_from_how_many(answer)


def _flat(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


COMMANDS: list[click.Command] = [index, data_map]
