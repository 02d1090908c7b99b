"""The commented settings file that `tocsin init` writes: every setting with its default and what it is for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr

from bridge.runtime.settings import Settings

_HEAD = """\
# Tocsin's settings. Every value shown after '#' is the default; take the '#' away to change it.
# Environment variables win: TOCSIN_KAFKA__BOOTSTRAP_SERVERS sets kafka.bootstrap_servers, and TOCSIN_STORE__URL_FILE names
# a file that holds store.url. Secrets belong there, never here. `tocsin config show` prints what is in force.
"""


def commented_settings(changes: dict[str, dict[str, Any]] | None = None) -> str:
    """Return the file's text; `changes` (section -> key -> value) are written as active lines."""
    changes = changes or {}
    lines = [_HEAD]
    for section, info in Settings.model_fields.items():
        lines.append(f"\n[{section}]")
        model = info.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise TypeError(f"settings section {section} is not a model")
        defaults = model()
        tables: list[str] = []
        for key, field in model.model_fields.items():
            if (table := _table_model(field.annotation)) is not None:
                tables += _table(f"{section}.{key}", table, field.description, changes.get(section, {}).get(key))
                continue
            if field.description:
                lines.append(f"# {field.description}")
            given = changes.get(section, {})
            if key in given:
                lines.append(f"{key} = {_toml(given[key])}")
            else:
                lines.append(f"# {key} = {_toml(getattr(defaults, key))}")
        lines += tables  # last: keys that followed would belong to the table
    return "\n".join(lines) + "\n"


def _table_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a setting that is a table of its own, which may be absent."""
    for kind in get_args(annotation) or (annotation,):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _table(name: str, model: type[BaseModel], description: str | None, given: Mapping[str, Any] | None) -> list[str]:
    lines = [f"# {description}"] if description else []
    lines.append(f"# [{name}]" if given is None else f"[{name}]")
    for key, field in model.model_fields.items():
        if field.description:
            lines.append(f"#   {field.description}")
        if given is not None and key in given:
            lines.append(f"{key} = {_toml(given[key])}")
            continue
        lines.append(f"# {key} = " + ("(required)" if field.is_required() else _toml(field.default)))
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, SecretStr):
        return _toml(value.get_secret_value())
    if value is None:
        return '""  (not set)'
    if isinstance(value, str | Path):
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(item)}' for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    raise TypeError(f"no TOML form for {type(value).__name__}")
