"""What a notice says of machine-made data is what the person's records say: all of it, and nothing that they do not hold."""

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.contracts.errors import Refused
from bridge.contracts.events import Kind, Sensitivity
from consumers.adapters.notice_renderer import compose, sample_key
from consumers.adapters.template_catalog import Bundle, bundle_names, read_bundle
from consumers.domain.notices import ComposedNotice
from consumers.domain.resolution import why_of

TEMPLATES = Path(__file__).parents[3] / "templates"
TEXTS = [(name, locale) for name in bundle_names(TEMPLATES) for locale in read_bundle(TEMPLATES, name).locales]
MIXES = [mix for size in range(1, 5) for mix in combinations(Kind, size)]


@dataclass(frozen=True)
class Record:
    """A record as the index holds it."""

    kind: Kind
    model_id: str
    categories: tuple[str, ...]
    record_id: str = "r"
    attribute: str = "a"
    model_version: str = "7"
    sensitivity: Sensitivity = Sensitivity.HIGH
    elements: tuple[str, ...] = ()
    input_fields: tuple[str, ...] = ()


@cache
def bundle(name: str) -> Bundle:
    return read_bundle(TEMPLATES, name)


@cache
def raw(locale: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((TEMPLATES / "disclosure" / f"{locale}.yaml").read_text(encoding="utf-8"))
    return content


def sayable(locale: str) -> dict[str, tuple[str, str, str]]:
    """Read the file by hand: every sentence that can be said of a record, with what it says it of."""
    found = {}
    for kind, systems in raw(locale)["sentences"].items():
        for category, text in systems["any"].items():
            for system, entry in raw(locale)["systems"].items():
                found[text.replace("{system}", entry["name"])] = (kind, system, category)
    return found


def definition(records: list[Record], locale: str) -> tuple[set[str], set[str], set[str]]:
    """Return what people of these records must be told: what was made, whether it may be wrong, what it was for."""
    by_key = {key: text for text, key in sayable(locale).items()}
    made = {
        by_key[record.kind.value, record.model_id, category]
        for record in records
        for category in record.categories or ("unspecified",)
    }
    wrong = {raw(locale)["accuracy"][record.kind.value] for record in records}
    used_for = {raw(locale)["systems"][record.model_id]["purpose"] for record in records}
    return made, wrong, used_for


def told(text: str, locale: str) -> tuple[set[str], set[str], set[str]]:
    lines = {line.removeprefix("- ") for line in text.splitlines()}
    return (
        {sentence for sentence in sayable(locale) if sentence in lines},
        {sentence for sentence in raw(locale)["accuracy"].values() if sentence in text},
        {entry["purpose"] for entry in raw(locale)["systems"].values() if entry["purpose"] in text},
    )


def notice_of(records: list[Record], name: str, locale: str) -> ComposedNotice:
    return compose(bundle(name), sample_key(bundle(name), locale, disclosures=why_of(records).disclosures))


@st.composite
def people(draw: st.DrawFn) -> list[Record]:
    """Draw somebody's records: a mix of kinds, at least one record of each."""
    records = []
    for kind in draw(st.sampled_from(MIXES)):
        categories = sorted(raw("en")["sentences"][kind.value]["any"])
        for _ in range(draw(st.integers(1, 2))):
            some = tuple(draw(st.lists(st.sampled_from(categories), unique=True, max_size=2)))
            records.append(Record(kind, draw(st.sampled_from(sorted(raw("en")["systems"]))), some))
    return records


@given(people(), st.sampled_from(TEXTS))
@settings(max_examples=20)
def test_every_reader_is_told_what_their_records_hold_and_nothing_else(
    records: list[Record], text: tuple[str, str]
) -> None:
    name, locale = text
    notice = notice_of(records, name, locale)
    for part in (notice.text, notice.account_body, notice.letter):
        assert told(part, locale) == definition(records, locale)


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: "+".join(mix))
def test_each_mix_of_kinds_claims_those_kinds_alone(mix: tuple[Kind, ...]) -> None:
    for name, locale in TEXTS:
        notice = notice_of([Record(kind, "fraud-scorer", ()) for kind in mix], name, locale)
        first_screen = notice.text.split("\n\n")[3].lower()
        verbs = notice.language.verbs
        for kind, verb in verbs.items():
            stated = verb in first_screen
            assert stated == (kind in mix) or (name == "lookalike-data" and Kind.SYNTHETIC in mix), (name, locale, mix)
            if kind not in mix:
                for words in notice.language.claims[kind]:
                    assert f" {words} " not in notice.text.lower()


@pytest.mark.parametrize(
    ("part", "planted", "says"),
    [
        (
            "what_happened",
            "An AI system calculated this.",
            "says 'calculated', but no record of these people holds derived",
        ),
        (
            "sms",
            "{{ sender.name }}: a made-up profile of you",
            "says 'made-up', but no record of these people holds synth",
        ),
        ("subject", "What we estimated about you", "says 'estimated', but no record"),
        (
            "consequences",
            "Our fraud check held messages that you exchanged with us.",
            "says what no record of these people",
        ),
        (
            "consequences",
            "Our income estimate helps us to choose which offers and payment limits we show.",
            "says what no rec",
        ),
        ("data", "Nothing to see here.", "lacks what the records call for"),
        (
            "data",
            "{% for sentence in disclosures %}\n- {{ sentence }}\n{% endfor %}",
            "lacks what the records call for",
        ),
    ],
)
def test_claims_without_a_record_and_records_without_a_word_are_refused(part: str, planted: str, says: str) -> None:
    edited = Bundle("ai-data-leak", {**bundle("ai-data-leak").files, f"notices/ai-data-leak/en/{part}.j2": planted})
    with pytest.raises(Refused, match=says):
        compose(edited, sample_key(edited, "en", disclosures=("real|fraud-scorer|contact",)))


@pytest.mark.parametrize("standing", ["possible", "named"])
def test_without_a_record_no_machine_is_said_to_have_made_anything(standing: str) -> None:
    for name, locale in TEXTS:
        notice = compose(bundle(name), sample_key(bundle(name), locale, standing=standing, disclosures=()))
        assert told(notice.text, locale) == (set(), set(), set())
