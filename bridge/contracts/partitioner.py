"""Which partition a root lives on: Kafka's own murmur2 over its UTF-8 bytes, as the Java client does it.

Set explicitly on every send: librdkafka's default partitioner differs from Java's. Source: Apache Kafka,
`org.apache.kafka.common.utils.Utils.murmur2`; kafka-python's implementation serves as the test's oracle.
"""

from functools import lru_cache

_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C
_M = 0x5BD1E995


def murmur2(data: bytes) -> int:
    """Return Kafka's murmur2 of `data` as an unsigned 32-bit integer."""
    length = len(data)
    # Thousands of roots share their first twelve bytes ("customer/123" of "customer/12345"), and all share few words of four
    # digits: both are worth remembering.
    h, start = (_after_twelve(data[:12], length), 12) if length >= 12 else ((_SEED ^ length) & _MASK, 0)
    whole = length & ~3
    if whole > start:
        for at in range(start, whole, 4):
            h = (h * _M & _MASK) ^ _scrambled(data[at : at + 4])
    if length & 3:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=8192)
def _after_twelve(head: bytes, length: int) -> int:
    h = (_SEED ^ length) & _MASK
    for at in (0, 4, 8):
        h = (h * _M & _MASK) ^ _scrambled(head[at : at + 4])
    return h


@lru_cache(maxsize=16_384)
def _scrambled(word: bytes) -> int:
    k = (int.from_bytes(word, "little") * _M) & _MASK
    return ((k ^ (k >> 24)) * _M) & _MASK


@lru_cache(maxsize=8192)
def partition_of(root: str, partition_count: int) -> int:
    """Return the partition of `root` among `partition_count`."""
    return partition_of_bytes(root.encode(), partition_count)


def partition_of_bytes(root: bytes, partition_count: int) -> int:
    """Return the partition of a root already in UTF-8."""
    return (murmur2(root) & 0x7FFFFFFF) % partition_count
