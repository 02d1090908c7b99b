"""Through which region a notice may pass: the first rule that names a pair decides, and what none names is refused."""

from pathlib import Path

import pytest

from bridge.contracts.errors import BadInput
from consumers.domain.regions import ANYWHERE, RegionRule, Regions
from consumers.law.loader import load_controllers, load_regions
from tests.unit.shipped_law import FOLDER, shipped_law


def rule(residences: str, providers: str, *, controllers: str = "*", storage: str = "*") -> RegionRule:
    return RegionRule(
        frozenset(residences.split()), frozenset(controllers.split()), tuple(providers.split()), tuple(storage.split())
    )


EUROPE_FIRST = Regions(
    (rule("EEA GB", "eu-*"), rule("US", "us-east-1 eu-central-1"), rule("CA", "ca-*", controllers="bank"))
)


@pytest.mark.parametrize(
    ("homes", "region", "says"),
    [
        (("DE",), "eu-west-1", None),
        (("DE",), "us-east-1", "does not let notices to people in DE of controller shop pass through us-east-1 (smtp)"),
        (("DE", "US"), "us-east-1", "people in DE"),
        (("JP",), "eu-west-1", "has no rule for people in JP"),
    ],
)
def test_a_second_provider_takes_what_may_pass_its_own_region(
    homes: tuple[str, ...], region: str, says: str | None
) -> None:
    found = EUROPE_FIRST.objection_to_second(homes, "shop", "smtp", region)
    assert (found is None) if says is None else says in (found or "")
    assert ANYWHERE.objection_to_second(homes, "shop", "smtp", region) is None


def test_whom_a_region_is_closed_to_is_said_in_words() -> None:
    assert EUROPE_FIRST.closed_to("us-east-1") == ["people in EEA, GB", "people in CA of controller bank"]
    assert ANYWHERE.closed_to("us-east-1") == []


@pytest.mark.parametrize(
    ("homes", "controller", "region", "says"),
    [
        (("DE",), "shop", "eu-central-1", None),
        (
            ("DE",),
            "shop",
            "us-east-1",
            "does not let notices to people in DE of controller shop pass through us-east-1",
        ),
        (("US-CA",), "shop", "us-east-1", None),
        (("US-CA", "DE"), "shop", "us-east-1", "people in DE"),  # each home in doubt must be covered
        (("JP",), "shop", "eu-central-1", "has no rule for people in JP of controller shop"),
        (("CA-QC",), "shop", "ca-central-1", "has no rule for people in CA-QC of controller shop"),
        (("CA-QC",), "bank", "ca-central-1", None),
        ((), "shop", "eu-central-1", None),  # unknown: allowed by every rule of the controller
        ((), "shop", "us-east-1", "people in unknown"),
    ],
)
def test_the_first_rule_that_names_a_pair_decides(
    homes: tuple[str, ...], controller: str, region: str, says: str | None
) -> None:
    objection = EUROPE_FIRST.objection(homes, controller, region, None)
    assert (objection is None) if says is None else (objection is not None and says in objection)


def test_storage_is_asked_only_where_a_rule_limits_it() -> None:
    limited = Regions((rule("DE", "eu-*", storage="eu-central-1"),))
    assert "say where they do: case_store.region" in str(limited.objection(["DE"], "shop", "eu-west-1", None))
    assert "lie in us-east-1" in str(limited.objection(["DE"], "shop", "eu-west-1", "us-east-1"))
    assert limited.objection(["DE"], "shop", "eu-west-1", "eu-central-1") is None
    assert ANYWHERE.objection(["DE"], "shop", "moon-1", None) is None


def test_whose_notices_may_not_pass_is_said_without_those_whom_an_earlier_rule_lets_pass() -> None:
    there = Regions((rule("DE", "eu-*"), rule("US", "us-*"), rule("EU", "us-*"), rule("*", "us-*")))
    assert there.closed_to("eu-west-1") == [
        "people in US", "people in EU but people in DE", "everybody but people in DE",
    ]  # fmt: skip
    assert there.closed_to("us-east-1") == ["people in DE"]


def test_the_shipped_rules_keep_europes_notices_in_europe() -> None:
    regions = shipped_law().regions
    assert regions.objection(["DE"], "shop", "eu-central-1", None) is None
    assert regions.objection(["NO"], "shop", "us-east-1", None) is not None
    assert regions.objection(["US-CA"], "shop", "us-east-1", None) is None
    assert regions.objection([], "shop", "us-east-1", None) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("regions: []", "regions"),
        (
            'regions: [{residences: [DE], controllers: [shopp], providers: ["*"], storage: ["*"]}]',
            "did you mean 'shop'",
        ),
        ('regions: [{residences: [XX], controllers: ["*"], providers: ["*"], storage: ["*"]}]', "'XX' does not exist"),
        (
            'regions: [{residence: [DE], controllers: ["*"], providers: ["*"], storage: ["*"]}]',
            "did you mean 'residences'",
        ),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_with_file_and_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "regions.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=r"regions\.yaml:1") as refused:
        load_regions(tmp_path, load_controllers(FOLDER))
    assert says in str(refused.value)
    with pytest.raises(BadInput, match=r"regions\.yaml"):
        load_regions(tmp_path / "nowhere", load_controllers(FOLDER))
