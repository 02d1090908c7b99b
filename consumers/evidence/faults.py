"""What can be wrong with a log, a proof or a note. Each has a name of its own, because each asks for another act."""

from bridge.contracts.errors import BadInput, Refused


class Malformed(BadInput):
    """The bytes are not in the format that they claim; nothing can be said about what they mean."""


class NotProved(Refused):
    """The bytes are well-formed, and do not prove what they claim."""


class LogRefused(Refused):
    """The writer does not continue this log. Continuing could sign a second history."""


class LogInUse(LogRefused):
    """Another process writes this log."""


class WrongKey(LogRefused):
    """The log is signed by another key, or under another origin."""


class RolledBack(LogRefused):
    """The log ends before the size that was signed last."""


class Forked(LogRefused):
    """The log is not the one that was signed last: another root, or a size that this writer never signed."""


class MemoryMissing(LogRefused):
    """There is a log, and no record of what was signed last."""


class TileDamaged(LogRefused):
    """A tile or entry bundle under the signed size is missing, truncated or does not add up."""


class WriterFailed(LogRefused):
    """An earlier write failed half-way; only opening the log again can tell how far it came."""
