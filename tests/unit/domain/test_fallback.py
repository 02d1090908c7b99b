"""The channel policy of a segment: what counsel writes, what is stored, and what is said of a mistake."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput
from bridge.contracts.events import Channel
from consumers.domain.fallback import Fallback, fallback_of
from consumers.domain.segments import parse_policy

RULE = {"name": "rest", "bundle": "b", "lane": "standard", "priority": 50}


def parsed(**fields: Any) -> Fallback:
    return parse_policy({"rules": [{**RULE, **fields}]}).rules[0].fallback


def test_a_plain_list_is_one_channel_after_another_and_stored_as_ever() -> None:
    policy = parsed(channels=["email", "sms"])
    assert policy.steps == ((Channel.EMAIL,), (Channel.SMS,))
    assert policy.as_json() == {"channels": ["email", "sms"]}


def test_a_list_in_the_list_begins_together_and_each_channel_may_have_its_own_time() -> None:
    policy = parsed(
        channels=[["email", "letter"], "sms", "account_notice"],
        timeouts={"sms": "PT12H", "letter": "P14D", "account_notice": "PT30M"},
    )
    assert policy.steps == ((Channel.EMAIL, Channel.LETTER), (Channel.SMS,), (Channel.ACCOUNT_NOTICE,))
    assert policy.timeouts[Channel.LETTER] == timedelta(days=14)
    assert str(policy) == "email + letter (14 days), then sms (12 h), then account notice (30 min)"
    assert fallback_of(json.loads(json.dumps(policy.as_json()))) == policy


@st.composite
def _policies(draw: st.DrawFn) -> Fallback:
    order = draw(st.permutations(list(Channel)))[: draw(st.integers(1, len(Channel)))]
    cut = draw(st.integers(1, len(order)))
    waits = draw(st.dictionaries(st.sampled_from(order), st.integers(60, 10**6).map(lambda s: timedelta(seconds=s))))
    return Fallback((tuple(order[:cut]), *((channel,) for channel in order[cut:])), waits)


@given(_policies())
def test_what_is_stored_reads_back_the_same(policy: Fallback) -> None:
    assert fallback_of(json.loads(json.dumps(policy.as_json()))) == policy


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"channels": ["email", ["sms", "email"]]}, "rules.0 (rest).channels.1: email stands in it twice"),
        ({"channels": ["emial"]}, "rules.0 (rest).channels.0: 'emial' is no channel; did you mean 'email'?"),
        ({"channels": [[]]}, "rules.0 (rest).channels.0: an empty step"),
        ({"channels": "email"}, "rules.0 (rest).channels: write a list of channels"),
        ({"channels": [{"email": 1}]}, "is no channel"),
        ({"channels": ["email"], "timeouts": {"sms": "PT1H"}}, "rules.0 (rest).timeouts.sms: sms is not among"),
        (
            {"channels": ["email"], "timeouts": {"email": "1h"}},
            "rules.0 (rest).timeouts.email: '1h' is no time to wait",
        ),
        ({"channels": ["email"], "timeouts": {"email": "P91D"}}, "from a minute to 90 days"),
        ({"channels": ["email"], "timeouts": {"mail": "P1D"}}, "timeouts.mail: no channel is named so"),
        ({"channels": ["email"], "timeouts": ["P1D"]}, "rules.0 (rest).timeouts: write a time for each channel"),
        ({"channels": ["email"], "timeout": {"email": "P1D"}}, "did you mean 'timeouts'"),
    ],
)
def test_a_mistake_is_said_with_its_place(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as told:
        parsed(**fields)
    assert says in str(told.value)
