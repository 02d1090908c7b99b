"""A leaf type as one regular expression over the bytes of its canonical form: the check of a long log, compiled.

The expression is made from the type's own declaration and is never wider than it: what it matches, `LeafTypes.parse`
returns as that type (a property test holds the two together). What it does not match proves nothing and goes the long
way, which also finds the words for what is wrong. A type that has more to it than fields of known sorts (a validator, an
alias, a number with unusual bounds) has no expression at all.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, AwareDatetime, BaseModel, PlainSerializer, Strict
from pydantic.fields import FieldInfo

_DAY = (
    "(?:[1-9][0-9]{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    "|[1-9][0-9](?:0[48]|[2468][048]|[13579][26])-02-29)"
)
_INSTANT = f'"{_DAY}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\\.[0-9]{{6}}Z"'
_SAFE = re.compile(r"[ !#-\[\]-~]*")
"""What stands in canonical JSON as it is in the string: printable ASCII without quote and backslash."""
_UNSAFE = "".join(map(chr, range(0x20))) + '"\\\x7f\x80é\u2028\U0001f600'
_CLASS = re.compile(r"\[[^\]]+\]")
_MOST_WORDS = 200


class _NoPattern(Exception):
    """The declaration holds something that has no expression here."""


def leaf_pattern(
    model: type[BaseModel],
    constants: Mapping[str, str | int],
    *,
    captured: Iterable[str] = (),
    plain: Iterable[Any] = (),
) -> re.Pattern[bytes] | None:
    """Return the expression that fully matches canonical leaves of `model` only, or None if there is none.

    `constants` are members that every leaf has besides its fields. The members of the fields named in `captured`, which
    are models, become groups by name (texts without quotes). `plain` are the validators and serializers of an instant
    that are known to leave `2026-11-26T12:00:00.000000Z` as it is.
    """
    try:
        return re.compile(_object(model, constants, frozenset(captured), frozenset(plain)).encode("ascii"))
    except (_NoPattern, UnicodeEncodeError):
        return None


def _object(
    model: type[BaseModel],
    constants: Mapping[str, str | int],
    captured: frozenset[str],
    plain: frozenset[Any],
    *,
    group: bool = False,
) -> str:
    decorators = model.__pydantic_decorators__
    if any(getattr(decorators, name) for name in decorators.__dataclass_fields__) or set(model.model_config) - {
        "frozen",
        "extra",
    }:
        raise _NoPattern
    members: dict[str, tuple[str, bool]] = {
        name: (_word(value) if isinstance(value, str) else str(value), True) for name, value in constants.items()
    }
    for name, field in model.model_fields.items():
        if field.alias is not None or field.serialization_alias is not None or field.exclude or not name.isascii():
            raise _NoPattern
        # Absent is what has no value and need not have one; any other default is written out.
        optional = field.default is None and field.default_factory is None
        if name in captured:
            if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
                raise _NoPattern
            value = _object(field.annotation, {}, frozenset(), plain, group=True)
        else:
            value = _value(field.annotation, field.metadata, plain)
        if group:
            value = f'"(?P<{name}>{value[1:-1]})"' if value[0] == value[-1] == '"' else f"(?P<{name}>{value})"
        members[name] = (value, not optional)
    ordered = [(f'"{name}":{value}', required) for name, (value, required) in sorted(members.items())]
    last = max((place for place, (_, required) in enumerate(ordered) if required), default=None)
    parts = []
    for place, (member, required) in enumerate(ordered):
        if last is None:  # a comma before each but the first, whichever that is
            parts.append(rf"(?:(?:(?<=\{{)|(?<!\{{),){member})?")
        elif place < last:
            parts.append(f"{member}," if required else f"(?:{member},)?")
        else:
            parts.append(member if place == last else f"(?:,{member})?")
    return rf"\{{{''.join(parts)}\}}"


def unwrapped(sort: Any, metadata: Iterable[Any] = ()) -> tuple[Any, list[Any]]:
    """Return what stands inside `Annotated`, however often, and all its constraints, those of `metadata` first."""
    constraints = list(metadata)
    while get_origin(sort) is Annotated:
        sort, *more = get_args(sort)
        for item in more:
            constraints.extend(item.metadata if isinstance(item, FieldInfo) else [item])
    return sort, constraints


def _value(sort: Any, metadata: Iterable[Any], plain: frozenset[Any]) -> str:
    sort, constraints = unwrapped(sort, metadata)
    while get_origin(sort) in (Union, UnionType):
        options = [option for option in get_args(sort) if option is not NoneType]
        if len(options) != 1:
            raise _NoPattern
        sort, constraints = unwrapped(options[0], constraints)
    if get_origin(sort) is tuple:
        item, *rest = get_args(sort)
        if rest != [Ellipsis] or constraints:
            raise _NoPattern
        each = _value(item, [], plain)
        if NoneType in get_args(item):
            raise _NoPattern
        return rf"\[(?:{each}(?:,{each})*)?\]"
    if sort in (datetime, AwareDatetime):
        functions = [item.func for item in constraints if isinstance(item, (AfterValidator, PlainSerializer))]
        serialized = any(isinstance(item, PlainSerializer) for item in constraints)
        if len(functions) != len(constraints) or not serialized or not plain.issuperset(functions):
            raise _NoPattern
        return _INSTANT
    if get_origin(sort) is Literal or (isinstance(sort, type) and issubclass(sort, Enum)):
        words = get_args(sort) if get_origin(sort) is Literal else [each.value for each in sort]
        if constraints or len(words) > _MOST_WORDS or not all(isinstance(word, str) for word in words):
            raise _NoPattern
        # The longest first: a word that begins another one does not hide it.
        return f"(?:{'|'.join(_word(str(word)) for word in sorted(words, key=len, reverse=True))})"
    if sort is bool and all(isinstance(item, Strict) for item in constraints):
        return "(?:true|false)"
    if sort is int:
        return _number(constraints)
    if sort is str:
        return _text(constraints)
    if isinstance(sort, type) and issubclass(sort, BaseModel) and not constraints:
        return _object(sort, {}, frozenset(), plain)
    raise _NoPattern


def _word(word: str) -> str:
    if _SAFE.fullmatch(word) is None:
        raise _NoPattern
    return f'"{re.escape(word)}"'


def _number(constraints: Iterable[Any]) -> str:
    least, most = 0, None
    for item in constraints:
        name, value = _constraint(item)
        if name == "ge" and isinstance(value, int):
            least = max(least, value)
        elif name == "le" and isinstance(value, int):
            most = value if most is None else min(most, value)
        elif name != "strict":
            raise _NoPattern
    if most is None or least > 1:
        raise _NoPattern
    digits = len(str(most + 1)) - 1  # so many nines are still within
    if digits < 1:
        raise _NoPattern
    positive = f"[1-9][0-9]{{0,{digits - 1}}}"
    return positive if least else f"(?:0|{positive})"


def _text(constraints: Iterable[Any]) -> str:
    patterns = []
    longest = None
    for item in constraints:
        name, value = _constraint(item)
        if name == "max_length":
            longest = value if longest is None else min(longest, value)
        elif name == "pattern" and isinstance(value, str):
            patterns.append(value)
        else:
            raise _NoPattern
    if len(patterns) != 1 or patterns[0][:1] != "^" or patterns[0][-1:] != "$":
        raise _NoPattern
    limit = "" if longest is None else f'(?=[^"]{{0,{longest}}}")'
    return f'"{limit}(?:{_within_quotes(patterns[0][1:-1])})"'


def _constraint(item: Any) -> tuple[str, Any]:
    """Return what a piece of a field's metadata demands, if that is one thing."""
    names = [each.name for each in fields(item)] if is_dataclass(item) else list(vars(item))
    if len(names) != 1:
        raise _NoPattern
    return names[0], getattr(item, names[0])


def _within_quotes(pattern: str) -> str:
    r"""Return a pattern without its anchors, its groups made nameless, if it can match nothing that JSON would escape.

    Only literals, classes, groups, repetitions, `|` and `\.` are understood.
    """
    for each in _CLASS.findall(pattern):
        if "\\" in each or "^" in each or any(re.fullmatch(each, character) for character in _UNSAFE):
            raise _NoPattern
    outside = _CLASS.sub("", pattern).replace(r"\.", "")
    if re.search(r"[^A-Za-z0-9_(){},*+?|:/-]|\(\?", outside) is not None:
        raise _NoPattern
    parts, end = [], 0
    for found in _CLASS.finditer(pattern):
        parts += [pattern[end : found.start()].replace("(", "(?:"), found.group()]
        end = found.end()
    return "".join([*parts, pattern[end:].replace("(", "(?:")])
