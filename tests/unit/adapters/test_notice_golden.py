"""Every shipped notice reads as the golden files say: whoever changes a text sees all that changes with it."""

import pytest

from tests.golden import FOLDER, files


def test_every_notice_locale_and_medium_reads_as_it_was_approved(subtests: pytest.Subtests) -> None:
    written = dict(files())
    for name, content in written.items():
        with subtests.test(name):
            golden = FOLDER / name
            assert golden.is_file(), "make golden writes it"
            assert content == golden.read_text(encoding="utf-8"), "make golden, and look at the difference"
    assert {path.name for path in FOLDER.iterdir()} == set(written), "make golden removes what is no more"
