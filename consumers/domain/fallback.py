"""By which channels people are told, in which order, and how long each may take: a segment's channel policy as data.

A policy is a row of steps. The channels of one step are begun together, for laws that ask for two; a step follows when
nothing of the steps before it arrived. Not for what follows from an attempt (`delivery`) nor for who gets which policy
(`segments`).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from bridge.contracts.errors import nearest
from bridge.contracts.events import Channel

_WAIT = re.compile(r"^P(?:(?P<days>\d{1,3})D|T(?P<hours>\d{1,4})H|T(?P<minutes>\d{1,5})M)$")
_LONGEST = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Fallback:
    """The order of channels. `timeouts` holds those that differ from the settings: how long a final receipt may take."""

    steps: tuple[tuple[Channel, ...], ...]
    timeouts: Mapping[Channel, timedelta] = field(default_factory=dict)

    @property
    def order(self) -> tuple[Channel, ...]:
        """All channels, in the order in which they are begun."""
        return tuple(channel for step in self.steps for channel in step)

    @property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """The steps of several channels, by name."""
        return tuple(tuple(channel.value for channel in step) for step in self.steps if len(step) > 1)

    @property
    def timeout_pairs(self) -> tuple[tuple[str, int], ...]:
        """The timeouts in seconds by channel, sorted."""
        return tuple(sorted((channel.value, int(wait.total_seconds())) for channel, wait in self.timeouts.items()))

    def as_json(self) -> dict[str, Any]:
        """Return the policy as it is stored, hashed and approved: `channels` in order and, only where there are such,
        `together` (steps of several channels) and `timeouts` (seconds by channel). `fallback_of` reads it back.
        """
        written: dict[str, Any] = {"channels": [channel.value for channel in self.order]}
        if self.together:
            written["together"] = [list(step) for step in self.together]
        if self.timeouts:
            written["timeouts"] = dict(self.timeout_pairs)
        return written

    def narrowed(self, available: Collection[Channel]) -> "Fallback":
        """Return the policy for somebody who has only `available`."""
        steps = (tuple(channel for channel in step if channel in available) for step in self.steps)
        return Fallback(tuple(step for step in steps if step), self.timeouts)

    def __str__(self) -> str:
        """Say it in a line: `email + letter, then sms (12 h)`."""
        return ", then ".join(" + ".join(self._named(channel) for channel in step) for step in self.steps)

    def _named(self, channel: Channel) -> str:
        name = channel.value.replace("_", " ")
        return f"{name} ({in_words(self.timeouts[channel])})" if channel in self.timeouts else name


def in_words(wait: timedelta) -> str:
    """Return a time to wait as people write it: `30 min`, `12 h`, `3 days`."""
    minutes = int(wait.total_seconds() // 60)
    if minutes % 1440 == 0 and minutes > 1440:
        return f"{minutes // 1440} days"
    return f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"


def fallback_of(written: Mapping[str, Any]) -> Fallback:
    """Return the policy of what `Fallback.as_json` wrote, alone or among other things."""
    groups = [tuple(Channel(name) for name in group) for group in written.get("together", ())]
    steps: list[tuple[Channel, ...]] = []
    for channel in (Channel(name) for name in written["channels"]):
        step = next((group for group in groups if channel in group), (channel,))
        if step not in steps:
            steps.append(step)
    timeouts = written.get("timeouts", {})
    return Fallback(tuple(steps), {Channel(name): timedelta(seconds=seconds) for name, seconds in timeouts.items()})


def parse_steps(raw: Any, where: str, problems: list[str]) -> tuple[tuple[Channel, ...], ...]:
    """Return the steps of a `channels` list: a word is a step, a list in it several channels that are begun together.

    What is wrong is added to `problems` as `where: what`.
    """
    if not isinstance(raw, list) or not raw:
        problems.append(f"{where}: write a list of channels in order of fallback ({', '.join(Channel)})")
        return ()
    steps: list[tuple[Channel, ...]] = []
    seen: set[str] = set()
    for index, item in enumerate(raw):
        words = item if isinstance(item, list) else [item]
        if not words:
            problems.append(
                f"{where}.{index}: an empty step; name the channels that are begun together, or leave it out"
            )
        step: list[Channel] = []
        for word in words:
            if not isinstance(word, str) or word not in set(Channel):
                hint = nearest(word, list(Channel)) if isinstance(word, str) else ""
                problems.append(f"{where}.{index}: {word!r} is no channel{hint}; one of {', '.join(Channel)}")
            elif word in seen:
                problems.append(f"{where}.{index}: {word} stands in it twice; write each once")
            else:
                seen.add(word)
                step.append(Channel(word))
        if step:
            steps.append(tuple(step))
    return tuple(steps)


def parse_timeouts(
    raw: Any, steps: Sequence[Sequence[Channel]], where: str, problems: list[str]
) -> dict[Channel, timedelta]:
    """Return how long each channel may take for its last word: `{sms: PT12H, letter: P14D}`.

    What is wrong is added to `problems` as `where.channel: what`.
    """
    if not isinstance(raw, dict):
        problems.append(f"{where}: write a time for each channel, like {{sms: PT12H, letter: P14D}}")
        return {}
    used = {channel for step in steps for channel in step}
    waits: dict[Channel, timedelta] = {}
    for name, text in raw.items():
        if not isinstance(name, str) or name not in set(Channel):
            hint = nearest(str(name), list(Channel))
            problems.append(f"{where}.{name}: no channel is named so{hint}; one of {', '.join(Channel)}")
            continue
        if Channel(name) not in used:
            problems.append(f"{where}.{name}: {name} is not among this rule's channels")
            continue
        match = _WAIT.match(text) if isinstance(text, str) else None
        wait = None if match is None else timedelta(**{unit: int(n) for unit, n in match.groupdict().items() if n})
        if wait is None or not timedelta(minutes=1) <= wait <= _LONGEST:
            problems.append(
                f"{where}.{name}: {text!r} is no time to wait; write PT30M, PT12H or P3D, from a minute to "
                f"{_LONGEST.days} days"
            )
            continue
        waits[Channel(name)] = wait
    return waits
