"""Refuses dependencies whose licence we have not said yes to.

Reads the metadata of what is installed, for every distribution that a lock file names: the licence expression (PEP 639)
or the licence classifiers, else the short licence field. A licence that is only text is refused, too, until its
distribution is named in `BY_NAME` with what a person read in it.

Not for: files inside a distribution that carry another licence than it says.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ALLOWED = frozenset(
    {
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "MIT License",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "0BSD",
        "BSD License",
        "Apache-2.0",
        "Apache Software License",
        "MPL-2.0",
        "Mozilla Public License 2.0 (MPL 2.0)",
        "ISC",
        "ISC License (ISCL)",
        "PSF-2.0",
        "Python-2.0",
        "Python Software Foundation License",
        # What older distributions write into the free field, letter by letter.
        "BSD",
        "BSD 3-Clause",
        "3-Clause BSD License",
        "Apache 2.0",
        "Apache License 2.0",
        "Apache License, Version 2.0",
        "Apache-2",
        "Apache",
        "MPL",
    }
)

BY_NAME: Mapping[str, str] = {
    # Public domain, as far as the law allows it.
    "email-validator": "The Unlicense (Unlicense)",
    # For development only. Older code of Python's own `re` under CNRI's licence, which the PSF's contains.
    "regex": "Apache-2.0 AND CNRI-Python",
}
"""Distribution name -> its licence as its metadata says it, allowed for this one alone."""


def locked_names(lock: str) -> list[str]:
    """Return the distribution names in a lock file's text, with the environments that they are for ignored."""
    return re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?==", lock, flags=re.MULTILINE)


def licences_of(dist: Distribution) -> list[str]:
    """Return what `dist` says of its licence: one expression, or its classifiers, or its licence field."""
    metadata = dist.metadata
    if "License-Expression" in metadata:
        return [metadata["License-Expression"]]
    classifiers = [
        value.rsplit(" :: ", 1)[-1]
        for value in metadata.get_all("Classifier") or []
        if value.startswith("License :: ") and value != "License :: OSI Approved"
    ]
    return classifiers or (metadata.get_all("License") or [])[:1] or ["none stated"]


def is_allowed(licence: str) -> bool:
    """Whether an SPDX expression, a classifier or a field is allowed: every AND part, one of the OR parts.

    Parentheses are read as far as needed: an expression is split at its outermost operator.
    """
    if licence in ALLOWED:
        return True
    for operator, decide in ((" OR ", any), (" AND ", all)):
        parts = _split_outside_parentheses(licence, operator)
        if len(parts) > 1:
            return decide(is_allowed(part) for part in parts)
    if licence.startswith("(") and licence.endswith(")"):
        return is_allowed(licence[1:-1].strip())
    return False


def _split_outside_parentheses(text: str, operator: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and text.startswith(operator, position):
            parts.append(text[start:position].strip())
            start = position + len(operator)
    return [*parts, text[start:].strip()]


def refusals(names: Iterable[str]) -> list[str]:
    """Return one line for each installed distribution of `names` whose licence is not allowed."""
    lines = []
    for name in names:
        try:
            found = licences_of(distribution(name))
        except PackageNotFoundError:
            continue  # locked for another platform or Python version
        refused = [licence for licence in found if not is_allowed(licence)]
        if refused and BY_NAME.get(name) not in found:
            stated = refused[0].strip().splitlines()[0][:100]
            lines.append(f"{name}: {stated!r} is not an allowed licence (.ci/licences.py)")
    return lines


def main(locks: list[str]) -> int:
    """Print the refusals of all lock files; return the exit code."""
    names = sorted({name for lock in locks for name in locked_names(Path(lock).read_text(encoding="utf-8"))})
    lines = refusals(names)
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
