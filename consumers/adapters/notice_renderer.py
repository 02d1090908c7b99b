"""Turns a bundle and a segment's key into the final text of a notice, with the persons' slots left open.

Templates are hostile until proven otherwise: only a small part of Jinja is accepted (output, if, for over known lists,
include), so that nothing can loop for long or reach out; unknown names are found before anything is rendered. The words
are plain lines with `#`, `##` and `-`; HTML is made here, so that nobody writes any and the two forms agree.
"""

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import date
from functools import lru_cache
from html.parser import HTMLParser
from itertools import product
from typing import Any

from jinja2 import DictLoader, StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from bridge.contracts.errors import BadInput, Refused, TocsinError, nearest
from bridge.contracts.events import Kind
from consumers.adapters.template_catalog import LAYOUT, PARTS, Bundle
from consumers.domain.disclosure import Disclosure, parse_key
from consumers.domain.disclosure import compose as compose_disclosure
from consumers.domain.notices import (
    SLOTS,
    ComposedNotice,
    Language,
    Sender,
    body_sha256,
    check_slots,
    fill,
    outside_gsm7,
    slots_for,
    sms_parts,
)
from consumers.domain.segments import GENERAL, STANDINGS, SegmentKey

__all__ = ["body_sha256", "check", "compose", "fill", "slots_for"]

SCENARIOS = ("", "inference_log_exposed")
"""Scenarios that the shipped texts tell apart; any other reads like the first."""
MAX_SMS_PARTS = 3
_LISTS = ("disclosures", "accuracy", "purposes")
_VARIABLES = (
    *_LISTS, "group", "standing", "scenario", "sms_details", "detected_on", "exposed_from", "exposed_to", "sender",
    "language", "machine_made", "supplement",
)  # fmt: skip
_LAYOUT_VARIABLES = ("language", "subject", "sender", "body")
_SENDER = tuple(field.name for field in fields(Sender))
_OPEN, _CLOSE = "\x02", "\x03"
"""Stand around a slot's name until it is known whether it ends up in HTML or in text."""
_MAX_LENGTH = {
    "subject": 150,
    "html": 100_000,
    "text": 50_000,
    "sms": 1000,
    "account_title": 150,
    "account_body": 50_000,
}
_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Getattr,
    nodes.If, nodes.For, nodes.Include, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Call,
    nodes.CondExpr,
)  # fmt: skip


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox with nothing in it: no globals, filters or tests but what templates here need."""

    def __init__(self, templates: Mapping[str, str], *, autoescape: bool) -> None:
        super().__init__(
            loader=DictLoader(dict(templates)),
            undefined=StrictUndefined,
            autoescape=autoescape,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
        )
        self.globals.clear()
        self.filters.clear()
        self.tests.clear()
        self.globals["slot"] = _slot


def _slot(name: str) -> Markup:
    return Markup(f"{_OPEN}{name}{_CLOSE}")  # noqa: S704  names are from the closed list that `_faults` checks


@lru_cache(maxsize=32)
def _environments(sha256: str, name: str, templates: tuple[tuple[str, str], ...]) -> tuple[_Environment, _Environment]:  # noqa: ARG001
    """Return the environments for words and for the layout, after checking every template. Raises BadInput."""
    words, layout = _Environment(dict(templates), autoescape=False), _Environment(dict(templates), autoescape=True)
    faults = [fault for template, source in templates for fault in _faults(words, template, source, dict(templates))]
    if faults:
        raise BadInput("\n".join(faults))
    return words, layout


def _bundle_environments(bundle: Bundle) -> tuple[_Environment, _Environment]:
    return _environments(bundle.sha256, bundle.name, tuple(sorted(bundle.templates.items())))


def _faults(environment: _Environment, name: str, source: str, templates: Mapping[str, str]) -> Iterator[str]:
    """Yield what a template may not do, as `notices/<name>:<line>: ...`."""
    try:
        tree = environment.parse(source, name=name)
    except TemplateSyntaxError as error:
        yield f"notices/{name}:{error.lineno}: {error.message}"
        return
    variables = _LAYOUT_VARIABLES if name == LAYOUT else _VARIABLES
    yield from _node_faults(tree, name, variables, templates, in_loop=False)
    if _includes_itself(environment, name, templates, ()):
        yield f"notices/{name}:1: includes itself, directly or by a detour"


def _node_faults(
    node: nodes.Node, name: str, known: tuple[str, ...], templates: Mapping[str, str], *, in_loop: bool
) -> Iterator[str]:
    where = f"notices/{name}:{node.lineno}"
    if not isinstance(node, _NODES):
        yield f"{where}: {type(node).__name__} is not allowed; use output, if, for over {', '.join(_LISTS)}, and include"
        return
    if isinstance(node, nodes.Name) and node.ctx == "load" and node.name not in known:
        yield f"{where}: unknown variable {node.name!r}{nearest(node.name, known)} (known: {', '.join(known)})"
    if isinstance(node, nodes.Getattr):
        if not isinstance(node.node, nodes.Name) or node.node.name != "sender":
            yield f"{where}: only `sender` has fields"
        elif node.attr not in _SENDER:
            yield f"{where}: unknown variable 'sender.{node.attr}'{nearest(node.attr, _SENDER)} (known: {', '.join(_SENDER)})"
        return
    if isinstance(node, nodes.Call):
        yield from _call_faults(node, where)
        return
    if isinstance(node, nodes.Include):
        target = node.template.value if isinstance(node.template, nodes.Const) else None
        if target not in templates:
            yield f"{where}: no template is named {target!r}{nearest(str(target), templates)}"
        if in_loop:
            yield f"{where}: no include within a loop"
        return
    if isinstance(node, nodes.For):
        if in_loop or node.recursive or node.test is not None:
            yield f"{where}: loops are neither nested nor recursive nor filtered"
        if not isinstance(node.iter, nodes.Name) or node.iter.name not in _LISTS:
            yield f"{where}: loops run over {', '.join(_LISTS)} only"
        if not isinstance(node.target, nodes.Name):
            yield f"{where}: a loop has one variable"
            return
        inner = (*known, node.target.name)
        for child in (*node.body, *node.else_):
            yield from _node_faults(child, name, inner, templates, in_loop=True)
        return
    for child in node.iter_child_nodes():
        yield from _node_faults(child, name, known, templates, in_loop=in_loop)


def _call_faults(node: nodes.Call, where: str) -> Iterator[str]:
    argument = node.args[0].value if len(node.args) == 1 and isinstance(node.args[0], nodes.Const) else None
    plain = not node.kwargs and node.dyn_args is None and node.dyn_kwargs is None
    if not isinstance(node.node, nodes.Name) or node.node.name != "slot" or not plain or argument is None:
        yield f"{where}: the only call is slot('name'), with one of {', '.join(SLOTS)}"
    elif argument not in SLOTS:
        yield f"{where}: unknown slot {argument!r}{nearest(str(argument), SLOTS)} (known: {', '.join(SLOTS)})"


def _includes_itself(environment: _Environment, name: str, templates: Mapping[str, str], path: tuple[str, ...]) -> bool:
    if name in path:
        return True
    try:
        tree = environment.parse(templates[name], name=name)
    except (TemplateSyntaxError, KeyError):
        return False  # reported where it stands
    targets = [
        include.template.value for include in tree.find_all(nodes.Include) if isinstance(include.template, nodes.Const)
    ]
    return len(path) > 20 or any(_includes_itself(environment, target, templates, (*path, name)) for target in targets)


@dataclass(frozen=True, slots=True)
class _Block:
    """A heading, paragraph or list of the plain markup."""

    tag: str
    lines: tuple[str, ...]


def compose(bundle: Bundle, key: SegmentKey) -> ComposedNotice:
    """Return the notice for everybody who shares `key`.

    Raises MissingSentence where a disclosure has no approved sentence, BadInput that names file, line and variable for a
    template that cannot be used, Refused for a result that breaks a limit or could harm its reader.
    """
    words, layout = _bundle_environments(bundle)
    language = bundle.language_for(key.locale)
    sender = Sender(**dict(key.sender))
    if not key.disclosures and key.standing != "possible":
        raise Refused("nothing to disclose for people who are on record; resolve the incident anew")
    disclosure = (
        compose_disclosure(key.disclosures, bundle.sentences[language.locale])
        if key.disclosures
        else Disclosure((), (), ())
    )
    context = _context(key, language, sender, disclosure)
    raw = {part: _rendered(words, f"{bundle.name}/{language.locale}/{part}.j2", context) for part in PARTS}
    lines = {part: " ".join(raw[part].split()) for part in ("subject", "sms", "account_title")}
    blocks = _blocks(raw["body"])
    frame = {"language": language.locale.replace("_", "-"), "subject": lines["account_title"], "sender": sender}
    body_html = Markup(_as_html(blocks, sender.account_url))  # noqa: S704  every line is escaped in _as_html
    parts = {
        "subject": lines["subject"],
        "html": _rendered(layout, LAYOUT, {**frame, "body": body_html}),
        "text": _as_text(blocks),
        "sms": lines["sms"],
        "account_title": lines["account_title"],
        "account_body": _as_text(_blocks(raw["account_body"])),
    }
    final = {part: _with_slots(part, text) for part, text in parts.items()}
    _check_result(final, sender)
    return ComposedNotice(
        language=language, bundle_sha256=bundle.sha256, sms_parts=sms_parts(final["sms"])[0], **final
    )  # fmt: skip


def _context(key: SegmentKey, language: Language, sender: Sender, disclosure: Disclosure) -> dict[str, Any]:
    def day(text: str | None) -> str:
        return "" if text is None else language.written(date.fromisoformat(text))

    context: dict[str, Any] = {
        "disclosures": disclosure.sentences,
        "accuracy": disclosure.accuracy,
        "purposes": disclosure.purposes,
        "machine_made": any(parse_key(text).kind is not Kind.REAL for text in key.disclosures) or not key.disclosures,
        "group": key.group,
        "standing": key.standing,
        "supplement": key.supplement,
        "scenario": key.scenario,
        "sms_details": key.sms_details,
        "detected_on": day(key.detected_on),
        "exposed_from": day(key.exposed_from),
        "exposed_to": day(key.exposed_to),
        "sender": sender,
        "language": language.locale,
    }
    for name in _SENDER:
        value = getattr(sender, name)
        if "{" in value or "}" in value or any(ord(char) < 32 for char in value):
            raise BadInput(f"sender.{name} holds a brace or a control character; correct it in controllers.yaml")
    return context


def _rendered(environment: _Environment, name: str, context: Mapping[str, Any]) -> str:
    try:
        return environment.get_template(name).render(context)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise BadInput(f"notices/{name}{f':{line}' if line else ''}: {error.message or type(error).__name__}") from None


def _blocks(text: str) -> list[_Block]:
    found: list[_Block] = []
    paragraph: list[str] = []
    items: list[str] = []

    def close() -> None:
        if paragraph:
            found.append(_Block("p", (" ".join(paragraph),)))
            paragraph.clear()
        if items:
            found.append(_Block("ul", tuple(items)))
            items.clear()

    for raw in text.splitlines():
        line = " ".join(raw.split())
        if line.startswith("- "):
            if paragraph:
                close()
            items.append(line.removeprefix("- "))
        elif line.startswith(("# ", "## ")):
            close()
            marks, _, heading = line.partition(" ")
            found.append(_Block(f"h{len(marks)}", (heading,)))
        elif not line:
            close()
        else:
            if items:
                close()
            paragraph.append(line)
    close()
    return found


_STYLES = {
    "h1": "margin:0 0 16px 0;font-size:24px;line-height:1.25",
    "h2": "margin:24px 0 8px 0;font-size:19px;line-height:1.3",
    "p": "margin:0 0 16px 0",
    "ul": "margin:0 0 16px 0;padding-left:24px",
}


def _as_html(blocks: list[_Block], account_url: str) -> str:
    address = html.escape(account_url, quote=True)
    link = f'<a href="{address}" style="color:#0b4fb3;text-decoration:underline">{address}</a>'

    def line(text: str) -> str:
        escaped = html.escape(text, quote=True)
        return escaped.replace(address, link) if address else escaped

    rows = []
    for block in blocks:
        inner = "".join(f'\n<li style="margin:0 0 8px 0">{line(item)}</li>' for item in block.lines) + "\n"
        content = inner if block.tag == "ul" else line(block.lines[0])
        rows.append(f'<{block.tag} style="{_STYLES[block.tag]}">{content}</{block.tag}>')
    return "\n".join(rows)


def _as_text(blocks: list[_Block]) -> str:
    written = []
    for block in blocks:
        if block.tag == "ul":
            written.append("\n".join(f"- {item}" for item in block.lines))
        else:
            written.append(block.lines[0])
    return "\n\n".join(written) + "\n"


def _with_slots(part: str, text: str) -> str:
    if "{{" in text or "}}" in text:
        raise BadInput(f"{part}: double braces in the text; write slot('name') for a person's value")
    suffix = "_html" if part == "html" else ""
    filled = re.sub(f"{_OPEN}([a-z_]+){_CLOSE}", lambda match: f"{{{{{match[1]}{suffix}}}}}", text)
    check_slots(part, filled)
    return filled


def _check_result(final: Mapping[str, str], sender: Sender) -> None:
    for part, text in final.items():
        if not text.strip():
            raise Refused(f"{part}: is empty")
        if len(text) > _MAX_LENGTH[part]:
            raise Refused(f"{part}: {len(text)} characters; at most {_MAX_LENGTH[part]} are allowed")
        bad = next((char for char in text if ord(char) < 32 and char != "\n"), None)
        if bad is not None:
            raise Refused(f"{part}: holds the control character U+{ord(bad):04X}")
    count, alphabet = sms_parts(final["sms"])
    if count > MAX_SMS_PARTS:
        why = f"; {outside_gsm7(final['sms'])!r} lie outside GSM-7" if alphabet == "ucs2" else ""
        raise Refused(f"sms: takes {count} messages, at most {MAX_SMS_PARTS} are allowed{why}; shorten it")
    _Reader(sender.shop_url).read(final["html"])


class _Reader(HTMLParser):
    """Reads the final HTML and refuses all that a notice has no need of: scripts, pictures, foreign links, hidden text."""

    _ALLOWED: Mapping[str, frozenset[str]] = {
        "html": frozenset({"lang", "dir"}), "head": frozenset(), "meta": frozenset({"charset", "name", "content"}),
        "title": frozenset(), "body": frozenset({"style"}),
        "table": frozenset({"role", "width", "cellpadding", "cellspacing", "border", "style"}), "tr": frozenset(),
        "td": frozenset({"align", "style"}), "h1": frozenset({"style"}), "h2": frozenset({"style"}),
        "p": frozenset({"style"}), "ul": frozenset({"style"}), "li": frozenset({"style"}), "strong": frozenset(),
        "em": frozenset(), "br": frozenset(), "a": frozenset({"href", "style"}),
    }  # fmt: skip
    _STYLE = re.compile(
        r"url\s*\(|expression|@|display\s*:\s*none|visibility|opacity|position|font-size\s*:\s*[0-9]px", re.I
    )

    def __init__(self, shop_url: str) -> None:
        super().__init__(convert_charrefs=True)
        self._shop_url = shop_url
        self._seen: set[str] = set()

    def read(self, text: str) -> None:
        """Raise Refused for what may not be in `text`."""
        self.feed(text)
        self.close()
        for tag in ("html", "title", "h1"):
            if tag not in self._seen:
                raise Refused(f"html: has no <{tag}>; screen readers need it")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        line = self.getpos()[0]
        if tag not in self._ALLOWED:
            raise Refused(f"html:{line}: <{tag}> is not allowed in a notice")
        self._seen.add(tag)
        for name, value in attrs:
            if name not in self._ALLOWED[tag]:
                raise Refused(f"html:{line}: <{tag} {name}> is not allowed in a notice")
            if name == "style" and self._STYLE.search(value or ""):
                raise Refused(f"html:{line}: a style that loads, hides or shrinks text")
            if name == "href" and not self._of_the_shop(value or ""):
                raise Refused(f"html:{line}: a link that does not lead to the shop's own site")
        if tag == "html" and not dict(attrs).get("lang"):
            raise Refused(f"html:{line}: <html> needs its language")

    def _of_the_shop(self, address: str) -> bool:
        own = self._shop_url.rstrip("/")
        return bool(own) and (address == own or address.startswith(f"{own}/"))


SAMPLE_SENDER = Sender(
    name="The shop",
    contact="the shop's data protection officer",
    shop_url="https://shop.invalid",
    account_url="https://shop.invalid/customer/account/",
)
"""Stands for the controller where a text is checked or looked at before an incident."""


def sample_key(bundle: Bundle, locale: str, **changes: Any) -> SegmentKey:
    """Return a segment's key to look at a text with: every disclosure of the language, unless `changes` says otherwise."""
    values: dict[str, Any] = {
        "incident_id": "INC-2000-0001",
        "revision": 1,
        "controller": "sample",
        "locale": locale,
        "disclosures": tuple(str(key) for key in bundle.sentences[bundle.language_for(locale).locale].keys()),  # noqa: SIM118
        "policy": "sample",
        "group": GENERAL,
        "standing": "recorded",
        "bundle": bundle.name,
        "bundle_sha256": None,
        "channels": (),
        "sms_details": False,
        "scenario": "",
        "detected_on": "2000-01-31",
        "exposed_from": "2000-01-01",
        "exposed_to": "2000-01-30",
        "sender": SAMPLE_SENDER.as_pairs(),
    }
    return SegmentKey(**{**values, **changes})


def check(bundle: Bundle) -> list[str]:
    """Return everything that keeps `bundle` from being approved, each with file, line and variable where it has one.

    Composes every language, group, standing, scenario and form of date, and every single disclosure.
    """
    problems = bundle.problems()
    if problems:
        return problems
    try:
        _bundle_environments(bundle)
    except BadInput as error:
        return str(error).splitlines()
    groups = (GENERAL, *bundle.policy.own_texts)
    for locale, group, standing, scenario in product(bundle.locales, groups, STANDINGS, SCENARIOS):
        key = sample_key(bundle, locale, group=group, standing=standing, scenario=scenario)
        problems.extend(_problem(bundle, key))
    dates = (("2000-01-01", "2000-01-30"), ("2000-01-01", None), (None, None))
    for locale, scenario, (start, end), details in product(bundle.locales, SCENARIOS, dates, (False, True)):
        key = sample_key(
            bundle, locale, scenario=scenario, exposed_from=start, exposed_to=end, sms_details=details
        )  # fmt: skip
        problems.extend(_problem(bundle, key))
    for locale in bundle.locales:
        problems.extend(_problem(bundle, sample_key(bundle, locale, supplement=True)))
        problems.extend(_problem(bundle, sample_key(bundle, locale, standing="possible", disclosures=())))
        for disclosure in bundle.sentences[locale].keys():  # noqa: SIM118
            problems.extend(_problem(bundle, sample_key(bundle, locale, disclosures=(str(disclosure),))))
    return list(dict.fromkeys(problems))


def _problem(bundle: Bundle, key: SegmentKey) -> Iterator[str]:
    try:
        compose(bundle, key)
    except TocsinError as error:
        yield f"{bundle.name}/{key.locale}: {error}"
