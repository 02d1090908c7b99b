"""Where a person's residence leads."""

import pytest

from bridge.contracts.errors import BadInput
from consumers.domain.jurisdictions import covers, jurisdiction


@pytest.mark.parametrize(
    ("code", "home"),
    [
        ("DE", "DE"),
        ("US-DE", "US-DE"),
        ("US-CA", "US-CA"),
        ("CA", "CA"),
        ("CA-QC", "CA-QC"),
        ("DE-BY", "DE"),
        ("GB-SCT", "GB"),
        ("PR", "US-PR"),
        ("RE", "FR"),
        ("AE-DIFC", "AE-DIFC"),
        ("NO", "NO"),
    ],
)
def test_a_residence_has_one_home(code: str, home: str) -> None:
    assert jurisdiction(code) == home


@pytest.mark.parametrize("code", ["", "de", "USA", "US-QC", "CA-CA", "XX", "DE-", "UK", "US-ca"])
def test_a_residence_that_does_not_exist_is_refused(code: str) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        jurisdiction(code)


def test_california_is_not_canada() -> None:
    assert covers("US-CA", "US-CA")
    assert not covers("CA", "US-CA")
    assert not covers("US-CA", "CA")
    assert covers("CA", "CA-ON")
    assert not covers("CA", "CA-QC")
    assert covers("EEA", "NO")
    assert covers("EU", "NO")  # as far as taken over into the EEA Agreement: a person checks
