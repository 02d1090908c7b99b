"""Draws a sheet as one self-contained page: no scripts, nothing remote, fit for paper.

A sample of an e-mail stands in a frame of its own without any right (`sandbox`), so that a mail's body can neither run
nor restyle the page; on paper its plain text takes the frame's place. The page's own policy forbids everything remote.
"""

from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template

from bridge.runtime.printing import in_words
from consumers.adapters.page_templates import page_environment
from consumers.case.sheet import Sheet
from consumers.case.sheet_commands import in_one_sentence


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = page_environment()
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["words"] = lambda value: str(value).replace("_", " ")
    environment.filters["day"] = _day
    return environment.get_template("sheet.html.j2")


def _day(text: str | None) -> str:
    """Return an instant of the content as readers write it, in UTC."""
    return "no date" if text is None else f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"


def sheet_page(sheet: Sheet) -> str:
    """Return the whole page."""
    content = sheet.content
    deadline = content["earliest_deadline_at"]
    coverage: dict[str, dict[str, Any]] = {}
    for each in content["coverage"]:
        known = coverage.setdefault(each["model"], {**each, "untagged": 0})
        known["untagged"] += each["untagged"]
        if each["recorded_since"] is None or known["recorded_since"] is None:
            known["recorded_since"] = None
        else:
            known["recorded_since"] = max(known["recorded_since"], each["recorded_since"])
    return _template().render(
        sheet=sheet,
        content=content,
        coverage=[coverage[name] for name in sorted(coverage)],
        made_at=f"{sheet.made_at:%Y-%m-%d %H:%M} UTC",
        deadline_in=None if deadline is None else in_words(datetime.fromisoformat(deadline), sheet.made_at),
        sentence=in_one_sentence(sheet),
        largest=max((each["people"] for each in content["jurisdictions"]), default=1),
    )
