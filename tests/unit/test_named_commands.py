"""Every command that a page, a runbook or a message names can be typed: it exists, with these options and arguments."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from bridge.contracts.errors import BadInput
from consumers import cli

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(ROOT / "deploy").rglob("*.md"),
    *(ROOT / "consumers").rglob("*.md"),
    *(ROOT / "bridge").rglob("*.md"),
    *(ROOT / "templates").rglob("*.md"),
    ROOT / "magento_module" / "README.md",
]
MODULES = [path for room in ("bridge", "consumers") for path in (ROOT / room).rglob("*.py")]


def in_page(text: str) -> Iterator[str]:
    """Yield what is set as code; of spans only what is more than a command's name."""
    for found in re.finditer(r"`tocsin ([^`]+)`|^(?: {4}|)(?:\S+/)?tocsin ([a-z][^\n]*)$", text, re.MULTILINE):
        yield " ".join((found[1] or re.sub(r"\s+#.*|\s+>.*|\s+\|.*|\s2>.*", "", found[2])).split())


def in_module(source: str) -> Iterator[str]:
    """Yield what messages tell people to type; docstrings are not for them."""
    tree = ast.parse(source)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        if isinstance(parents.get(node), (ast.Expr, ast.JoinedStr, ast.FormattedValue)):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        else:
            continue
        for found in re.finditer(r"(`?)tocsin ((?:[a-z]+(?:-[a-z]+)*|\{\})(?: [^`\n;,()]*)?)", text):
            yield found[2].strip().rstrip(".")


def is_name(line: str) -> bool:
    """Whether this is a command's words and nothing else."""
    return re.fullmatch(r"[a-z]+(-[a-z]+)*( [a-z]+(-[a-z]+)*){0,2}", line) is not None


@cache
def built() -> click.Group:
    """Return the whole command line."""
    return cli.build()


def fault(line: str) -> str | None:
    """Return what is wrong with a command line, or None."""
    command: click.Command = built()
    words = shlex.split(line)
    while isinstance(command, click.Group) and words:
        if words[0] in ("--help", "-h") or "{}" in words[0]:
            return None
        try:
            found = command.get_command(click.Context(command), words[0])
        except BadInput:
            found = None
        if found is None:
            return f"no command {words[0]!r}"
        command, words = found, words[1:]
    if "--help" in words or isinstance(command, click.Group):
        return None
    options = {
        name: each
        for each in command.params
        if isinstance(each, click.Option)
        for name in (*each.opts, *each.secondary_opts)
    }
    given: set[str] = set()
    arguments = filled = 0
    while words:
        word = words.pop(0)
        if word.startswith("-") and word != "-":
            option = options.get(word)
            if option is None:
                return f"no option {word}"
            given.add(option.name or "")
            if not option.is_flag:
                if not words:
                    return f"{word} without a value"
                words.pop(0)
        else:
            arguments += 1
            filled += word == "{}"  # may be an option, too
    lacking = [
        each.name
        for each in command.params
        if isinstance(each, click.Option) and each.required and each.name not in given
    ]
    if lacking:
        return f"lacks {lacking}"
    needed = [each for each in command.params if isinstance(each, click.Argument)]
    least = sum(each.required for each in needed)
    most = None if any(each.nargs < 0 for each in needed) else len(needed)
    if arguments < least or (most is not None and arguments - filled > most):
        return f"takes {least} to {most} arguments, not {arguments}"
    return None


NOT_TYPED = {"registry show | history | sync", "NOUN VERB --help", "incident key v1/{}", "erasure v1/{}"}
"""Several commands in one breath, any command, and what keys are derived by."""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_says_to_type_can_be_typed(path: Path) -> None:
    lines = set(in_page(path.read_text(encoding="utf-8"))) - NOT_TYPED
    # a runbook is typed from in the night; elsewhere a command's name alone names it
    alone = set() if path.parent.name == "runbooks" else {line for line in lines if is_name(line)}
    assert {line: wrong for line in lines - alone if (wrong := fault(line))} == {}
    assert {line for line in alone if (fault(line) or "").startswith("no command")} == set()


def test_what_a_message_says_to_type_can_be_typed() -> None:
    named = {line for path in MODULES for line in in_module(path.read_text(encoding="utf-8"))}
    assert len(named) > 100
    wrong = {line: said for line in named - NOT_TYPED if (said := fault(line))}
    assert {line: said for line, said in wrong.items() if not is_name(line) or said.startswith("no command")} == {}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("incident shwo ID", "no command 'shwo'"),
        ("dead-letters redrive --everything", "no option --everything"),
        ("delivery letters list --json", "takes 1 to 1 arguments, not 0"),
        ("evidence verify DIR", "lacks ['vkey']"),
        ("incident pause ID --reason", "--reason without a value"),
        ("incident list --all", None),
    ],
)
def test_what_cannot_be_typed_is_seen(line: str, wrong: str | None) -> None:
    assert fault(line) == wrong
