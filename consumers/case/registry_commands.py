"""`tocsin registry`: what the model registry says, what an alias named when, and one look right now."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from bridge.contracts.errors import BadInput, Refused, Unreachable, nearest
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json, print_table
from consumers.case.prompts import as_json_option as _as_json
from consumers.case.prompts import instant_of
from consumers.case.registry import RegistryWatch
from consumers.domain.registry import AliasUnknown, RegistryMemory, alias_at, family_of, named


@click.group()
def registry() -> None:
    """The model registry: versions, parents, and what aliases named when. Read only; Tocsin changes no registry.

    What a version was derived from stands in its tag tocsin.derived_from (fraud-base@3, several separated by commas).
    Without a registry of your own, registry.file names a YAML file:

    \b
        models:
          fraud-scorer:
            versions:
              "7": {derived_from: [fraud-base@3]}
            aliases: {champion: "7"}
    """


@registry.command()
@click.argument("model", required=False)
@_as_json
@click.pass_obj
def show(parts: Parts, model: str | None, as_json: bool) -> None:
    """Show models with their versions, parents and aliases; of MODEL (a name, or name@version) also its descendants."""
    memory = parts.get(RegistryWatch).memory()
    now = parts.get(Clock).now()
    model_id, version = _split(memory, model) if model else (None, None)
    chosen = [
        each
        for node, each in sorted(memory.versions.items(), key=lambda pair: _order(pair[0]))
        if (model_id is None or each.model_id == model_id) and (version is None or each.version == version)
    ]
    aliases: dict[tuple[str, str], list[str]] = {}
    for (owner, alias), at in sorted(memory.aliases().items()):
        aliases.setdefault((owner, at), []).append(alias)
    rows = [
        {
            "model": each.model_id,
            "version": each.version + (" (gone)" if each.gone else ""),
            "aliases": ", ".join(aliases.get((each.model_id, each.version), ())),
            "derived from": each.fault or ", ".join(map(named, each.parents)),
            "created": each.created_at,
        }
        for each in chosen
    ]
    family = family_of([each.node for each in chosen], memory.versions.values()) if model_id is not None else None
    if as_json:
        print_json({
            **_state(memory),
            "versions": [{**row, "gone": each.gone, "version": each.version, "parents": list(map(named, each.parents)),
                          "fault": each.fault} for row, each in zip(rows, chosen, strict=True)],
            "descendants": None if family is None else list(map(named, family.descendants)),
            "cycles": None if family is None else family.cycles,
        })  # fmt: skip
        return
    click.echo(_state_line(memory, now))
    print_table(rows, ("model", "version", "aliases", "derived from", "created"))
    if family is not None:
        below = ", ".join(map(named, family.descendants)) or "nothing that the registry knows of"
        click.echo(f"derived from {model}: {below}")
        for cycle in family.cycles:
            click.echo(f"derived from itself: {' -> '.join(cycle)}; correct the tags, it is counted once")


@registry.command()
@click.argument("alias")
@click.option("--at", "at_text", metavar="INSTANT", help="What it named then, for example 2026-03-01T00:00:00Z.")
@_as_json
@click.pass_obj
def history(parts: Parts, alias: str, at_text: str | None, as_json: bool) -> None:
    """Show what ALIAS (fraud-scorer@champion) named when, as far as anybody looked."""
    memory = parts.get(RegistryWatch).memory()
    now = parts.get(Clock).now()
    model_id, _, name = alias.rpartition("@")
    known = sorted(memory.ever())
    if (model_id, name) not in known:
        listed = [f"{model}@{each}" for model, each in known]
        raise BadInput(
            f"no alias {alias!r} was ever seen{nearest(alias, listed)}; write MODEL@ALIAS, see `tocsin registry show`"
        )
    if at_text is not None:
        _say_as_of(memory, model_id, name, instant_of(at_text), as_json)
        return
    spans = [each for each in memory.spans if (each.model_id, each.alias) == (model_id, name)]
    if as_json:
        print_json({**_state(memory), "watched": [[each.watched_from, each.watched_until] for each in memory.watches],
                    "spans": [{"version": each.version, "after": each.after, "from": each.seen_from,
                               "until": each.ended_at, "stated": each.stated} for each in spans]})  # fmt: skip
        return
    click.echo(_state_line(memory, now))
    rows = [
        {
            "version": each.version or "none",
            "seen from": each.seen_from,
            "until": each.ended_at or "now",
            "since at the earliest": each.seen_from if each.stated else each.after or "not known",
            "by": "the registry itself" if each.stated else "our looks",
        }
        for each in spans
    ]
    print_table(rows, ("version", "seen from", "until", "since at the earliest", "by"))
    for each in memory.watches:
        click.echo(f"watched: {each.watched_from:%Y-%m-%d %H:%M} to {each.watched_until:%Y-%m-%d %H:%M} UTC")


def _say_as_of(memory: RegistryMemory, model_id: str, name: str, at: datetime, as_json: bool) -> None:
    try:
        versions = alias_at(memory, model_id, name, at)
    except AliasUnknown as unknown:
        raise Refused(f"unknown: {unknown}") from None
    if as_json:
        print_json({"at": at, "versions": versions})
    elif versions:
        click.echo(" or ".join(versions) + (" (it changed between two looks)" if len(versions) > 1 else ""))
    else:
        click.echo("none: it was not set")


@registry.command()
@_as_json
@click.pass_obj
def sync(parts: Parts, as_json: bool) -> None:
    """Look at the registry now; exit code 3 if it does not answer."""
    watch, now = parts.get(RegistryWatch), parts.get(Clock).now()
    before = watch.memory()
    memory = watch.look(now)
    if as_json:
        print_json({**_state(memory), "changed": memory.revision != before.revision})
    else:
        click.echo(_state_line(memory, now))
        for each in sorted(memory.versions.values(), key=lambda each: _order(each.node)):
            if each.fault is not None and not each.gone:
                click.echo(f"{named(each.node)}: {each.fault}")
    if memory.fault is not None:
        raise Unreachable(f"the registry: {memory.fault}")


def _split(memory: RegistryMemory, text: str) -> tuple[str, str | None]:
    models = memory.models()
    if text in models:
        return text, None
    model_id, _, version = text.rpartition("@")
    if model_id not in models:
        raise BadInput(f"the registry knows no model {(model_id or text)!r}{nearest(model_id or text, models)}")
    if version not in models[model_id]:
        raise BadInput(f"{model_id} has no version {version!r}{nearest(version, models[model_id])}")
    return model_id, version


def _order(node: tuple[str, str | None]) -> tuple[str, int, str]:
    version = node[1] or ""
    return node[0], int(version) if version.isdecimal() else -1, version


def _state(memory: RegistryMemory) -> Mapping[str, Any]:
    return {"registry": memory.registry, "revision": memory.revision, "changed_at": memory.changed_at,
            "looked_at": memory.looked_at, "fault": memory.fault}  # fmt: skip


def _state_line(memory: RegistryMemory, now: datetime) -> str:
    if memory.looked_at is None:
        why = f" ({memory.fault})" if memory.fault else ""
        return f"registry {memory.registry}: never seen{why}; `tocsin registry sync` looks now, `tocsin run intake` keeps looking"
    models = {each.model_id for each in memory.versions.values() if not each.gone}
    present = sum(not each.gone for each in memory.versions.values())
    return (
        f"registry {memory.registry}: revision {memory.revision}, {len(models)} models, {present} versions, "
        f"seen {instant(memory.looked_at, now)}" + (f"; {memory.fault}" if memory.fault else "")
    )


COMMANDS: list[click.Command] = [registry]
