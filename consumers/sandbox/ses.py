"""SES v2 as far as Tocsin uses it: sending, the suppression list, configuration sets, identities, the account.

What is played: https://docs.aws.amazon.com/ses/latest/APIReference-V2/. As in SES, template slots are filled unescaped,
a missing slot is accepted and reported as a rendering failure, and a hard bounce puts the address on the suppression
list, unless it is one of the mailbox simulator's, which use up no quota either. Unlike SES, a created identity is
verified at once, and a message has exactly one recipient. Rate and quota count recipients, not calls.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from email import message_from_bytes, policy
from email.utils import parseaddr
from typing import Any
from uuid import uuid4

from consumers.sandbox import events
from consumers.sandbox.events import FATES, Fate, Message, due_after
from consumers.sandbox.fates import Behaviour, is_simulated, recipient_key
from consumers.sandbox.journal import Record
from consumers.sandbox.limits import Limits
from consumers.sandbox.state import State, Suppression
from consumers.sandbox.texts import Text, UnknownExpression, slot_values, template
from consumers.sandbox.wire import AwsError, Call, Unanswered

MAX_BULK_ENTRIES = 50

_ADDRESS = re.compile(r"[^\s@<>,;\"()]+@[^\s@<>,;\"()]+\.[^\s@<>,;\"()]+")
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")


class SimpleEmailService:
    """The operations; each runs with the state's lock held and returns the answer's members."""

    def __init__(self, state: State, receipt_delay_seconds: float) -> None:
        self._state = state
        self._delay = timedelta(seconds=receipt_delay_seconds)

    def operations(self) -> dict[str, Callable[[Call], dict[str, Any]]]:
        """Return the handler of each operation by its name."""
        return {
            "SendEmail": self.send_email,
            "SendBulkEmail": self.send_bulk_email,
            "GetAccount": self.get_account,
            "PutSuppressedDestination": self.put_suppressed,
            "GetSuppressedDestination": self.get_suppressed,
            "ListSuppressedDestinations": self.list_suppressed,
            "DeleteSuppressedDestination": self.delete_suppressed,
            "CreateConfigurationSet": self.create_configuration_set,
            "GetConfigurationSet": self.get_configuration_set,
            "ListConfigurationSets": self.list_configuration_sets,
            "CreateConfigurationSetEventDestination": self.create_event_destination,
            "GetConfigurationSetEventDestinations": self.get_event_destinations,
            "CreateEmailIdentity": self.create_identity,
            "GetEmailIdentity": self.get_identity,
            "ListEmailIdentities": self.list_identities,
        }

    def send_bulk_email(self, call: Call) -> dict[str, Any]:
        """Accept, throttle or refuse each entry."""
        entries = call.params["BulkEmailEntries"]
        if not 0 < len(entries) <= MAX_BULK_ENTRIES:
            raise AwsError(
                "BadRequestException", f"a bulk call takes 1 to {MAX_BULK_ENTRIES} entries, not {len(entries)}"
            )
        sender = self._sender(call)
        content = call.params["DefaultContent"].get("Template", {})
        text = _template_text(content)
        defaults = content.get("TemplateData")
        default_tags = call.params.get("DefaultEmailTags", ())
        now = self._state.clock.now()
        results: list[dict[str, Any]] = []
        accepted: list[Message] = []
        throttled: list[Record] = []
        tries = Counter(self._state.throttled)
        allowance = _Allowance(self._state, now)
        self._lose_for(entries)
        for entry in entries:
            try:
                to = _only_recipient(entry["Destination"])
                tags = _tags([*default_tags, *entry.get("ReplacementTags", ())])
                replacement = entry.get("ReplacementEmailContent", {}).get("ReplacementTemplate", {})
                slots = slot_values(defaults, replacement.get("ReplacementTemplateData"))
            except ValueError as error:
                results.append({"Status": "INVALID_PARAMETER", "Error": str(error)})
                continue
            refusal = self._refusal(to) or allowance.take(to)
            if refusal is not None:
                results.append(refusal)
                continue
            message = self._message(call, sender, to, text, slots, tags, now, tries)
            if message is None:
                throttled.append({"record": "throttled", "to": recipient_key(to)})
                results.append(_THROTTLED)
            else:
                accepted.append(message)
                results.append({"Status": "SUCCESS", "MessageId": message.id})
        unanswered = [message for message in accepted if self._state.goes_unanswered(message.to, Behaviour.TIMEOUT)]
        self._state.commit(
            *self._state.message_records(text, accepted), *throttled, *_unanswered(each.to for each in unanswered)
        )
        if unanswered:
            raise Unanswered
        return {"BulkEmailEntryResults": results}

    def send_email(self, call: Call) -> dict[str, Any]:
        """Accept one mail: a simple, a raw or a template one."""
        sender = self._sender(call)
        content = call.params["Content"]
        if len(content) != 1:
            raise AwsError("BadRequestException", "Content needs exactly one of Simple, Raw and Template")
        values: dict[str, str] = {}
        try:
            to = _only_recipient(call.params.get("Destination", {}))
            tags = _tags(call.params.get("EmailTags", ()))
            if "Template" in content:
                text = _template_text(content["Template"])
                values = slot_values(content["Template"].get("TemplateData"))
            elif "Simple" in content:
                simple = content["Simple"]
                body = simple["Body"]
                text = Text(
                    simple["Subject"]["Data"], *(body.get(part, {}).get("Data", "") for part in ("Html", "Text"))
                )
            else:
                text = _raw_text(content["Raw"]["Data"])
        except ValueError as error:
            raise AwsError("BadRequestException", str(error)) from None
        now = self._state.clock.now()
        self._lose_for([call.params])
        refusal = self._refusal(to) or _Allowance(self._state, now).take(to)
        if refusal is not None:
            code = "MessageRejected" if refusal["Status"] == "MESSAGE_REJECTED" else "TooManyRequestsException"
            raise AwsError(code, refusal["Error"])
        message = self._message(call, sender, to, text, values, tags, now, Counter(self._state.throttled))
        if message is None:
            self._state.commit({"record": "throttled", "to": recipient_key(to)})
            raise AwsError("TooManyRequestsException", "Maximum sending rate exceeded.")
        taken = self._state.message_records(text, [message])
        if self._state.goes_unanswered(to, Behaviour.TIMEOUT):
            self._state.commit(*taken, *_unanswered([to]))
            raise Unanswered
        self._state.commit(*taken)
        return {"MessageId": message.id}

    def get_account(self, _call: Call) -> dict[str, Any]:
        """Return quotas and what was sent in the last 24 hours."""
        limits = self._state.limits
        return {
            "DedicatedIpAutoWarmupEnabled": False,
            "EnforcementStatus": limits.enforcement_status,
            "ProductionAccessEnabled": limits.production_access,
            "SendingEnabled": limits.sending_enabled,
            "SendQuota": {
                "Max24HourSend": limits.max_24_hour_send,
                "MaxSendRate": limits.max_send_rate,
                "SentLast24Hours": float(_counted_within(self._state, self._state.clock.now(), DAY)),
            },
            "SuppressionAttributes": {"SuppressedReasons": ["BOUNCE", "COMPLAINT"]},
        }

    def put_suppressed(self, call: Call) -> dict[str, Any]:
        """Put an address on the account's suppression list."""
        address = call.params["EmailAddress"]
        if not _ADDRESS.fullmatch(address):
            raise AwsError("BadRequestException", "EmailAddress is no e-mail address")
        at = self._state.clock.now().isoformat()
        self._state.commit({"record": "suppressed", "address": address, "reason": call.params["Reason"], "at": at})
        return {}

    def get_suppressed(self, call: Call) -> dict[str, Any]:
        """Return one entry of the suppression list."""
        return {"SuppressedDestination": self._suppression(call)}

    def list_suppressed(self, call: Call) -> dict[str, Any]:
        """Return a page of the suppression list, by address."""
        reasons = call.params.get("Reasons", ("BOUNCE", "COMPLAINT"))
        chosen = [entry for _, entry in sorted(self._state.suppressed.items()) if entry.reason in reasons]
        page, token = _page(chosen, call, "InvalidNextTokenException")
        summaries = [{"EmailAddress": e.address, "Reason": e.reason, "LastUpdateTime": e.at} for e in page]
        return {"SuppressedDestinationSummaries": summaries, **token}

    def delete_suppressed(self, call: Call) -> dict[str, Any]:
        """Take an address off the suppression list."""
        self._state.commit({"record": "unsuppressed", "address": self._suppression(call)["EmailAddress"]})
        return {}

    def create_configuration_set(self, call: Call) -> dict[str, Any]:
        """Create a configuration set; its options are kept and shown, and `SuppressionOptions` played."""
        name = call.params["ConfigurationSetName"]
        if not _TAG.fullmatch(name):
            raise AwsError("BadRequestException", "a configuration set's name has letters, digits, _ and - only")
        if name in self._state.configuration_sets:
            raise AwsError("AlreadyExistsException", f"Configuration set <{name}> already exists.")
        self._state.commit({"record": "configuration_set", "request": {**call.params}})
        return {}

    def get_configuration_set(self, call: Call) -> dict[str, Any]:
        """Return a configuration set as it was created."""
        name = self._known_set(call.params["ConfigurationSetName"])
        return dict(self._state.configuration_sets[name].request)

    def list_configuration_sets(self, call: Call) -> dict[str, Any]:
        """Return a page of names."""
        page, token = _page(sorted(self._state.configuration_sets), call, "BadRequestException")
        return {"ConfigurationSets": page, **token}

    def create_event_destination(self, call: Call) -> dict[str, Any]:
        """Send a configuration set's events to an SNS topic; SES publishes a test message there first, and so do we."""
        name = self._known_set(call.params["ConfigurationSetName"])
        destination = call.params["EventDestination"]
        label = call.params["EventDestinationName"]
        if label in self._state.configuration_sets[name].destinations:
            raise AwsError("AlreadyExistsException", f"Event destination <{label}> already exists.")
        if "SnsDestination" not in destination or not destination.get("MatchingEventTypes"):
            raise AwsError("BadRequestException", "the sandbox needs an SnsDestination and MatchingEventTypes")
        arn = destination["SnsDestination"]["TopicArn"]
        if arn not in self._state.topics:
            raise AwsError("BadRequestException", f"Could not publish to SNS topic <{arn}>")
        self._state.commit(
            {"record": "event_destination", "configuration_set": name, "name": label, "destination": destination},
            {
                "record": "published",
                "topic": arn,
                "id": str(uuid4()),
                "subject": events.SES_SUBJECT,
                "message": events.SES_TEST_MESSAGE,
                "at": self._state.clock.now().isoformat(),
            },
        )
        return {}

    def get_event_destinations(self, call: Call) -> dict[str, Any]:
        """Return where a configuration set's events go."""
        known = self._state.configuration_sets[self._known_set(call.params["ConfigurationSetName"])]
        return {"EventDestinations": [{"Name": name, **value} for name, value in known.destinations.items()]}

    def create_identity(self, call: Call) -> dict[str, Any]:
        """Create a domain or an address to send from; verified at once, as there is no DNS here."""
        name = call.params["EmailIdentity"].lower()
        if name in self._state.identities:
            raise AwsError("AlreadyExistsException", "Email identity already exists.")
        self._state.commit({"record": "identity", "name": name})
        return {"IdentityType": _identity_type(name), "VerifiedForSendingStatus": True}

    def get_identity(self, call: Call) -> dict[str, Any]:
        """Return a verified identity."""
        name = call.params["EmailIdentity"].lower()
        if name not in self._state.identities:
            raise AwsError("NotFoundException", "Email identity does not exist.")
        return {
            "IdentityType": _identity_type(name),
            "FeedbackForwardingStatus": False,
            "VerifiedForSendingStatus": True,
            "VerificationStatus": "SUCCESS",
        }

    def list_identities(self, call: Call) -> dict[str, Any]:
        """Return a page of identities, by name."""
        page, token = _page(sorted(self._state.identities), call, "BadRequestException")
        identities = [
            {
                "IdentityType": _identity_type(name),
                "IdentityName": name,
                "SendingEnabled": True,
                "VerificationStatus": "SUCCESS",
            }
            for name in page
        ]
        return {"EmailIdentities": identities, **token}

    def _sender(self, call: Call) -> str:
        """Return the bare From address. Raises what SES says of an unverified one or an unknown configuration set."""
        if self._state.limits.enforcement_status == "SHUTDOWN":
            raise AwsError("AccountSuspendedException", "The account is suspended and can't send email.")
        if not self._state.limits.sending_enabled:
            raise AwsError("SendingPausedException", "Email sending is disabled for the account.")
        sender = parseaddr(call.params.get("FromEmailAddress", ""))[1].lower()
        if not _ADDRESS.fullmatch(sender):
            raise AwsError("BadRequestException", "FromEmailAddress is no e-mail address")
        if not self._verified(sender):
            raise AwsError(
                "MessageRejected",
                "Email address is not verified. The following identities failed the check in region "
                f"{call.region.upper()}: {sender.rpartition('@')[2]}",
            )
        configuration_set = call.params.get("ConfigurationSetName")
        if configuration_set is not None:
            self._known_set(configuration_set)
        return sender

    def _verified(self, address: str) -> bool:
        labels = address.rpartition("@")[2].split(".")
        covering = {".".join(labels[n:]) for n in range(len(labels))} | {address}
        return bool(covering & self._state.identities)

    def _refusal(self, to: str) -> dict[str, Any] | None:
        """Return what the call says to this one recipient whom it refuses, for good or at every try."""
        behaviour = self._state.script(to).behaviour
        if behaviour is Behaviour.TRANSIENT:
            return {"Status": "TRANSIENT_FAILURE", "Error": "the sandbox has a temporary issue"}
        if behaviour is Behaviour.REFUSE:
            return {"Status": "MESSAGE_REJECTED", "Error": "the sandbox refuses this recipient"}
        if not (self._state.limits.production_access or self._verified(to.lower()) or is_simulated(to)):
            return {"Status": "MESSAGE_REJECTED", "Error": "Email address is not verified."}
        return None

    def _lose_for(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Take nothing and answer nothing if a recipient among `entries` has it so."""
        lost = [
            to
            for entry in entries
            for to in entry.get("Destination", {}).get("ToAddresses", ())
            if self._state.goes_unanswered(to, Behaviour.LOST)
        ]
        if lost:
            self._state.commit(*_unanswered(lost))
            raise Unanswered

    def _known_set(self, name: str) -> str:
        if name not in self._state.configuration_sets:
            raise AwsError("NotFoundException", f"Configuration set <{name}> does not exist.")
        return name

    def _message(
        self,
        call: Call,
        sender: str,
        to: str,
        text: Text,
        slots: Mapping[str, str],
        tags: Mapping[str, str],
        now: datetime,
        tries: Counter[str],
    ) -> Message | None:
        """Return the accepted message, or None if this try is throttled (counted in `tries`)."""
        script = self._state.script(to)
        if script.behaviour is Behaviour.THROTTLE and tries[recipient_key(to)] < script.times:
            tries[recipient_key(to)] += 1
            return None
        missing = text.missing(slots)
        if missing is not None:
            fate = Fate.RENDERING_FAILED
        elif (listed := self._suppressed(to, call.params.get("ConfigurationSetName"))) is not None:
            fate = Fate.SUPPRESSED if listed.reason == "BOUNCE" else Fate.SUPPRESSED_COMPLAINT
        else:
            fate = FATES.get(script.behaviour, Fate.DELIVERED)
        return Message(
            id=f"{int(now.timestamp() * 1000):016x}-{uuid4()}-000000",
            channel="email",
            to=to,
            sender=sender,
            reply_to=tuple(call.params.get("ReplyToAddresses", ())),
            text_sha256=text.sha256,
            slots=slots,
            tags=tags,
            configuration_set=call.params.get("ConfigurationSetName"),
            region=call.region,
            received_at=now,
            due_at=now + due_after(fate, self._delay),
            behaviour=script.behaviour,
            fate=fate,
            missing_slot=missing,
        )

    def _suppressed(self, to: str, configuration_set: str | None) -> Suppression | None:
        """Return why an address is not sent to: the configuration set's reasons override the account's, which are both."""
        listed = self._state.suppressed.get(to.lower())
        known = None if configuration_set is None else self._state.configuration_sets.get(configuration_set)
        options = {} if known is None else known.request.get("SuppressionOptions", {})
        if listed is None or listed.reason not in options.get("SuppressedReasons", (listed.reason,)):
            return None
        return listed

    def _suppression(self, call: Call) -> dict[str, Any]:
        entry = self._state.suppressed.get(call.params["EmailAddress"].lower())
        if entry is None:
            raise AwsError("NotFoundException", "Email address does not exist on your suppression list.")
        return {"EmailAddress": entry.address, "Reason": entry.reason, "LastUpdateTime": entry.at}


DAY = timedelta(hours=24)
_THROTTLED = {"Status": "ACCOUNT_THROTTLED", "Error": "Maximum sending rate exceeded."}


class _Allowance:
    """How many more recipients the account's rate and its 24-hour quota let through at `now`."""

    def __init__(self, state: State, now: datetime) -> None:
        limits = state.limits
        usual = Limits()
        # Counting what was sent costs time; limits that nobody set are never met.
        self._rate = (
            limits.max_send_rate - _sent_within(state, now, timedelta(seconds=1))
            if limits.max_send_rate < usual.max_send_rate
            else usual.max_send_rate
        )
        self._quota = (
            limits.max_24_hour_send - _counted_within(state, now, DAY)
            if limits.max_24_hour_send < usual.max_24_hour_send
            else usual.max_24_hour_send
        )

    def take(self, to: str) -> dict[str, Any] | None:
        """Let one more through, or return what the call says instead. The mailbox simulator uses up no quota."""
        counts = not is_simulated(to)
        if counts and self._quota < 1:
            return {"Status": "ACCOUNT_DAILY_QUOTA_EXCEEDED", "Error": "Daily message quota exceeded."}
        if self._rate < 1:
            return _THROTTLED
        self._rate -= 1
        self._quota -= counts
        return None


def _sent_within(state: State, now: datetime, window: timedelta) -> int:
    """Return how many e-mails were accepted within `window` before `now`."""
    return sum(1 for _ in _emails_within(state, now, window))


def _counted_within(state: State, now: datetime, window: timedelta) -> int:
    """Return how many of them the quota counts: all but those to the mailbox simulator."""
    return sum(not is_simulated(message.to) for message in _emails_within(state, now, window))


def _emails_within(state: State, now: datetime, window: timedelta) -> Iterable[Message]:
    for message in reversed(state.messages):
        # they are kept in order of time
        if message.received_at <= now - window:
            return
        if message.channel == "email":
            yield message


def _unanswered(recipients: Iterable[str]) -> list[Record]:
    return [{"record": "unanswered", "to": recipient_key(to)} for to in recipients]


def _identity_type(name: str) -> str:
    return "EMAIL_ADDRESS" if "@" in name else "DOMAIN"


def _only_recipient(destination: Mapping[str, Any]) -> str:
    recipients = [
        address for kind in ("ToAddresses", "CcAddresses", "BccAddresses") for address in destination.get(kind, ())
    ]
    if len(recipients) != 1 or len(destination.get("ToAddresses", ())) != 1:
        raise ValueError("the sandbox takes exactly one recipient, in ToAddresses")
    address = parseaddr(recipients[0])[1] if "<" in recipients[0] else recipients[0].strip()
    if not _ADDRESS.fullmatch(address):
        raise ValueError("Illegal address")
    return address


def _tags(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    for tag in tags:
        if not (_TAG.fullmatch(tag["Name"]) and _TAG.fullmatch(tag["Value"])):
            raise ValueError("tags have letters, digits, _ and - only, at most 256")
    return {tag["Name"]: tag["Value"] for tag in tags}


def _template_text(content: Mapping[str, Any]) -> Text:
    inline = content.get("TemplateContent")
    if inline is None:
        raise AwsError("BadRequestException", "the sandbox keeps no templates; send TemplateContent")
    if "Subject" not in inline or not ("Html" in inline or "Text" in inline):
        raise AwsError("BadRequestException", "TemplateContent needs a Subject and an Html or a Text part")
    try:
        return template(inline["Subject"], inline.get("Html", ""), inline.get("Text", ""))
    except UnknownExpression as error:
        raise AwsError("BadRequestException", str(error)) from None


def _raw_text(raw: bytes) -> Text:
    mail = message_from_bytes(raw, policy=policy.default)
    parts = {kind: mail.get_body(preferencelist=(kind,)) for kind in ("html", "plain")}
    html, plain = (part.get_content() if part is not None else "" for part in parts.values())
    return Text(str(mail.get("Subject", "")), html, plain)


def _page(items: Sequence[Any], call: Call, error: str) -> tuple[list[Any], dict[str, str]]:
    """Return one page and the token of the next; a token is a position."""
    size = call.params.get("PageSize", 1000)
    token = call.params.get("NextToken", "0")
    if not token.isdecimal() or int(token) > len(items):
        raise AwsError(error, "The specified token is invalid.")
    start = int(token)
    end = start + size
    return list(items[start:end]), {"NextToken": str(end)} if end < len(items) else {}
