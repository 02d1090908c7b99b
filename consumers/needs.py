"""What each stage needs of the settings and of the files that they name. Looked at before a stage listens, connects or
writes: whoever starts it with something missing is told the key, where it is set, and what to do.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bridge.contracts.errors import BadInput
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Settings

Need = tuple[str, Callable[[Parts], object]]
"""A key of the settings, and what raises BadInput if its value cannot be used."""


def refuse_unusable(parts: Parts, stage: str) -> None:
    """Return if `stage` can begin. Raises BadInput: where the first unusable key is set, which it is, and what to do."""
    settings = parts.get(Settings)
    for key, look in NEEDS[stage]:
        try:
            look(parts)
        except BadInput as error:
            said = str(error).removeprefix(f"{key}: ")
            raise BadInput(f"{settings.place_of(key)}: {key}: {said}") from None


def _kafka_files(parts: Parts) -> None:
    kafka = parts.get(Settings).kafka
    for name in ("ca_file", "certificate_file", "key_file"):
        _readable(getattr(kafka, name), f"kafka.{name}")


def _readable(file: Path | None, key: str) -> None:
    if file is None:
        return
    try:
        file.open("rb").close()
    except OSError as error:
        raise BadInput(f"{file} cannot be read ({type(error).__name__}); name another file in {key}") from None


def _store(parts: Parts) -> None:
    from bridge.magento.session import store_url

    if not store_url(parts.get(Settings).store).database:
        raise BadInput("it names no database; it looks like mysql+pymysql://user@host/database")


def _case_store(parts: Parts) -> None:
    from consumers.adapters.case_store.engine import case_store_url

    case_store_url(parts.get(Settings).case_store.url.get_secret_value())


def _join_key(parts: Parts) -> None:
    from bridge.runtime.sealing import load_join_key

    load_join_key(parts.get(Settings).paths.join_key)


def _public_key(parts: Parts) -> None:
    from bridge.runtime.sealing import load_public_key

    load_public_key(parts.get(Settings).paths.sealing_public_key)


def _private_keys(parts: Parts) -> None:
    from bridge.runtime.sealing import load_private_keys

    load_private_keys(parts.get(Settings).paths.sealing_private_key)


def _report_key(parts: Parts) -> None:
    from bridge.runtime.sealing import load_join_key

    settings = parts.get(Settings)
    if settings.delivery.smtp is not None and settings.delivery.smtp.return_path is not None:
        load_join_key(settings.paths.report_key)


def _evidence_key(parts: Parts) -> None:
    from consumers.evidence.keys import read_signing_key

    settings = parts.get(Settings)
    if settings.evidence.private_key is None:
        read_signing_key(settings.paths.evidence_key, settings.evidence.origin)


def _evidence_key_by_value(parts: Parts) -> None:
    from consumers.evidence.keys import read_signing_key

    settings = parts.get(Settings)
    if (given := settings.evidence.private_key) is not None:
        read_signing_key(settings.paths.evidence_key, settings.evidence.origin, text=given.get_secret_value())


def _law(parts: Parts) -> None:
    from consumers.domain.duties import LawInForce

    parts.get(LawInForce)()


def _aws(parts: Parts) -> None:
    from consumers.bootstrap.providers import aws_config

    aws_config(parts.get(Settings))


def _aws_for_pages(parts: Parts) -> None:
    if parts.get(Settings).pager.email_to:
        _aws(parts)


def _alert_secrets(parts: Parts) -> None:
    from consumers.case.webhooks import load_secrets

    for source, file in parts.get(Settings).intake.secrets.items():
        load_secrets(source, file)


def _lineage_tokens(parts: Parts) -> None:
    from consumers.case.webhooks import load_token

    for source, file in parts.get(Settings).intake.lineage_tokens.items():
        load_token(source, file)


def _alert_mappings(parts: Parts) -> None:
    from consumers.adapters.alert_mappings import AlertMappings

    settings = parts.get(Settings)
    AlertMappings(settings.paths.templates / "alert-mappings", settings.intake.mappings)


_KAFKA: Need = ("kafka", _kafka_files)
_CASES: Need = ("case_store.url", _case_store)
_STORE: Need = ("store.url", _store)
_RULES: Need = ("paths.templates", _law)
_PROVIDER: Need = ("delivery.endpoint_url", _aws)
_SEALS: Need = ("paths.keys", _public_key)
_JOINS: Need = ("paths.keys", _join_key)
_REPORTS: Need = ("paths.keys", _report_key)

NEEDS: Mapping[str, Sequence[Need]] = {
    "relay": (_KAFKA, _STORE, _JOINS, _SEALS),
    "account-notices": (_KAFKA, _STORE),
    "intake": (
        _KAFKA, _CASES, ("intake.secrets", _alert_secrets), ("intake.lineage_tokens", _lineage_tokens),
        ("intake.mappings", _alert_mappings),
        ("registry.file", lambda parts: _readable(parts.get(Settings).registry.file, "registry.file")),
    ),
    "index": (_KAFKA,),
    "planning": (_KAFKA, _CASES, _RULES),
    "release": (_CASES, _RULES),
    "dispatch": (_KAFKA, _CASES, _PROVIDER, ("paths.keys", _private_keys), _JOINS, _REPORTS, _RULES),
    "receipts": (_KAFKA, _CASES, _PROVIDER, _SEALS, _REPORTS),
    "clock": (_CASES, _RULES),
    "pager": (_CASES, ("delivery.endpoint_url", _aws_for_pages)),
    "evidence": (
        _KAFKA, ("evidence.private_key", _evidence_key_by_value), ("paths.keys", _evidence_key),
        (
            "evidence.timestamp_roots",
            lambda parts: _readable(parts.get(Settings).evidence.timestamp_roots, "evidence.timestamp_roots"),
        ),
    ),
    "outbox": (_KAFKA, _CASES),
}  # fmt: skip
"""By stage, in the order in which they are looked at."""
