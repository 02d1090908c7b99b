"""Time stamps of checkpoints per RFC 3161: what an authority outside the house says of when the log stood how.

They lie in the log's folder beside `tile/`: `timestamps/<size>.checkpoint`, the signed checkpoint, and
`timestamps/<size>.tsr`, the authority's answer over exactly those bytes; `openssl ts -verify -data <size>.checkpoint -in
<size>.tsr -CAfile ROOTS` checks a pair without us. A log rewritten later is found out by its own earlier time stamps.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import Certificate, ObjectIdentifier, load_der_x509_certificate, load_pem_x509_certificates
from rfc3161_client import (
    HashAlgorithm,
    PKIStatus,
    TimeStampRequest,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from consumers.evidence.checkpoint import Checkpoint, open_checkpoint
from consumers.evidence.faults import Malformed, NotProved, TileDamaged
from consumers.evidence.merkle import tree_root
from consumers.evidence.note import VerifierKey
from consumers.evidence.reader import LogFiles, LogReader

FOLDER = "timestamps"
_SHA256 = ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_GRANTED = (PKIStatus.GRANTED, PKIStatus.GRANTED_WITH_MODS)


def request_for(checkpoint: bytes) -> TimeStampRequest:
    """Return the request to stamp a signed checkpoint's bytes: SHA-256, with a nonce, asking for the certificate."""
    return (
        TimestampRequestBuilder()
        .data(checkpoint)
        .hash_algorithm(HashAlgorithm.SHA256)
        .cert_request(cert_request=True)
        .build()
    )


def read_roots(pem: bytes) -> tuple[Certificate, ...]:
    """Return the certificates in PEM text. Raises Malformed if there is none."""
    try:
        return tuple(load_pem_x509_certificates(pem))
    except (ValueError, UnsupportedAlgorithm):
        raise Malformed("the root certificates of the time stamp authority are not certificates in PEM text") from None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a time stamp says: when, and by whom (the signing certificate's subject)."""

    at: datetime
    authority: str


def parse_answer(answer: bytes) -> TimeStampResponse:
    """Return an authority's answer. Raises Malformed, or NotProved if it refused to stamp."""
    try:
        response = decode_timestamp_response(answer)
        status = response.status
    except ValueError:
        raise Malformed("the time stamp cannot be read: not an answer of RFC 3161") from None
    if status not in _GRANTED:
        # The authority's words are not repeated: they are not ours, and nobody checked them.
        raise NotProved(f"the time stamp authority refused to stamp (status {int(status)})")
    return response


def check_stamp(
    answer: bytes, checkpoint: bytes, roots: Sequence[Certificate], *, request: TimeStampRequest | None = None
) -> Stamp:
    """Check that the answer stamps `checkpoint` and is signed under `roots`; return what it says.

    Without roots only what it is of is checked, not who says so. With `request`, it must answer that one. Raises Malformed
    or NotProved.
    """
    response = parse_answer(answer)
    try:
        told = response.tst_info
        imprint = told.message_imprint
        if imprint.hash_algorithm != _SHA256 or imprint.message != hashlib.sha256(checkpoint).digest():
            raise NotProved("the time stamp is of other bytes than this checkpoint")
        if request is not None and told.nonce != request.nonce:
            raise NotProved("the time stamp answers another request: its nonce is not the one that was sent")
        if roots:
            builder = VerifierBuilder()
            for root in roots:
                builder = builder.add_root_certificate(root)
            builder.build().verify_message(response, checkpoint)
        return Stamp(told.gen_time, _signer_of(response))
    except VerificationError as fault:
        raise NotProved(f"the time stamp is not by an authority under the given root certificates: {fault}") from None
    except ValueError:
        raise Malformed("the time stamp cannot be read: it is damaged inside") from None


def _signer_of(response: TimeStampResponse) -> str:
    signers = {(signer.issuer, signer.serial_number) for signer in response.signed_data.signer_infos}
    for encoded in response.signed_data.certificates:
        certificate = load_der_x509_certificate(encoded)
        if (certificate.issuer, certificate.serial_number) in signers:
            return certificate.subject.rfc4514_string()
    return "an authority that did not send its certificate"


@dataclass(slots=True)
class StampReport:
    """What the time stamps in a log's folder say of it."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    proved: bool = False
    """Whether there are time stamps, whose authority was checked."""


def stamped_sizes(files: LogFiles) -> list[int]:
    """Return the sizes for which there is an answer, ascending."""
    names = (path.removeprefix(f"{FOLDER}/") for path in files.names(FOLDER))
    numbers = (name.removesuffix(".tsr") for name in names if name.endswith(".tsr"))
    return sorted(int(number) for number in numbers if number.isascii() and number.isdigit())


def paths_of(size: int) -> tuple[str, str]:
    """Return where the checkpoint of this size and the answer over it lie."""
    return f"{FOLDER}/{size}.checkpoint", f"{FOLDER}/{size}.tsr"


def verify_stamps(
    files: LogFiles, keys: Iterable[VerifierKey], head: Checkpoint, roots: Sequence[Certificate]
) -> StampReport:
    """Check that the log of `head`, whose tiles were verified, extends every checkpoint that was stamped; with `roots`,
    also who stamped it. Never raises for what it finds."""
    report = StampReport()
    known, held = list(keys), []
    reader = LogReader(files, head.size)
    for size in stamped_sizes(files):
        checkpoint, answer = (files.read(path) for path in paths_of(size))
        try:
            if checkpoint is None or answer is None:
                raise NotProved("its checkpoint is missing")
            stamped = open_checkpoint(checkpoint, known)
            stamp = check_stamp(answer, checkpoint, roots)
            if stamped.size > head.size:
                raise NotProved(f"the log had {stamped.size} entries then and has {head.size} now: it was rolled back")
            if tree_root(stamped.size, reader.node) != stamped.root:
                raise NotProved(f"the first {stamped.size} entries are not those of then: the log was rewritten")
        except (Malformed, NotProved, TileDamaged) as fault:
            report.problems.append(f"time stamp of size {size}: {fault}")
            continue
        held.append((stamped.size, stamp))
    if held and not roots:
        report.notes.append(
            f"{len(held)} time stamps are there and fit the log; who made them was not checked: give the authority's root "
            "certificates with --tsa-roots."
        )
    elif held:
        report.proved = True
        (first_size, first), (last_size, last) = held[0], held[-1]
        report.notes.append(
            f"Proved by {len(held)} time stamp{'s' if len(held) > 1 else ''}: its first {first_size} entries existed by "
            f"{_told(first)}{f', its first {last_size} by {_told(last)}' if len(held) > 1 else ''}, says the time stamp "
            f"authority {last.authority}."
        )
    return report


def _told(stamp: Stamp) -> str:
    return f"{stamp.at:%Y-%m-%d %H:%M:%S} UTC"
