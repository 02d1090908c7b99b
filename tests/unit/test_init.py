"""`tocsin init`: what it writes, with which rights, what it never touches, and what a crash half-way leaves."""

import json
import stat
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.contracts.errors import BadInput, Refused
from bridge.runtime.sealing import load_join_key, load_private_keys, load_public_key
from bridge.runtime.settings import Settings, load_settings
from consumers import cli
from consumers.case import people
from consumers.case.people import load_people
from consumers.case.permissions import Role
from consumers.commands import initialise, shipped_templates
from consumers.evidence.keys import read_signing_key, read_vkey, vkey_path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_it_writes_works_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tocsin"
    initialise(folder, admin_name="Adam Admin", admin_id="adam")
    settings = load_settings(folder / "tocsin.toml")
    assert settings.model_dump(exclude={"paths", "case_store"}) == Settings().model_dump(
        exclude={"paths", "case_store"}
    )
    assert load_public_key(settings.paths.sealing_public_key)
    assert len(load_private_keys(settings.paths.sealing_private_key)) == 1
    assert load_join_key(settings.paths.join_key) != load_join_key(settings.paths.staff_key)
    key = read_signing_key(settings.paths.evidence_key, settings.evidence.origin)
    assert read_vkey(str(vkey_path(settings.paths.evidence_key))) == key.verifier
    assert files_below(settings.paths.templates) == files_below(shipped_templates())


def test_the_settings_file_explains_every_setting(tmp_path: Path) -> None:
    initialise(tmp_path, admin_name="Adam Admin", admin_id="adam")
    text = (tmp_path / "tocsin.toml").read_text(encoding="utf-8")
    assert set(tomllib.loads(text)) == set(Settings.model_fields)
    for section, field in Settings.model_fields.items():
        part = text.split(f"\n[{section}]\n")[1].split("\n[")[0]
        for key in field.annotation.model_fields:  # type: ignore[union-attr]  # every section is a model
            assert f"\n# {key} = " in f"\n{part}" or f"\n# [{section}.{key}]\n" in part


def test_there_is_one_person_and_their_token_is_kept_nowhere(tmp_path: Path) -> None:
    token = initialise(tmp_path, admin_name="Adam Admin", admin_id="adam")
    (person,) = load_people(tmp_path / "people.toml")
    assert (person.person_id, person.name, person.roles) == ("adam", "Adam Admin", (Role.ADMIN,))
    assert not any(token.encode() in content for content in files_below(tmp_path).values())


def test_nobody_else_may_read_keys_and_people(tmp_path: Path) -> None:
    initialise(tmp_path, admin_name="Adam Admin", admin_id="adam")
    public = {"evidence.vkey", "sealing.pub"}
    keys = {path.name: mode_of(path) for path in (tmp_path / "keys").iterdir()}
    assert set(keys) == public | {"evidence.key", "join.key", "report.key", "sealing.key", "staff.key"}
    assert {name for name, mode in keys.items() if mode != 0o600} <= public
    assert mode_of(tmp_path / "people.toml") == 0o600


def test_two_installations_share_no_key(tmp_path: Path) -> None:
    for name in ("one", "two"):
        initialise(tmp_path / name, admin_name="Adam Admin", admin_id="adam")
    one, two = (set(files_below(tmp_path / name / "keys").values()) for name in ("one", "two"))
    assert not one & two


@pytest.mark.parametrize("there", ["tocsin.toml", "people.toml", "keys", "templates"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    if there.endswith(".toml"):
        (tmp_path / there).write_text("mine\n", encoding="utf-8")
    else:
        (tmp_path / there).mkdir()
        (tmp_path / there / "mine").write_text("mine\n", encoding="utf-8")
    before = files_below(tmp_path)
    with pytest.raises(Refused, match=f"{there} exists already; nothing was written"):
        initialise(tmp_path, admin_name="Adam Admin", admin_id="adam")
    assert files_below(tmp_path) == before


def test_a_second_time_is_refused(tmp_path: Path) -> None:
    initialise(tmp_path, admin_name="Adam Admin", admin_id="adam")
    before = files_below(tmp_path)
    with pytest.raises(Refused):
        initialise(tmp_path, admin_name="Eve Else", admin_id="eve")
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(("name", "person_id"), [("Adam Admin", "Adam!"), ("Adam Admin", ""), ("  ", "adam")])
def test_a_person_who_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, person_id: str
) -> None:
    with pytest.raises(BadInput, match="--admin"):
        initialise(tmp_path / "new", admin_name=name, admin_id=person_id)
    assert not (tmp_path / "new").exists()


def test_a_crash_half_way_leaves_no_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(people, "add_person", crash)
    with pytest.raises(KeyboardInterrupt):
        initialise(tmp_path, admin_name="Adam Admin", admin_id="adam")
    assert not (tmp_path / "tocsin.toml").exists()
    assert (tmp_path / "keys" / "sealing.key").exists()


def test_the_command_shows_token_and_next_step(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.build(), ["init", str(tmp_path / "new"), "--admin", "Adam Admin"])
    assert done.exit_code == 0
    assert "tocsin_admin_" in done.stdout
    assert "tocsin relay grants" in done.stdout


def test_config_show_masks_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    initialise(tmp_path, admin_name="Adam Admin", admin_id="adam")
    monkeypatch.setenv("TOCSIN_STORE__URL", "mysql+pymysql://shop:hunter2@db/magento")
    monkeypatch.setenv("TOCSIN_CASE_STORE__URL", "mysql+pymysql://cases:hunter2@db/cases")
    monkeypatch.setenv("TOCSIN_KAFKA__SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("TOCSIN_EVIDENCE__PRIVATE_KEY", "hunter2")
    done = CliRunner().invoke(cli.build(), ["--config", str(tmp_path / "tocsin.toml"), "config", "show"])
    assert done.exit_code == 0
    assert "hunter2" not in done.output
    shown = json.loads(done.stdout)
    assert set(shown) == set(Settings.model_fields)
    assert shown["store"]["url"] == "mysql+pymysql://shop:**********@db/magento"
    assert shown["paths"]["keys"] == str(tmp_path / "keys")
