"""What a person is told was made of their data: exactly the sentences of their records."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput
from bridge.contracts.events import Kind
from consumers.domain.disclosure import MissingSentence, compose, parse_key, parse_sentences

FOLDER = Path(__file__).parents[3] / "templates" / "disclosure"
LOCALES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SHIPPED = {
    locale: parse_sentences(locale, yaml.safe_load((FOLDER / f"{locale}.yaml").read_text(encoding="utf-8")))
    for locale in LOCALES
}
RAW = {locale: yaml.safe_load((FOLDER / f"{locale}.yaml").read_text(encoding="utf-8")) for locale in LOCALES}
KEYS = [str(key) for key in SHIPPED["en"].keys()]  # noqa: SIM118


def oracle(records: set[str], raw: dict[str, Any]) -> tuple[set[str], set[str], set[str]]:
    """Read the file by hand, record by record."""
    sentences, accuracy, purposes = set(), set(), set()
    for record in records:
        kind, system, category = record.split("|")
        by_system = raw["sentences"][kind]
        text = by_system.get(system, {}).get(category) or by_system["any"][category]
        sentences.add(text.replace("{system}", raw["systems"][system]["name"]))
        accuracy.add(raw["accuracy"][kind])
        purposes.add(raw["systems"][system]["purpose"])
    return sentences, accuracy, purposes


@given(st.sets(st.sampled_from(KEYS)), st.sampled_from(LOCALES))
def test_exactly_the_sentences_of_the_records(records: set[str], locale: str) -> None:
    disclosure = compose(sorted(records) * 2, SHIPPED[locale])
    told = (set(disclosure.sentences), set(disclosure.accuracy), set(disclosure.purposes))
    assert told == oracle(records, RAW[locale])
    assert len(disclosure.sentences) == len(told[0])


@given(st.permutations(KEYS))
def test_the_order_of_records_does_not_matter(keys: list[str]) -> None:
    assert compose(keys, SHIPPED["en"]) == compose(KEYS, SHIPPED["en"])


@given(st.sets(st.sampled_from(KEYS), min_size=1))
def test_no_two_sets_of_records_read_alike(records: set[str]) -> None:
    fewer = sorted(records)[:-1]
    assert compose(records, SHIPPED["en"]).sentences != compose(fewer, SHIPPED["en"]).sentences


@pytest.mark.parametrize("key", ["inferred|unheard-of|income", "derived|fraud-scorer|shoe_size"])
def test_a_missing_sentence_is_named(key: str) -> None:
    with pytest.raises(MissingSentence, match=r"disclosure/en\.yaml") as caught:
        compose([KEYS[0], key], SHIPPED["en"])
    assert caught.value.keys == (key,)


def test_every_language_has_every_sentence() -> None:
    for sentences in SHIPPED.values():
        assert sentences.keys() == SHIPPED["en"].keys()


@given(st.sampled_from(list(Kind)), st.text("ab|-", min_size=1, max_size=8), st.text("cd_", min_size=1, max_size=8))
def test_keys_round_trip(kind: Kind, system: str, category: str) -> None:
    text = f"{kind.value}|{system}|{category}"
    assert str(parse_key(text)) == text
    assert parse_key(text).system == system


@given(st.text(max_size=30))
def test_malformed_keys_raise_our_error_and_nothing_else(text: str) -> None:
    try:
        assert str(parse_key(text)) == text
    except BadInput:
        return


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sentence": {}}, "sentence: unknown key; did you mean 'sentences'"),
        ({"systems": {"m": {"name": "Our check"}}}, "systems.m.purpose: write a sentence"),
        ({"sentences": {"derivd": {"any": {"income": "x"}}}}, "did you mean 'derived'"),
        ({"sentences": {"derived": {"fraud-score": {"income": "x"}}}}, "did you mean 'fraud-scorer'"),
        ({"sentences": {"derived": {"any": {"income": "{{name}}"}}}}, "only {system} may stand in braces"),
        ({"sentences": {"derived": {"any": {"income": "<b>x</b>"}}}}, "sentences are plain text"),
        ({"accuracy": {"derived": "May be wrong."}}, "accuracy.inferred: missing"),
        ({"systems": {"any": {"name": "x", "purpose": "y"}}}, "this word stands for every system"),
    ],
)
def test_a_bad_file_is_refused_by_key(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_sentences("en", RAW["en"] | change)
    assert complaint in str(caught.value)
