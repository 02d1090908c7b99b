"""Parts: built once, on first use, closed last first; what nobody provides is named."""

from typing import Protocol

import pytest

from bridge.contracts.errors import BadInput
from bridge.runtime.parts import Parts


class Lower(Protocol):
    """What something else is built on."""

    def close(self) -> None: ...


class Upper(Protocol):
    """What is built on it."""

    def close(self) -> None: ...


class Closing:
    """Notes when it is closed."""

    def __init__(self, name: str, journal: list[str]) -> None:
        self._name = name
        self._journal = journal
        journal.append(f"{name} built")

    def close(self) -> None:
        self._journal.append(f"{self._name} closed")


def test_a_part_is_built_once_and_only_when_it_is_asked_for() -> None:
    journal: list[str] = []
    parts = Parts()
    parts.provide(Lower, lambda: Closing("lower", journal))
    assert journal == []
    assert parts.get(Lower) is parts.get(Lower)
    assert journal == ["lower built"]


def test_what_was_built_first_is_closed_last() -> None:
    journal: list[str] = []
    parts = Parts()

    def upper() -> Closing:
        parts.get(Lower)
        return Closing("upper", journal)

    parts.provide(Upper, upper)
    parts.provide(Lower, lambda: Closing("lower", journal))
    parts.get(Upper)
    parts.close()
    assert journal == ["lower built", "upper built", "upper closed", "lower closed"]


def test_everything_is_closed_even_when_one_part_fails_to() -> None:
    journal: list[str] = []

    class Failing(Closing):
        def close(self) -> None:
            raise ZeroDivisionError

    parts = Parts()
    parts.provide(Lower, lambda: Closing("lower", journal))
    parts.provide(Upper, lambda: Failing("upper", journal))
    parts.get(Lower)
    parts.get(Upper)
    with pytest.raises(ZeroDivisionError):
        parts.close()
    assert journal[-1] == "lower closed"


def test_what_has_no_close_needs_none() -> None:
    parts = Parts()
    parts.provide(str, lambda: "text")
    assert parts.get(str) == "text"
    parts.close()


def test_what_nobody_provides_is_named() -> None:
    with pytest.raises(BadInput, match=r"test_parts\.Upper"):
        Parts().get(Upper)


def test_a_later_registration_wins() -> None:
    parts = Parts()
    parts.provide(str, lambda: "production")
    parts.provide(str, lambda: "test")
    assert parts.get(str) == "test"


def test_a_part_may_be_registered_by_the_full_name_of_its_type() -> None:
    parts = Parts()
    parts.provide(f"{Upper.__module__}.Upper", lambda: Closing("upper", []))
    assert isinstance(parts.get(Upper), Closing)
