"""A model registry in one YAML file, for installations that have none: who is derived from whom, what aliases name.

models:
  fraud-scorer:
    versions:
      "7": {derived_from: [fraud-base@3], created_at: 2026-01-10T00:00:00Z}
      "8": {}
    aliases:
      champion: "7"                               # since when is what we saw
      shadow:                                     # or stated here, oldest first; version null: taken away
        - {version: "7", from: 2026-02-01T00:00:00Z}
        - {version: "8", from: 2026-03-01T00:00:00Z}
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bridge.contracts.errors import BadInput, Unreachable
from bridge.contracts.scope import Instant
from consumers.domain.registry import (
    AliasSpan,
    Node,
    RegisteredVersion,
    RegistrySnapshot,
    UnreadableParents,
    parse_parents,
)


def _text(value: Any) -> Any:
    # YAML reads 7 as a number and an unquoted 1.10 as 1.1: the first is meant as written, the second cannot be known
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        raise ValueError(f"put the version {value} in quotes")
    return value


_Version = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=200)]
_Name = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=200)]


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _WrittenVersion(_Written):
    derived_from: tuple[str, ...] = ()
    created_at: Instant | None = None


class _WrittenSpan(_Written):
    version: _Version | None
    from_: Instant = Field(alias="from")


class _WrittenModel(_Written):
    versions: dict[_Version, _WrittenVersion | None] = Field(default_factory=dict)
    aliases: dict[_Name, _Version | tuple[_WrittenSpan, ...]] = Field(default_factory=dict)


class _WrittenFile(_Written):
    models: dict[_Name, _WrittenModel | None]


class YamlRegistry:
    """Implements `consumers.case.registry.ModelRegistry`."""

    kind = "yaml"

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> RegistrySnapshot:
        """Return what the file says. Raises Unreachable if it cannot be read, BadInput that names the place in it."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Unreachable(f"registry.file {self._path} cannot be read ({type(error).__name__})") from None
        try:
            document = yaml.load(text, _UniqueKeys)  # noqa: S506  a SafeLoader that refuses doubled keys
            written = _WrittenFile.model_validate(document)
        except yaml.YAMLError as error:
            raise BadInput(f"{self._path}: not YAML: {' '.join(str(error).split())}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the file"
            raise BadInput(f"{self._path}: {place}: {first['msg']}") from None
        versions: dict[Node, RegisteredVersion] = {}
        aliases: dict[tuple[str, str], str] = {}
        stated: list[AliasSpan] = []
        for model_id, model in written.models.items():
            for version, about in (model.versions if model else {}).items():
                place = f"models.{model_id}.versions.{version}"
                versions[model_id, version] = self._version(model_id, version, about or _WrittenVersion(), place)
            for alias, names in (model.aliases if model else {}).items():
                if isinstance(names, str):
                    aliases[model_id, alias] = names
                    continue
                stated += self._spans(model_id, alias, names)
                if names and names[-1].version is not None:
                    aliases[model_id, alias] = names[-1].version
        for (model_id, alias), version in aliases.items():
            if (model_id, version) not in versions:
                raise BadInput(f"{self._path}: models.{model_id}.aliases.{alias}: no version {version!r} is listed")
        return RegistrySnapshot(tuple(versions.values()), aliases, tuple(stated))

    def _version(self, model_id: str, version: str, about: _WrittenVersion, place: str) -> RegisteredVersion:
        try:
            parents = parse_parents(",".join(about.derived_from))
        except UnreadableParents as error:
            raise BadInput(f"{self._path}: {place}.derived_from: {error}") from None
        return RegisteredVersion(model_id, version, parents, about.created_at)

    def _spans(self, model_id: str, alias: str, names: tuple[_WrittenSpan, ...]) -> list[AliasSpan]:
        instants: list[datetime] = [each.from_ for each in names]
        if instants != sorted(set(instants)):
            raise BadInput(f"{self._path}: models.{model_id}.aliases.{alias}: write the oldest first, each once")
        ends = [*instants[1:], None]
        return [
            AliasSpan(model_id, alias, each.version, None, each.from_, end, stated=True)
            for each, end in zip(names, ends, strict=True)
        ]


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is written twice: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping at `node`. Raises yaml.YAMLError for a doubled key."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is written twice", key_node.start_mark)
            seen.add(key)
        built: Mapping[Any, Any] = super().construct_mapping(node, deep=deep)
        return dict(built)
