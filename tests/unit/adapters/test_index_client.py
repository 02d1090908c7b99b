"""What several partitions say of one thing is put together."""

from pathlib import Path
from typing import Any

import pytest

from bridge.contracts.queries import KeyPrint, KeysAsked, PartitionKeys
from consumers.adapters.index_client import IndexClient


@pytest.mark.parametrize("first", [0, 1])
def test_of_a_record_in_two_partitions_the_one_that_is_not_deleted_counts(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = KeyPrint(key="provenance/r-1", fingerprint=2, content=2, root="customer/2")
    gone = KeyPrint(key="provenance/r-1", fingerprint=1, content=1, deleted=True, root="customer/1")
    other = KeyPrint(key="provenance/r-2", fingerprint=3, content=3, deleted=True, root="customer/1")
    answers = {
        first: PartitionKeys(partition=first, position_offset=9, keys=(there,)),
        1 - first: PartitionKeys(partition=1 - first, position_offset=9, keys=(gone, other)),
    }

    def gather(*_: Any) -> tuple[int, dict[int, PartitionKeys]]:
        return 2, dict(sorted(answers.items()))

    client = IndexClient(tmp_path)
    monkeypatch.setattr(client, "_gather", gather)
    found = client.keys(KeysAsked(entity="provenance", ranges=(1,))).keys
    assert found == {"provenance/r-1": there, "provenance/r-2": other}
