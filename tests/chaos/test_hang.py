"""Row 2: a worker that hangs without dying is noticed within the limit, and the run goes on."""

import os
import signal
import threading
import time

import pytest

from tests.support.steady import Run

LIMIT_S = 10.0
EVERY, PAUSE_S = 8, 0.1


@pytest.mark.chaos
def test_a_stopped_worker_is_noticed_and_the_group_starts_again(local_ray, tmp_path, caplog):
    run, seen = Run.named(tmp_path, "hanging", PAUSE_S), {}

    def stop_one():
        try:
            # In a step; of a stop elsewhere `tests/unit/cluster/test_watchdog_ranks.py` knows.
            row = run.wait(lambda row: row["step"] > 2 * EVERY and row["step"] % EVERY == 1)
            seen["committed"] = max(run.committed())
            os.kill(run.last(rank=1)["pid"], signal.SIGSTOP)
            stopped = time.time()
            seen["row"] = run.wait(lambda last: last["pid"] != row["pid"])
            print(f"training again {seen['row']['at'] - stopped:.1f} s after it was stopped")
        finally:
            run.finish()

    tester = threading.Thread(target=stop_one, daemon=True)
    tester.start()
    run.train(
        *("cluster.workers=2", "cluster.max_failures=2", f"train.hang_timeout_s={LIMIT_S}"),
        f"train.checkpoint_every_steps={EVERY}",
    )
    tester.join(60)
    assert seen["row"]["first"] >= seen["committed"]
    assert caplog.text.count("treated as hung") == 1
    assert len(run.groups()) == 2
    expected = {row["step"]: row["loss"] for row in run.rows()}
    assert all(row["loss"] == expected[row["step"]] for row in run.rows())
