"""The verifier in one file: our own modules, one after the other, for whoever has a package and no Tocsin.

What runs there is the code that runs here: nothing is written twice. The file needs Python's standard library and
`cryptography`. `python -m consumers.evidence.single_file` prints it.
"""

import ast
import importlib
import inspect
from types import ModuleType

_MODULES = (
    "bridge.contracts.errors",
    "consumers.evidence.faults",
    "consumers.evidence.merkle",
    "consumers.evidence.note",
    "consumers.evidence.checkpoint",
    "consumers.evidence.commitment",
    "consumers.evidence.tiles",
    "consumers.evidence.reader",
    "consumers.evidence.key_chain",
    "consumers.evidence.proof",
    "consumers.evidence.package",
    "consumers.evidence.package_main",
)
"""In an order in which each needs only what stands before it."""

_HEAD = '''#!/usr/bin/env python3
"""Checks an auditor's package of Tocsin, or one proof, offline. Needs Python 3.11 or newer and the package `cryptography`.

    python3 verify.py --vkey KEY                      everything in the folder in which this file lies
    python3 verify.py --vkey KEY --person customer/42 what is proved of one person
    python3 verify.py --vkey KEY FILE.tlog-proof      one proof

KEY is the log's verifier key, or a file that holds it. Have it from somewhere else than from this folder: the key tells
whose log it is. This file is made of Tocsin's own modules and is the same for every package; compare it with one that
you trust, or read it.
"""
'''

_NEEDS = """import sys

try:
    if sys.version_info < (3, 11):
        raise ImportError
    import cryptography.hazmat.primitives.asymmetric.ed25519
except ImportError:
    # not 1: that is what "not proved" ends with
    print("verify.py: nothing was checked. It needs Python 3.11 or newer and the package cryptography;", file=sys.stderr)
    print("this is Python %d.%d of %s" % (*sys.version_info[:2], sys.executable), file=sys.stderr)
    sys.exit(2)
"""

_CANONICAL = '''
class rfc8785:
    """RFC 8785 for what is in proofs: objects with ASCII names, strings, whole numbers, lists of strings."""

    @staticmethod
    def dumps(content):
        return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
'''


def single_file_verifier() -> str:
    """Return the verifier's source."""
    imports: dict[str, None] = {}
    bodies = []
    for name in _MODULES:
        body, needed = _without_imports(importlib.import_module(name))
        imports |= dict.fromkeys(needed)
        bodies.append(f"# --- {name} {'-' * max(4, 112 - len(name))}\n\n{body.strip()}\n")
    ordered = sorted(imports, key=lambda line: (line.startswith("from"), line))
    main = 'if __name__ == "__main__":\n    sys.exit(main())\n'
    return "\n".join([_HEAD, _NEEDS, "\n".join(ordered), _CANONICAL, *bodies, main])


def _without_imports(module: ModuleType) -> tuple[str, list[str]]:
    """Return a module's source without docstring and imports, and the imports of what is not ours."""
    source = inspect.getsource(module)
    tree = ast.parse(source)
    lines = source.splitlines()
    needed: list[str] = []
    dropped: set[int] = set()
    for place, node in enumerate(tree.body):
        doc = place == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not doc and not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        dropped.update(range(node.lineno - 1, node.end_lineno or node.lineno))
        if isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] not in ("bridge", "consumers"):
                needed += [f"from {node.module} import {_named(each)}" for each in node.names]
        elif isinstance(node, ast.Import):
            needed += [f"import {_named(each)}" for each in node.names if each.name != "rfc8785"]
    return "\n".join(line for number, line in enumerate(lines) if number not in dropped), needed


def _named(name: ast.alias) -> str:
    return name.name if name.asname is None else f"{name.name} as {name.asname}"


if __name__ == "__main__":
    print(single_file_verifier(), end="")
