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
from bridge.contracts.events import Kind
from bridge.runtime.clock import Clock
from consumers.domain.agencies import Agencies, parse_agencies
from consumers.domain.disclosure import Sentences, parse_sentences
from consumers.domain.notice_checklist import Readings, parse_readings
from consumers.domain.notices import Language, locale_chain
from consumers.domain.readability import INDICES
from consumers.domain.segments import SegmentPolicy, covers, parse_policy
from consumers.law.source import parse

FORMAT = "tocsin-notice-bundle-v1"
PARTS = ("subject", "body", "sms", "account_title", "account_body", "letter")
"""What an affected person may get."""
PUBLIC_PARTS = ("web", "press")
"""What the public is told."""
LAST_RESORT = "en"
LAYOUT = "email.html.j2"
"""The frame of every e-mail and web notice, `notices/shared/email.html.j2`."""
_SHARED = ("shared", "languages")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_MAX_FILE_BYTES, _MAX_FILES = 200_000, 500
_LANGUAGE_FIELDS = ("months", "date", "unnamed", "or", "telephone", "machine", "nature", "reading")


@dataclass(frozen=True)
class Bundle:
    """All texts behind one kind of notice. `files` maps paths below `templates/` to their content.

    A notice has a folder for each language, `notices/<name>/<locale>/`, with what is its own; all else stands in
    `notices/shared/<locale>/`, once for all notices. A file of the same name in the notice's folder stands in for the
    shared one, and one of `de_AT` for that of `de`. Templates name each other by file name alone, whatever the language:
    adding a language is adding files.
    """

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

    @cached_property
    def agencies(self) -> Agencies:
        """Whom notices name by state."""
        agencies: Agencies = self._parsed("notices/shared/agencies.yaml", parse_agencies)
        return agencies

    @cached_property
    def readings(self) -> Readings:
        """How rows of the law are read that a machine cannot read."""
        readings: Readings = self._parsed("notices/shared/requirements.yaml", parse_readings)
        return readings

    @cached_property
    def reasons(self) -> Mapping[str, str]:
        """Counsel's reasons for a text that is longer or harder to read than it should be, by locale (may be absent)."""
        path = f"notices/{self.name}/reasons.yaml"
        return self._parsed(path, _parse_reasons) if path in self.files else {}

    def template_paths(self, locale: str) -> Mapping[str, str]:
        """Return the templates that a text in `locale` may use: file name -> path, the notice's own before shared ones."""
        found = {LAYOUT: f"notices/shared/{LAYOUT}"}
        for language in reversed(_languages_of(locale)):
            for folder in (f"notices/shared/{language}/", f"notices/{self.name}/{language}/"):
                for path in self.files:
                    if path.startswith(folder) and path.endswith(".j2"):
                        found[path.removeprefix(folder)] = path
        return found

    def problems(self) -> list[str]:
        """Return everything wrong with the bundle but for what rendering finds: missing files, bad data."""
        found: list[str] = []
        if not self.locales:
            found.append(f"notices/{self.name}: no language; write notices/{self.name}/en/")
        elif LAST_RESORT not in self.locales:
            found.append(f"notices/{self.name}/{LAST_RESORT}: missing; whoever reads no other language gets this one")
        for locale in self.locales:
            have = self.template_paths(locale)
            found.extend(
                f"notices/{self.name}/{locale}/{part}.j2: missing, and there is no notices/shared/{locale}/{part}.j2"
                for part in (*PARTS, *PUBLIC_PARTS)
                if f"{part}.j2" not in have
            )
        if f"notices/shared/{LAYOUT}" not in self.files:
            found.append(f"notices/shared/{LAYOUT}: missing; it is the frame of every e-mail")
        for aspect in ("languages", "sentences", "policy", "agencies", "readings", "reasons"):
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


def _languages_of(locale: str) -> tuple[str, ...]:
    """Return the folders in which a text for `locale` is looked for, first one first: `de_AT`, `de`."""
    return tuple(dict.fromkeys((locale, locale.partition("_")[0])))


def _parse_language(locale: str, content: Any) -> Language:
    fields = content if isinstance(content, dict) else {}
    problems = [
        f"{name}: unknown key{nearest(str(name), _LANGUAGE_FIELDS)}" for name in fields if name not in _LANGUAGE_FIELDS
    ]
    months, pattern, unnamed = (fields.get(name) for name in _LANGUAGE_FIELDS[:3])
    if not isinstance(months, list) or len(months) != 12 or not all(isinstance(month, str) for month in months):
        problems.append("months: write the twelve names of the months")
    if not isinstance(pattern, str) or any(pattern.count(part) != 1 for part in ("{day}", "{month}", "{year}")):
        problems.append("date: write a pattern with {day}, {month} and {year}")
    if not isinstance(unnamed, str) or not unnamed.strip():
        problems.append("unnamed: write how to address somebody whose name is not known")
    for name in ("or", "telephone"):
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            problems.append(f"{name}: write the word for it")
    machine = fields.get("machine")
    machine = machine if isinstance(machine, dict) else {}
    verbs, claims = {}, {}
    for kind in (Kind.DERIVED, Kind.INFERRED, Kind.SYNTHETIC):
        entry = machine.get(kind.value)
        if not isinstance(entry, dict) or set(entry) != {"verb", "words"} or not _words(entry["words"]):
            problems.append(f"machine.{kind.value}: write `verb` and `words` (with which a text claims such data)")
            continue
        verbs[kind], claims[kind] = str(entry["verb"]), tuple(word.lower() for word in entry["words"])
    if not _words(fields.get("nature")):
        problems.append("nature: write the words that tell the nature of a breach")
    reading = fields.get("reading")
    reading = reading if isinstance(reading, dict) else {}
    if reading.get("index") not in INDICES or not isinstance(reading.get("at_most"), int | float):
        problems.append(f"reading: write `index` (one of {', '.join(INDICES)}) and `at_most`")
    if problems:
        raise BadInput("\n".join(problems))
    return Language(
        locale=locale,
        months=tuple(months or ()),
        date_pattern=str(pattern),
        unnamed=str(unnamed),
        or_word=str(fields["or"]),
        telephone=str(fields["telephone"]),
        verbs=verbs,
        claims=claims,
        nature=tuple(word.lower() for word in fields["nature"]),
        reading_index=str(reading["index"]),
        reading_at_most=float(reading["at_most"]),
    )


def _words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) and word.strip() for word in value)


def _parse_reasons(content: Any) -> Mapping[str, str]:
    if not isinstance(content, dict) or not all(isinstance(text, str) and text.strip() for text in content.values()):
        raise BadInput("reasons: write a reason for each locale, as `en: why this text must be longer`")
    return {str(locale): text for locale, text in content.items()}


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
    own = templates / "notices" / name
    languages = {part for path in own.iterdir() if path.is_dir() for part in _languages_of(path.name)}
    files: dict[str, str] = {}
    for folder in (f"notices/{name}", *(f"notices/{shared}" for shared in _SHARED), "disclosure"):
        for path in sorted((templates / folder).rglob("*")):
            relative = path.relative_to(templates).as_posix()
            if not path.is_file() or path.suffix not in (".j2", ".yaml") or path.name.startswith("."):
                continue
            if folder == f"notices/{name}" or _language_of_shared(relative) in (None, *languages):
                files[relative] = _read(templates, path)
    policy = templates / "segments.yaml"
    if policy.is_file():
        files["segments.yaml"] = _read(templates, policy)
    if len(files) > _MAX_FILES:
        raise BadInput(f"notices/{name}: {len(files)} files; a bundle has at most {_MAX_FILES}")
    return Bundle(name, files)


def _language_of_shared(relative: str) -> str | None:
    """Return the language of a file that several notices share; None for one that belongs to all."""
    top, _, rest = relative.removeprefix("notices/").partition("/")
    if top == "shared":
        return rest.partition("/")[0] if "/" in rest else None
    return Path(rest).stem


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
