"""A rank that is stopped between steps is noticed by the one that waits for it, in any phase."""

import os
import signal
import threading
import time

import pytest

from orchestrator.config import StrictModel
from orchestrator.training.config import OptimizerConfig, TrainConfig
from orchestrator.training.engines.torch_engines import DDPEngine
from orchestrator.training.loop import Hooks, train
from orchestrator.training.watchdog import BETWEEN, CHECKPOINT, EVALUATION, Watchdog
from tests.support.ranks import on_ranks
from tests.unit.training.toy_model import ToyModel, ToySource

STEPS = 3
PHASES = (BETWEEN, EVALUATION, CHECKPOINT)


class Nothing(StrictModel):
    """No state of a caller."""


def stopped_in(worker, phase, other):
    """Train; in the phase of the second step rank 1 stops; return what rank 0's watchdog says."""
    seen, ended = [], threading.Event()

    def on_hang(name, seconds):
        seen.append(name)
        while not ended.wait(0.2):  # the other may stop only now: a busy machine
            os.kill(other, signal.SIGCONT)

    # No limit before rank 1 stops: a busy machine is slow as well.
    dog = Watchdog(on_hang if worker.rank == 0 else lambda *_: None, 20.0, 600.0)
    engine = DDPEngine(ToyModel(), OptimizerConfig())
    calls = {name: 0 for name in PHASES}

    def here(name):
        calls[name] += 1
        if name == phase and calls[name] == 2:
            if worker.rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            dog.floor_s = 0.5

    def evaluate():
        here(EVALUATION)
        return engine.evaluate(ToySource().window(0, worker.rank, worker.world))

    def save(step):
        here(CHECKPOINT)
        worker.commit_checkpoint(step, engine, Nothing())

    def should_stop():
        here(BETWEEN)
        return False

    sizes = {"global_batch_size": 8, "micro_batch_size": 4, "log_every_steps": 1}
    config = TrainConfig(max_steps=STEPS, eval_every_steps=1, checkpoint_every_steps=1, **sizes)
    hooks = Hooks(evaluate=evaluate, save=save, should_stop=should_stop, watchdog=dog)
    result = train(engine, ToySource(), config, hooks=hooks)
    ended.set()
    dog.close()
    assert result.steps == STEPS
    return seen


@pytest.mark.slow
def test_a_stopped_rank_is_noticed_between_steps(tmp_path):
    """And what it had been doing is named: the others wait for it there, not in a step."""
    pids = tmp_path / "pids"
    pids.mkdir()

    def work(worker):
        (pids / str(worker.rank)).write_text(str(os.getpid()))
        worker.barrier()
        other = int((pids / str(1 - worker.rank)).read_text())
        began = time.monotonic()
        found = []
        for number, phase in enumerate(PHASES):
            within = worker.within(worker.run_dir / str(number))
            found.append(stopped_in(within, phase, other))
            worker.barrier()
        return [found, time.monotonic() - began]

    (first, seconds), (second, _) = on_ranks(2, work, tmp_path / "ranks")
    assert first == [[phase] for phase in PHASES]
    assert second == [[]] * len(PHASES)
    assert seconds < 100  # the process group's own limit ends in an error
