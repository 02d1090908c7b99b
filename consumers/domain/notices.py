"""A composed notice and what is done to it per person: slots filled as the provider fills them, hashes, SMS parts.

One text serves a whole segment; the few values of a person are scalar slots `{{name}}`, escaped here for the part they
stand in, because the provider replaces them raw. Not for templates (`consumers.adapters.notice_renderer`).
"""

import hashlib
import html
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import Contact, Kind

SLOTS = ("name", "case_number", "date")
"""Values of one person. In HTML parts they are written with the suffix `_html`."""
SLOTS_OF_PART: Mapping[str, frozenset[str]] = {
    "subject": frozenset({"case_number"}),
    "html": frozenset(f"{slot}_html" for slot in SLOTS),
    "text": frozenset(SLOTS),
    "letter": frozenset(SLOTS),
    "web_html": frozenset(),
    "web": frozenset(),
    "press": frozenset(),
    "sms": frozenset(),
    "account_title": frozenset(),
    "account_body": frozenset(),
}
"""Which slots a part may hold. No name in a subject (header injection), none where everybody reads the same."""
MAX_NAME_LENGTH = 80
_SLOT = re.compile(r"\{\{([a-z_]+)\}\}")
_PLAIN = re.compile(r"[A-Za-z0-9À-ÖØ-öø-ÿ'-]{1,38}(?: [A-Za-z0-9À-ÖØ-öø-ÿ'-]{1,40})?").fullmatch
_LINK = re.compile(r"://|www\.|@|\w\.\w{2,}", re.IGNORECASE)
_GSM7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM7_EXTENDED = frozenset("\f^{}\\[~]|€")


@dataclass(frozen=True, slots=True)
class Sender:
    """Who writes a notice. `contact` says whom to ask (may be empty); `account_url` leads to the shop's own page.

    What is empty is not said; where a law asks for it, its people are held until it is known.
    """

    name: str
    contact: str
    shop_url: str
    account_url: str
    address: str = ""
    """Postal address on one line."""
    telephone: str = ""
    toll_free: str = ""
    """A number that costs the caller nothing."""
    dpo: str = ""
    """The data protection officer: name and how to reach them."""
    parent: str = ""
    """The corporation that owns the sender."""
    from_address: str = ""
    """Where its mails come from, and `reply_to` where answers go; empty: as delivery is set."""
    reply_to: str = ""

    def as_pairs(self) -> tuple[tuple[str, str], ...]:
        """Return the fields for a segment's key, sorted by name."""
        return tuple(sorted((field.name, getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Language:
    """How one language writes a date, and what it calls somebody whose name is not known."""

    locale: str
    months: tuple[str, ...]
    date_pattern: str
    """With `{day}`, `{month}` and `{year}`."""
    unnamed: str
    or_word: str = "or"
    telephone: str = "telephone"
    verbs: Mapping[Kind, str] = field(default_factory=dict)
    """What "An AI system" did with data of a kind: `worked out`, `guessed`, `made up`."""
    claims: Mapping[Kind, tuple[str, ...]] = field(default_factory=dict)
    """Words with which a text claims that a machine made data of a kind, in lower case."""
    nature: tuple[str, ...] = ()
    """Words that tell the nature of a breach, in lower case: not for whom a law forbids to say it."""
    reading_index: str = "flesch_kincaid"
    reading_at_most: float = 9.0

    def listed(self, items: Sequence[str]) -> str:
        """Return `items` as readers list alternatives: `a, b or c`."""
        *most, last = items or ("",)
        return f"{', '.join(most)} {self.or_word} {last}" if most else last

    def written(self, day: date) -> str:
        """Return `day` as readers of the language write it."""
        return (
            self.date_pattern.replace("{day}", str(day.day))
            .replace("{month}", self.months[day.month - 1])
            .replace("{year}", str(day.year))
        )


@dataclass(frozen=True, slots=True)
class ComposedNotice:
    """The text of one segment, `{{slot}}` left open. `sms_parts` says how many messages the SMS takes.

    `letter` is plain words with `#`, `##` and `-`, which `consumers.adapters.letters` sets as a PDF.
    """

    language: Language
    bundle_sha256: str
    subject: str
    html: str
    text: str
    sms: str
    sms_parts: int
    account_title: str
    account_body: str
    letter: str
    covers: frozenset[str]
    """Sections of the law that e-mail and letter both cover."""
    reading: float
    """The mail by the index of its language; higher is harder."""
    words: int
    """Of the mail, before what single states prescribe."""


@dataclass(frozen=True, slots=True)
class PublicNotice:
    """What the public is told where people cannot be reached one by one. No person's data, no slots."""

    language: Language
    bundle_sha256: str
    web_html: str
    web: str
    press: str


EXERCISE = "EXERCISE"
_EXERCISE_SENTENCE = (
    "EXERCISE: this is a drill. Nothing has happened to anybody's data, and this text is for nobody outside."
)
_BODY_TAG = re.compile(r"<body\b[^>]*>", re.IGNORECASE)


def as_exercise(notice: ComposedNotice) -> ComposedNotice:
    """Return `notice` with the mark of an exercise in every part: before the subject, and as the first words of each text.

    In English whatever the notice's language: it goes to simulators, and who finds it must see what it is.
    """
    sms = f"{EXERCISE}. {notice.sms}"
    return replace(
        notice,
        subject=f"{EXERCISE}: {notice.subject}",
        html=_marked_page(notice.html),
        text=_marked(notice.text),
        sms=sms,
        sms_parts=sms_parts(sms)[0],
        account_title=f"{EXERCISE}: {notice.account_title}",
        account_body=_marked(notice.account_body),
        # the heading is the document's title, too
        letter=re.sub(r"^# ", f"# {EXERCISE}: ", _marked(notice.letter), count=1, flags=re.MULTILINE),
    )


def as_public_exercise(notice: PublicNotice) -> PublicNotice:
    """Return the public texts with the mark of an exercise as the first words of each."""
    return replace(notice, web_html=_marked_page(notice.web_html), web=_marked(notice.web), press=_marked(notice.press))


def _marked(text: str) -> str:
    return f"{_EXERCISE_SENTENCE}\n\n{text}"


def _marked_page(page: str) -> str:
    band = f'<p style="margin:0;padding:8px;background:#8f1d14;color:#fff"><strong>{_EXERCISE_SENTENCE}</strong></p>'
    begun = _BODY_TAG.search(page)
    return band + page if begun is None else page[: begun.end()] + band + page[begun.end() :]


def locale_chain(locale: str, last: str = "en") -> tuple[str, ...]:
    """Return where to look for a locale's text: `de_AT` -> `de_AT`, `de`, `en`."""
    normal = re.sub(r"[^A-Za-z_]", "", locale.replace("-", "_"))
    return tuple(dict.fromkeys(part for part in (normal, normal.partition("_")[0], last) if part))


def slots_for(contact: Contact, case_number: str, on: date, language: Language) -> dict[str, str]:
    """Return the values of all slots for one person, escaped per part: `name` for text, `name_html` for HTML."""
    name = plain_name(contact) or language.unnamed
    return {"name": name, "name_html": html.escape(name, quote=True), **shared_slots(case_number, on, language)}


def shared_slots(case_number: str, on: date, language: Language) -> dict[str, str]:
    """Return the values of those slots that all people of one incident, day and language share."""
    values = {"case_number": case_number, "date": language.written(on)}
    return values | {f"{slot}_html": html.escape(value, quote=True) for slot, value in values.items()}


def plain_name(contact: Contact) -> str:
    """Return the person's name as one harmless line, or an empty string where there is none.

    Control, bidirectional and zero-width characters and braces are removed, spaces folded, the length capped. A "name"
    that mail programs would turn into a link is none: nobody may plant an address in our notice.
    """
    first, last = contact.first_name, contact.last_name
    raw = (f"{first} {last}" if first and last else first or last or "")[: MAX_NAME_LENGTH * 20]
    if _PLAIN(raw):
        # most names: nothing in them is folded, removed or a link
        return raw
    normal = unicodedata.normalize("NFC", raw)
    kept = "".join(
        " " if char.isspace() else char
        for char in normal
        if char.isspace() or (unicodedata.category(char)[0] != "C" and char not in "{}<>\\")
    )
    name = " ".join(kept.split())
    if _LINK.search(name):
        return ""
    if len(name) > MAX_NAME_LENGTH:
        name = name[: MAX_NAME_LENGTH - 1].rstrip() + "…"
    return name


def fill(part: str, slots: Mapping[str, str]) -> str:
    """Return `part` with each `{{slot}}` replaced by its value, exactly as SES does: raw, once, nothing escaped.

    Raises Refused for a slot without a value.
    """

    def value(match: re.Match[str]) -> str:
        try:
            return slots[match[1]]
        except KeyError:
            raise _no_value(match[1], slots) from None

    return _SLOT.sub(value, part)


class SharedText:
    """A final text whose parts are the same for many people but for a few slots: its hash without filling it anew for each.

    `shared` are the slots that have one value for all of them.
    """

    def __init__(self, parts: Sequence[str], shared: Mapping[str, str]) -> None:
        pieces = _SLOT.split("\0".join(parts))
        texts, names = [pieces[0]], []
        for name, text in zip(pieces[1::2], pieces[2::2], strict=True):
            if name in shared:
                texts[-1] += shared[name] + text
            else:
                names.append(name)
                texts.append(text)
        self._begun = hashlib.sha256(texts[0].encode())
        self._names = names
        self._texts = texts[1:]

    def body_sha256(self, slots: Mapping[str, str]) -> str:
        """Return what `body_sha256` returns of the filled parts. Raises Refused for a slot without a value."""
        digest = self._begun.copy()
        try:
            digest.update(
                "".join([slots[name] + text for name, text in zip(self._names, self._texts, strict=True)]).encode()
            )
        except KeyError as unknown:
            raise _no_value(str(unknown.args[0]), slots) from None
        return digest.hexdigest()


def _no_value(slot: str, slots: Mapping[str, str]) -> Refused:
    return Refused(f"no value for the slot {slot!r}; known are {', '.join(sorted(slots))}")


def check_slots(part: str, text: str) -> None:
    """Check that `text` holds no braces but those of slots that `part` may have. Raises BadInput."""
    for name in _SLOT.findall(text):
        if name not in SLOTS_OF_PART[part]:
            allowed = ", ".join(sorted(SLOTS_OF_PART[part])) or "none"
            raise BadInput(f"{part}: the slot {name!r} may not stand here (allowed: {allowed})")
    rest = _SLOT.sub("\x00", text)
    if "{{" in rest or "}}" in rest or "{\x00" in rest or "\\\x00" in rest or "\x00}" in rest:
        raise BadInput(f"{part}: holds double braces that are no slot; the provider would read them as a command")


def body_sha256(*parts: str) -> str:
    """Return the SHA-256, in hex, of a final text: its parts in UTF-8, joined by a NUL byte.

    E-mail: subject, HTML, text. SMS: the one text. Account notice: title, body. Of one part it is the plain SHA-256.
    """
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def sms_parts(text: str) -> tuple[int, str]:
    """Return how many messages `text` takes and in which alphabet: `gsm7` (160, then 153) or `ucs2` (70, then 67).

    Source: 3GPP TS 23.038, section 6.2.1; TS 23.040, section 9.2.3.24.1.
    """
    if all(char in _GSM7 or char in _GSM7_EXTENDED for char in text):
        size, one, many, alphabet = sum(2 if char in _GSM7_EXTENDED else 1 for char in text), 160, 153, "gsm7"
    else:
        size, one, many, alphabet = len(text.encode("utf-16-be")) // 2, 70, 67, "ucs2"
    return (1 if size <= one else -(-size // many)), alphabet


def outside_gsm7(text: str) -> str:
    """Return the characters of `text` that force an SMS out of the GSM 7-bit alphabet, each once."""
    return "".join(dict.fromkeys(char for char in text if char not in _GSM7 and char not in _GSM7_EXTENDED))
