"""Turns a bundle and a segment's key into the final text of a notice, with the persons' slots left open.

Templates are hostile until proven otherwise: only a small part of Jinja is accepted (output, if, for over known lists,
include), so that nothing can loop for long or reach out; unknown names are found before anything is rendered. The words
are plain lines with `#`, `##` and `-`; HTML is made here, so that nobody writes any and the two forms agree. Texts say
with `covers('...')` which section of the law a passage is; what a composed notice covers is what the checklist compares.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from functools import lru_cache
from html.parser import HTMLParser
from itertools import combinations, groupby, product
from typing import Any

from jinja2 import DictLoader, StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from bridge.contracts.errors import BadInput, Refused, TocsinError, nearest
from consumers.adapters.template_catalog import LAYOUT, PARTS, PUBLIC_PARTS, Bundle
from consumers.domain.disclosure import Disclosure, Sentences, parse_key
from consumers.domain.disclosure import compose as compose_disclosure
from consumers.domain.notice_checklist import STATE_BLOCK, sections_that_texts_name
from consumers.domain.notices import (
    SLOTS,
    ComposedNotice,
    Language,
    PublicNotice,
    Sender,
    body_sha256,
    check_slots,
    fill,
    outside_gsm7,
    slots_for,
    sms_parts,
)
from consumers.domain.readability import INDICES
from consumers.domain.segments import GENERAL, STANDINGS, SegmentKey

__all__ = ["body_sha256", "check", "compose", "compose_public", "fill", "slots_for"]

SCENARIOS = ("", "inference_log_exposed")
"""Scenarios that the shipped texts tell apart; any other reads like the first."""
MAX_SMS_PARTS = 3
MAX_WORDS = 600
"""Of a mail, before what single states prescribe."""
_MAX_PASSAGES = 200
_LISTS = ("disclosures", "accuracy", "purposes", "bureaus", "federal", "agencies")
_MEMBERS = ("asks", "forbids", "kinds", "states")
"""Lists that a text asks with `in`, and does not write out."""
_OFFER = ("service", "provider", "months", "enrol", "telephone", "code", "until")
_FACTS = ("people", "delayed_by_law_enforcement", "authority_notified")
_VARIABLES = (
    *_LISTS, *_MEMBERS, *_FACTS, *(f"offer_{name}" for name in _OFFER), "group", "standing", "scenario", "sms_details",
    "supplement", "detected_on", "exposed_from", "exposed_to", "sender", "language", "made", "in_us", "place", "state_block",
    "published_on", "case_number",
)  # fmt: skip
_LAYOUT_VARIABLES = ("language", "subject", "sender", "body")
_SENDER = tuple(field.name for field in fields(Sender))
_OPEN, _CLOSE = "\x02", "\x03"
"""Stand around a slot's name until it is known whether it ends up in HTML or in text."""
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_TAG = re.compile(r"\{[%#].*?[%#]\}")
_MARK = re.compile("\x04([a-z_,]+)\x05")
"""Stands before a passage and names the sections of the law that it is."""
_BLOCK_SECTIONS = frozenset(
    {"attorney_general_contact", "credit_bureau_contacts", "fcra_rights", "fraud_alert_right", "free_credit_reports",
     "ftc_contact", "identity_theft_resources", "police_report_right", "report_identity_theft_advice",
     "security_freeze_right"}
)  # fmt: skip
_TELLS_OF_BUREAUS = frozenset(
    {"credit_bureau_contacts", "fraud_alert_right", "free_credit_reports", "security_freeze_right"}
)
_TELLS_OF_FEDERAL = frozenset(
    {"fcra_rights", "fraud_alert_right", "ftc_contact", "identity_theft_resources", "report_identity_theft_advice",
     "security_freeze_right"}
)  # fmt: skip
_TELLS_OF_AGENCIES = frozenset({"attorney_general_contact", "identity_theft_resources", "report_identity_theft_advice"})
_HEADINGS = (
    "What Happened", "What Information Was Involved", "What We Are Doing", "What You Can Do", "For More Information",
)  # fmt: skip
"""Cal. Civ. Code 1798.82(d)(1); the title is "Notice of Data Breach"."""
_TITLE = "Notice of Data Breach"
_MAX_LENGTH = {
    "subject": 150, "html": 100_000, "text": 50_000, "sms": 1000, "account_title": 150, "account_body": 50_000,
    "letter": 50_000, "web_html": 100_000, "web": 50_000, "press": 50_000,
}  # fmt: skip
_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Getattr,
    nodes.If, nodes.For, nodes.Include, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Call,
    nodes.CondExpr,
)  # fmt: skip


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox with nothing in it: no globals, filters or tests but what templates here need."""

    def __init__(self, templates: Mapping[str, str], *, autoescape: bool) -> None:
        super().__init__(
            loader=DictLoader({name: _keeping_line_ends(source) for name, source in templates.items()}),
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
        self.globals["covers"] = _covers


def _keeping_line_ends(source: str) -> str:
    """Return `source` so that a line of text which ends in a tag keeps its end: only lines of tags alone vanish."""
    return "\n".join(
        f"{line}{{{{ '' }}}}"
        if line.rstrip().endswith("%}") and ("{% include" in line or _TAG.sub("", line).strip())
        else line
        for line in source.split("\n")
    )


def _slot(name: str) -> Markup:
    return Markup(f"{_OPEN}{name}{_CLOSE}")  # noqa: S704  names are from the closed list that `_faults` checks


def _covers(*sections: str) -> Markup:
    return Markup(f"\x04{','.join(sections)}\x05")  # noqa: S704  from a closed list, too


@lru_cache(maxsize=64)
def _environments(_sha256: str, templates: tuple[tuple[str, str, str], ...]) -> tuple[_Environment, _Environment]:
    """Return the environments for words and for the layout, after checking every template. Raises BadInput.

    `templates` are name, path and source.
    """
    sources = {name: source for name, _, source in templates}
    words, layout = _Environment(sources, autoescape=False), _Environment(sources, autoescape=True)
    passages: dict[str, int] = {}
    faults = [
        fault for name, path, source in templates for fault in _faults(words, name, path, source, sources, passages)
    ]
    if faults:
        raise BadInput("\n".join(faults))
    return words, layout


def _environments_of(bundle: Bundle, locale: str) -> tuple[_Environment, _Environment]:
    paths = bundle.template_paths(locale)
    return _environments(
        f"{bundle.sha256}/{locale}", tuple((name, path, bundle.files[path]) for name, path in sorted(paths.items()))
    )


def _faults(
    environment: _Environment,
    name: str,
    path: str,
    source: str,
    templates: Mapping[str, str],
    known_passages: dict[str, int],
) -> Iterator[str]:
    """Yield what a template may not do, as `<path>:<line>: ...`. `known_passages` is kept from one to the next."""
    try:
        tree = environment.parse(source, name=name)
    except TemplateSyntaxError as error:
        yield f"{path}:{error.lineno}: {error.message}"
        return
    except RecursionError:
        yield f"{path}:1: nested too deeply; write it flat"
        return
    variables = _LAYOUT_VARIABLES if name == LAYOUT else _VARIABLES
    yield from _node_faults(tree, path, variables, templates, in_loop=False)
    passages = _passages(environment, name, templates, known_passages)
    if passages == 0:
        yield f"{path}:1: includes itself, directly or by a detour"
    elif passages > _MAX_PASSAGES:
        yield f"{path}:1: includes make {passages} passages of it, at most {_MAX_PASSAGES} are allowed"


def _node_faults(
    node: nodes.Node, path: str, known: tuple[str, ...], templates: Mapping[str, str], *, in_loop: bool
) -> Iterator[str]:
    where = f"{path}:{node.lineno}"
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
            yield from _node_faults(child, path, inner, templates, in_loop=True)
        return
    for child in node.iter_child_nodes():
        yield from _node_faults(child, path, known, templates, in_loop=in_loop)


def _call_faults(node: nodes.Call, where: str) -> Iterator[str]:
    arguments = [argument.value for argument in node.args if isinstance(argument, nodes.Const)]
    plain = not node.kwargs and node.dyn_args is None and node.dyn_kwargs is None and len(arguments) == len(node.args)
    called = node.node.name if isinstance(node.node, nodes.Name) else ""
    if called == "covers" and plain and arguments:
        known = sections_that_texts_name()
        for argument in arguments:
            if argument not in known:
                yield f"{where}: no law asks for a section {argument!r}{nearest(str(argument), known)}"
    elif called != "slot" or not plain or len(arguments) != 1:
        yield f"{where}: the only calls are slot('name'), with one of {', '.join(SLOTS)}, and covers('section', ...)"
    elif arguments[0] not in SLOTS:
        yield f"{where}: unknown slot {arguments[0]!r}{nearest(str(arguments[0]), SLOTS)} (known: {', '.join(SLOTS)})"


def _passages(
    environment: _Environment,
    name: str,
    templates: Mapping[str, str],
    known: dict[str, int],
    path: tuple[str, ...] = (),
) -> int:
    """Return how many passages `name` is made of, itself and those of its includes counted each time; 0: it has no end."""
    if name in path:
        return 0
    if name not in known:
        try:
            tree = environment.parse(templates[name], name=name)
        except (TemplateSyntaxError, KeyError, RecursionError):
            return 1  # reported where it stands
        counts = [
            _passages(environment, include.template.value, templates, known, (*path, name))
            for include in tree.find_all(nodes.Include)
            if isinstance(include.template, nodes.Const)
        ]
        known[name] = 0 if 0 in counts else 1 + sum(counts)
    return known[name]


@dataclass(frozen=True, slots=True)
class _Block:
    """A heading, paragraph or list of the plain markup; `sections` are those that it covers."""

    tag: str
    lines: tuple[str, ...]
    sections: frozenset[str] = frozenset()


def compose(bundle: Bundle, key: SegmentKey) -> ComposedNotice:
    """Return the notice for everybody who shares `key`.

    Raises MissingSentence where a disclosure has no approved sentence, BadInput that names file, line and variable for a
    template that cannot be used, Refused for a result that breaks a limit, claims what no record supports or could harm
    its reader.
    """
    language = bundle.language_for(key.locale)
    words, layout = _environments_of(bundle, language.locale)
    sender = Sender(**dict(key.sender))
    if not key.disclosures and key.standing == "recorded":
        raise Refused("nothing to disclose for people who are on record; resolve the incident anew")
    sentences = bundle.sentences[language.locale]
    disclosure = compose_disclosure(key.disclosures, sentences) if key.disclosures else Disclosure((), (), ())
    context = _context(bundle, key, language, sender, disclosure)
    raw = {part: _rendered(words, bundle, language.locale, part, context) for part in PARTS}
    lines = {part: " ".join(_MARK.sub("", raw[part]).split()) for part in ("subject", "sms", "account_title")}
    blocks = {part: _blocks(part, raw[part]) for part in ("body", "account_body", "letter")}
    frame = {"language": language.locale.replace("_", "-"), "subject": lines["account_title"], "sender": sender}
    body_html = Markup(_as_html(blocks["body"], sender.account_url))  # noqa: S704  every line is escaped in _as_html
    parts = {
        "subject": lines["subject"],
        "html": _rendered(layout, bundle, language.locale, LAYOUT, {**frame, "body": body_html}),
        "text": _as_text(blocks["body"]),
        "sms": lines["sms"],
        "account_title": lines["account_title"],
        "account_body": _as_text(blocks["account_body"]),
        "letter": _as_source(blocks["letter"]),
    }
    final = {part: _with_slots(part, text) for part, text in parts.items()}
    _check_result(final, sender)
    _check_claims(final, key, language, disclosure, sentences)
    prescribed = next((n for n, block in enumerate(blocks["body"]) if STATE_BLOCK in block.sections), None)
    own_text = _with_slots("text", _as_text(blocks["body"][:prescribed]))
    reading = INDICES[language.reading_index](own_text)
    covers = _sections(blocks["body"]) & _sections(blocks["letter"])
    if reading <= language.reading_at_most or language.locale in bundle.reasons:
        covers |= {"plain_language"}
    if "fr" in bundle.locales:
        # asked for residents of Quebec alone, and there it means that the notice is to be had in French
        covers |= {"language_of_recipient"}
    return ComposedNotice(
        language=language, bundle_sha256=bundle.sha256, sms_parts=sms_parts(final["sms"])[0], covers=covers,
        reading=reading, words=sum(any(map(str.isalnum, word)) for word in own_text.split()), **final,
    )  # fmt: skip


def compose_public(bundle: Bundle, key: SegmentKey, on: date) -> PublicNotice:
    """Return what the public is told on day `on` about the incident of `key`, whose disclosures are all that leaked.

    Raises as `compose` does.
    """
    language = bundle.language_for(key.locale)
    words, layout = _environments_of(bundle, language.locale)
    sender = Sender(**dict(key.sender))
    disclosure = compose_disclosure(key.disclosures, bundle.sentences[language.locale])
    context = _context(bundle, key, language, sender, disclosure) | {
        "published_on": language.written(on),
        "case_number": key.incident_id,
    }
    web, press = (_blocks(part, _rendered(words, bundle, language.locale, part, context)) for part in PUBLIC_PARTS)
    frame = {"language": language.locale.replace("_", "-"), "subject": web[0].lines[0], "sender": sender}
    body_html = Markup(_as_html(web, sender.account_url))  # noqa: S704  every line is escaped in _as_html
    parts = {
        "web_html": _rendered(layout, bundle, language.locale, LAYOUT, {**frame, "body": body_html}),
        "web": _as_text(web),
        "press": _as_text(press),
    }
    final = {part: _with_slots(part, text) for part, text in parts.items()}
    _check_result(final, sender)
    return PublicNotice(language=language, bundle_sha256=bundle.sha256, **final)


def _context(
    bundle: Bundle, key: SegmentKey, language: Language, sender: Sender, disclosure: Disclosure
) -> dict[str, Any]:
    def day(text: str | None) -> str:
        return "" if text is None else language.written(date.fromisoformat(text))

    kinds = {parse_key(text).kind for text in key.disclosures}
    asks = frozenset(key.asks)
    facts, offer = dict(key.facts), dict(key.offer)
    states = [bundle.agencies.states[code] for code in key.states if code in bundle.agencies.states]
    context: dict[str, Any] = {
        "disclosures": disclosure.sentences,
        "accuracy": disclosure.accuracy,
        "purposes": disclosure.purposes,
        "kinds": sorted(kind.value for kind in kinds),
        "made": language.listed([verb for kind, verb in language.verbs.items() if kind in kinds]),
        "asks": key.asks,
        "forbids": key.forbids,
        "states": key.states,
        "in_us": any(code.partition("-")[0] == "US" for code in key.states),
        "place": language.listed([state.name_in(language.locale) for state in states]),
        "state_block": bool(asks & _BLOCK_SECTIONS),
        "bureaus": [each.line(language.telephone) for each in bundle.agencies.bureaus if asks & _TELLS_OF_BUREAUS],
        "federal": [each.line(language.telephone) for each in bundle.agencies.federal if asks & _TELLS_OF_FEDERAL],
        "agencies": [
            each.line(language.telephone) for state in states for each in state.agencies if asks & _TELLS_OF_AGENCIES
        ],
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
        "published_on": "",
        "case_number": "",
        **{name: facts.get(name, "") for name in _FACTS},
        "people": _grouped(facts.get("people", "")),
        **{f"offer_{name}": offer.get(name, "") for name in _OFFER},
    }
    written = {f"sender.{name}": getattr(sender, name) for name in _SENDER}
    written |= {f"offer.{name}": text for name, text in offer.items()} | {
        f"facts.{n}": text for n, text in facts.items()
    }
    for name, value in written.items():
        if "{" in value or "}" in value or any(ord(char) < 32 for char in value):
            raise BadInput(f"{name} holds a brace or a control character; correct it where it is set")
    return context


def _grouped(number: str) -> str:
    """Return `number` with its thousands apart, as all languages here read it."""
    return f"{int(number):,}".replace(",", " ") if number.isdigit() else number


def _rendered(environment: _Environment, bundle: Bundle, locale: str, part: str, context: Mapping[str, Any]) -> str:
    name = part if part == LAYOUT else f"{part}.j2"
    try:
        return environment.get_template(name).render(context)
    except RecursionError:
        raise BadInput(f"{bundle.template_paths(locale).get(name, name)}:1: nested too deeply; write it flat") from None
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        path = bundle.template_paths(locale).get(name, name)
        raise BadInput(f"{path}{f':{line}' if line else ''}: {error.message or type(error).__name__}") from None


def _blocks(part: str, text: str) -> list[_Block]:
    """Return the blocks of plain markup. Raises Refused for a section or heading without a text."""
    found: list[_Block] = []
    paragraph: list[str] = []
    items: list[str] = []

    def add(tag: str, lines: Sequence[str]) -> None:
        sections = frozenset(name for line in lines for names in _MARK.findall(line) for name in names.split(","))
        plain = tuple(" ".join(_MARK.sub("", line).split()) for line in lines)
        if not all(plain):
            raise Refused(f"{part}: the section {', '.join(sorted(sections)) or tag} is empty")
        found.append(_Block(tag, plain, sections))

    def close() -> None:
        if paragraph:
            add("p", (" ".join(paragraph),))
            paragraph.clear()
        if items:
            add("ul", tuple(items))
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
            add(f"h{len(marks)}", (heading,))
        elif not line:
            close()
        else:
            if items:
                close()
            paragraph.append(line)
    close()
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.tag == "h2" and (after is None or after.tag in ("h1", "h2")):
            raise Refused(f"{part}: nothing stands under the heading {block.lines[0]!r}")
    return found


def _sections(blocks: Sequence[_Block]) -> frozenset[str]:
    """Return the sections of the law that `blocks` cover; title and headings only if they are the prescribed ones."""
    covers = {name for block in blocks for name in block.sections} - {STATE_BLOCK}
    headings = [block.lines[0] for block in blocks if block.tag == "h2"]
    places = [next((n for n, text in enumerate(headings) if wanted in text), None) for wanted in _HEADINGS]
    known = [place for place in places if place is not None]
    if len(known) != len(_HEADINGS) or known != sorted(known):
        covers.discard("prescribed_headings")
    titles = [block.lines[0] for block in blocks if block.tag == "h1"]
    if len(titles) != 1 or _TITLE not in titles[0]:
        covers.discard("prescribed_title")
    # the frame: one message with one title, headings that stand out, 16 px or 11 pt of text (`_Reader`, `letters`)
    return frozenset(covers | {"clear_and_conspicuous", "font_size", "separate_message"})


def _check_claims(
    final: Mapping[str, str], key: SegmentKey, language: Language, disclosure: Disclosure, sentences: Sentences
) -> None:
    """Raise Refused unless the texts say of machine-made data what the records say: all of it, and nothing else."""
    kinds = {parse_key(text).kind for text in key.disclosures}
    called_for = {*disclosure.sentences, *disclosure.accuracy, *disclosure.purposes}
    for part in ("text", "account_body", "letter"):
        for sentence in called_for:
            if sentence not in final[part]:
                raise Refused(f"{part}: lacks what the records call for: {sentence}")
        for sentence in sentences.all_texts - called_for:
            if sentence in final[part] and not any(sentence in said for said in called_for):
                raise Refused(f"{part}: says what no record of these people supports: {sentence}")
    for part in ("subject", "text", "sms", "account_title", "account_body", "letter"):
        lower = final[part].lower()
        for kind, words in language.claims.items():
            if kind not in kinds and (word := next((word for word in words if _says(word, lower)), None)):
                raise Refused(f"{part}: says {word!r}, but no record of these people holds {kind.value} data")
        if "nature_of_incident" in key.forbids:
            word = next((word for word in language.nature if _says(word, lower)), None)
            if word is not None:
                raise Refused(
                    f"{part}: says {word!r} to people for whom a law forbids to tell the nature of the breach"
                )


def _says(word: str, text: str) -> bool:
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        if not (at and text[at - 1].isalpha()) and not (end < len(text) and text[end].isalpha()):
            return True
        at = text.find(word, end)
    return False


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


def _as_source(blocks: list[_Block]) -> str:
    marks = {"h1": "# ", "h2": "## ", "ul": "- ", "p": ""}
    return "\n\n".join("\n".join(f"{marks[block.tag]}{line}" for line in block.lines) for block in blocks) + "\n"


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
        bad = _CONTROL.search(text)
        if bad is not None:
            raise Refused(f"{part}: holds the control character U+{ord(bad[0]):04X}")
    if "sms" in final:
        count, alphabet = sms_parts(final["sms"])
        if count > MAX_SMS_PARTS:
            why = f"; {outside_gsm7(final['sms'])!r} lie outside GSM-7" if alphabet == "ucs2" else ""
            raise Refused(f"sms: takes {count} messages, at most {MAX_SMS_PARTS} are allowed{why}; shorten it")
    _Reader(sender.shop_url).read(final["html"] if "html" in final else final["web_html"])


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
SAMPLE_OFFER = {
    "service": "a credit watch", "provider": "a provider", "months": "24", "enrol": "shop.invalid/watch", "until": "31 December",
}  # fmt: skip
FULL_SENDER = replace(
    SAMPLE_SENDER, address="1 Sample Street, Sample Town", telephone="+1 555 0100", toll_free="1-800-555-0100",
    dpo="the shop's officer", parent="The shop's owner",
)  # fmt: skip
"""The same with everything that a law may ask of it."""


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


ONE_OF_EACH = ("derived|{}|unspecified", "inferred|{}|unspecified", "real|{}|unspecified", "synthetic|{}|unspecified")
_FORBIDDEN = ("cause_of_incident", "intruder_identity", "nature_of_incident", "number_affected")


def variants(bundle: Bundle, locale: str) -> Iterator[SegmentKey]:
    """Yield the keys whose texts differ: standings, dates, what laws ask and forbid, and every mix of kinds."""
    system = next(iter(bundle.sentences[locale].systems))
    one_each = tuple(text.format(system) for text in ONE_OF_EACH)
    everything = {
        "asks": tuple(sorted(set(sections_that_texts_name()) - {STATE_BLOCK})),
        "facts": (("authority_notified", "yes"), ("delayed_by_law_enforcement", "yes"), ("people", "2")),
        "offer": tuple(sorted(SAMPLE_OFFER.items())),
        "sender": FULL_SENDER.as_pairs(),
    }
    dates = (("2000-01-01", "2000-01-30"), ("2000-01-01", None), (None, None))
    for count in range(1, len(one_each) + 1):
        for mix in combinations(one_each, count):
            yield sample_key(bundle, locale, disclosures=mix)
    for start, end in dates:
        yield sample_key(bundle, locale, disclosures=one_each, exposed_from=start, exposed_to=end)
    for scenario in SCENARIOS[1:]:
        yield sample_key(bundle, locale, disclosures=one_each, scenario=scenario, sms_details=True)
    for standing, forbids, more in product(STANDINGS, ((), _FORBIDDEN), ({}, everything)):
        disclosures = one_each if standing == "recorded" else ()
        yield sample_key(bundle, locale, disclosures=disclosures, standing=standing, forbids=forbids, **more)
    yield sample_key(bundle, locale, disclosures=one_each, supplement=True)
    own = tuple(code for code, state in bundle.agencies.states.items() if state.agencies)
    for states in (own, tuple(bundle.agencies.states)[:1]):
        yield sample_key(bundle, locale, disclosures=one_each, states=states, **everything)


def reading_levels(bundle: Bundle) -> Iterator[str]:
    """Yield, for each language of a bundle without problems, how long and how hard to read its mail is."""
    for locale in bundle.locales:
        system = next(iter(bundle.sentences[locale].systems))
        key = sample_key(bundle, locale, disclosures=tuple(text.format(system) for text in ONE_OF_EACH))
        notice = compose(bundle, key)
        language = notice.language
        yield (
            f"{locale}: {notice.words} words, reading level {notice.reading:.1f} "
            f"of at most {language.reading_at_most:g} ({language.reading_index})"
        )


def check(bundle: Bundle) -> list[str]:
    """Return everything that keeps `bundle` from being approved, each with file, line and variable where it has one.

    Composes every language and variant, every single disclosure, and what the public is told.
    """
    problems = bundle.problems()
    if problems:
        return problems
    for locale in bundle.locales:
        try:
            _environments_of(bundle, locale)
        except BadInput as error:
            problems.extend(str(error).splitlines())
    if problems:
        return list(dict.fromkeys(problems))
    for locale in bundle.locales:
        for key in variants(bundle, locale):
            problems.extend(_problem(bundle, key))
        # every sentence once, beside those of its own kind: what it says of another kind is found by its words
        for _, keys in groupby(bundle.sentences[locale].keys(), key=lambda key: key.kind):
            problems.extend(_problem(bundle, sample_key(bundle, locale, disclosures=tuple(map(str, keys)))))
        problems.extend(_public_problem(bundle, sample_key(bundle, locale)))
    return list(dict.fromkeys(problems))


def _problem(bundle: Bundle, key: SegmentKey) -> Iterator[str]:
    try:
        notice = compose(bundle, key)
    except TocsinError as error:
        yield f"{bundle.name}/{key.locale}: {error}"
        return
    if key.locale in bundle.reasons:
        return
    how = "; shorten it, or give counsel's reason in"
    if notice.words > MAX_WORDS and not key.asks and len(key.disclosures) <= len(ONE_OF_EACH):
        yield (
            f"{bundle.name}/{key.locale}: {notice.words} words before what states prescribe, at most {MAX_WORDS} are "
            f"allowed{how} notices/{bundle.name}/reasons.yaml"
        )
    if "plain_language" not in notice.covers:
        language = notice.language
        yield (
            f"{bundle.name}/{key.locale}: reading level {notice.reading:.1f} ({language.reading_index}), at most "
            f"{language.reading_at_most:g} is allowed{how} notices/{bundle.name}/reasons.yaml"
        )


def _public_problem(bundle: Bundle, key: SegmentKey) -> Iterator[str]:
    try:
        compose_public(bundle, key, date.fromisoformat(key.detected_on))
    except TocsinError as error:
        yield f"{bundle.name}/{key.locale}: {error}"
