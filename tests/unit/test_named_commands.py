"""Every command that a page, a runbook or a message names can be typed: it exists, with these options and arguments."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest.mock import MagicMock

import click
import pytest
from click.testing import CliRunner

from bridge.contracts.errors import BadInput, Refused
from consumers import cli
from consumers.case import prompts
from consumers.case.permissions import Act, Role, permitting_roles

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


PLACEHOLDERS = {
    "INCIDENT": "INC-2026-0001", "ID": "INC-2026-0001", "REGIME_ID": "eu-gdpr-33", "REGIME_ID...": "eu-gdpr-33",
    "PROVIDER": "ses", "NAME=VALUE": "encrypted=false", "INSTANT": "2026-11-23T03:10:00Z",
}  # fmt: skip
IN_FULL = {
    "incident approve INCIDENT --help": "incident approve INCIDENT --policy HASH",
    "incident duty INCIDENT REGIME_ID --help": "incident duty INCIDENT REGIME_ID --reason TEXT",
    "incident lift INCIDENT --help": "incident lift INCIDENT GATE --reason TEXT",
    "incident possible INCIDENT --help": "incident possible INCIDENT",
    "incident rate INCIDENT --help": "incident rate INCIDENT --channel email --per-second 1 --reason TEXT",
    "evidence reconcile --help": "evidence reconcile --incident INCIDENT",
    "dead-letters redrive --help": "dead-letters redrive --all --dry-run",
}
"""What is typed where a runbook leads to the help of a command that asks who."""


def asks_who(line: str) -> bool:
    """Whether the command takes a token."""
    command: click.Command = built()
    for word in shlex.split(line):
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(command), word) or command
    return any(each.name == "token_file" for each in command.params)


def acts_of_sre(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Act]:
    """Type a line as somebody on call would, where every part is a stand-in; return what the command asked to do."""
    asked: list[Act] = []

    class OnCall:
        person_id, commitment = "sam", "c" * 64

        def acting_for(self, act: Act) -> Role:
            asked.append(act)
            if Role.SRE not in permitting_roles(act):
                raise Refused("sam (sre) may not")
            return Role.SRE

    monkeypatch.setattr(prompts, "load_people", MagicMock())
    monkeypatch.setattr(prompts, "read_token", MagicMock())
    monkeypatch.setattr(prompts, "staff_key", MagicMock())
    monkeypatch.setattr(prompts, "actor_of", lambda *_: OnCall())
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line)]
    monkeypatch.chdir(folder)
    for name in ("leaked.csv", "FORM.pdf"):
        Path(name).write_text("email\na@mail.example\n", encoding="utf-8")
    group: click.Command = built()
    while isinstance(group, click.Group) and words:
        group = group.get_command(click.Context(group), words.pop(0)) or pytest.fail(line)
    parts = MagicMock()
    parts.get.return_value.approvals.mode = "two_approvers"
    parts.get.return_value.return_value.rules.by_id.__contains__.return_value = True
    result = CliRunner().invoke(group, words, obj=parts)
    assert not isinstance(result.exception, SystemExit) or result.exit_code != 2, (line, result.output)
    return asked


def roles_named(text: str, line: str) -> str | None:
    """Return whom a runbook names behind a command: `command` (dpo or counsel), or in a block behind a #."""
    command = re.escape(line).replace(r"\ ", r"\s+")
    found = re.search(rf"`tocsin {command}` \(([^)]*)\)|^ {{4}}tocsin {command}\s+# ([^\n]*)$", text, re.MULTILINE)
    return None if found is None else found[1] or found[2]


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "runbooks").glob("*.md")), ids=lambda path: path.stem)
def test_a_runbook_says_who_types_what_the_one_on_call_may_not(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = path.read_text(encoding="utf-8")
    for line in {each for each in in_page(text) if not is_name(each) or asks_who(each)}:
        if not asks_who(line):
            continue
        if "--help" in line:
            assert line in IN_FULL, "say in IN_FULL what is typed"
        asked = acts_of_sre(IN_FULL.get(line, line), tmp_path, monkeypatch)
        assert asked, f"{line}: never asked who"
        roles = permitting_roles(asked[-1])
        needed = None if Role.SRE in roles else " or ".join(filter(None, (", ".join(roles[:-1]), roles[-1])))
        assert roles_named(text, line) == needed, line


def test_who_is_named_behind_a_command_is_seen() -> None:
    text = "By `tocsin incident duty A\nB` (dpo or counsel).\n\n    tocsin law review X --adopt    # counsel\n"
    assert roles_named(text, "incident duty A B") == "dpo or counsel"
    assert roles_named(text, "law review X --adopt") == "counsel"
    assert roles_named(text, "law review X") is None


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
