"""SES fills a bulk mail's slots as Handlebars does, without escaping; our sandbox and our own final bodies are held to it.

Handlebars is Debian's, run by Node: one process for all cases.
"""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from consumers.domain.notices import fill
from consumers.sandbox.texts import slot_values, template
from tests.conftest import missing

HANDLEBARS = Path("/usr/share/javascript/handlebars/handlebars.js")
FILL = """
const handlebars = require(process.argv[1]);
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
const filled = cases.map(([part, values]) => handlebars.compile(part, {noEscape: true})(JSON.parse(values)));
process.stdout.write(JSON.stringify(filled));
"""

HOSTILE = [
    "Ann",
    "",
    "{{name}}",
    "{{{name}}}",
    "{{#each}}",
    "}}",
    "<script>alert(1)</script>",
    "&amp; & \" ' ` =",
    "back\\slash \\{{name}}",
    "line\r\nbreak\ttab",
    "\u202eright to left\u2066\u200b",
    "\u2028\u2029",
    "e\u0301 \U0001f514 \U0001d518",
    "$& $1 %s {0}",
    "x" * 10_000,
]
PARTS = [
    "Dear {{name}},",
    "{{name}}{{name}} {{ name }} {{case}}",
    "{ {{name}} } \\n {{case}} }} {x}",
    "<p title='{{name}}'>&amp;{{case}}</p>\n\n  {{name}}\n",
    "no slot at all",
]


def handlebars(cases: list[tuple[str, str]]) -> list[str]:
    if shutil.which("node") is None or not HANDLEBARS.exists():
        missing(
            "Handlebars cannot be had: no node, or not Debian's libjs-handlebars (`make test` installs or names them)"
        )
    done = subprocess.run(
        ["node", "-e", FILL, str(HANDLEBARS)], input=json.dumps(cases), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    filled: list[str] = json.loads(done.stdout)
    return filled


def random_texts(count: int) -> list[str]:
    """Return texts of what templates, HTML, JSON and terminals treat specially; the same ones at every run."""
    chance = random.Random(7)
    pieces = [
        *"{}\\&<>'\"$/#^!=|~ \n\r\t\x00\x85\u2028\ufeff\u00e9",
        "{{",
        "}}",
        "{{{",
        "name",
        "{{name}}",
        "\U0001f514",
    ]
    return ["".join(chance.choices(pieces, k=chance.randrange(1, 30))) for _ in range(count)]


def test_the_sandbox_and_our_own_bodies_equal_handlebars_over_hostile_values() -> None:
    values = [*HOSTILE, *random_texts(200)]
    cases = [
        (part, {"name": name, "case": other})
        for part in PARTS
        for name, other in zip(values, reversed(values), strict=True)
    ]
    expected = handlebars([(part, json.dumps(slots)) for part, slots in cases])
    for (part, slots), theirs in zip(cases, expected, strict=True):
        assert template("s", part, "").filled(slots).html == theirs
        if "{{ " not in part:  # our own texts are refused with spaces in a slot
            assert fill(part, slots) == theirs


@pytest.mark.parametrize("document", ['{"a": 1, "b": true}', '{"a": "0", "b": false}', '{"a": -7, "b": 2.5}'])
def test_scalars_of_other_types_are_written_as_handlebars_writes_them(document: str) -> None:
    (theirs,) = handlebars([("{{a}}|{{b}}", document)])
    assert template("s", "", "{{a}}|{{b}}").filled(slot_values(document)).text == theirs
