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
    # Roots begin with one of two words: their first eight bytes are worth remembering, for each length.
    h, start = (_after_eight(data[:8], length), 8) if length >= 8 else ((_SEED ^ length) & _MASK, 0)
    whole = length & ~3
    for at in range(start, whole, 4):
        h = _mixed(h, data[at : at + 4])
    if length & 3:
        h ^= int.from_bytes(data[whole:], "little")
        h = (h * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=256)
def _after_eight(head: bytes, length: int) -> int:
    return _mixed(_mixed((_SEED ^ length) & _MASK, head[:4]), head[4:])


def _mixed(h: int, word: bytes) -> int:
    k = (int.from_bytes(word, "little") * _M) & _MASK
    k = ((k ^ (k >> 24)) * _M) & _MASK
    return ((h * _M) & _MASK) ^ k


@lru_cache(maxsize=16_384)
def partition_of(root: str, partition_count: int) -> int:
    """Return the partition of `root` among `partition_count`."""
    return (murmur2(root.encode()) & 0x7FFFFFFF) % partition_count
