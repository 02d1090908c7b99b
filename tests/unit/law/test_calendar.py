"""The calendar file follows RFC 5545, so that any calendar program reads it."""

from datetime import UTC, date, datetime

from hypothesis import given
from hypothesis import strategies as st

from consumers.law.calendar import Entry, icalendar

NOW = datetime(2026, 6, 10, 14, tzinfo=UTC)
AT = datetime(2026, 6, 12, 14, tzinfo=UTC)


def unfolded(text: str) -> list[str]:
    return text.replace("\r\n ", "").split("\r\n")


def test_an_entry_is_an_event_at_its_instant_with_reminders() -> None:
    text = icalendar([Entry("a@tocsin", AT, "Deadline: tell; all, now", "one\ntwo", (24,))], NOW)
    lines = unfolded(text)
    assert lines[0] == "BEGIN:VCALENDAR"
    assert lines[-2:] == ["END:VCALENDAR", ""]
    assert {"UID:a@tocsin", "DTSTAMP:20260610T140000Z", "DTSTART:20260612T140000Z", "TRIGGER:-PT24H"} <= set(lines)
    assert "SUMMARY:Deadline: tell\\; all\\, now" in lines
    assert "DESCRIPTION:one\\ntwo" in lines


def test_a_day_is_a_day() -> None:
    assert "DTSTART;VALUE=DATE:20261201" in unfolded(icalendar([Entry("a", date(2026, 12, 1), "s", "d")], NOW))


@given(summary=st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=300))
def test_folding_keeps_every_character_and_no_line_is_long(summary: str) -> None:
    text = icalendar([Entry("a", AT, summary, "")], NOW)
    for line in text.split("\r\n"):
        assert len(line.encode()) <= 75
    escaped = summary.replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,")
    assert f"SUMMARY:{escaped}" in unfolded(text)
