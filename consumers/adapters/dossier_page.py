"""Sets a dossier as a PDF (tagged, PDF/UA-1) with pictures of when and how many; nothing but the typst wheel is needed.

Not for what it says (`consumers.case.dossier`). The same content gives the same bytes.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import typst

from bridge.contracts.errors import Refused

_SOURCE = Path(__file__).with_name("dossier.typ")
_FONT = 'font-family="Libertinus Serif, serif"'
_MOST_BARS = 25


@lru_cache(maxsize=1)
def _page() -> bytes:
    return _SOURCE.read_bytes()


def dossier_pdf(content: Mapping[str, Any]) -> bytes:
    """Return the PDF of a dossier's content. Raises Refused if it cannot be set."""
    try:
        pdf: bytes = typst.compile(
            _page(),
            ignore_system_fonts=True,
            sys_inputs={"dossier": json.dumps(_as_data(content))},
            pdf_standards=["ua-1"],
            timestamp=0,
        )
    except typst.TypstError as error:
        raise Refused(f"the dossier cannot be set: {error}") from None
    return pdf


_HEADINGS = {
    "gdpr_33": "Notification of a personal data breach (Art. 33 GDPR)",
    "us_attorney_general": "Notice of a security breach",
    "generic": "Notification of a data breach",
}


def _as_data(content: Mapping[str, Any]) -> dict[str, Any]:
    duty = content["duty"]
    is_gb = duty["regime_id"].startswith("gb-")
    heading = _HEADINGS[content["kind"]].replace("GDPR", "UK GDPR" if is_gb else "GDPR")
    counted = "" if duty["counted"] != "conservative" else ", counted from the detection"
    phases = " (Art. 33(4): information is given in phases)" if content["kind"] == "gdpr_33" else ""
    law, citation = duty["law"] or duty["regime_id"], duty["citation"] or "citation not recorded"
    deadline = "none fixed" if duty["deadline_at"] is None else f"{_day(duty['deadline_at'])}{counted}"
    summary = [
        ("Controller", content["controller"]["name"]),
        ("Our case", f"{content['incident_id']}, version {content['version']} of {_day(content['made_at'])}"),
        ("Phase", f"{content['phase']}{phases}"),
        ("Duty", f"{law}; {citation} (confidence {duty['confidence'] or 'unknown'})"),
        ("Deadline", f"{deadline}{'; MISSED' if duty['is_late'] else ''}"),
    ]
    return {
        "heading": heading,
        "paper": "us-letter" if content["kind"] == "us_attorney_general" else "a4",
        "footer": f"{content['incident_id']} {duty['regime_id']} version {content['version']}. No legal advice.",
        "summary": summary,
        "timeline_svg": timeline_svg(content["timeline"]),
        "timeline_words": "; ".join(f"{each['what']} {_day(each['at'])}" for each in content["timeline"]),
        "counts_svg": counts_svg(content["counts"]) if content["counts"] else "",
        "counts_words": "; ".join(f"{each['code']} {each['people']:,}" for each in content["counts"]),
        "earlier": [
            f"version {each['version']} ({each['phase']}) of {_day(each['made_at'])}, "
            + (f"submitted {_day(each['submitted_at'])}" if each["submitted_at"] else "not submitted")
            + (f", number {each['reference']}" if each["reference"] else "")
            for each in content["earlier"]
        ],
        **{name: content[name] for name in ("kind", "exercise", "authorities", "missing", "sections", "sample_notice")},
    }


def _day(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"


def timeline_svg(moments: Sequence[Mapping[str, str]]) -> str:
    """Return the moments in order on a line, evenly apart (the dates say how far), as SVG."""
    step, left = 34, 200
    height = step * len(moments) + 10
    rows = []
    for number, each in enumerate(moments):
        y = 22 + number * step
        shape = (
            f'<rect x="{left - 6}" y="{y - 6}" width="12" height="12" fill="#8f1d14"/>'
            if each["what"] == "deadline"
            else f'<circle cx="{left}" cy="{y}" r="6" fill="#1b3f66"/>'
        )
        rows.append(
            f'<text x="{left - 16}" y="{y + 5}" text-anchor="end" font-size="14" {_FONT}>{escape(_day(each["at"]))}</text>'
            f'{shape}<text x="{left + 16}" y="{y + 5}" font-size="14" {_FONT}>{escape(each["what"])}</text>'
        )
    line = f'<line x1="{left}" y1="22" x2="{left}" y2="{22 + step * (len(moments) - 1)}" stroke="#8a94a3" stroke-width="2"/>'
    return _svg(height, [line, *rows])


def counts_svg(counts: Sequence[Mapping[str, Any]]) -> str:
    """Return a bar a jurisdiction, the largest ones first and the rest as one; those of the duty's own are dark."""
    shown = list(counts[:_MOST_BARS])
    if len(counts) > _MOST_BARS:
        shown.append(
            {"code": f"{len(counts) - _MOST_BARS} more", "people": sum(each["people"] for each in counts[_MOST_BARS:])}
        )
    largest, step = max((each["people"] for each in shown), default=1) or 1, 20
    height = step * len(shown) + 8
    rows = []
    for number, each in enumerate(shown):
        y, width = 4 + number * step, max(1.0, 420 * each["people"] / largest)
        fill = "#1b3f66" if each.get("here") else "#7f9fc4"
        rows.append(
            f'<text x="92" y="{y + 13}" text-anchor="end" font-size="12" {_FONT}>{escape(str(each["code"]))}</text>'
            f'<rect x="100" y="{y + 2}" width="{width:.1f}" height="14" fill="{fill}"/>'
            f'<text x="{106 + width:.1f}" y="{y + 13}" font-size="12" {_FONT}>{each["people"]:,}</text>'
        )
    return _svg(height, rows)


def _svg(height: int, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 640 {height}" width="640" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>'
