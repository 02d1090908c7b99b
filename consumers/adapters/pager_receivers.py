"""Where pages go: Alertmanager, a webhook (our own signed one, PagerDuty, Opsgenie, Slack), or an e-mail as last resort.

What leaves here is a line, counts, the earliest deadline and the command to type: no personal data. Each service knows a
page by its key, so that a repeat is no second one there, and an acknowledged page is resolved there, too.

Sources: Alertmanager API v2 (`/api/v2/alerts`), Standard Webhooks 1.0.0, PagerDuty Events API v2, Opsgenie Alert API,
Slack incoming webhooks.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import urllib3

from bridge.contracts.errors import BadInput, Refused, Unreachable
from consumers.adapters.aws import AwsConfig, client, unreachable
from consumers.case.events import written
from consumers.case.webhooks import Secrets, key_of
from consumers.domain.paging import ReceiverKind, StandingPage, counts, summary

_STANDS_FOR = timedelta(hours=12)
"""How long Alertmanager keeps an alert of which it hears nothing more: longer than a pager stays down unnoticed."""


class Post(Protocol):
    """Posts JSON; a seam for what differs between services."""

    def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> None: ...


def post_json(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """POST `body`. Raises Unreachable when nobody answers within ten seconds, or with a status that may pass (429, 5xx);
    Refused with any other status that is not 2xx. Neither shows the path, which may hold a secret.
    """
    where = urlsplit(url).hostname or "?"
    try:
        answer = _POOL.request(
            "POST", url, body=body, headers={"Content-Type": "application/json", "User-Agent": "tocsin", **headers}
        )
    except urllib3.exceptions.HTTPError as error:
        raise Unreachable(f"{where} does not answer: {type(error).__name__}") from None
    if 200 <= answer.status < 300:
        return
    if answer.status == 429 or answer.status >= 500:
        raise Unreachable(f"{where} answers {answer.status}")
    raise Refused(f"{where} answers {answer.status}; look at the address and the secret in [pager]")


_POOL = urllib3.PoolManager(
    timeout=urllib3.Timeout(connect=5, read=10), retries=False, cert_reqs="CERT_REQUIRED", num_pools=8
)


class Alertmanager:
    """A page is an alert named TocsinPage that stands until somebody acknowledges it; routes and repeats are its own."""

    kind = ReceiverKind.ALERTMANAGER

    def __init__(self, name: str, base_url: str, post: Post = post_json) -> None:
        self.name = name
        self._url = base_url.rstrip("/") + "/api/v2/alerts"
        self._post = post

    def deliver(self, page: StandingPage, *, escalated: bool, now: datetime) -> None:
        """Tell of `page`, or that it is settled. Raises Unreachable or Refused."""
        labels = {
            "alertname": "TocsinPage",
            "severity": page.severity,
            "kind": page.kind,
            "page": page.page_id,
            "escalated": str(escalated).lower(),
        }
        if page.incident_id is not None:
            labels["incident"] = page.incident_id
        if page.exercise:
            labels["exercise"] = "true"
        alert = {
            "labels": labels,
            "annotations": {
                "summary": summary(page, now),
                "description": page.next_command or "tocsin incident list",
                "runbook_url": "deploy/runbooks/TocsinPage.md",
            },
            "startsAt": written(page.raised_at),
            "endsAt": written(now if page.settled else now + _STANDS_FOR),
        }
        alerts = [alert]
        if escalated or page.settled:
            # the label is part of an alert's identity: the one that was not escalated yet ends
            twin = {**labels, "escalated": str(not escalated).lower()}
            alerts.append({**alert, "labels": twin, "endsAt": written(now)})
        self._post(self._url, json.dumps(alerts).encode(), {})


class Webhook:
    """A service that wakes people: told at once, again until somebody acknowledges, and that it is over."""

    def __init__(self, kind: ReceiverKind, url: str, service: str, secret: str | None, post: Post = post_json) -> None:
        self.kind = kind
        self.name = kind.value
        self._url = url
        self._secret = secret or ""
        key = key_of(self._secret) if service == "generic" else b""
        if key is None:
            raise BadInput(f"pager.{kind.value}.secret is not whsec_ and base64 of at least 24 bytes")
        self._signer = Secrets((key,))
        self._wrap = {
            "generic": self._generic,
            "pagerduty": self._pagerduty,
            "opsgenie": self._opsgenie,
            "slack": self._slack,
        }[service]
        self._post = post

    def deliver(self, page: StandingPage, *, escalated: bool, now: datetime) -> None:
        """Tell of `page`, or that it is settled. Raises Unreachable or Refused."""
        url, body, headers = self._wrap(page, escalated, now)
        self._post(url, body, headers)

    def _generic(self, page: StandingPage, escalated: bool, now: datetime) -> tuple[str, bytes, Mapping[str, str]]:
        body = json.dumps(
            {
                "type": "page.settled" if page.settled else "page.raised",
                "timestamp": written(now),
                "data": {**_data(page, now), "escalated": escalated},
            }
        ).encode()
        return self._url, body, self._signer.sign(f"{page.page_id}/{now.timestamp():.0f}", now, body)

    def _pagerduty(self, page: StandingPage, escalated: bool, now: datetime) -> tuple[str, bytes, Mapping[str, str]]:
        body: dict[str, Any] = {
            "routing_key": self._secret,
            "event_action": "resolve" if page.settled else "trigger",
            "dedup_key": page.page_id,
        }
        if not page.settled:
            body["payload"] = {
                "summary": summary(page, now)[:1024],
                "source": "tocsin",
                "severity": "critical" if page.severity == "critical" else "warning",
                "timestamp": written(page.raised_at),
                "class": page.kind,
                "custom_details": {**_data(page, now), "escalated": escalated},
            }
        return self._url, json.dumps(body).encode(), {}

    def _opsgenie(self, page: StandingPage, escalated: bool, now: datetime) -> tuple[str, bytes, Mapping[str, str]]:
        headers = {"Authorization": f"GenieKey {self._secret}"}
        if page.settled:
            closing = f"{self._url.rstrip('/')}/{quote(page.page_id, safe='')}/close?identifierType=alias"
            return closing, json.dumps({"source": "tocsin"}).encode(), headers
        body = {
            "message": summary(page, now)[:130],
            "alias": page.page_id,
            "description": page.next_command or "",
            "priority": "P1" if page.severity == "critical" else "P3",
            "source": "tocsin",
            "tags": ["escalated"] if escalated else [],
            "details": {name: str(value) for name, value in _data(page, now).items()},
        }
        return self._url, json.dumps(body).encode(), headers

    def _slack(self, page: StandingPage, escalated: bool, now: datetime) -> tuple[str, bytes, Mapping[str, str]]:
        if page.settled:
            text = f":white_check_mark: Acknowledged: {summary(page, now)}"
        else:
            mark = ":rotating_light:" if page.severity == "critical" else ":warning:"
            text = f"{mark} {'Nobody has acknowledged: ' if escalated else ''}{summary(page, now)}"
            text += f"\n`{page.next_command}`" if page.next_command else ""
        return self._url, json.dumps({"text": text}).encode(), {}


class LastResortEmail:
    """An e-mail to the on-call list, when nothing else took a page."""

    kind = ReceiverKind.LAST_RESORT
    name = ReceiverKind.LAST_RESORT.value

    def __init__(self, config: AwsConfig, from_address: str, to: tuple[str, ...]) -> None:
        self._ses = client(config, "sesv2", may_repeat=False)
        self._from = from_address
        self._to = to

    def deliver(self, page: StandingPage, *, escalated: bool, now: datetime) -> None:
        """Send it to everybody on the list, each by a mail of their own. Raises Unreachable."""
        what = "Acknowledged" if page.settled else "Nobody has acknowledged" if escalated else "Page"
        text = "\n\n".join(
            [
                summary(page, now),
                f"Next: {page.next_command}" if page.next_command else "",
                "No other receiver took this.",
            ]
        )
        for address in self._to:
            with unreachable("SES"):
                self._ses.send_email(
                    FromEmailAddress=self._from,
                    Destination={"ToAddresses": [address]},
                    Content={
                        "Simple": {
                            "Subject": {
                                "Data": f"[tocsin] {what}: {page.incident_id or page.kind}",
                                "Charset": "UTF-8",
                            },
                            "Body": {"Text": {"Data": text, "Charset": "UTF-8"}},
                        }
                    },
                )


def _data(page: StandingPage, now: datetime) -> dict[str, Any]:
    return {
        "page": page.page_id,
        "incident": page.incident_id,
        "kind": page.kind,
        "severity": page.severity,
        "summary": summary(page, now),
        "exercise": page.exercise,
        "raised_at": written(page.raised_at),
        "earliest_deadline_at": None if page.deadline_at is None else written(page.deadline_at),
        "next": page.next_command,
        **counts(page),
    }
