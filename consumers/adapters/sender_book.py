"""Who writes notices, as `templates/senders.yaml` says, read anew when it has changed.

A file that has become wrong while processes run takes nobody's sender away: what was read last stays in force and the
fault is logged. At the start the fault is raised. The file is not part of an approved bundle: a sender is part of the
segment's key, so that an approved release binds it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from bridge.contracts.errors import BadInput
from bridge.runtime.settings import Settings
from consumers.domain.duties import LawInForce, digest
from consumers.domain.notices import Sender
from consumers.domain.senders import Senders, Shop, parse_senders
from consumers.law.source import located, parse

log = structlog.get_logger()

FILE = "senders.yaml"


def read_senders(templates: Path) -> Senders:
    """Return the senders in counsel's folder. Raises BadInput with file, line and key."""
    path = templates / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(
            f"{path}: missing; it says who writes to customers. `tocsin init` copies the shipped one; the least is\n"
            "senders:\n  - {}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({type(error).__name__}); save it as UTF-8") from None
    document = parse(path, text)
    try:
        return parse_senders(document.content)
    except BadInput as error:
        raise BadInput(located(document, str(error), FILE)) from None


class SenderBook:
    """The senders in force. `mark` changes when any of them does."""

    def __init__(self, settings: Settings, law: LawInForce) -> None:
        self._settings = settings
        self._law = law
        self._senders: Senders | None = None
        self._stamp: tuple[int, int] | None = None

    def __call__(self, website_id: int, store_id: int) -> Sender | None:
        """Return who writes to people of a store view, or None where nobody does. Raises BadInput at the first reading."""
        _, controller = self._law().controllers.of_website(website_id)
        delivery = self._settings.delivery
        shop = Shop(
            controller.name, controller.dpo, delivery.from_address, delivery.reply_to, self._settings.store.base_url
        )
        return self.senders().sender(website_id, store_id, shop)

    def mark(self) -> str:
        """Return a hash of what the entries say."""
        return digest([[sorted(each.websites), sorted(each.stores), each.texts] for each in self.senders().entries])

    def from_addresses(self) -> tuple[str, ...]:
        """Return every address that notices may come from."""
        return self.senders().from_addresses(self._settings.delivery.from_address)

    def senders(self) -> Senders:
        """Return the entries in force."""
        path = self._settings.paths.templates / FILE
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
        except OSError:
            stamp = (0, 0)
        if self._senders is None or stamp != self._stamp:
            try:
                self._senders = read_senders(self._settings.paths.templates)
            except BadInput as error:
                if self._senders is None:
                    raise
                log.error("senders.yaml has changed and is not valid; the one before stays in force", reason=str(error))
            self._stamp = stamp
        return self._senders


class MailSenders:
    """Implements `consumers.case.sheet_commands.MailSenders`. The provider is asked only once somebody asks us."""

    def __init__(self, book: SenderBook, objection: Callable[[], Callable[[str], str | None]]) -> None:
        self._book = book
        self._objection = objection

    def objections(self) -> Mapping[str, str]:
        """Return why no mail may come from an address, by address. Raises Unreachable, BadInput without a provider."""
        ask = self._objection()
        answers = {address: ask(address) for address in self._book.from_addresses()}
        return {address: answer for address, answer in answers.items() if answer is not None}
