"""Reads frozen answers without the worker that made them: whoever has the artefact store and the record can check them."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from bridge.contracts.errors import Refused
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.domain.resolution import Member


@dataclass(frozen=True, slots=True)
class FrozenAnswer:
    """A frozen answer as its file says it. Holds no contact, sealed or not."""

    header: Mapping[str, Any]
    members: list[Member]
    """Sorted by root."""
    departed: frozenset[str]
    """Roots of those who were gone from the store already."""
    residence: Mapping[str, tuple[str, ...]]
    """Codes by root, as used."""


class FrozenAnswers:
    """The frozen answers of one artefact store."""

    def __init__(self, artefacts: DirectoryArtefactStore) -> None:
        self._artefacts = artefacts

    def read(self, sha256: str) -> FrozenAnswer:
        """Return an answer. Raises Refused that says whether its file is missing, was altered, or is none of ours."""
        content = self._artefacts.get(sha256)
        with tempfile.TemporaryDirectory(prefix="tocsin-") as folder, duckdb.connect() as connection:
            path = Path(folder) / "frozen.parquet"
            path.write_bytes(content)
            try:
                header = connection.execute(
                    "SELECT decode(value) FROM parquet_kv_metadata(?) WHERE decode(key) = 'tocsin'", [str(path)]
                ).fetchone()
                rows = connection.execute(
                    """SELECT root, record_ids, standing, residence, json_extract(event::JSON, '$.departed')::BOOLEAN
                    FROM read_parquet(?) ORDER BY root""",
                    [str(path)],
                ).fetchall()
            except duckdb.Error as error:
                raise Refused(f"artefact {sha256} is no frozen answer: {type(error).__name__}") from None
        if header is None:
            raise Refused(f"artefact {sha256} has no header: not written by Tocsin")
        return FrozenAnswer(
            json.loads(header[0]),
            [(row[0], row[1], row[2]) for row in rows],
            frozenset(row[0] for row in rows if row[4]),
            {row[0]: tuple(row[3]) for row in rows},
        )
