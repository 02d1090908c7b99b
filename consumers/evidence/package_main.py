"""The command line of the single-file verifier. Here `tocsin evidence verify` does the same."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bridge.contracts.errors import TocsinError
from consumers.evidence.key_chain import changes_in_words
from consumers.evidence.note import VerifierKey
from consumers.evidence.package import Package, history, in_words, verify_package
from consumers.evidence.proof import Extra, Proof


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify what `arguments` name and print it in plain words. Returns 0 proved, 1 not proved, 2 wrong use."""
    parser = argparse.ArgumentParser(description="Checks an auditor's package of Tocsin, or one proof, offline.")
    parser.add_argument("target", nargs="?", type=Path, default=Path(sys.argv[0]).resolve().parent)
    parser.add_argument("--vkey", required=True, help="the log's verifier key, or a file that holds it")
    parser.add_argument("--person", help="say what is proved of one person, such as customer/42")
    given = parser.parse_args(arguments)
    try:
        text = given.vkey
        if "+" not in text or Path(text).is_file():
            text = Path(text).read_text(encoding="utf-8")
        key = VerifierKey.parse(text)
    except (OSError, UnicodeDecodeError, TocsinError) as fault:
        print(f"--vkey: {fault}", file=sys.stderr)
        return 2
    try:
        if given.person is not None:
            said, whole = history(Package(given.target, [key]), given.person), True
        elif given.target.is_dir():
            report = verify_package(given.target, [key])
            said, whole = report.sentences(), report.whole
        else:
            said, whole = proof_sentences(given.target.read_bytes(), [key]), True
    except TocsinError as fault:
        said, whole = [f"NOT proved: {fault}."], False
    except OSError as fault:
        print(f"{given.target}: {fault.strerror}", file=sys.stderr)
        return 2
    print("\n".join(said))
    return 0 if whole else 1


def proof_sentences(proof: bytes, keys: Sequence[VerifierKey]) -> list[str]:
    """Return what one proof proves, in sentences. Raises Malformed or NotProved."""
    parsed = Proof.parse(proof)
    extra = Extra.parse(parsed.extra or b"")
    head = parsed.verify(extra.entry, keys, extra.handovers)
    said = [
        f"Proved: the following was entry {parsed.index} of the log {head.origin} when it had {head.size} entries.",
        extra.entry.decode(),
    ]
    content = json.loads(extra.entry)
    if (words := in_words(content)) is not None:
        said.append(words)
    if extra.opening is not None:
        body = content.get("body")
        subject = content.get("subject") or (body.get("subject") if isinstance(body, dict) else None)
        extra.opening.check(str(subject))
        said.append(f"Proved: it is about {extra.opening.subject}: the key in the proof opens its commitment.")
    said += changes_in_words(extra.handovers, head.origin)
    return [*said, "Not proved by this: that what was logged is true, and when the log was signed."]
