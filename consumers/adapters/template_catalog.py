"""Counsel's folder: bundles of templates, sentences, languages and segment policy, and the approved ones by hash.

A bundle is everything that decides what a notice says. Approving copies all of it; only approved bundles are rendered
for a release, so that an edit in the folder releases nothing and voids nothing. Not for who may approve
(`notice_commands`) nor for the rows that say what is approved (`case_store.bundles`).
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from bridge.contracts.errors import BadInput, Refused, TocsinError, nearest
from bridge.runtime.clock import Clock
from consumers.domain.disclosure import Sentences, parse_sentences
from consumers.domain.notices import Language, locale_chain
from consumers.domain.segments import SegmentPolicy, covers, parse_policy
from consumers.law.source import parse

FORMAT = "tocsin-notice-bundle-v1"
PARTS = ("subject", "body", "sms", "account_title", "account_body")
"""The templates that every language of a bundle has, as `notices/<bundle>/<locale>/<part>.j2`."""
LAST_RESORT = "en"
LAYOUT = "shared/email.html.j2"
_SHARED = ("shared", "languages")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_MAX_FILE_BYTES, _MAX_FILES = 200_000, 500
_LANGUAGE_FIELDS = ("months", "date", "unnamed")


@dataclass(frozen=True)
class Bundle:
    """All texts behind one kind of notice. `files` maps paths below `templates/` to their content."""

    name: str
    files: Mapping[str, str] = field(repr=False)

    @cached_property
    def archive(self) -> bytes:
        """The bundle as one canonical JSON document: what is kept and hashed."""
        content = {"format": FORMAT, "name": self.name, "files": dict(self.files)}
        return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()

    @cached_property
    def sha256(self) -> str:
        """SHA-256, in hex, of the archive."""
        return hashlib.sha256(self.archive).hexdigest()

    @cached_property
    def locales(self) -> tuple[str, ...]:
        """The languages in which the notice is written."""
        prefix = f"notices/{self.name}/"
        found = {path.removeprefix(prefix).split("/")[0] for path in self.files if path.startswith(prefix)}
        return tuple(sorted(found))

    def language_for(self, locale: str) -> Language:
        """Return the language that somebody of `locale` is written in. Raises BadInput if not even English is there."""
        for candidate in locale_chain(locale, LAST_RESORT):
            if candidate in self.locales:
                return self.languages[candidate]
        raise BadInput(f"bundle {self.name} has no text for {locale} and none in English to fall back to")

    @cached_property
    def languages(self) -> Mapping[str, Language]:
        """How each language writes dates."""
        return {locale: self._language(locale) for locale in self.locales}

    @cached_property
    def sentences(self) -> Mapping[str, Sentences]:
        """The disclosure sentences by language."""
        return {
            locale: self._parsed(f"disclosure/{locale}.yaml", partial(parse_sentences, locale))
            for locale in self.locales
        }

    @cached_property
    def policy(self) -> SegmentPolicy:
        """The segment policy."""
        policy: SegmentPolicy = self._parsed("segments.yaml", parse_policy)
        return policy

    @property
    def templates(self) -> Mapping[str, str]:
        """The Jinja sources by their name below `notices/`."""
        return {path.removeprefix("notices/"): text for path, text in self.files.items() if path.endswith(".j2")}

    def problems(self) -> list[str]:
        """Return everything wrong with the bundle but for what rendering finds: missing files, bad data."""
        found: list[str] = []
        if not self.locales:
            found.append(f"notices/{self.name}: no language; write notices/{self.name}/en/")
        elif LAST_RESORT not in self.locales:
            found.append(f"notices/{self.name}/{LAST_RESORT}: missing; whoever reads no other language gets this one")
        for locale in self.locales:
            found.extend(
                f"notices/{self.name}/{locale}/{part}.j2: missing"
                for part in PARTS
                if f"notices/{self.name}/{locale}/{part}.j2" not in self.files
            )
        if f"notices/{LAYOUT}" not in self.files:
            found.append(f"notices/{LAYOUT}: missing; it is the frame of every e-mail")
        for aspect in ("languages", "sentences", "policy"):
            try:
                getattr(self, aspect)
            except TocsinError as error:
                found.extend(str(error).splitlines())
        if not found:
            found.extend(self._untranslated())
        return found

    def _untranslated(self) -> Iterator[str]:
        everything = {key for sentences in self.sentences.values() for key in sentences.keys()}  # noqa: SIM118
        for locale, sentences in self.sentences.items():
            for key in sorted(everything - set(sentences.keys()), key=lambda key: key.order):
                yield f"disclosure/{locale}.yaml: no sentence for {key}, which another language has"

    def _language(self, locale: str) -> Language:
        path = f"notices/languages/{locale}.yaml"
        language: Language = self._parsed(path, partial(_parse_language, locale))
        return language

    def _parsed(self, path: str, parser: Any) -> Any:
        """Return `parser`'s reading of a YAML file; its complaints gain file and line."""
        if path not in self.files:
            raise BadInput(f"{path}: missing")
        document = parse(Path(path), self.files[path])
        try:
            return parser(document.content)
        except BadInput as error:
            located = []
            for problem in str(error).splitlines():
                where, _, rest = problem.partition(": ")
                keys = tuple(int(part) if part.isdigit() else part for part in where.split("."))
                line = next(
                    (document.lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in document.lines), 1
                )
                located.append(f"{path}:{line}: {where}: {rest}")
            raise BadInput("\n".join(located)) from None


def _parse_language(locale: str, content: Any) -> Language:
    fields = content if isinstance(content, dict) else {}
    problems = [
        f"{name}: unknown key{nearest(str(name), _LANGUAGE_FIELDS)}" for name in fields if name not in _LANGUAGE_FIELDS
    ]
    months, pattern, unnamed = (fields.get(name) for name in _LANGUAGE_FIELDS)
    if not isinstance(months, list) or len(months) != 12 or not all(isinstance(month, str) for month in months):
        problems.append("months: write the twelve names of the months")
    if not isinstance(pattern, str) or any(pattern.count(part) != 1 for part in ("{day}", "{month}", "{year}")):
        problems.append("date: write a pattern with {day}, {month} and {year}")
    if not isinstance(unnamed, str) or not unnamed.strip():
        problems.append("unnamed: write how to address somebody whose name is not known")
    if problems:
        raise BadInput("\n".join(problems))
    return Language(locale, tuple(months or ()), str(pattern), str(unnamed))


def bundle_names(templates: Path) -> tuple[str, ...]:
    """Return the names of the bundles in counsel's folder. Raises BadInput if there is none."""
    notices = templates / "notices"
    names = sorted(path.name for path in notices.iterdir() if path.is_dir()) if notices.is_dir() else []
    found = tuple(name for name in names if name not in _SHARED and not name.startswith("."))
    if not found:
        raise BadInput(f"{notices}: no notice templates; `tocsin init` copies the shipped ones")
    return found


def read_bundle(templates: Path, name: str) -> Bundle:
    """Return the bundle as it lies in counsel's folder now. Raises BadInput for an unknown name or an unreadable file."""
    known = bundle_names(templates)
    if name not in known or not _NAME.fullmatch(name):
        raise BadInput(f"no notice is named {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    files: dict[str, str] = {}
    for folder in (f"notices/{name}", *(f"notices/{shared}" for shared in _SHARED), "disclosure"):
        for path in sorted((templates / folder).rglob("*")):
            if path.is_file() and path.suffix in (".j2", ".yaml") and not path.name.startswith("."):
                files[path.relative_to(templates).as_posix()] = _read(templates, path)
    policy = templates / "segments.yaml"
    if policy.is_file():
        files["segments.yaml"] = _read(templates, policy)
    if len(files) > _MAX_FILES:
        raise BadInput(f"notices/{name}: {len(files)} files; a bundle has at most {_MAX_FILES}")
    return Bundle(name, files)


def _read(templates: Path, path: Path) -> str:
    relative = path.relative_to(templates).as_posix()
    if not path.resolve().is_relative_to(templates.resolve()):
        raise BadInput(f"{relative}: leads out of the templates folder; copy the file instead of linking it")
    if not _PATH.fullmatch(relative):
        raise BadInput(f"{relative}: file names hold letters, digits, '.', '_' and '-' only")
    content = path.read_bytes()
    if len(content) > _MAX_FILE_BYTES:
        raise BadInput(f"{relative}: {len(content)} bytes; a template has at most {_MAX_FILE_BYTES}")
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{relative}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def unpack(archive: bytes, sha256: str) -> Bundle:
    """Return the bundle in an archive. Raises Refused unless it is the very one that `sha256` names."""
    found = hashlib.sha256(archive).hexdigest()
    if found != sha256:
        raise Refused(f"approved bundle {sha256[:12]} was altered: its content has the hash {found[:12]}")
    content = json.loads(archive)
    if content.get("format") != FORMAT:
        raise Refused(f"approved bundle {sha256[:12]} has a format that this version does not know")
    return Bundle(content["name"], content["files"])


class ArtefactStore(Protocol):
    """Where approved bundles are kept by hash."""

    def put(self, content: bytes) -> str: ...
    def get(self, sha256: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ApprovedRow:
    """An approval in force."""

    bundle_sha256: str
    name: str
    jurisdictions: Sequence[str]
    approved_at: datetime
    valid_until: datetime


class Approvals(Protocol):
    """Which bundles are approved."""

    def in_force(self, at: datetime) -> Sequence[ApprovedRow]:
        """Return approvals that are valid at `at` and not revoked, newest first."""
        ...


class ApprovedBundles:
    """The approved bundles by hash: from the artefact store, or from counsel's copy if that is whole."""

    def __init__(self, templates: Path, artefacts: ArtefactStore) -> None:
        self._folder = templates / "approved"
        self._artefacts = artefacts
        self._loaded: dict[str, Bundle] = {}

    def load(self, sha256: str) -> Bundle:
        """Return the approved bundle. Raises Refused if it is nowhere, or nowhere as it was approved."""
        if sha256 not in self._loaded:
            try:
                archive = self._artefacts.get(sha256)
            except Refused:
                archive = self._from_folder(sha256)
            self._loaded[sha256] = unpack(archive, sha256)
        return self._loaded[sha256]

    def keep(self, bundle: Bundle) -> None:
        """Copy `bundle` to the artefact store and to `approved/<sha256>/`.

        A crash in between leaves copies that no approval names; they are found again or stay unused.
        """
        self._artefacts.put(bundle.archive)
        target = self._folder / bundle.sha256
        if target.is_dir():
            if self._from_folder(bundle.sha256) == bundle.archive:
                return
            shutil.rmtree(target)
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=self._folder, prefix=".partial-"))
        for relative, text in bundle.files.items():
            path = partial / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        (partial / "bundle.json").write_text(
            json.dumps({"format": FORMAT, "name": bundle.name}) + "\n", encoding="utf-8"
        )
        partial.chmod(0o755)
        os.rename(partial, target)  # noqa: PTH104  pathlib's rename would follow nothing more

    def _from_folder(self, sha256: str) -> bytes:
        folder = self._folder / sha256
        if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not (folder / "bundle.json").is_file():
            raise Refused(f"approved bundle {sha256[:12]} is neither in the artefact store nor in {self._folder}")
        name = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))["name"]
        files = {
            path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "bundle.json"
        }
        return Bundle(name, files).archive


class TemplateCatalog:
    """What planning asks: which policy is in force, and which approved bundle covers somebody."""

    def __init__(self, templates: Path, approved: ApprovedBundles, approvals: Approvals, clock: Clock) -> None:
        self._templates = templates
        self._approved = approved
        self._approvals = approvals
        self._clock = clock
        self._in_force: tuple[ApprovedRow, ...] = ()

    def refresh(self) -> tuple[str, ...]:
        """Read the approvals in force now; return a mark of each, newest first. Call before a plan is made."""
        self._in_force = tuple(self._approvals.in_force(self._clock.now()))
        return tuple(
            f"{row.bundle_sha256}/{row.approved_at.isoformat()}/{','.join(row.jurisdictions)}" for row in self._in_force
        )

    def policy(self) -> SegmentPolicy:
        """Return the segment policy that was approved last; while nothing is approved, the one in counsel's folder."""
        if self._in_force:
            return self._approved.load(self._in_force[0].bundle_sha256).policy
        return read_bundle(self._templates, bundle_names(self._templates)[0]).policy

    def covering(self, name: str, residences: Collection[str]) -> Bundle | None:
        """Return the newest approved bundle `name` that covers all of `residences`, or None."""
        for row in self._in_force:
            if row.name == name and covers(row.jurisdictions, residences):
                return self._approved.load(row.bundle_sha256)
        return None
