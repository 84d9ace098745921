"""Row 1: workers killed at random steps. Rows 2 and 13 in part: see README.md."""

import os
import random
import signal
import threading
import time

import pytest

from tests.support.steady import Run

KILLS = int(os.environ.get("CHAOS_KILLS", "5"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
EVERY, PAUSE_S = 5, 0.05
WRITING = 5  # steps that may be done while the checkpoint before them is being written
RECOVERY_DEADLINE_S = 400

pytestmark = pytest.mark.chaos


def train(run, max_failures=0):
    """Pre-train on two workers with ZeRO-2 until the run is told to end."""
    run.train(
        *("cluster.workers=2", f"cluster.max_failures={max_failures}", "engine.zero_stage=2"),
        f"train.checkpoint_every_steps={EVERY}",
    )


class Killer(threading.Thread):
    """Kills a random rank at random steps, each time after a new checkpoint was committed."""

    def __init__(self, run, kills, seed):
        super().__init__(daemon=True)
        self.run_, self.kills, self.draw = run, kills, random.Random(seed)
        self.lost, self.seconds, self.error = [], [], None

    def run(self):
        try:
            first, seen = 0, set()
            for _ in range(self.kills):
                first = self._kill_one(first, seen)
            self.end = self.run_.finish()
        except BaseException as error:
            self.error = error
            self.run_.finish()

    def _kill_one(self, first, seen):
        run, rank = self.run_, self.draw.randrange(2)
        at = first + EVERY + WRITING + self.draw.randrange(EVERY)
        run.wait(lambda row: row["pid"] not in seen and row["step"] >= at)
        committed, victim = max(run.committed()), run.last(rank)
        os.kill(victim["pid"], signal.SIGKILL)
        killed_at = time.time()
        seen.add(run.last()["pid"])
        row = run.wait(lambda row: row["pid"] not in seen)
        reached = max(each["step"] for each in run.rows() if each["pid"] in seen)
        assert row["first"] >= committed  # nothing that was committed is done again
        self.lost.append(reached - row["first"])
        self.seconds.append(row["at"] - killed_at)
        print(
            f"rank {rank} killed at step {reached}, {self.lost[-1]} steps lost, "
            f"training again after {self.seconds[-1]:.1f} s"
        )
        return row["first"]


def test_killed_workers_cost_at_most_an_interval_and_change_no_loss(local_ray, tmp_path):
    """One run whose workers are killed again and again; the losses are those of a quiet run."""
    print(f"seed {SEED}, {KILLS} kills")
    run = Run.named(tmp_path, "killed", PAUSE_S)
    killer = Killer(run, KILLS, SEED)
    killer.start()
    train(run, max_failures=1)  # each kill follows a new checkpoint
    killer.join(60)
    assert killer.error is None, killer.error

    quiet = Run.named(tmp_path, "quiet")
    quiet.end_at(killer.end)
    train(quiet)
    expected = quiet.losses()
    assert len(expected) == killer.end
    assert run.losses() == expected  # bit for bit
    assert all(row["loss"] == expected[row["step"] - 1] for row in run.rows())  # repeated ones, too
    assert len(killer.lost) == KILLS
    assert max(killer.lost) <= EVERY + WRITING
    assert max(killer.seconds) < RECOVERY_DEADLINE_S
    middle = sorted(killer.seconds)[KILLS // 2]
    print(f"training again after {middle:.1f} s (median), {max(killer.seconds):.1f} s (worst)")
