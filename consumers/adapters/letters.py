"""Sets the letter of a composed notice as a PDF (tagged, PDF/UA-1), with nothing but the typst wheel.

The words of the letter are data to the page's fixed source (`letter.typ`): a name like `#panic()` is printed, not run.
Not for what the letter says (`notice_renderer`) nor for printing and posting.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import typst

from bridge.contracts.errors import Refused
from bridge.contracts.events import Contact
from consumers.domain.notices import Language, Sender, fill
from consumers.domain.sending import NotPrintable

_SOURCE = Path(__file__).with_name("letter.typ")
PAPERS = ("a4", "us-letter")
_MAX_LINES = 8
"""Of an address: what the window of an envelope shows."""
_AS_PICTURE = "\ufe0f"
"""Asks for the character before it as a picture."""


@lru_cache(maxsize=1)
def _page() -> bytes:
    return _SOURCE.read_bytes()


def letter_source(letter: str, slots: Mapping[str, str]) -> list[dict[str, object]]:
    """Return the filled blocks of `letter` (plain words with `#`, `##` and `-`): `tag` is h1, h2, p or ul.

    Slots are filled after the markup was read, so that no value can become a heading. Raises Refused for a slot without
    a value.
    """
    blocks: list[dict[str, object]] = []
    for chunk in letter.strip().split("\n\n"):
        lines = chunk.splitlines()
        tag = "ul" if lines[0].startswith("- ") else "h2" if lines[0].startswith("## ") else "p"
        tag = "h1" if lines[0].startswith("# ") else tag
        marks = {"h1": 2, "h2": 3, "ul": 2, "p": 0}[tag]
        blocks.append({"tag": tag, "lines": [fill(line[marks:], slots) for line in lines]})
    return blocks


def address_lines(contact: Contact) -> tuple[str, ...]:
    """Return what stands on somebody's envelope, country last: at most as many lines as a window shows.

    What exceeds it is joined with the line before, so that nobody goes without a letter for a long address.
    """
    lines = _shown(contact.postal_address)
    while len(lines) > _MAX_LINES:
        lines[1:3] = [f"{lines[1]}, {lines[2]}"[:80]]
    return tuple(lines)


def _shown(address: Sequence[str]) -> list[str]:
    lines = [" ".join("".join(char for char in line if char.isprintable()).split())[:80] for line in address]
    return [line for line in lines if line]


def letter_pdf(
    letter: str,
    slots: Mapping[str, str],
    language: Language,
    sender: Sender,
    recipient: Sequence[str],
    *,
    paper: str = "a4",
) -> bytes:
    """Return the PDF of `letter` to the address lines of `recipient`. The same words give the same bytes.

    Raises Refused for an address that the window does not show, a paper that is not known or a slot without a value, and
    NotPrintable where somebody's name or address has characters of a script that the page's fonts lack.
    """
    if paper not in PAPERS:
        raise Refused(f"no paper is named {paper!r}; there are {', '.join(PAPERS)}")
    lines = _shown(recipient)
    if len(lines) > _MAX_LINES:
        raise Refused(f"an address of {len(lines)} lines; the window of an envelope shows {_MAX_LINES}")
    pdf = _set(letter, slots, language, sender, lines, paper)
    if pdf is None:
        # a flower in a name keeps nobody from a letter
        bare = {name: _bare(value) or language.unnamed for name, value in slots.items()}
        pdf = _set(letter, bare, language, sender, _shown([_bare(line) for line in lines]), paper)
    if pdf is not None:
        return pdf
    # which words are at fault? ours are the same for everybody, and what is theirs is in the slots and on the envelope
    if _set(letter, dict.fromkeys(slots, "x"), language, sender, ["x"], paper) is not None:
        raise NotPrintable("a name or an address has characters that the letter's fonts lack")
    raise Refused(f"the letter in {language.locale} cannot be set: its own words have characters that its fonts lack")


def _bare(words: str) -> str:
    """Return `words` without pictures and what has no form of its own: letters, numbers and punctuation are left."""
    kept = "".join(char for char in words if unicodedata.category(char)[0] in "LMNPZ" and char != _AS_PICTURE)
    return " ".join(kept.split())


def _set(
    letter: str, slots: Mapping[str, str], language: Language, sender: Sender, recipient: Sequence[str], paper: str
) -> bytes | None:
    """Return the PDF, or None where it cannot be set. What typst says of it holds words of the letter: it goes nowhere."""
    blocks = letter_source(letter, slots)
    title = next((block["lines"] for block in blocks if block["tag"] == "h1"), [sender.name])
    content = {
        "title": title[0] if isinstance(title, list) else sender.name,
        "language": language.locale.partition("_")[0],
        "paper": paper,
        "sender": [part for part in (sender.name, sender.address) if part],
        "recipient": recipient,
        "blocks": blocks,
    }
    try:
        pdf: bytes = typst.compile(
            _page(),
            ignore_system_fonts=True,
            sys_inputs={"letter": json.dumps(content)},
            pdf_standards=["ua-1"],
            timestamp=0,
        )
    except typst.TypstError:
        return None
    return pdf
