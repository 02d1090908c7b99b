"""What the public is told of an incident, composed from the bundle that was approved and released."""

from datetime import date

from bridge.contracts.errors import Refused
from consumers.adapters.notice_renderer import compose_public
from consumers.adapters.template_catalog import ApprovedBundles
from consumers.case.publishing import PublicText
from consumers.domain.notices import as_public_exercise
from consumers.domain.segments import SegmentKey


class ApprovedPublicTexts:
    """Implements `consumers.case.publishing.PublicTexts`."""

    def __init__(self, bundles: ApprovedBundles) -> None:
        self._bundles = bundles

    def __call__(self, key: SegmentKey, on: date, /, *, exercise: bool) -> PublicText:
        """Return the texts as they read when published on `on`, marked if of an exercise.

        Raises TocsinError when they cannot be had.
        """
        if key.bundle_sha256 is None or not key.sender:
            raise Refused("no approved text, or nobody who writes it; see `tocsin notices segments`")
        made = compose_public(self._bundles.load(key.bundle_sha256), key, on)
        if exercise:
            made = as_public_exercise(made)
        return PublicText(made.language.locale, made.bundle_sha256, made.web_html, made.web, made.press)
