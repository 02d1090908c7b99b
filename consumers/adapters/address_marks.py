"""By what an address or a number is known again, whoever has it, without being kept: keyed hashes, as the relay makes them."""

from bridge.runtime.sealing import email_hmacs, phone_hmac
from consumers.domain.contacts import spellings


class AddressMarks:
    """Makes them. `consumers.stages.dispatch` alone has what they are made of."""

    def __init__(self, join_key: bytes) -> None:
        self._join_key = join_key
        self._email = email_hmacs(join_key)

    def of_email(self, address: str) -> frozenset[str]:
        """Return the hashes of one address, in each form in which a shop may have written it."""
        return frozenset(map(self._email, spellings(address)))

    def of_phone(self, number: str) -> str:
        """Return the hash of a number in E.164."""
        return phone_hmac(self._join_key, number)
