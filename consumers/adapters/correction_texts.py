"""The approved correction for somebody who was told wrongly: in their language, by the channels of their first notice."""

from dataclasses import replace

from bridge.contracts.errors import TocsinError
from consumers.adapters.notice_renderer import compose
from consumers.adapters.template_catalog import TemplateCatalog
from consumers.case.correcting import BUNDLE
from consumers.case.records import WronglyTold
from consumers.domain.segments import SegmentKey, segment_key_from


class ApprovedCorrections:
    """Implements `consumers.case.correcting.CorrectionTexts`."""

    def __init__(self, catalog: TemplateCatalog) -> None:
        self._catalog = catalog
        self._refreshed = False

    def __call__(self, person: WronglyTold, incident_id: str, revision: int) -> tuple[SegmentKey, str | None]:
        """Return the segment's key, and why these people are held, if they are."""
        if not self._refreshed:
            self._catalog.refresh()
            self._refreshed = True
        first = segment_key_from(person.first_key)
        bundle = self._catalog.covering(BUNDLE, person.homes)
        key = replace(
            first,
            incident_id=incident_id,
            revision=revision,
            disclosures=person.disclosures,
            policy=BUNDLE,
            # somebody who is not concerned has nothing on record: the text says just that
            standing="recorded" if person.disclosures else "named",
            bundle=BUNDLE,
            bundle_sha256=None if bundle is None else bundle.sha256,
            locale=first.locale if bundle is None else bundle.language_for(first.locale).locale,
            sms_details=False,
            supplement=False,
            # a correction is no breach notice: what laws prescribe for one does not stand in it
            asks=(),
            states=(),
            facts=(),
            offer=(),
        )
        if bundle is None:
            where = ", ".join(person.homes) or "unknown residence"
            return key, f"no approved notice {BUNDLE} covers {where}"[:200]
        if not key.sender:
            return key, "nobody is named in senders.yaml who writes to these people"
        try:
            compose(bundle, key)
        except TocsinError as error:
            return key, str(error).splitlines()[0][:200]
        return key, None
