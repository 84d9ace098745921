"""The queue before the model: no wait when idle, bounded time, no run that nobody waits for."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from orchestrator.inference.batching import Work
from orchestrator.inference.inputs import Tokens
from serving.config import Batching, Limits
from serving.guard.errors import ServingError
from serving.guard.guard import Policy
from serving.model.queue import Queue

DEADLINE_S = 20


def work(name, tokens=4):
    ids = np.zeros(tokens, dtype=np.int64)
    return Work((name,), [Tokens(ids, ids)])


class Model:
    """Answers with the names of its batch; works only while its gate is open."""

    def __init__(self):
        self.batches, self.gate, self.began = [], threading.Event(), threading.Event()
        self.error = None

    def __call__(self, works):
        self.batches.append([each.wanted[0] for each in works])
        self.began.set()
        assert self.gate.wait(DEADLINE_S)
        if self.error:
            raise self.error
        return [{each.wanted[0]: [len(works)]} for each in works]


def with_queue(scenario, *, limits=None, batching=None):
    """Run ``scenario(queue, model)`` in a loop."""

    async def run():
        model = Model()
        with ThreadPoolExecutor(1) as executor:
            queue = Queue(model, executor, Policy(limits or Limits()), batching or Batching())
            try:
                await asyncio.wait_for(scenario(queue, model), DEADLINE_S)
            finally:
                model.gate.set()
        return model

    return asyncio.run(run())


async def busy(queue, model):
    """Return the task of a request that the model is working on."""
    task = asyncio.create_task(queue.execute(work("first")))
    await asyncio.to_thread(model.began.wait, DEADLINE_S)
    return task


def test_an_idle_model_runs_one_request_at_once():
    async def scenario(queue, model):
        model.gate.set()
        for name in "ab":
            assert await queue.execute(work(name)) == {name: [1]}

    assert with_queue(scenario).batches == [["a"], ["b"]]


def test_what_came_meanwhile_runs_together_up_to_its_limits():
    async def scenario(queue, model):
        first = await busy(queue, model)
        others = [asyncio.create_task(queue.execute(work(name))) for name in "abcde"]
        others.append(asyncio.create_task(queue.execute(work("long", 30))))
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(first, *others)

    limits = Limits(max_batch_tokens=20)
    found = with_queue(scenario, limits=limits, batching=Batching(max_batch_size=4))
    assert found.batches == [["first"], ["a", "b", "c", "d"], ["e"], ["long"]]


def test_a_request_that_nobody_waits_for_is_not_run():
    async def scenario(queue, model):
        first = await busy(queue, model)
        gone = asyncio.create_task(queue.execute(work("gone")))
        kept = asyncio.create_task(queue.execute(work("kept")))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await queue.execute(work("late"))
        gone.cancel()
        model.gate.set()
        await asyncio.gather(first, kept)
        assert gone.cancelled()

    assert with_queue(scenario).batches == [["first"], ["kept"]]


def test_a_request_whose_sender_leaves_while_it_runs_harms_no_other():
    async def scenario(queue, model):
        first = await busy(queue, model)
        other = asyncio.create_task(queue.execute(work("other")))
        await asyncio.sleep(0)
        first.cancel()
        model.gate.set()
        assert await other == {"other": [1]}

    assert with_queue(scenario).batches == [["first"], ["other"]]


def test_a_full_queue_refuses_at_once_and_takes_requests_again():
    async def scenario(queue, model):
        queue._token_s = 1.0  # learned from runs before
        first = await busy(queue, model)
        behind = asyncio.create_task(queue.execute(work("behind")))  # one may always wait
        await asyncio.sleep(0)
        with pytest.raises(ServingError) as caught:
            await queue.execute(work("too much"))
        assert (caught.value.status, caught.value.headers()) == (429, {"retry-after": "1"})
        assert "8.0 s" in caught.value.message
        model.gate.set()
        await asyncio.gather(first, behind)
        assert await queue.execute(work("again")) == {"again": [1]}
        assert 0 < queue._token_s < 1.0

    model = with_queue(scenario, limits=Limits(max_queue_s=7.0))
    assert model.batches == [["first"], ["behind"], ["again"]]


def test_each_request_of_a_batch_gets_its_error():
    async def scenario(queue, model):
        model.error = RuntimeError("not finite")
        first = await busy(queue, model)
        other = asyncio.create_task(queue.execute(work("other")))
        await asyncio.sleep(0)
        model.gate.set()
        found = await asyncio.gather(first, other, return_exceptions=True)
        assert found == [model.error] * 2
        model.error = None
        assert await queue.execute(work("again")) == {"again": [1]}

    with_queue(scenario)
