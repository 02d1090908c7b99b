"""The people file: refused by line and nearest name; a token is one person's and is kept nowhere."""

from pathlib import Path

import pytest

from bridge.contracts.errors import BadInput, Refused
from consumers.case.people import add_person, load_people, read_token, staff_commitment
from consumers.case.permissions import Role


def test_a_token_finds_its_person_and_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "people.toml"
    token = add_person(path, "ana-1", 'Ana "A." Probe', [Role.DPO, Role.RESPONDER])
    other = add_person(path, "ben", "Ben Probe", [Role.COUNSEL])
    assert path.stat().st_mode & 0o777 == 0o600
    assert token not in path.read_text(encoding="utf-8")
    people = load_people(path)
    assert people.authenticate(token).roles == (Role.DPO, Role.RESPONDER)
    assert people.authenticate(other).person_id == "ben"
    for wrong in ("", "tocsin", token[:-1], token.replace("ana-1", "ben"), "tocsin_nobody_x", f"x{token}"):
        with pytest.raises(Refused, match="not of anybody"):
            people.authenticate(wrong)
    assert [each.person_id for each in people.of_role(Role.COUNSEL)] == ["ben"]


def test_what_people_wrote_stays_when_somebody_is_added(tmp_path: Path) -> None:
    path = tmp_path / "people.toml"
    add_person(path, "ana", "Ana Probe", [Role.ADMIN])
    path.write_text("# our team\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    add_person(path, "ben", "Ben Probe", [Role.DPO])
    assert path.read_text(encoding="utf-8").startswith("# our team\n")
    before = path.read_bytes()
    with pytest.raises(BadInput, match="already"):
        add_person(path, "ben", "Ben Other", [Role.DPO])
    with pytest.raises(BadInput, match="has the name of"):
        add_person(path, "ben2", "ben  probe", [Role.COUNSEL])
    with pytest.raises(BadInput, match="an id has"):
        add_person(path, "Ben_2", "Ben Third", [Role.COUNSEL])
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[peoples.a]\nname = 'A'", r"people.toml:1: unknown key 'peoples'; did you mean 'people'\?"),
        (
            "[people.a]\nname = 'A'\nroles = ['dpo']\n\n[people.b]\nname = 'B'\nrole = ['dpo']",
            r"people.toml:7: people.b.role: unknown key; did you mean 'roles'\?",
        ),
        (
            "[people.a]\nname = 'A'\nroles = ['dop']",
            r"people.toml:3: people.a.roles: unknown role 'dop'; did you mean 'dpo'",
        ),
        ("[people.a]\nroles = ['dpo']", "people.a.name: missing"),
        ("[people.a]\nname = 'A'", "people.a.roles: missing"),
        ("[people.a_b]\nname = 'A'\nroles = ['dpo']", "an id has lower-case"),
        (
            "[people.a]\nname = 'A'\nroles = ['dpo']\ntokens = ['tocsin_a_secret']",
            "people.toml:4: .* not an Argon2 hash",
        ),
        (
            "[people.a]\nname = 'A'\nroles = ['dpo']\n[people.b]\nname = 'a'\nroles = ['counsel']",
            "has the name of people.a",
        ),
        ("people = 3", "must be tables"),
        ("[people", "not TOML"),
    ],
)
def test_faults_name_line_and_what_was_meant(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "people.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=message) as refused:
        load_people(path)
    assert "secret" not in str(refused.value)


def test_tokens_come_from_file_or_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t1\n", encoding="utf-8")
    assert read_token({"TOCSIN_TOKEN": "t0"}, None) == "t0"
    assert read_token({"TOCSIN_TOKEN": "t0", "TOCSIN_TOKEN_FILE": str(file)}, None) == "t1"
    assert read_token({}, file) == "t1"
    with pytest.raises(BadInput, match="who are you"):
        read_token({}, None)
    with pytest.raises(BadInput, match="cannot be read"):
        read_token({}, tmp_path / "none")
    with pytest.raises(BadInput, match="tocsin init"):
        load_people(tmp_path / "none.toml")


def test_commitments_are_keyed() -> None:
    assert staff_commitment(b"a" * 32, "ana") != staff_commitment(b"b" * 32, "ana")
    assert len(staff_commitment(b"a" * 32, "ana")) == 64
