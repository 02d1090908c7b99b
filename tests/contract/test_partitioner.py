"""Which partition a root lives on: the same as Kafka's own clients choose, held by vectors and by kafka-python."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as their_murmur2

from bridge.contracts.partitioner import murmur2, partition_of

# Apache Kafka, UtilsTest.testMurmur2: the Java client's own vectors, as signed 32-bit integers.
JAVA_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "expected"), JAVA_VECTORS.items(), ids=lambda value: str(value)[:24])
def test_the_java_clients_vectors(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF


@given(st.binary(max_size=64))
def test_kafka_python_hashes_alike(key: bytes) -> None:
    assert murmur2(key) == their_murmur2(key) & 0xFFFFFFFF


@given(st.text(max_size=32), st.integers(1, 64))
def test_a_root_lives_where_kafka_python_would_put_it(root: str, partition_count: int) -> None:
    assert partition_of(root, partition_count) == (their_murmur2(root.encode()) & 0x7FFFFFFF) % partition_count


@pytest.mark.parametrize(
    ("root", "partition"),
    [("customer/1", 2), ("customer/42", 1), ("order/77", 4), ("INC-2026-0001", 1), ("customer/4000000000", 5)],
)
def test_roots_do_not_move_between_releases(root: str, partition: int) -> None:
    """Where records lie already. If this fails, every installation's topics must be filled anew."""
    assert partition_of(root, 6) == partition
