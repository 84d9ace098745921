"""A worker that hangs without dying: noticed within the limit, and the run goes on."""

import time

import pytest

from orchestrator.cluster.launcher import launch
from orchestrator.config import ClusterSection
from orchestrator.training.config import EngineConfig
from orchestrator.training.events import GroupStarted, StepHung
from tests.support.state import AnyState

LIMIT_S = 5.0


@pytest.mark.chaos
def test_a_stopped_worker_is_noticed_and_the_group_starts_again(local_ray, tmp_path):
    events = []

    def observe(event):
        events.append((event, time.monotonic()))

    result = launch(
        "tests.support.toy_worker:stop_once",
        AnyState(kind="zero2", at=3, limit_s=LIMIT_S),
        AnyState,
        cluster=ClusterSection(workers=2, max_failures=2),
        engine=EngineConfig(),
        run_dir=tmp_path,
        name="stop_once",
        on_event=observe,
    )
    assert result.first == 2  # the last checkpoint
    assert len(result.losses) == 4
    (hung,) = [event for event, _ in events if isinstance(event, StepHung)]
    assert "treated as hung" in hung.message
    started = [at for event, at in events if isinstance(event, GroupStarted)]
    assert len(started) == 2
