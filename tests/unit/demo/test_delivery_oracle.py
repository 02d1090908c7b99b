"""The oracle of delivery under faults finds what is planted for it: somebody lost, somebody told twice, a witness that errs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consumers.sandbox.fates import Behaviour
from tests.e2e.delivery_oracle import ARRIVES, BY_PEOPLE, STATE_OF, Attempt, Scripted, expected, judge

ANN, BO, CY = "ann@x.example.com", "bo@x.example.com", "+49151000"


def people(disturbed: frozenset[str] = frozenset()) -> list[Scripted]:
    policy = ("email", "sms")
    return [
        Scripted("customer/1", "INC-1", policy, {"email": "delivered"}, {"email": ANN}, disturbed),
        Scripted(
            "customer/2", "INC-1", policy, {"email": "bounce", "sms": "delay"}, {"email": BO, "sms": CY}, disturbed
        ),
    ]


class Witnesses:
    """What everybody says when all went well."""

    def __init__(self) -> None:
        one, two = ("INC-1", "customer/1"), ("INC-1", "customer/2")
        self.ends: dict[Any, Any] = {one: "reached", two: "reached"}
        self.attempts = {
            one: [Attempt("a1", "email", "delivered", 1)],
            two: [Attempt("b1", "email", "bounced", 1), Attempt("b2", "sms", "delivered", 1)],
        }
        self.steps = {who: [(each.channel, each.state) for each in tried] for who, tried in self.attempts.items()}
        self.logged_ends = dict(self.ends)
        self.by_address = Counter([ANN, BO, CY])
        self.by_attempt = Counter(["a1", "b1"])

    def faults(self, disturbed: frozenset[str] = frozenset()) -> list[str]:
        return judge(
            people(disturbed), self.ends, self.attempts, self.steps, self.logged_ends, self.by_address, self.by_attempt
        )


def test_content_when_everybody_agrees() -> None:
    assert Witnesses().faults() == []


@pytest.mark.parametrize(
    ("disturbed", "calls", "content"), [({"email"}, 2, True), ({"email"}, 1, False), (set(), 2, False)]
)
def test_a_refusal_that_was_never_heard_may_end_as_silence(disturbed: set[str], calls: int, content: bool) -> None:
    who = ("INC-1", "customer/1")
    person = Scripted(
        who[1], who[0], ("email", "sms"), {"email": "refuse", "sms": "delivered"}, {"email": ANN, "sms": CY},
        frozenset(disturbed),
    )  # fmt: skip
    tried = [Attempt("a1", "email", "expired", calls), Attempt("a2", "sms", "delivered", 1)]
    steps = [(each.channel, each.state) for each in tried]
    found = judge([person], {who: "reached"}, {who: tried}, {who: steps}, {who: "reached"}, Counter([CY]), Counter())
    assert (found == []) is content


@pytest.mark.parametrize(("unlucky", "content"), [(2, True), (3, False)])
def test_few_whose_call_and_repeat_nobody_took_are_chance_and_more_are_a_fault(unlucky: int, content: bool) -> None:
    some = [
        Scripted(
            f"customer/{n}", "INC-1", ("email",), {"email": "delivered"}, {"email": f"{n}@x"}, frozenset({"email"})
        )
        for n in range(unlucky)
    ]
    who = [(person.incident_id, person.root) for person in some]
    end, steps = "unreachable_reported", [("email", "expired")]
    tried = {each: [Attempt(each[1], "email", "expired", 2)] for each in who}
    found = judge(
        some, dict.fromkeys(who, end), tried, dict.fromkeys(who, steps), dict.fromkeys(who, end), Counter(), Counter()
    )
    assert (found == []) is content


def lose_somebody(all_: Witnesses) -> None:
    all_.ends["INC-1", "customer/1"] = all_.logged_ends["INC-1", "customer/1"] = None


def forget_in_the_log(all_: Witnesses) -> None:
    del all_.logged_ends["INC-1", "customer/2"]


def log_another_state(all_: Witnesses) -> None:
    all_.steps["INC-1", "customer/1"] = [("email", "handed_over")]


def tell_twice(all_: Witnesses) -> None:
    all_.by_address[ANN] += 1
    all_.by_attempt["a1"] += 1


def tell_nobody(all_: Witnesses) -> None:
    del all_.by_address[CY]


def tell_a_stranger(all_: Witnesses) -> None:
    all_.by_address["who@x.example.com"] += 1


def send_without_the_ledger(all_: Witnesses) -> None:
    all_.by_attempt["z9"] += 1


def skip_the_channel(all_: Witnesses) -> None:
    all_.attempts["INC-1", "customer/2"].pop(0)


@pytest.mark.parametrize(
    "plant",
    [
        lose_somebody, forget_in_the_log, log_another_state, tell_twice, tell_nobody, tell_a_stranger,
        send_without_the_ledger, skip_the_channel,
    ],
)  # fmt: skip
def test_each_planted_fault_is_found(plant: Callable[[Witnesses], None]) -> None:
    all_ = Witnesses()
    plant(all_)
    assert all_.faults()


def test_one_repeat_is_allowed_where_an_answer_may_have_been_lost_and_the_ledger_knows_of_it() -> None:
    all_ = Witnesses()
    tell_twice(all_)
    lost = frozenset({"email"})
    assert all_.faults(lost), "the ledger does not know of the second call"
    one = all_.attempts["INC-1", "customer/1"]
    one[0] = replace(one[0], call_count=2)
    assert all_.faults(lost) == []
    assert all_.faults(), "without a lost answer there is no reason for a second one"
    tell_twice(all_)
    assert all_.faults(lost)


def test_every_behaviour_of_the_sandbox_has_an_expected_end() -> None:
    assert {behaviour.value for behaviour in Behaviour} == (ARRIVES | STATE_OF.keys()) - BY_PEOPLE
    for behaviour in Behaviour:
        alone = Scripted("customer/1", "INC-1", ("email",), {"email": behaviour.value}, {"email": ANN})
        assert expected(alone).end == ("reached" if behaviour.value in ARRIVES else "unreachable_reported")
