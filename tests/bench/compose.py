"""What it costs to compose notices for a million affected people, against rendering each whole notice with Jinja2.

Ours is what planning and dispatch do for each person, without I/O: the laws that speak to them, their segment, its
disclosure, their slots, and the final bodies (subject, HTML, text, letter) filled and hashed. The peer renders the same
shipped texts per person with a plain Jinja2 environment (compiled templates, no sandbox, no checks, no HTML made of
the words): subject, mail in both forms, letter, SMS and account notice, and hashes the mail. It is given segment, law
and sentences for nothing. Ours and peer take turns; medians of the rates. Memory is the growth of the process's
largest size over ours alone, after the first tenth of the people.
"""

import resource
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from bridge.contracts.events import Channel, Contact, Kind, Residence, Sensitivity, Why
from bridge.runtime.clock import SetClock
from consumers.adapters.notice_renderer import _context, compose
from consumers.adapters.template_catalog import LAYOUT, PARTS, Bundle, read_bundle
from consumers.domain.audience_law import AudienceLaw
from consumers.domain.disclosure import compose as compose_disclosure
from consumers.domain.duties import Regimes, answers_for, exposures
from consumers.domain.notices import ComposedNotice, Language, Sender, body_sha256, fill, slots_for
from consumers.domain.obligations import notices_to_individuals
from consumers.domain.persons import Person, homes_of
from consumers.domain.plan_audiences import addressee_of
from consumers.domain.planning import PlanId, PlannedIncident
from consumers.domain.segments import SegmentKey, SegmentPolicy, segment_key_from
from consumers.law.in_force import FolderLaw
from consumers.stages.planning import Planning

TEMPLATES = Path(__file__).parents[2] / "templates"
AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
ON = date(2026, 11, 24)
SENDER = Sender(
    "Example Shop", "privacy@shop.example.com", "https://shop.example.com/", "https://shop.example.com/customer/"
)
HOMES = (
    "DE", "AT", "FR", "NL", "IE", "ES", "IT", "GB", "CH", "CA-ON", "AU", "BR", "JP", "US-NY", "US-TX", "US-MA", "US-IL",
    "US-OH", "US-FL", "US-WA", "",
)  # fmt: skip
LOCALES = ("de_DE", "en_US", "fr_FR", "es_ES", "it_IT")
KEYS = (
    "derived|fraud-scorer|fraud_assessment", "inferred|income-estimator|income", "synthetic|fraud-scorer|transactions",
    "real|spend-profiler|transactions", "derived|spend-profiler|spending",
)  # fmt: skip
ELEMENTS = (("full_name", "fraud_score"), ("full_name", "account_number", "transaction_history"))
_CHUNK = {"full": 20_000, "middle": 5000, "toy": 200}
_PEOPLE = {"full": 1_000_000, "middle": 100_000, "toy": 1000}
_PEER = {"full": 1000, "middle": 300, "toy": 20}


def people() -> Iterator[tuple[Person, Contact]]:
    """Yield people without end: every residence, language, and mix of records in turn."""
    mixes = [KEYS[first:last] for first in range(len(KEYS)) for last in range(first + 1, len(KEYS) + 1)]
    turns = zip(cycle(HOMES), cycle(LOCALES), cycle(mixes), cycle(ELEMENTS), count(1), strict=False)
    for home, locale, keys, elements, number in turns:
        residence = (Residence(code=home, source="default_billing"),) if home else ()
        yield (
            Person(
                root=f"customer/{number}", roots=(f"customer/{number}",), customer_id=number, controller="shop",
                website_id=1, store_id=1, locale=locale, residence=residence, homes=homes_of(residence),
                channels=(Channel.EMAIL,), contact=None, standing="recorded", late=False,
                sensitivity=Sensitivity.HIGH, why=_why(keys, elements),
            ),
            Contact(first_name=f"Given{number}", last_name="Family"),
        )  # fmt: skip


def _why(keys: Sequence[str], elements: tuple[str, ...], known: dict[tuple[object, ...], Why] = {}) -> Why:  # noqa: B006
    """Return why somebody is affected; one object for each mix, as a reader of the topic would intern it."""
    if (found := known.get((*keys, elements))) is None:
        parts = [key.split("|") for key in keys]
        found = known[(*keys, elements)] = Why(
            record_ids=("r",), attributes=("a",), models=("m@1",), kinds=tuple({Kind(part[0]) for part in parts}),
            disclosures=tuple(sorted(keys)), highest_sensitivity=Sensitivity.HIGH,
            categories=tuple(sorted({part[2] for part in parts})), elements=elements,
        )  # fmt: skip
    return found


class _Approved:
    """The shipped texts as though they were approved for everybody."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def refresh(self) -> tuple[str, ...]:
        return ()

    def policy(self) -> SegmentPolicy:
        return self._bundle.policy

    def covering(self, name: str, residences: object) -> Bundle:
        return self._bundle


class Ours:
    """Planning's way from a person to a segment, and dispatch's from a segment to final bodies."""

    def __init__(self, bundle: Bundle) -> None:
        law = FolderLaw(TEMPLATES / "law", look_seconds=3600)
        self._bundle = bundle
        nothing: Any = None
        self._planning = Planning(
            nothing, law, _Approved(bundle), compose, lambda *_: SENDER, nothing, SetClock(AT)
        )  # fmt: skip
        self._incident = PlannedIncident(PlanId("INC-2026-0001", 1), None, False, AT, None, None, {})
        sample = [person for person, _ in islice(people(), 5000)]
        found = {each.controller: each for each in exposures([(each, 1) for each in sample], law().rules, AT.date())}
        answers = answers_for({}, AT, law(), found, ["shop"], source="bench")
        notices = {"shop": notices_to_individuals(answers["shop"])}
        self._regimes = Regimes(law().rules, AT.date())
        self._asked = AudienceLaw(law().rules, AT.date(), notices, {"shop": _PEOPLE["full"]}, {})
        self._policy = bundle.policy
        self._audiences: dict[object, tuple[dict[str, Any], str | None]] = {}
        self._notices: dict[str, ComposedNotice] = {}
        self.held = 0

    def key_of(self, person: Person) -> tuple[SegmentKey, str | None]:
        """Return the person's segment and why they are held."""
        segment, held = self._segment_of(person)
        return segment_key_from(segment["key"]), held

    def _segment_of(self, person: Person) -> tuple[dict[str, Any], str | None]:
        addressee = addressee_of(person, self._incident)
        owing = self._asked.regimes_of(person.controller, person.homes, self._regimes.of(person))
        audience = (addressee, person.disclosures, person.elements, owing)
        if audience not in self._audiences:
            self._audiences[audience] = self._planning._segment(
                self._incident, person, addressee, self._policy, self._asked, owing, supplement=False
            )
        return self._audiences[audience]

    def compose(self, person: Person, contact: Contact) -> str | None:
        """Return the hash of the person's final mail; None if they are held."""
        segment, held = self._segment_of(person)
        if held is not None:
            self.held += 1
            return None
        notice = self._notices.get(segment["segment_id"])
        if notice is None:
            notice = self._notices[segment["segment_id"]] = compose(self._bundle, segment_key_from(segment["key"]))
        slots = slots_for(contact, "INC-2026-0001", ON, notice.language)
        fill(notice.letter, slots)
        return body_sha256(*(fill(part, slots) for part in (notice.subject, notice.html, notice.text)))

    @property
    def segments(self) -> int:
        """Number of segments so far."""
        return len(self._notices)


class Peer:
    """The whole notice per person with Jinja2, from the same files."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._environments: dict[str, Environment] = {}

    def _environment(self, locale: str) -> Environment:
        if locale not in self._environments:
            sources = {name: self._bundle.files[path] for name, path in self._bundle.template_paths(locale).items()}
            environment = Environment(
                loader=DictLoader(sources), undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
            )  # fmt: skip
            environment.globals["covers"] = lambda *_: ""
            self._environments[locale] = environment
        return self._environments[locale]

    def prepare(self, key: SegmentKey) -> tuple[Language, dict[str, Any]]:
        """Return what all people of the segment share; not counted."""
        language = self._bundle.language_for(key.locale)
        disclosure = compose_disclosure(key.disclosures, self._bundle.sentences[language.locale])
        return language, _context(self._bundle, key, language, SENDER, disclosure)

    def render(self, language: Language, shared: dict[str, Any], contact: Contact) -> str:
        """Return the hash of the person's final mail."""
        environment = self._environment(language.locale)
        slots = slots_for(contact, "INC-2026-0001", ON, language)
        context = {**shared, "slot": slots.__getitem__, "subject": ""}
        final = {part: environment.get_template(f"{part}.j2").render(context) for part in PARTS}
        page = environment.get_template(LAYOUT).render({**context, "body": final["body"]})
        return body_sha256(final["subject"], page, final["body"])


def main(size: str) -> dict[str, object]:
    """Return both rates in notices per second, their ratio, and what memory the people took."""
    bundle = read_bundle(TEMPLATES, "ai-data-leak")
    ours, peer = Ours(bundle), Peer(bundle)
    chunk, total = _CHUNK[size], _PEOPLE[size]
    source = people()
    rates: list[float] = []
    peer_rates: list[float] = []
    done, after_first_tenth = 0, 0
    while done < total:
        some = list(islice(source, chunk))
        began = perf_counter()
        composed = sum(ours.compose(person, contact) is not None for person, contact in some)
        rates.append(len(some) / (perf_counter() - began))
        assert composed or ours.held
        if done % (10 * chunk) == 0:
            wanted = [(*peer.prepare(ours.key_of(person)[0]), contact) for person, contact in some[: _PEER[size]]]
            began = perf_counter()
            for language, shared, contact in wanted:
                peer.render(language, shared, contact)
            peer_rates.append(len(wanted) / (perf_counter() - began))
        done += len(some)
        if done <= total // 10:
            after_first_tenth = _peak_mib()
    return {
        "people": done,
        "segments": ours.segments,
        "held": ours.held,
        "ours_notices_per_s": round(median(rates)),
        "jinja2_notices_per_s": round(median(peer_rates)),
        "ours_over_jinja2 (goal 3)": round(median(rates) / median(peer_rates), 1),
        "memory_growth_after_first_tenth_MiB": _peak_mib() - after_first_tenth,
        "python": sys.version.split()[0],
    }


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
