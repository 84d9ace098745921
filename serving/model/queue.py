"""The queue before the model: what waits together runs together, and nothing waits for company.

An idle model runs a request at once. While it works, requests gather; the next batch takes all of
them, up to its limits. The queue is bounded by time: by the speed of the runs before it, a request
that would wait longer than ``limits.max_queue_s`` is refused at once. A request whose sender went
away or whose deadline passed while it waited is not run.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from orchestrator.inference.batching import Outputs, Work
from serving.config import Batching
from serving.guard.errors import ErrorType, ServingError
from serving.guard.guard import Policy

NEWEST_SHARE: Final = 0.2
"""Share of the newest batch in the mean time of a token."""

Run = Callable[[Sequence[Work]], list[Outputs]]


@dataclass(slots=True, eq=False)
class _Waiting:
    work: Work
    tokens: int
    answer: asyncio.Future[Outputs]


class Queue:
    """Requests that wait for one model.

    Args:
        run: Runs the works of several requests; called by the executor.
        executor: Its one thread runs the model.
        policy: The limits in force.
        batching: Size of a batch; replaced in place.
    """

    def __init__(self, run: Run, executor: Executor, policy: Policy, batching: Batching) -> None:
        self._run, self._executor, self._policy = run, executor, policy
        self.batching = batching
        self._waiting: deque[_Waiting] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._token_s = 0.0
        self._running = 0

    async def execute(self, work: Work) -> Outputs:
        """Return the outputs of a work.

        Raises:
            ServingError: It would wait too long.
        """
        tokens = sum(map(len, work.sequences))
        self._admit()
        entry = _Waiting(work, tokens, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run_all())
        return await entry.answer

    def _admit(self) -> None:
        """Refuse one more request behind others that already fill the time.

        One may always wait behind the batch that runs, however long that takes.
        """
        queued = sum(each.tokens for each in self._waiting if not each.answer.done())
        seconds = (queued + self._running) * self._token_s
        if queued and seconds > self._policy.limits.max_queue_s:
            message = f"The model is busy for the next {seconds:.1f} s; try again later."
            raise ServingError(ErrorType.OVERLOADED, message)

    async def _run_all(self) -> None:
        """Run batches until nothing waits."""
        loop = asyncio.get_running_loop()
        try:
            while batch := self._take():
                self._running = sum(each.tokens for each in batch)
                began = time.perf_counter()
                works = [each.work for each in batch]
                call = loop.run_in_executor(self._executor, self._run, works)
                (found,) = await asyncio.gather(call, return_exceptions=True)
                if isinstance(found, BaseException):  # each request answers it
                    for each in batch:
                        if not each.answer.done():
                            each.answer.set_exception(found)
                    continue
                newest = (time.perf_counter() - began) / self._running
                share = NEWEST_SHARE if self._token_s else 1.0
                self._token_s += share * (newest - self._token_s)
                for each, outputs in zip(batch, found, strict=True):
                    if not each.answer.done():
                        each.answer.set_result(outputs)
        finally:
            self._running, self._runner = 0, None

    def _take(self) -> list[_Waiting]:
        """Take the next batch from the queue; requests that nobody waits for are dropped."""
        batch: list[_Waiting] = []
        tokens, most = 0, self._policy.limits.max_batch_tokens
        while self._waiting and len(batch) < self.batching.max_batch_size:
            first = self._waiting[0]
            if not first.answer.done():
                tokens += first.tokens
                if batch and tokens > most:
                    break
                batch.append(first)
            self._waiting.popleft()
        return batch
