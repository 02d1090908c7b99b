"""Who works here: `people.toml`, tokens, and the commitment that stands for a person in the evidence log.

A token reads `tocsin_<person id>_<random>`: its person is found without trying every hash. The file holds Argon2
hashes only. Not here: what somebody may do (`permissions`).
"""

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from bridge.contracts.errors import BadInput, Refused, nearest
from consumers.case.permissions import Act, Role, permitting_roles, role_for

PERSON_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_KEYS = ("name", "roles", "tokens")


@dataclass(frozen=True, slots=True)
class Person:
    """A member of staff. The name never leaves the people file and this process."""

    person_id: str
    name: str = field(repr=False)
    roles: tuple[Role, ...]
    token_hashes: tuple[str, ...] = field(repr=False)

    def acting_for(self, act: Act) -> Role:
        """Return the role under which this person does `act`. Raises Refused, naming the roles that may."""
        role = role_for(act, self.roles)
        if role is None:
            held = ", ".join(self.roles) or "no role"
            raise Refused(
                f"{self.person_id} ({held}) may not {act}; it takes one of: {', '.join(permitting_roles(act))}"
            )
        return role


class People:
    """Everybody in the people file."""

    def __init__(self, people: Mapping[str, Person], *, where: str = "people.toml") -> None:
        self._people = dict(people)
        self._where = where

    def __iter__(self) -> Any:
        return iter(self._people.values())

    def __len__(self) -> int:
        return len(self._people)

    def of_role(self, *roles: Role) -> Sequence[Person]:
        """Return who holds one of `roles`."""
        return [person for person in self._people.values() if set(roles) & set(person.roles)]

    def authenticate(self, token: str) -> Person:
        """Return the person whose token this is. Raises Refused without saying which part was wrong."""
        prefix, _, rest = token.strip().partition("_")
        person_id, _, _random = rest.partition("_")
        person = self._people.get(person_id) if prefix == "tocsin" else None
        hasher = PasswordHasher()
        # for nobody as long as for somebody: the time that it takes does not tell whose id exists
        for token_hash in person.token_hashes if person is not None else (_nobodys_hash(),):
            try:
                if hasher.verify(token_hash, token.strip()) and person is not None:
                    return person
            except VerificationError:
                continue
        raise Refused(f"the token is not of anybody in {self._where}; `tocsin people add` gives one")


@cache
def _nobodys_hash() -> str:
    return PasswordHasher().hash(secrets.token_urlsafe(32))


def load_people(path: Path) -> People:
    """Read the people file. Raises BadInput that says line, key and what was meant."""
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        raise BadInput(f"no people file at {path}; `tocsin init` writes one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not TOML: {error}") from None
    for key in document:
        if key != "people":
            raise BadInput(f"{path}{_line(text, key)}: unknown key {key!r}{nearest(key, ['people'])} (known: people)")
    tables = document.get("people", {})
    if not isinstance(tables, dict):
        raise BadInput(f"{path}{_line(text, 'people')}: people: must be tables, one for each person: [people.some-id]")
    people = {person_id: _person(path, text, person_id, table) for person_id, table in tables.items()}
    _refuse_doubles(path, text, people)
    return People(people, where=str(path))


def _person(path: Path, text: str, person_id: str, table: Any) -> Person:
    where = f"{path}{_line(text, f'people.{person_id}')}: people.{person_id}"
    if not PERSON_ID.fullmatch(person_id):
        raise BadInput(f"{where}: an id has lower-case letters, digits and '-', at most 32")
    if not isinstance(table, dict):
        raise BadInput(f"{where}: must be a table with {', '.join(_KEYS)}")
    for key in table:
        if key not in _KEYS:
            line = _line(text, key, after=f"people.{person_id}")
            raise BadInput(
                f"{path}{line}: people.{person_id}.{key}: unknown key{nearest(key, _KEYS)} (known: {', '.join(_KEYS)})"
            )
    name, roles, tokens = table.get("name"), table.get("roles"), table.get("tokens", [])
    if not isinstance(name, str) or not name.strip():
        raise BadInput(f"{where}.name: missing; write the person's name")
    if not isinstance(roles, list) or not roles:
        raise BadInput(f"{where}.roles: missing; a list of: {', '.join(Role)}")
    for role in roles:
        if role not in list(Role):
            line = _line(text, "roles", after=f"people.{person_id}")
            raise BadInput(
                f"{path}{line}: people.{person_id}.roles: unknown role {role!r}{nearest(str(role), map(str, Role))}"
            )
    if not isinstance(tokens, list) or not all(isinstance(item, str) for item in tokens):
        raise BadInput(f"{where}.tokens: must be a list of Argon2 hashes, as `tocsin people add` writes them")
    for item in tokens:
        try:
            PasswordHasher().check_needs_rehash(item)
        except InvalidHashError:
            line = _line(text, "tokens", after=f"people.{person_id}")
            raise BadInput(
                f"{path}{line}: people.{person_id}.tokens: not an Argon2 hash; a token itself is never written here"
            ) from None
    return Person(person_id, name.strip(), tuple(Role(role) for role in roles), tuple(tokens))


def _refuse_doubles(path: Path, text: str, people: Mapping[str, Person]) -> None:
    # two entries for one person would turn one pair of eyes into two
    seen: dict[str, str] = {}
    for person in people.values():
        folded = " ".join(person.name.casefold().split())
        for mark in (folded, *person.token_hashes):
            if mark in seen and seen[mark] != person.person_id:
                line = _line(text, f"people.{person.person_id}")
                what = "name" if mark == folded else "token"
                raise BadInput(
                    f"{path}{line}: people.{person.person_id} has the {what} of people.{seen[mark]}; one entry a person"
                )
            seen[mark] = person.person_id


def _line(text: str, key: str, *, after: str | None = None) -> str:
    """Return `:<line>` of the first line that sets `key` or opens the table of that name; empty if there is none."""
    begun = after is None
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.strip()
        if not begun:
            begun = bare.replace('"', "").startswith(f"[{after}]")
            continue
        opened = bare.replace('"', "")
        if opened.startswith((f"[{key}]", f"[{key}.")) or re.match(rf'"?{re.escape(key)}"?\s*=', bare):
            return f":{number}"
    return ""


def new_token(person_id: str) -> tuple[str, str]:
    """Return a new token and its Argon2 hash."""
    token = f"tocsin_{person_id}_{secrets.token_urlsafe(32)}"
    return token, PasswordHasher().hash(token)


def add_person(path: Path, person_id: str, name: str, roles: Sequence[Role]) -> str:
    """Append a person to the people file (made, mode 0600, if absent) and return the token, which is kept nowhere.

    What people wrote in the file stays as it is. A crash leaves the old file. Raises BadInput for an id in use, a bad
    id, no role, or a file that could not be read back.
    """
    if not PERSON_ID.fullmatch(person_id):
        raise BadInput(f"id {person_id!r}: an id has lower-case letters, digits and '-', at most 32")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and any(person.person_id == person_id for person in load_people(path)):
        raise BadInput(f"{path}: there is a person with the id {person_id} already")
    token, token_hash = new_token(person_id)
    block = (
        f"[people.{person_id}]\nname = {_quoted(name)}\n"
        f"roles = [{', '.join(_quoted(role) for role in roles)}]\ntokens = [{_quoted(token_hash)}]\n"
    )
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_text(f"{text.rstrip()}\n\n{block}".lstrip(), encoding="utf-8")
    try:
        load_people(partial)
    except BadInput:
        partial.unlink()
        raise
    partial.replace(path)
    return token


def _quoted(value: str) -> str:
    escaped = "".join(
        f"\\u{ord(char):04x}" if ord(char) < 32 or ord(char) == 127 else {'"': '\\"', "\\": "\\\\"}.get(char, char)
        for char in value
    )
    return f'"{escaped}"'


def staff_commitment(staff_key: bytes, person_id: str) -> str:
    """Return what stands for a person in case events and leaves: HMAC-SHA256 under the staff key, in hex."""
    return hmac.new(staff_key, person_id.encode(), hashlib.sha256).hexdigest()


def read_token(environment: Mapping[str, str], token_file: Path | None) -> str:
    """Return the token from `token_file`, TOCSIN_TOKEN_FILE or TOCSIN_TOKEN, in that order. Raises BadInput."""
    named = token_file or (Path(environment["TOCSIN_TOKEN_FILE"]) if environment.get("TOCSIN_TOKEN_FILE") else None)
    if named is not None:
        try:
            token = named.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"token file {named} cannot be read ({type(error).__name__})") from None
    else:
        token = environment.get("TOCSIN_TOKEN", "").strip()
    if not token:
        raise BadInput("who are you? give your token with --token-file, TOCSIN_TOKEN_FILE or TOCSIN_TOKEN")
    return token
