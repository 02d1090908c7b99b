"""SIGKILL of a stage in the middle of its work changes nothing in the final sets but time.

The demo's own oracle compares: the same people, the same channels, the same texts, each once, and the same in the evidence
log. A stage that was never met in the middle of its work makes the demo fail, too, so that nothing passes untried.
"""

from pathlib import Path

import pytest

from consumers.bootstrap.stages import STAGES
from consumers.demo.kills import MIDDLE
from tests.e2e import demo_process
from tests.e2e.steering import OBEYED_WITHIN, PauseInTheMiddle


def _demo_survives(tmp_path: Path, *stages: str, seed: int) -> None:
    kills = [word for stage in stages for word in ("--kill", stage)]
    done = demo_process.run(tmp_path / "demo", "--customers", "200", "--seed", str(seed), *kills)
    assert done.exit_code == 0, done.story
    assert done.summary["faults"] == []
    # one fell because it was killed; no other fell with it
    assert {stage for stage, count in done.summary["restarts"].items() if count} == set(stages), done.story


def test_stages_killed_at_every_part_of_the_flow_change_nothing(tmp_path: Path) -> None:
    """One run: capture, resolution and delivery are each hit."""
    _demo_survives(tmp_path, "relay", "index", "dispatch", "receipts", "outbox", seed=3)


@pytest.mark.soak
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_changes_nothing(stage: str, tmp_path: Path) -> None:
    _demo_survives(tmp_path, stage, seed=4)


@pytest.mark.soak
def test_a_pause_in_the_middle_is_obeyed_within_two_seconds_and_loses_nobody(tmp_path: Path) -> None:
    """By the count of the provider itself; the oracle finds nothing lost and nothing doubled."""
    pause = PauseInTheMiddle(tmp_path / "demo")
    pause.start()
    _demo_survives(tmp_path, "clock", seed=5)
    pause.join(60)
    assert pause.error is None
    assert pause.paused_at is not None
    assert pause.resumed_at is not None
    assert pause.received(before=pause.paused_at) > 0
    assert pause.received(pause.paused_at + OBEYED_WITHIN, pause.resumed_at) == 0
    assert pause.received(after=pause.resumed_at) > 0


def test_every_stage_has_a_middle() -> None:
    assert MIDDLE.keys() == STAGES.keys()
