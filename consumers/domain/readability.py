"""How hard a text is to read, in school grades, by the usual index of each language. Approximate, as all of them are.

Sentences end at `.`, `!` or `?`; lines that end otherwise (headings, addresses, a greeting) are no sentences and not
counted. Syllables are groups of vowels. Not for what a text says.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|\n+")
_LINE_OF_SENTENCES = re.compile(r"[.!?:][\"»”)]?$")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_VOWELS = re.compile(r"[aeiouyàáâäãåæèéêëìíîïòóôöõøœùúûüýÿ]+", re.IGNORECASE)
_SPANISH_NUCLEI = re.compile(r"[iuü]?[aeoáéó][iuy]?|[íú]|[iuü]+|y(?![aeiouáéíóú])", re.IGNORECASE)
_ADDRESS = re.compile(r"\S*(?:://|@|\{\{)\S*|\b[\w.-]+\.(?:com|gov|org|net|invalid)\S*")


@dataclass(frozen=True, slots=True)
class Counts:
    """What the indices look at."""

    sentences: int
    words: int
    syllables: int
    long_words: int
    """Of more than six letters."""
    many_syllables: int
    """Words of three syllables or more."""
    one_syllable: int


def counts_of(text: str, syllables_in: Callable[[str], int]) -> Counts:
    """Return the counts of `text`; addresses and slots are no words."""
    lines = (line.strip() for line in text.splitlines())
    plain = _ADDRESS.sub(" ", "\n".join(line for line in lines if _LINE_OF_SENTENCES.search(line)))
    sentences = [words for part in _SENTENCE_END.split(plain) if (words := _WORD.findall(part))]
    words = [word for sentence in sentences for word in sentence]
    syllables = [syllables_in(word) for word in words]
    return Counts(
        sentences=len(sentences),
        words=len(words),
        syllables=sum(syllables),
        long_words=sum(len(word) > 6 for word in words),
        many_syllables=sum(count >= 3 for count in syllables),
        one_syllable=sum(count == 1 for count in syllables),
    )


@lru_cache(maxsize=20_000)
def _groups(word: str) -> int:
    return max(1, len(_VOWELS.findall(word)))


@lru_cache(maxsize=20_000)
def _english(word: str) -> int:
    lower = word.lower()
    count = len(_VOWELS.findall(lower))
    if lower.endswith("e") and not lower.endswith(("le", "ee")) and count > 1:
        count -= 1
    if lower.endswith(("es", "ed")) and not lower.endswith(("ses", "zes", "ches", "shes", "ges", "ces", "ted", "ded")) and count > 1:  # fmt: skip # noqa: E501
        count -= 1
    return max(1, count)


@lru_cache(maxsize=20_000)
def _french(word: str) -> int:
    lower = word.lower()
    count = len(_VOWELS.findall(lower))
    if lower.endswith(("e", "es", "ent")) and count > 1:
        count -= 1
    return max(1, count)


@lru_cache(maxsize=20_000)
def _spanish(word: str) -> int:
    return max(1, len(_SPANISH_NUCLEI.findall(word)))


def flesch_kincaid(text: str) -> float:
    """Return the US school grade (Kincaid and others, 1975)."""
    it = counts_of(text, _english)
    return 0.39 * it.words / it.sentences + 11.8 * it.syllables / it.words - 15.59 if it.words else 0.0


def wiener_sachtextformel(text: str) -> float:
    """Return the German school grade, 4 to 15 (first Wiener Sachtextformel, Bamberger and Vanecek, 1984)."""
    it = counts_of(text, _groups)
    if not it.words:
        return 0.0
    return (
        0.1935 * 100 * it.many_syllables / it.words
        + 0.1672 * it.words / it.sentences
        + 0.1297 * 100 * it.long_words / it.words
        - 0.0327 * 100 * it.one_syllable / it.words
        - 0.875
    )


def kandel_moles(text: str) -> float:
    """Return 100 (easy) to 0 (hard) for French (Kandel and Moles, 1958), turned round so that more is harder: 100 less it."""
    it = counts_of(text, _french)
    return 100 - (207 - 1.015 * it.words / it.sentences - 73.6 * it.syllables / it.words) if it.words else 0.0


def fernandez_huerta(text: str) -> float:
    """Return 100 (easy) to 0 (hard) for Spanish (Fernandez Huerta, 1959), turned round so that more is harder."""
    it = counts_of(text, _spanish)
    return 100 - (206.84 - 60 * it.syllables / it.words - 1.02 * it.words / it.sentences) if it.words else 0.0


INDICES: Mapping[str, Callable[[str], float]] = {
    "flesch_kincaid": flesch_kincaid,
    "wiener_sachtextformel": wiener_sachtextformel,
    "kandel_moles": kandel_moles,
    "fernandez_huerta": fernandez_huerta,
}
"""By name: higher is harder in all of them."""
