"""The sandbox as a whole: which request goes where, starting, stopping, and the process around it.

    python -m consumers.sandbox --port 0 --folder DIR

prints `{"url": "http://127.0.0.1:43210"}` on standard output once it answers, keeps what it acknowledged in DIR (in
memory without), and ends with exit code 0 on SIGTERM or SIGINT. Exit code 1 means that it had to say something which
AWS never says; standard error names the operation.

Beside AWS's protocols it serves a Twilio-compatible SMS gateway (see `gateway`), `/_mailbox`,
`/_mailbox.json?after=N&bodies=0`, and three places to POST a JSON object to: `/_control/behaviours` (recipient ->
behaviour; see `fates`), `/_control/faults` (a whole service; see `faults`) and `/_control/account` (quotas and states;
see `limits`).
"""

import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click

from bridge.contracts.errors import BadInput, TocsinError
from bridge.runtime.clock import Clock, SystemClock
from consumers.sandbox import mailbox
from consumers.sandbox.envelopes import Signer
from consumers.sandbox.fates import parse_scripts
from consumers.sandbox.faults import FaultyAnswer, parse_faults
from consumers.sandbox.gateway import PATH as GATEWAY_PATH
from consumers.sandbox.gateway import SmsGateway
from consumers.sandbox.http import LoopbackServer, Streamed
from consumers.sandbox.journal import Journal, Record
from consumers.sandbox.limits import parse_limits
from consumers.sandbox.logs import CloudWatchLogs
from consumers.sandbox.ses import SimpleEmailService
from consumers.sandbox.sns import SimpleNotificationService, get_caller_identity
from consumers.sandbox.sqs import SimpleQueueService
from consumers.sandbox.state import State
from consumers.sandbox.wire import AwsError, Call, InvalidAnswer, Request, Response, Unanswered, Wire

RECEIPT_DELAY_SECONDS = 0.2

HTML = "text/html; charset=utf-8"
JSON = "application/json"


class SandboxFault(Exception):
    """The sandbox broke while answering: a bug of ours, whatever the caller made of it."""


class Sandbox:
    """One sandbox. `start` it once, `stop` it once.

    `receipt_delay_seconds` is the time between acceptance and the last event about a message.
    """

    def __init__(self, *, receipt_delay_seconds: float = RECEIPT_DELAY_SECONDS, clock: Clock | None = None) -> None:
        self._delay = receipt_delay_seconds
        self._clock = clock or SystemClock()
        self._faults: list[str] = []
        self._controls: dict[str, Callable[[object], Record]] = {
            "/_control/behaviours": _scripts_record,
            "/_control/faults": _faults_record,
            "/_control/account": _account_record,
        }

    def start(self, host: str = "127.0.0.1", port: int = 0, folder: Path | None = None) -> str:
        """Serve, with what `folder` holds, and return the URL. Raises BadInput, or Refused if `folder` is in use."""
        self._wire = Wire()
        journal = Journal(folder)
        try:
            self._signer = Signer.load(folder, self._clock.now())
            self._state = State(journal, self._signer, self._clock)
            ses = SimpleEmailService(self._state, self._delay)
            sns = SimpleNotificationService(self._state, self._delay)
            self._sqs = SimpleQueueService(self._state)
            self._gateway = SmsGateway(self._state, self._delay)
            self._operations: dict[str, dict[str, Callable[[Call], dict[str, Any]]]] = {
                "sesv2": ses.operations(),
                "sns": sns.operations(),
                "sqs": self._sqs.operations(),
                "sts": {"GetCallerIdentity": get_caller_identity},
                "logs": CloudWatchLogs(self._state).operations(),
            }
            self._server = LoopbackServer(host, port, self._answer)
        except BaseException:
            journal.close()
            raise
        return self._server.url

    def stop(self) -> None:
        """Answer what is in progress and stop. Raises SandboxFault if anything went wrong inside since the start."""
        with self._state.changed:
            self._sqs.closing = True
            self._state.changed.notify_all()
        self._server.close()
        self._gateway.close()
        self._state.close()
        if self._faults:
            raise SandboxFault("; ".join(self._faults))

    def _answer(self, request: Request) -> Response | Streamed | None:
        try:
            path = urlsplit(request.target).path
            if path.startswith(("/_mailbox", "/_control")) or path == self._signer.certificate_path:
                return self._own_page(request, path)
            if (account := GATEWAY_PATH.fullmatch(path)) is not None:
                return self._gateway.answer(request, account["account"], account["message"])
            if path == "/" and request.method == "GET" and "authorization" not in request.headers:
                return Response(302, "text/plain", b"", {"Location": "/_mailbox"})
            return self._aws(request)
        except Unanswered:
            return None
        except Exception as error:
            # No message and no values: they may hold an address. Type and place are enough to find a bug.
            places = " < ".join(
                f"{Path(f.filename).name}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__))
            )
            named = f" {error}" if isinstance(error, InvalidAnswer) else ""
            self._faults.append(f"{type(error).__name__}{named} at {places}")
            print(f"sandbox: {self._faults[-1]}", file=sys.stderr)
            return self._broken(request)

    def _broken(self, request: Request) -> Response:
        words = "the sandbox broke; see its standard error"
        try:
            service, _ = self._wire.addressee(request)
        except AwsError:
            return Response(500, "text/plain", words.encode())
        return self._wire.refusal(service, None, AwsError("InternalFailure", words, 500))

    def _aws(self, request: Request) -> Response:
        call: Call | None = None
        try:
            call = self._wire.read(request)
            fault = self._met_fault(call)
            result = self._handle(call)
            if fault is FaultyAnswer.RESET_AFTER:
                raise Unanswered
            if fault is FaultyAnswer.HOLD_AFTER:
                self._hold(call)
            return self._wire.answer(call, result)
        except AwsError as error:
            try:
                service, _ = self._wire.addressee(request)
            except AwsError:
                service = "sesv2"
            return self._wire.refusal(service, call.operation if call else None, error)

    def _met_fault(self, call: Call) -> FaultyAnswer | None:
        """Return the fault that `call` meets after it was taken. Raises what it meets before."""
        with self._state.changed:
            fault = self._state.faults.get(call.service)
            if fault is None or fault.over or fault.operation not in (None, call.operation):
                return None
            self._state.commit({"record": "fault_met", "service": call.service})
        if fault.after:
            return None
        if fault.answer is FaultyAnswer.SERVER_ERROR:
            raise AwsError("InternalFailure", "the sandbox plays a failure of the service", 500)
        if fault.answer is FaultyAnswer.TOO_MANY:
            raise AwsError("Throttling", "Rate exceeded", 429)
        if fault.answer is FaultyAnswer.DENIED:
            raise AwsError("AccessDeniedException", "User is not authorized to perform this operation", 403)
        if fault.answer is FaultyAnswer.RESET:
            raise Unanswered
        if fault.answer is FaultyAnswer.HOLD:
            self._hold(call)
        if fault.answer is FaultyAnswer.SLOW:
            time.sleep(fault.seconds)
        return fault.answer

    def _hold(self, call: Call) -> None:
        """Let the call wait until another table of faults is posted, or the sandbox stops."""
        with self._state.changed:
            table = self._state.fault_tables
            self._state.held[table, call.service] += 1
            self._state.changed.notify_all()
            while self._state.fault_tables == table and not self._sqs.closing:
                self._state.changed.wait()
            self._state.held[table, call.service] -= 1

    def _handle(self, call: Call) -> dict[str, Any]:
        if call.service == "sqs" and call.operation == "ReceiveMessage":
            return self._sqs.receive_message(call)
        handler = self._operations[call.service].get(call.operation)
        if handler is None:
            known = ", ".join(sorted(self._operations[call.service]))
            raise AwsError("NotImplemented", f"the sandbox does not play {call.operation}; it plays {known}", 501)
        with self._state.changed:
            return handler(call)

    def _own_page(self, request: Request, path: str) -> Response | Streamed:
        query = parse_qs(urlsplit(request.target).query)
        route = (request.method, path)
        if route == ("GET", self._signer.certificate_path):
            return Response(200, "application/x-pem-file", self._signer.certificate_pem)
        if route == ("GET", "/_mailbox"):
            page = max(1, _number(query.get("page", ["1"])[0]))
            return Response(
                200, HTML, mailbox.page(self._state, page, query.get("to", [""])[0]), mailbox.SECURITY_HEADERS
            )
        if route == ("GET", "/_mailbox.json"):
            chunks = mailbox.json_chunks(
                self._state, _number(query.get("after", ["0"])[0]), with_bodies=query.get("bodies") != ["0"]
            )
            return Streamed(JSON, chunks, mailbox.SECURITY_HEADERS)
        if route == ("GET", "/_control/faults"):
            with self._state.changed:
                now = self._state.fault_tables
                # of an earlier table none is held any more, though its thread may not have woken yet
                held = {
                    service: count for (table, service), count in self._state.held.items() if count and table == now
                }
            return Response(200, JSON, json.dumps({"held": held}).encode())
        if request.method == "POST" and path in self._controls:
            return self._control(request, self._controls[path])
        return Response(404, "text/plain", b"not found")

    def _control(self, request: Request, read: Callable[[object], Record]) -> Response:
        # A page in a browser cannot send this content type to another origin without asking first, and we never allow.
        if request.headers.get("content-type", "").partition(";")[0].strip() != JSON:
            return Response(415, JSON, json.dumps({"error": f"send {JSON}"}).encode())
        try:
            record = read(json.loads(request.body))
        except ValueError:
            return Response(400, JSON, b'{"error": "the body is no JSON"}')
        except BadInput as error:
            return Response(400, JSON, json.dumps({"error": str(error)}).encode())
        with self._state.changed:
            self._state.commit(record)
        return Response(200, JSON, b"{}")


def _scripts_record(posted: object) -> Record:
    parse_scripts(posted)
    return {"record": "behaviours", "behaviours": posted}


def _faults_record(posted: object) -> Record:
    parse_faults(posted)
    return {"record": "faults", "faults": posted}


def _account_record(posted: object) -> Record:
    return {"record": "account", "limits": asdict(parse_limits(posted))}


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on.")
@click.option("--port", default=0, show_default=True, help="Port; 0 picks a free one.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Keep everything acknowledged here.")
@click.option(
    "--receipt-delay",
    default=RECEIPT_DELAY_SECONDS,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds from acceptance to the last event.",
)
def main(host: str, port: int, folder: Path | None, receipt_delay: float) -> None:
    """Play AWS on loopback until SIGTERM."""
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    sandbox = Sandbox(receipt_delay_seconds=receipt_delay)
    try:
        url = sandbox.start(host, port, folder)
    except TocsinError as error:
        click.echo(f"sandbox: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(json.dumps({"url": url}))
    sys.stdout.flush()
    ended.wait()
    try:
        sandbox.stop()
    except SandboxFault as fault:
        click.echo(f"sandbox: {fault}", err=True)
        sys.exit(1)
