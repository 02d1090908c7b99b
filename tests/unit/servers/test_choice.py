"""Where servers come from, as a table."""

from pathlib import Path

import pytest

from tests.servers.choice import Missing, Surroundings, Way, look_around, way_to

NEEDS = ("java", "mvn")


@pytest.mark.parametrize(
    ("docker_answers", "programs", "wanted", "expected"),
    [
        (True, {"java", "mvn"}, "", Way.DOCKER),
        (True, set(), "", Way.DOCKER),
        (False, {"java", "mvn"}, "", Way.LOCAL),
        (True, {"java", "mvn"}, "local", Way.LOCAL),
        (True, {"java", "mvn"}, "docker", Way.DOCKER),
    ],
)
def test_the_best_way_is_taken_unless_told_otherwise(
    docker_answers: bool, programs: set[str], wanted: str, expected: Way
) -> None:
    here = Surroundings(docker_answers, frozenset(programs), wanted)
    assert way_to("Apache Kafka", NEEDS, here) is expected


@pytest.mark.parametrize(
    ("docker_answers", "programs", "wanted", "named"),
    [
        (False, {"java"}, "", ["Apache Kafka", "Docker", "mvn"]),
        (False, {"java", "mvn"}, "docker", ["Apache Kafka", "Docker"]),
        (True, {"mvn"}, "local", ["Apache Kafka", "java"]),
    ],
)
def test_what_is_missing_is_said_by_name(
    docker_answers: bool, programs: set[str], wanted: str, named: list[str]
) -> None:
    way = way_to("Apache Kafka", NEEDS, Surroundings(docker_answers, frozenset(programs), wanted))
    assert isinstance(way, Missing)
    assert all(name in way.reason for name in named)


def test_what_was_not_wanted_is_not_blamed() -> None:
    way = way_to("Apache Kafka", NEEDS, Surroundings(True, frozenset({"mvn"}), "local"))
    assert isinstance(way, Missing)
    assert "Docker" not in way.reason


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="podman"):
        way_to("Apache Kafka", NEEDS, Surroundings(True, frozenset(), "podman"))


def test_nobody_on_the_docker_socket_is_no_docker(tmp_path: Path) -> None:
    for host in (f"unix://{tmp_path}/docker.sock", "tcp://127.0.0.1:1"):
        assert not look_around((), {"DOCKER_HOST": host}).docker_answers


@pytest.mark.parametrize(("ci", "must_have"), [("true", True), ("1", True), ("", False), ("false", False)])
def test_in_ci_a_missing_part_is_a_failure(ci: str, must_have: bool) -> None:
    assert look_around((), {"CI": ci, "TOCSIN_TEST_SERVERS": "local"}).must_have is must_have


def test_only_installed_programs_are_counted() -> None:
    assert look_around(("sh", "no-such-program"), {"TOCSIN_TEST_SERVERS": "local"}).programs == {"sh"}
