"""Topics as declared against topics as they are: what differs, and bringing it in line.

Creates and alters; never changes a partition count, which would move roots to other partitions. What a managed broker
refuses is named with the nearest value that it permits. Knows no event.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented there, not listed in its __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewTopic,
    ResourceType,
)

from bridge.contracts.errors import BadInput, Refused, Unreachable, nearest
from bridge.contracts.topics import MOST_BYTES, STORE_CHANGES, TOPICS, Topic
from bridge.runtime.generations import (
    GENERATIONAL,
    Generations,
    generations_in,
    has_generations,
    marker_name,
    topic_name,
)
from bridge.runtime.kafka import client_settings
from bridge.runtime.settings import Kafka

_TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which a topic is not as declared.

    `remedy` "none": no command may change it in place; "reassign": the broker's own tool copies partitions to more brokers.
    """

    topic: str
    what: str
    declared: str
    actual: str | None
    remedy: Literal["create", "alter", "reassign", "none"]


@dataclass(frozen=True, slots=True)
class TopicAsIs:
    """A topic as the cluster has it."""

    partitions: int
    replication: int
    settings: Mapping[str, str]


def declared_settings(topic: Topic, copies: int, imposed: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the configuration that `topic` must have with so many `copies`; `imposed` is what a managed broker demands."""
    settings = {"cleanup.policy": topic.cleanup, "max.message.bytes": str(MOST_BYTES)} | topic.settings
    if topic.retention_ms is not None:
        settings["retention.ms"] = str(topic.retention_ms)
    if copies >= 3:
        # One broker may fail and nothing acknowledged is lost. With fewer copies it would stop all writing instead.
        settings["min.insync.replicas"] = "2"
    return settings | dict(imposed or {})


def guarded_settings(topic: Topic) -> dict[str, str]:
    """Return what must not be otherwise and is so by default, as most brokers have it: said to those alone that differ, for
    managed ones refuse to be told.
    """
    # An own bound in bytes takes messages before their time; a leader that lacks acknowledged messages loses them for all.
    guarded = {"unclean.leader.election.enable": "false"}
    return guarded | ({"retention.bytes": "-1"} if topic.cleanup == "delete" else {})


def checked_imposed(kafka: Kafka) -> Mapping[str, Mapping[str, str]]:
    """Return `kafka.topic_settings`. Raises BadInput for a topic that is not declared, or a setting that decides its key."""
    known = {topic.name for topic in TOPICS}
    for name, settings in kafka.topic_settings.items():
        if name not in known:
            raise BadInput(f"kafka.topic_settings: no topic {name!r}{nearest(name, known)}")
        if "cleanup.policy" in settings:
            raise BadInput(f"kafka.topic_settings: cleanup.policy of {name} is what its readers rely on; remove it")
    return kafka.topic_settings


def replication(broker_count: int) -> int:
    """Return how many copies a topic has on a cluster of `broker_count`."""
    return min(3, broker_count)


def differences_of(
    topic: Topic, actual: TopicAsIs | None, broker_count: int, imposed: Mapping[str, str] | None = None
) -> list[Difference]:
    """Return what is not as declared."""
    if actual is None:
        return [Difference(topic.name, "topic", f"{topic.partitions} partitions", None, "create")]
    found = []
    if actual.partitions != topic.partitions:
        found.append(Difference(topic.name, "partitions", str(topic.partitions), str(actual.partitions), "none"))
    if actual.replication < replication(broker_count):
        copies = str(replication(broker_count))
        found.append(Difference(topic.name, "replication", copies, str(actual.replication), "reassign"))
    declared = declared_settings(topic, actual.replication, imposed)
    guarded = {name: value for name, value in guarded_settings(topic).items() if name in actual.settings}
    for name, value in sorted((guarded | declared).items()):
        if actual.settings.get(name) != value:
            found.append(Difference(topic.name, name, value, actual.settings.get(name), "alter"))
    return found


def nearest_permitted(wanted: int, permits: Callable[[int], bool]) -> int | None:
    """Return the permitted number nearest to `wanted`, which is not; None if none of its magnitude is.

    Looks away from it in doubling steps, up and down, and then closes in: some sixty questions.
    """
    found = []
    for sign in (1, -1):
        step, beyond = 1, wanted
        while abs(step) < 1 << 62:
            tried = wanted + sign * step
            if permits(tried):
                near, far = tried, beyond
                while abs(near - far) > 1:
                    middle = (near + far) // 2
                    near, far = (middle, far) if permits(middle) else (near, middle)
                found.append(near)
                break
            beyond, step = tried, step * 2
    return min(found, key=lambda number: abs(number - wanted), default=None)


def _is_led(shown: Any, partitions: int) -> bool:
    return (
        shown is not None
        and shown.error is None
        and len(shown.partitions) == partitions
        and all(partition.leader >= 0 for partition in shown.partitions.values())
    )


def _is_unknown(refusal: Refused) -> bool:
    cause = refusal.__cause__
    return isinstance(cause, KafkaException) and cause.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def _altered(name: str, settings: Mapping[str, str]) -> ConfigResource:
    entries = [
        ConfigEntry(
            setting,
            value,
            source=ConfigSource.DYNAMIC_TOPIC_CONFIG,
            incremental_operation=AlterConfigOpType.SET,
        )
        for setting, value in settings.items()
    ]
    return ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)


class TopicsAdmin:
    """The declared topics on one cluster. Raises Unreachable when it does not answer, Refused when it says no."""

    def __init__(self, kafka: Kafka) -> None:
        self._prefix = kafka.topic_prefix
        self._imposed = checked_imposed(kafka)
        self._generations = Generations()
        self._admin = AdminClient(client_settings(kafka))

    def actual(self) -> dict[str, TopicAsIs]:
        """Return the declared topics that exist, by logical name."""
        metadata = self._metadata()
        here = [topic for topic in TOPICS if self._name(topic) in metadata.topics]
        resources = [ConfigResource(ResourceType.TOPIC, self._name(topic)) for topic in here]
        # The client refuses an empty question.
        answers = self._admin.describe_configs(resources, request_timeout=_TIMEOUT_SECONDS) if resources else {}
        result = {}
        for topic, resource in zip(here, resources, strict=True):
            partitions = metadata.topics[self._name(topic)].partitions
            try:
                configuration = self._answer(answers[resource], topic.name)
            except Refused as refusal:
                if _is_unknown(refusal):
                    continue  # deleted since it was listed
                raise
            result[topic.name] = TopicAsIs(
                partitions=len(partitions),
                replication=min((len(partition.replicas) for partition in partitions.values()), default=0),
                settings={name: str(entry.value) for name, entry in configuration.items()},
            )
        return result

    def broker_count(self) -> int:
        """Return how many brokers the cluster has now."""
        return len(self._metadata().brokers)

    def differences(self) -> list[Difference]:
        """Return everything that is not as declared."""
        actual, brokers = self.actual(), len(self._metadata().brokers)
        return [
            each
            for topic in TOPICS
            for each in differences_of(
                self._as_switched(topic, actual), actual.get(topic.name), brokers, self._imposed.get(topic.name)
            )
        ]

    def _as_switched(self, topic: Topic, actual: Mapping[str, TopicAsIs]) -> Topic:
        """Return the declaration with the partitions that a later generation was given; both topics the same."""
        if self._generations.active == 1 or not has_generations(topic):
            return topic
        return replace(topic, partitions=actual[STORE_CHANGES.name].partitions)

    # Generations

    def generations(self) -> Generations:
        """Return which generation is read, and which one is being filled."""
        self._metadata()
        return self._generations

    def partitions_of(self, generation: int) -> int:
        """Return the partition count of a generation that exists."""
        name = topic_name(self._prefix, STORE_CHANGES.name, generation)
        return len(self._metadata().topics[name].partitions)

    def create_generation(self, generation: int, partitions: int) -> None:
        """Create what is missing of a generation's topics. Raises Refused for one that is there with another count.

        A crash in between leaves half a pair, which writers pass over; running it again creates the rest.
        """
        shown, brokers = self._metadata().topics, self.broker_count()
        wanted, names = [], []
        for topic in GENERATIONAL:
            name = topic_name(self._prefix, topic.name, generation)
            names.append(name)
            if name in shown and len(shown[name].partitions) != partitions:
                raise Refused(
                    f"{name} is there with {len(shown[name].partitions)} partitions, not {partitions}: go on with "
                    f"--partitions {len(shown[name].partitions)}, or remove it and its fellow first"
                )
            if name not in shown:
                settings = declared_settings(topic, replication(brokers), self._imposed.get(topic.name))
                wanted.append(NewTopic(name, partitions, replication(brokers), config=settings))
        self._make(wanted)
        self._await_named(dict.fromkeys(names, partitions))

    def activate(self, generation: int) -> None:
        """Have everybody read `generation` from now on."""
        name = marker_name(self._prefix, generation)
        if name not in self._metadata().topics:
            self._make([NewTopic(name, 1, replication(self.broker_count()))])
        self._await_named({name: 1})

    def drop_generation(self, generation: int) -> list[str]:
        """Delete the topics of a generation that nobody reads; return their names. Raises Refused for the one that is read."""
        if generation == self.generations().active:
            raise Refused(f"generation {generation} is read now and is not deleted")
        names = [topic_name(self._prefix, topic.name, generation) for topic in GENERATIONAL]
        # The switch first: half a pair is passed over, a switch to nothing would not be.
        names.insert(0, marker_name(self._prefix, generation))
        shown = self._metadata().topics
        here = [name for name in names if name in shown]
        for name in here:
            self._answer(self._admin.delete_topics([name], operation_timeout=_TIMEOUT_SECONDS)[name], name)
        return here

    def _make(self, wanted: Sequence[NewTopic]) -> None:
        answers = self._admin.create_topics(list(wanted), operation_timeout=_TIMEOUT_SECONDS) if wanted else {}
        for name, answer in answers.items():
            self._answer(answer, name)

    def _name(self, topic: Topic) -> str:
        return topic_name(self._prefix, topic.name, self._generations.active)

    def apply(self) -> list[Difference]:
        """Create and alter what is needed; return what was done.

        Raises Refused, before anything is changed, if a topic differs in what cannot be changed in place. A crash in
        between leaves some topics done; running it again does the rest.
        """
        found = self.differences()
        fixed = [each for each in found if each.remedy == "none"]
        if fixed:
            listed = "; ".join(f"{each.topic}: {each.what} {each.actual}, declared {each.declared}" for each in fixed)
            raise Refused(
                f"{listed}. This is never changed in place (other partitions would hold a root's past); nothing was done. "
                "Remove a topic that holds nothing yet, or move to a topic of the right shape with your broker's tools"
            )
        brokers = len(self._metadata().brokers)
        by_name = {topic.name: topic for topic in TOPICS}
        made = [each for each in found if each.remedy == "create"]
        self._create([by_name[each.topic] for each in made], brokers)
        if made:
            # What the cluster gives to topics that say nothing of it shows only now.
            found = [*made, *self.differences()]
        changes = [each for each in found if each.remedy == "alter"]
        self._alter(changes)
        return [*made, *changes]

    def _create(self, topics: Sequence[Topic], brokers: int) -> None:
        if not topics:
            return
        wanted = [
            NewTopic(
                self._name(topic),
                num_partitions=topic.partitions,
                replication_factor=replication(brokers),
                config=declared_settings(topic, replication(brokers), self._imposed.get(topic.name)),
            )
            for topic in topics
        ]
        answers = self._admin.create_topics(wanted, operation_timeout=_TIMEOUT_SECONDS)
        refused = None
        for (name, answer), topic in zip(answers.items(), topics, strict=True):
            try:
                self._answer(answer, name)
            except Refused as refusal:
                refused = refused or (topic, refusal)
        if refused is not None:
            self._explain(refused[0], replication(brokers), refused[1], new=True)
        self._await_leaders(topics)

    def _explain(self, topic: Topic, copies: int, refusal: Refused, *, new: bool) -> None:
        """Raise `refusal` with the settings that the broker refuses, each with the nearest value that it permits."""
        found: dict[str, tuple[str, int | None]] = {}
        for name, value in declared_settings(topic, copies, self._imposed.get(topic.name)).items():
            if not self._permits(topic, copies, {name: value}, new=new):
                found[name] = (value, self._nearest(topic, copies, name, value, new=new))
        if not found:
            raise refusal
        said = "; ".join(
            f"{name} = {value} is refused" + ("" if near is None else f", the nearest permitted value is {near}")
            for name, (value, near) in found.items()
        )
        permitted = ", ".join(f'"{name}" = "{near}"' for name, (_, near) in found.items() if near is not None)
        advice = (
            f'; to accept it, set [kafka] topic_settings = {{"{topic.name}" = {{{permitted}}}}}' if permitted else ""
        )
        raise Refused(f"topic {topic.name}: {said}{advice}. The broker says: {refusal}") from refusal

    def _nearest(self, topic: Topic, copies: int, name: str, value: str, *, new: bool) -> int | None:
        if not value.lstrip("-").isdecimal():
            return None
        return nearest_permitted(int(value), lambda number: self._permits(topic, copies, {name: str(number)}, new=new))

    def _permits(self, topic: Topic, copies: int, settings: Mapping[str, str], *, new: bool) -> bool:
        """Ask the broker whether it would create or alter the topic so; nothing is done.

        Of the topic itself: there is a right for no other name, and brokers have other rules for what is there already.
        """
        answers: Mapping[Any, Any]
        if new:
            probe = NewTopic(
                self._name(topic),
                num_partitions=topic.partitions,
                replication_factor=copies,
                config=dict(settings),
            )
            answers = self._admin.create_topics([probe], validate_only=True, operation_timeout=_TIMEOUT_SECONDS)
        else:
            probed = _altered(self._name(topic), settings)
            answers = self._admin.incremental_alter_configs(
                [probed], validate_only=True, request_timeout=_TIMEOUT_SECONDS
            )
        try:
            next(iter(answers.values())).result(timeout=_TIMEOUT_SECONDS)
        except KafkaException as error:
            if error.args[0].code() in (
                KafkaError.INVALID_CONFIG,
                KafkaError.POLICY_VIOLATION,
                KafkaError.INVALID_REQUEST,
            ):
                return False
            raise Refused(f"topic {topic.name}: {error.args[0].str()}") from error
        return True

    def _await_leaders(self, topics: Sequence[Topic]) -> None:
        """Return when brokers show `topics` with a leader for every partition: some time after the controller said yes."""
        self._await_named({self._name(topic): topic.partitions for topic in topics})

    def _await_named(self, partitions: Mapping[str, int]) -> None:
        give_up_at = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            shown = self._metadata().topics
            waiting = [name for name, count in partitions.items() if not _is_led(shown.get(name), count)]
            if not waiting:
                return
            if time.monotonic() > give_up_at:
                raise Unreachable(
                    f"created, but without leaders after {_TIMEOUT_SECONDS:.0f} s: {', '.join(waiting)}; look at the brokers"
                )
            time.sleep(0.1)

    def _alter(self, changes: Sequence[Difference]) -> None:
        if not changes:
            return
        by_name = {topic.name: topic for topic in TOPICS}
        resources = [
            _altered(self._name(by_name[name]), {each.what: each.declared for each in changes if each.topic == name})
            for name in dict.fromkeys(each.topic for each in changes)
        ]
        by_physical = {self._name(topic): topic for topic in TOPICS}
        for resource, answer in self._admin.incremental_alter_configs(resources).items():
            try:
                self._answer(answer, resource.name)
            except Refused as refusal:
                self._explain(
                    by_physical[resource.name], replication(len(self._metadata().brokers)), refusal, new=False
                )

    def _metadata(self) -> Any:
        try:
            metadata = self._admin.list_topics(timeout=_TIMEOUT_SECONDS)
            self._generations = generations_in(metadata.topics, self._prefix)
            return metadata
        except KafkaException as error:
            raise Unreachable(f"Kafka does not answer: {error.args[0].str()}; check kafka.bootstrap_servers") from error

    @staticmethod
    def _answer(answer: Any, name: str) -> Any:
        try:
            return answer.result(timeout=_TIMEOUT_SECONDS)
        except KafkaException as error:
            raise Refused(f"topic {name}: {error.args[0].str()}") from error
        except TimeoutError as error:
            raise Unreachable(f"topic {name}: no answer within {_TIMEOUT_SECONDS:.0f} s") from error
