"""What dispatch sends: the approved text of a person's segment, filled for them, with the hash of the final body.

Composes once a segment and keeps the result; only bundles whose hash is in the segment's key are ever opened, so an edit
in counsel's folder changes nothing that runs.
"""

import hashlib
import html
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from email.utils import formataddr

from bridge.contracts.errors import Refused
from bridge.contracts.events import Contact
from bridge.runtime.clock import Clock
from consumers.adapters.letters import address_lines, letter_pdf
from consumers.adapters.notice_renderer import compose
from consumers.adapters.template_catalog import ApprovedBundles
from consumers.domain.ledger import Intent
from consumers.domain.notices import (
    ComposedNotice,
    Sender,
    SharedText,
    as_exercise,
    body_sha256,
    plain_name,
    shared_slots,
    slots_for,
)
from consumers.domain.segments import segment_key_from
from consumers.domain.sending import (
    SPECIMEN_ADDRESS,
    EmailTemplate,
    PreparedAccountNotice,
    PreparedEmail,
    PreparedLetter,
    PreparedText,
)
from consumers.domain.simulators import SIMULATED_PHONE, simulated_email

_KEPT_SEGMENTS = 256


@dataclass(frozen=True, slots=True)
class _Mail:
    """The e-mail of one segment on one day, all but a person's name."""

    incident_id: str
    on: date
    address: str
    template: EmailTemplate
    slots: Mapping[str, str]
    final: SharedText
    unnamed: str


class ApprovedTexts:
    """Fills approved notices. `from_address` and `reply_to` stand in where a segment's sender has none of its own.

    `may_not_send` says why no mail may come from an address: an e-mail is refused then, and goes once that is cured.
    """

    def __init__(
        self,
        bundles: ApprovedBundles,
        from_address: str,
        reply_to: str | None,
        clock: Clock,
        *,
        may_not_send: Callable[[str], str | None] | None = None,
    ) -> None:
        self._may_not_send = may_not_send
        self._clock = clock
        self._bundles = bundles
        self._from_address = from_address
        self._reply_to = reply_to
        self._composed: OrderedDict[tuple[str, bool], ComposedNotice] = OrderedDict()
        self._mails: OrderedDict[str, _Mail] = OrderedDict()

    def email(self, intent: Intent, contact: Contact) -> PreparedEmail:
        """Return the person's e-mail. Raises TocsinError when its text cannot be had."""
        # the date of the notice itself, which some statutes prescribe, not that of the incident
        today = self._clock.now().date()
        mail = self._mails.get(intent.segment_id)
        if mail is None or mail.on != today or mail.incident_id != intent.incident_id:
            mail = self._mails[intent.segment_id] = self._mail(intent, today)
            if len(self._mails) > _KEPT_SEGMENTS:
                self._mails.popitem(last=False)
        objection = None if self._may_not_send is None else self._may_not_send(mail.address)
        if objection is not None:
            raise Refused(f"no e-mail can be sent: {objection}; what waits goes then by itself")
        name = plain_name(contact) or mail.unnamed
        slots = {"name": name, "name_html": html.escape(name, quote=True), **mail.slots}
        return PreparedEmail(mail.template, slots, mail.final.body_sha256(slots))

    def _mail(self, intent: Intent, on: date) -> "_Mail":
        """Return what all people of the intent's segment share today."""
        notice = self._notice(intent)
        sender = intent.segment_key.get("sender") or {}
        address = str(sender.get("from_address") or self._from_address)
        from_address = address
        if sender.get("from_address"):
            # people see whose mail it is; a name outside ASCII is encoded (RFC 2047)
            from_address = formataddr((str(sender.get("name", "")), from_address))
        template = EmailTemplate(
            from_address, sender.get("reply_to") or self._reply_to, notice.subject, notice.html, notice.text
        )
        slots = shared_slots(intent.incident_id, on, notice.language)
        final = SharedText((notice.subject, notice.html, notice.text), slots)
        return _Mail(intent.incident_id, on, address, template, slots, final, notice.language.unnamed)

    def sms(self, intent: Intent, contact: Contact) -> PreparedText:  # noqa: ARG002  an SMS holds nothing of the person
        """Return the person's text message."""
        notice = self._notice(intent)
        return PreparedText(notice.sms, body_sha256(notice.sms))

    def account_notice(self, intent: Intent) -> PreparedAccountNotice:
        """Return what the person's account page shows."""
        notice = self._notice(intent)
        return PreparedAccountNotice(
            notice.account_title, notice.account_body, body_sha256(notice.account_title, notice.account_body)
        )

    def letter(self, intent: Intent, contact: Contact) -> PreparedLetter:
        """Return the person's letter, on the paper of the country that it goes to."""
        notice = self._notice(intent)
        slots = slots_for(contact, intent.incident_id, self._clock.now().date(), notice.language)
        address = address_lines(contact)
        paper = "us-letter" if address[-1:] in (("US",), ("CA",)) else "a4"
        sender = Sender(**dict(segment_key_from(intent.segment_key).sender))
        pdf = letter_pdf(notice.letter, slots, notice.language, sender, address, paper=paper)
        return PreparedLetter(pdf, address, hashlib.sha256(pdf).hexdigest())

    def _notice(self, intent: Intent) -> ComposedNotice:
        name = (intent.segment_id, intent.exercise)
        known = self._composed.get(name)
        if known is not None:
            self._composed.move_to_end(name)
            return known
        key = segment_key_from(intent.segment_key)
        if key.bundle_sha256 is None or key.bundle_sha256 != intent.bundle_sha256:
            raise Refused(f"segment {intent.segment_id[:12]} has no approved bundle; prepare the release anew")
        notice = compose(self._bundles.load(key.bundle_sha256), key)
        if intent.exercise:
            notice = as_exercise(notice)
        self._composed[name] = notice
        if len(self._composed) > _KEPT_SEGMENTS:
            self._composed.popitem(last=False)
        return notice


class Addresses:
    """Where a message really goes under `delivery.mode`: to the person, or to the provider's simulator.

    An exercise leaves for nobody under any mode; providers see to that once more (`consumers.domain.sending`).
    """

    def __init__(self, mode: str, *, test_store: bool = False) -> None:
        self._mode = mode
        self._test_store = test_store

    def email(self, intent: Intent, address: str) -> str:
        """Return the address to use for `address`."""
        return simulated_email() if self._simulated(intent) else address

    def phone(self, intent: Intent, number: str) -> str:
        """Return the number to use for `number`."""
        return SIMULATED_PHONE if self._simulated(intent) else number

    def shows_on_account_page(self, intent: Intent) -> bool:
        """Return whether an account notice may really be posted: an account page is the shop's own, it has no simulator.

        The sandbox stands in for AWS only, so outside `live` somebody must have said that the store is a test store. There
        an exercise is shown, too; the bridge refuses it in any other store.
        """
        return self._test_store if self._mode == "sandbox" else not self._simulated(intent)

    def envelope(self, intent: Intent, contact: Contact) -> Contact:
        """Return the contact whose letter is written: an exercise must not put a person's address on paper."""
        if not self._simulated(intent):
            return contact
        return Contact(first_name="SPECIMEN", postal_address=SPECIMEN_ADDRESS)

    def _simulated(self, intent: Intent) -> bool:
        return intent.exercise or self._mode == "simulator"
