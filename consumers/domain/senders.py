"""Who writes to whom: the sender of each website and store view, as data. First match decides, as in the segment policy.

What an entry leaves out is what the shop is called elsewhere: the controller's name and officer, the addresses of the
settings. A website or store view that no entry names has no sender, and its people are held. Not for whether the provider
knows the address (`consumers.adapters.ses_identities`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.contracts.errors import BadInput, nearest
from consumers.domain.notices import Sender

_TOP = ("senders",)
_TEXTS = (
    "name", "from_address", "reply_to", "contact", "address", "telephone", "toll_free", "dpo", "parent", "shop_url",
)  # fmt: skip
_KEYS = ("websites", "stores", *_TEXTS)
_MAILBOX = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+")
_UNFIT = re.compile(r"[{}<>\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Shop:
    """What entries fall back on: the controller of the website, and the settings."""

    controller: str
    dpo: str
    from_address: str
    reply_to: str | None
    base_url: str


@dataclass(frozen=True, slots=True)
class SenderEntry:
    """One entry: for which websites and store views (empty: all), and what it says; absent texts fall back."""

    websites: frozenset[int]
    stores: frozenset[int]
    texts: Mapping[str, str]

    def names(self, website_id: int, store_id: int) -> bool:
        """Say whether this entry is for a store view of a website."""
        return (not self.websites or website_id in self.websites) and (not self.stores or store_id in self.stores)


@dataclass(frozen=True, slots=True)
class Senders:
    """All entries, in order."""

    entries: tuple[SenderEntry, ...]

    def sender(self, website_id: int, store_id: int, shop: Shop) -> Sender | None:
        """Return who writes to people of a store view, or None where no entry names it."""
        entry = next((each for each in self.entries if each.names(website_id, store_id)), None)
        if entry is None:
            return None
        texts = entry.texts
        from_address = texts.get("from_address", shop.from_address)
        reply_to = texts.get("reply_to", shop.reply_to or "")
        url = texts.get("shop_url", shop.base_url).rstrip("/")
        return Sender(
            name=texts.get("name", shop.controller),
            contact=texts.get("contact", reply_to or from_address),
            shop_url=f"{url}/",
            account_url=f"{url}/customer/account/",
            address=texts.get("address", ""),
            telephone=texts.get("telephone", ""),
            toll_free=texts.get("toll_free", ""),
            dpo=texts.get("dpo", shop.dpo),
            parent=texts.get("parent", ""),
            from_address=from_address,
            reply_to=reply_to,
        )

    def from_addresses(self, fallback: str) -> tuple[str, ...]:
        """Return every address that notices may come from."""
        return tuple(sorted({entry.texts.get("from_address", fallback) for entry in self.entries}))


def missing_sender(website_id: int, store_id: int) -> str:
    """Return why people of a store view without a sender are held, and what to do."""
    return f"senders.yaml names no sender for website {website_id}, store view {store_id}; add one"


def parse_senders(content: Any) -> Senders:
    """Return the parsed YAML of `senders.yaml`. Raises BadInput listing every problem as `path.of.keys: problem`."""
    problems: list[str] = []
    top = content if isinstance(content, dict) else {}
    _refuse_unknown(top, _TOP, "", problems)
    raw = top.get("senders")
    if not isinstance(raw, list) or not raw:
        raise BadInput("\n".join([*problems, "senders: write a list of senders; one without websites is for all"]))
    entries = [_entry(each, f"senders.{index}", problems) for index, each in enumerate(raw)]
    for index, entry in enumerate(entries[:-1]):
        if not entry.websites and not entry.stores:
            problems.append(
                f"senders.{index}: is for everybody, so that those after it never match; move it to the end"
            )
    if problems:
        raise BadInput("\n".join(problems))
    return Senders(tuple(entries))


def _entry(raw: Any, where: str, problems: list[str]) -> SenderEntry:
    fields = raw if isinstance(raw, dict) else {}
    if fields is not raw:
        problems.append(f"{where}: write keys here ({', '.join(_KEYS)})")
    _refuse_unknown(fields, _KEYS, where, problems)
    texts = {}
    for name in _TEXTS:
        if name not in fields:
            continue
        value = fields[name]
        if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST:
            problems.append(f"{where}.{name}: write one line of at most {_LONGEST} characters, in quotation marks")
        elif _UNFIT.search(value):
            problems.append(f"{where}.{name}: holds a brace, an angle bracket, a line break or an invisible character")
        elif name in ("from_address", "reply_to") and not _MAILBOX.fullmatch(value):
            problems.append(
                f"{where}.{name}: {value!r} is no e-mail address; write it bare, like security@shop.example"
            )
        elif name == "shop_url" and not re.fullmatch(r"https?://[^\s\"']+", value):
            problems.append(f"{where}.{name}: {value!r} is no address of a shop; write https://...")
        else:
            texts[name] = value.strip()
    return SenderEntry(
        _numbers(fields, "websites", where, problems), _numbers(fields, "stores", where, problems), texts
    )


def _numbers(fields: Mapping[Any, Any], name: str, where: str, problems: list[str]) -> frozenset[int]:
    value = fields.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, int) and not isinstance(each, bool) for each in value):
        problems.append(f"{where}.{name}: write a list of ids, like [1, 2]")
        return frozenset()
    return frozenset(value)


def _refuse_unknown(fields: Mapping[Any, Any], known: Sequence[str], where: str, problems: list[str]) -> None:
    for name in fields:
        if name not in known:
            place = f"{where}.{name}".lstrip(".")
            problems.append(f"{place}: unknown key{nearest(str(name), known)} (known: {', '.join(known)})")
