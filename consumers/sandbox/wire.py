"""The wire protocols of the AWS services that the sandbox plays, read from the service models that botocore ships.

`read` turns an HTTP request into a `Call` with validated parameters, `answer` and `refusal` turn a result or an
`AwsError` back into an HTTP response. Both directions are held against botocore's model: an invalid request is answered
as AWS answers it, an invalid answer is our own bug and raises `InvalidAnswer`. No state and no meaning of any call here.

Protocols: REST-JSON (SES v2), JSON (SQS 1.0, CloudWatch Logs 1.1) and Query with XML answers (SNS, STS), as
https://smithy.io/2.0/aws/protocols/index.html describes them. Credentials are not checked; the scope of the
`Authorization` header says which service and region is meant.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit
from uuid import uuid4
from xml.etree import ElementTree  # only writes here, never parses

import botocore.session
from botocore.validate import ParamValidator

SERVICES = {"ses": "sesv2", "sns": "sns", "sqs": "sqs", "sts": "sts", "logs": "logs"}
"""Signing name in the credential scope -> botocore's service name."""

COMMON_ERRORS = frozenset(
    {
        "AccessDeniedException",
        "InternalFailure",
        "InvalidAction",
        "MissingAuthenticationToken",
        "NotImplemented",
        "SerializationException",
        "Throttling",
        "UnknownOperationException",
        "ValidationError",
        "ValidationException",
    }
)
"""Errors that every service may answer and that no operation's model lists."""

QUERY_ERROR_CODES = {"QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue"}
"""What SQS adds in `x-amzn-query-error` for clients that know its older protocol."""

_SCOPE = re.compile(r"Credential=[^/]*/\d{8}/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)/aws4_request")


class InvalidAnswer(Exception):
    """The sandbox was about to say something that AWS never says: a bug of ours."""


class Unanswered(Exception):
    """The caller gets no answer; its connection ends."""


class AwsError(Exception):
    """An error as an AWS service answers it. `code` is the name in the operation's model, or one of `COMMON_ERRORS`.

    `operation` is given where the call could not be read to its end.
    """

    def __init__(self, code: str, message: str, status: int = 400, operation: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.operation = operation


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as it came. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    base_url: str
    """Scheme, host and port by which the caller reached us."""


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """A request for one operation of one service."""

    service: str
    operation: str
    region: str
    base_url: str
    params: Mapping[str, Any] = field(repr=False)


class Wire:
    """Reads and writes the services' protocols."""

    def __init__(self) -> None:
        session = botocore.session.Session()
        self._models = {name: session.get_service_model(name) for name in SERVICES.values()}
        self._validator = ParamValidator()
        self._routes = [
            (operation, model.http["method"], _uri_pattern(model.http["requestUri"]))
            for operation in self._models["sesv2"].operation_names
            for model in [self._models["sesv2"].operation_model(operation)]
        ]

    def read(self, request: Request) -> Call:
        """Return what is asked. Raises AwsError for what no service or no model knows."""
        service, region = self.addressee(request)
        protocol = self._models[service].metadata["protocol"]
        if protocol == "rest-json":
            operation, params = self._read_rest_json(service, request)
        elif protocol == "json":
            operation, params = self._read_json(service, request)
        else:
            operation, params = self._read_query(service, request)
        shape = self._models[service].operation_model(operation).input_shape
        faults = self._faults(params, shape) if shape is not None else ""
        if faults:
            raise AwsError(_validation_error(service), faults, operation=operation)
        return Call(service, operation, region, request.base_url, params)

    def addressee(self, request: Request) -> tuple[str, str]:
        """Return (botocore's service name, region) from the signature's scope."""
        scope = _SCOPE.search(request.headers.get("authorization", ""))
        if scope is None:
            raise AwsError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
        service = SERVICES.get(scope["service"])
        if service is None:
            known = ", ".join(sorted(SERVICES))
            raise AwsError("NotImplemented", f"the sandbox does not play {scope['service']}; it plays {known}", 501)
        return service, scope["region"]

    def answer(self, call: Call, result: Mapping[str, Any]) -> Response:
        """Return `result` as the service writes it. Raises InvalidAnswer if its model does not allow it."""
        operation = self._models[call.service].operation_model(call.operation)
        shape = operation.output_shape
        faults = self._faults(result, shape) if shape is not None else ("unexpected result" if result else "")
        if faults:
            raise InvalidAnswer(f"{call.service} {call.operation}: {faults}")
        protocol = self._models[call.service].metadata["protocol"]
        if protocol != "query":
            return Response(
                200, self._json_type(call.service), json.dumps(result, default=_json_scalar).encode(), _request_id()
            )
        root = ElementTree.Element(
            f"{call.operation}Response", xmlns=self._models[call.service].metadata["xmlNamespace"]
        )
        if shape is not None:
            _write_xml(ElementTree.SubElement(root, f"{call.operation}Result"), result, shape)
        headers = _request_id()
        metadata = ElementTree.SubElement(root, "ResponseMetadata")
        ElementTree.SubElement(metadata, "RequestId").text = headers["x-amzn-requestid"]
        return Response(200, "text/xml", ElementTree.tostring(root, "utf-8", xml_declaration=True), headers)

    def refusal(self, service: str, operation: str | None, error: AwsError) -> Response:
        """Return `error` as the service writes it. Raises InvalidAnswer for a code that the operation never answers."""
        code, status = error.code, error.status
        operation = operation or error.operation
        if code not in COMMON_ERRORS:
            if operation is None:
                raise InvalidAnswer(f"{service}: {code} without an operation")
            shapes = {shape.name: shape for shape in self._models[service].operation_model(operation).error_shapes}
            if code not in shapes:
                raise InvalidAnswer(f"{service} {operation}: the model lists no error {code}")
            declared = shapes[code].metadata.get("error", {})
            status = declared.get("httpStatusCode", status)
            code = declared.get("code", code)
        headers = _request_id()
        protocol = self._models[service].metadata["protocol"]
        if protocol == "query":
            root = ElementTree.Element("ErrorResponse", xmlns=self._models[service].metadata["xmlNamespace"])
            fault = ElementTree.SubElement(root, "Error")
            ElementTree.SubElement(fault, "Type").text = "Sender" if status < 500 else "Receiver"
            ElementTree.SubElement(fault, "Code").text = code
            ElementTree.SubElement(fault, "Message").text = error.message
            ElementTree.SubElement(root, "RequestId").text = headers["x-amzn-requestid"]
            return Response(status, "text/xml", ElementTree.tostring(root, "utf-8", xml_declaration=True), headers)
        if protocol == "json":
            if code in QUERY_ERROR_CODES:
                headers["x-amzn-query-error"] = f"{QUERY_ERROR_CODES[code]};Sender"
            body = json.dumps({"__type": f"com.amazonaws.{service}#{code}", "message": error.message}).encode()
            return Response(status, self._json_type(service), body, headers)
        headers["x-amzn-errortype"] = code
        return Response(status, "application/json", json.dumps({"message": error.message}).encode(), headers)

    def _json_type(self, service: str) -> str:
        metadata = self._models[service].metadata
        rest = metadata["protocol"] == "rest-json"
        return "application/json" if rest else f"application/x-amz-json-{metadata['jsonVersion']}"

    def _read_rest_json(self, service: str, request: Request) -> tuple[str, dict[str, Any]]:
        url = urlsplit(request.target)
        operation, found = self._route(request.method, url.path)
        shape = self._models[service].operation_model(operation).input_shape
        params: dict[str, Any] = {}
        if shape is None:
            return operation, params
        query = parse_qs(url.query, keep_blank_values=True)
        in_body = _json_object(request.body) if request.body else {}
        for name, member in shape.members.items():
            place, key = member.serialization.get("location"), member.serialization.get("name", name)
            if place == "uri":
                params[name] = unquote(found[key])
            elif place == "querystring" and key in query:
                params[name] = _from_query(query[key], member)
            elif place is None and key in in_body:
                params[name] = _from_json(in_body.pop(key), member)
        return operation, params | in_body

    def _route(self, method: str, path: str) -> tuple[str, re.Match[str]]:
        for operation, wanted, pattern in self._routes:
            found = pattern.fullmatch(path) if method == wanted else None
            if found:
                return operation, found
        raise AwsError("UnknownOperationException", f"no operation {method} {path}", 404)

    def _read_json(self, service: str, request: Request) -> tuple[str, dict[str, Any]]:
        prefix, _, operation = request.headers.get("x-amz-target", "").partition(".")
        model = self._models[service]
        if prefix != model.metadata["targetPrefix"] or operation not in model.operation_names:
            raise AwsError("UnknownOperationException", "x-amz-target names no operation", 404)
        return operation, _from_json(_json_object(request.body), model.operation_model(operation).input_shape)

    def _read_query(self, service: str, request: Request) -> tuple[str, dict[str, Any]]:
        model = self._models[service]
        try:
            flat = dict(parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True))
        except ValueError:
            raise AwsError("InvalidAction", "the body is no form") from None
        operation = flat.pop("Action", "")
        version = flat.pop("Version", "")
        if operation not in model.operation_names or version != model.metadata["apiVersion"]:
            raise AwsError("InvalidAction", f"Could not find operation {operation} for version {version}")
        shape = model.operation_model(operation).input_shape
        params = _from_form(flat, "", shape) if shape is not None else {}
        return operation, params or {}

    def _faults(self, value: Mapping[str, Any], shape: Any) -> str:
        report: str = self._validator.validate(value, shape).generate_report()
        if report:
            return report
        return "; ".join(_constraint_faults(value, shape, ""))


def _validation_error(service: str) -> str:
    return {"sesv2": "BadRequestException", "sqs": "ValidationException"}.get(service, "ValidationError")


def _request_id() -> dict[str, str]:
    return {"x-amzn-requestid": str(uuid4())}


def _uri_pattern(uri: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", uri.rstrip("/") or "/")
    return re.compile("".join(re.escape(part) if n % 2 == 0 else f"(?P<{part}>[^/]+)" for n, part in enumerate(parts)))


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        raise AwsError("SerializationException", "the body is no JSON") from None
    if not isinstance(value, dict):
        raise AwsError("SerializationException", "the body is no JSON object")
    return value


def _from_json(value: Any, shape: Any) -> Any:
    """Return `value` with blobs decoded; what does not fit the shape is left for validation to name."""
    if shape.type_name == "structure" and isinstance(value, dict):
        return {
            key: _from_json(item, shape.members[key]) if key in shape.members else item for key, item in value.items()
        }
    if shape.type_name == "list" and isinstance(value, list):
        return [_from_json(item, shape.member) for item in value]
    if shape.type_name == "map" and isinstance(value, dict):
        return {key: _from_json(item, shape.value) for key, item in value.items()}
    if shape.type_name == "blob" and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            raise AwsError("SerializationException", "a blob is no base64") from None
    return value


def _from_query(values: list[str], shape: Any) -> Any:
    return (
        [_scalar(value, shape.member) for value in values] if shape.type_name == "list" else _scalar(values[0], shape)
    )


def _scalar(text: str, shape: Any) -> Any:
    try:
        if shape.type_name in ("integer", "long"):
            return int(text)
        if shape.type_name in ("float", "double"):
            return float(text)
        if shape.type_name == "blob":
            return base64.b64decode(text, validate=True)
    except ValueError:
        raise AwsError("SerializationException", f"{text!r} is no {shape.type_name}") from None
    if shape.type_name == "boolean":
        return {"true": True, "false": False}.get(text, text)
    return text


def _from_form(flat: Mapping[str, str], prefix: str, shape: Any) -> Any:
    """Return the value at `prefix` of a flattened form, or None if it holds none."""
    if shape.type_name == "structure":
        members = {
            name: _from_form(flat, f"{prefix}.{key}" if prefix else key, member)
            for name, member in shape.members.items()
            for key in [member.serialization.get("name", name)]
        }
        return {name: value for name, value in members.items() if value is not None} or None
    if shape.type_name in ("list", "map"):
        if flat.get(prefix) == "":
            return [] if shape.type_name == "list" else {}
        step = "member" if shape.type_name == "list" else "entry"
        path = prefix if shape.serialization.get("flattened") else f"{prefix}.{step}"
        if shape.type_name == "list":
            items: list[Any] = []
            while (item := _from_form(flat, f"{path}.{len(items) + 1}", shape.member)) is not None:
                items.append(item)
            return items or None
        entries: dict[str, Any] = {}
        key_name, value_name = (
            shape.key.serialization.get("name", "key"),
            shape.value.serialization.get("name", "value"),
        )
        while (key := flat.get(f"{path}.{len(entries) + 1}.{key_name}")) is not None:
            entries[key] = _from_form(flat, f"{path}.{len(entries) + 1}.{value_name}", shape.value)
        return entries or None
    return _scalar(flat[prefix], shape) if prefix in flat else None


def _constraint_faults(value: Any, shape: Any, path: str) -> list[str]:
    """Return what botocore's own validator leaves unchecked: enumerations and upper bounds of length."""
    if shape.type_name == "structure":
        return [
            fault
            for key, item in value.items()
            for fault in _constraint_faults(item, shape.members[key], f"{path}.{key}")
        ]
    if shape.type_name == "list":
        faults = [
            fault for n, item in enumerate(value) for fault in _constraint_faults(item, shape.member, f"{path}[{n}]")
        ]
    elif shape.type_name == "map":
        faults = [
            fault for key, item in value.items() for fault in _constraint_faults(item, shape.value, f"{path}.{key}")
        ]
    else:
        faults = []
        if shape.type_name == "string" and shape.enum and value not in shape.enum:
            faults.append(f"{path.lstrip('.')}: not one of {', '.join(shape.enum)}")
    if shape.type_name in ("string", "list", "map") and len(value) > shape.metadata.get("max", len(value)):
        faults.append(f"{path.lstrip('.')}: longer than {shape.metadata['max']}")
    return faults


def _json_scalar(value: object) -> float:
    if isinstance(value, datetime):
        return value.timestamp()
    raise InvalidAnswer(f"cannot write a {type(value).__name__} as JSON")


def _write_xml(node: ElementTree.Element, value: Any, shape: Any) -> None:
    if shape.type_name == "structure":
        for name, item in value.items():
            member = shape.members[name]
            _write_xml(ElementTree.SubElement(node, member.serialization.get("name", name)), item, member)
    elif shape.type_name == "list":
        for item in value:
            _write_xml(
                ElementTree.SubElement(node, shape.member.serialization.get("name", "member")), item, shape.member
            )
    elif shape.type_name == "map":
        for key, item in value.items():
            entry = ElementTree.SubElement(node, "entry")
            ElementTree.SubElement(entry, shape.key.serialization.get("name", "key")).text = key
            _write_xml(ElementTree.SubElement(entry, shape.value.serialization.get("name", "value")), item, shape.value)
    elif shape.type_name == "boolean":
        node.text = "true" if value else "false"
    else:
        node.text = str(value)
