"""Every shipped notice as its readers get it, in each language and medium: `make golden` writes the files anew.

One file a notice and language. It holds the mail's words whole; the other media and the variants (what Massachusetts, New
York or people without a record read) as differences from them, so that a changed sentence shows once. The mail's HTML
stands without its inline styles, which `notices/style.txt` holds.
"""

import re
from collections.abc import Iterator
from datetime import date
from difflib import unified_diff
from pathlib import Path
from typing import Any

from consumers.adapters.notice_renderer import FULL_SENDER, ONE_OF_EACH, compose, compose_public, sample_key
from consumers.adapters.template_catalog import Bundle, bundle_names, read_bundle
from consumers.domain.notice_checklist import UNKNOWN_RESIDENCE_ASKS

TEMPLATES = Path(__file__).parents[2] / "templates"
FOLDER = Path(__file__).parent / "notices"
_STYLE = re.compile(r' style="([^"]*)"')
_KEYS = tuple(text.format("fraud-scorer") for text in ONE_OF_EACH)
_CASES: dict[str, dict[str, Any]] = {
    "possible": {"standing": "possible", "disclosures": ()},
    "named": {"standing": "named", "disclosures": ()},
    "supplement": {"supplement": True},
    "real data alone": {"disclosures": _KEYS[2:3]},
    "Massachusetts": {
        "asks": ("police_report_right", "security_freeze_right"), "states": ("US-MA",),
        "forbids": ("cause_of_incident", "intruder_identity", "nature_of_incident", "number_affected"),
    },
    "New York": {
        "asks": UNKNOWN_RESIDENCE_ASKS, "states": ("US-NY",), "sender": FULL_SENDER.as_pairs(),
    },
    "residence unknown": {"asks": UNKNOWN_RESIDENCE_ASKS},
}  # fmt: skip


def files() -> Iterator[tuple[str, str]]:
    """Yield the name and content of every golden file."""
    styles: set[str] = set()
    for name in bundle_names(TEMPLATES):
        bundle = read_bundle(TEMPLATES, name)
        for locale in bundle.locales:
            yield f"{name}.{locale}.txt", _content(bundle, locale, styles)
    yield "style.txt", "".join(f"{style}\n" for style in sorted(styles))


def _content(bundle: Bundle, locale: str, styles: set[str]) -> str:
    key = sample_key(bundle, locale, disclosures=_KEYS)
    notice = compose(bundle, key)
    public = compose_public(bundle, key, date(2000, 2, 1))
    styles.update(_STYLE.findall(notice.html), _STYLE.findall(public.web_html))
    parts = [
        ("reading level", f"{notice.reading:.1f} {notice.language.reading_index}, {notice.words} words\n"),
        ("subject", notice.subject + "\n"),
        ("e-mail, text", notice.text),
        ("e-mail, HTML without styles", _STYLE.sub("", notice.html)),
        (f"SMS, {notice.sms_parts} part(s)", notice.sms + "\n"),
        ("account notice, title", notice.account_title + "\n"),
        ("account notice, from the e-mail", _difference(notice.text, notice.account_body)),
        ("letter, from the e-mail", _difference(notice.text, notice.letter)),
        ("web notice", public.web),
        ("web notice, HTML without styles, from the e-mail's", _difference(notice.html, public.web_html)),
        ("press text, from the web notice", _difference(public.web, public.press)),
    ]
    for case, changes in _CASES.items():
        other = compose(bundle, sample_key(bundle, locale, **{"disclosures": _KEYS, **changes}))
        parts.append((f"e-mail for {case}, from the e-mail", _difference(notice.text, other.text)))
    return "".join(f"=== {title}\n{content}\n" for title, content in parts)


def _difference(before: str, after: str) -> str:
    old, new = (_STYLE.sub("", text).splitlines(keepends=True) for text in (before, after))
    return "".join(line for line in unified_diff(old, new, n=0) if not line.startswith(("---", "+++")))
