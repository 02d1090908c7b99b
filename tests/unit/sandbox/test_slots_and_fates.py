"""Slots filled as SES fills them, and fates that depend on the recipient alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput
from consumers.domain.simulators import (
    SIMULATED_PHONE,
    SIMULATED_PHONE_FAILING,
    MailboxScenario,
    is_simulated_email,
    simulated_email,
)
from consumers.sandbox.events import SES_EVENTS, SMS_STATUS, Fate
from consumers.sandbox.fates import Behaviour, Script, parse_scripts, script_for
from consumers.sandbox.mailbox import OUTCOMES
from consumers.sandbox.texts import Text, UnknownExpression, slot_values, template


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), st.text(), min_size=1))
def test_values_go_in_raw_and_are_not_read_again(values: dict[str, str]) -> None:
    source = "|".join(f"{{{{ {name} }}}}" for name in values)
    assert template("s", "", source).filled(values).text == "|".join(values.values())


def test_the_first_missing_slot_is_named() -> None:
    text = template("{{a}}", "{{b}}", "{{c}}")
    assert (text.missing({"b": "x"}), text.missing({"a": "", "b": "", "c": ""})) == ("a", None)
    assert Text("s", "{{x}}", "").missing({}) is None


@pytest.mark.parametrize("source", ["{{#if a}}", "{{{a}}}", "{{a.b}}", "{{> p}}", "{{!c}}", r"\{{a}}", "{{a", "{{}}"])
def test_every_other_expression_is_refused(source: str) -> None:
    with pytest.raises(UnknownExpression):
        template("s", source, "")


def test_slot_values_are_scalars_and_later_ones_win() -> None:
    assert slot_values('{"a": 1, "b": true}', None, '{"a": "x"}') == {"a": "x", "b": "true"}
    for document in ("[]", '{"a": null}', '{"a": []}', "{"):
        with pytest.raises(ValueError, match=r".+"):
            slot_values(document)


@pytest.mark.parametrize(
    ("recipient", "script"),
    [
        ("ann@x.example", Script(Behaviour.DELIVERED)),
        ("ann+news@x.example", Script(Behaviour.DELIVERED)),
        ("ann+bounce@x.example", Script(Behaviour.BOUNCE)),
        ("Ann+Throttle3@x.example", Script(Behaviour.THROTTLE, 3)),
        ("ann+throttle@x.example", Script(Behaviour.THROTTLE, 2)),
        ("+4915100000001", Script(Behaviour.BOUNCE)),
        ("cy+bounce@x.example", Script(Behaviour.DELIVERED)),
        ("success+bounce@simulator.amazonses.com", Script(Behaviour.DELIVERED)),
        ("ooto@x.example", Script(Behaviour.DELIVERED)),
    ],
)
def test_fates(recipient: str, script: Script) -> None:
    posted = parse_scripts({"+4915100000001": "bounce", "CY+bounce@x.example": {"behaviour": "delivered"}})
    assert script_for(recipient, posted) == script


def test_the_sandbox_knows_every_simulated_destination_with_and_without_a_label() -> None:
    played = {scenario: script_for(simulated_email(scenario), {}).behaviour for scenario in MailboxScenario}
    assert played == {
        MailboxScenario.SUCCESS: Behaviour.DELIVERED,
        MailboxScenario.BOUNCE: Behaviour.BOUNCE,
        MailboxScenario.OUT_OF_OFFICE: Behaviour.OOTO,
        MailboxScenario.COMPLAINT: Behaviour.COMPLAINT,
        MailboxScenario.SUPPRESSED: Behaviour.SUPPRESSED,
    }
    for scenario, behaviour in played.items():
        labelled = simulated_email(scenario, "check-1").upper()
        assert script_for(labelled, {}).behaviour is behaviour
        assert is_simulated_email(labelled)
    assert not is_simulated_email("simulator.amazonses.com@x.example")
    assert script_for(SIMULATED_PHONE, {}).behaviour is Behaviour.DELIVERED
    assert script_for(SIMULATED_PHONE_FAILING, {}).behaviour is Behaviour.BOUNCE


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("bonce", "did you mean 'bounce'"),
        ({"behaviour": "throttle", "time": 1}, "did you mean 'times'"),
        ({"behaviour": "throttle", "times": -1}, "whole number"),
        ({"behaviour": "throttle", "times": True}, "whole number"),
        ({"behaviour": "bounce", "times": 1}, "goes with throttle"),
        (3, "expected a behaviour"),
    ],
)
def test_bad_scripts_are_refused_without_naming_anybody(value: object, error: str) -> None:
    with pytest.raises(BadInput, match=error) as refusal:
        parse_scripts({"ann@x.example": value})
    assert "ann" not in str(refusal.value)


def test_the_mailbox_has_a_word_for_whatever_may_become_of_a_message() -> None:
    met = {("email", fate) for fate in SES_EVENTS} | {("sms", fate) for fate in (*SMS_STATUS, Fate.SILENT)}
    assert met - OUTCOMES.keys() == set()
