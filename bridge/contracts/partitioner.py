"""Which partition a root lives on: Kafka's own murmur2 over its UTF-8 bytes, as the Java client does it.

Set explicitly on every send: librdkafka's default partitioner differs from Java's. Source: Apache Kafka,
`org.apache.kafka.common.utils.Utils.murmur2`; kafka-python's implementation serves as the test's oracle.
"""

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995


def murmur2(data: bytes) -> int:
    """Return Kafka's murmur2 of `data` as an unsigned 32-bit integer."""
    length = len(data)
    h = (0x9747B28C ^ length) & _MASK
    whole = length & ~3
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little")
        k = (k * _M) & _MASK
        k ^= k >> 24
        k = (k * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    tail = length & 3
    if tail:
        h ^= int.from_bytes(data[whole:], "little")
        h = (h * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    return h ^ (h >> 15)


def partition_of(root: str, partition_count: int) -> int:
    """Return the partition of `root` among `partition_count`."""
    return (murmur2(root.encode()) & 0x7FFFFFFF) % partition_count
