"""Send the requests of a plan at their times, from several processes."""

import asyncio
import contextlib
import multiprocessing
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import aiohttp
import numpy as np

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.errors import InputError, StageError
from serving.load.plan import LoadPlan

TIMED_OUT, NOT_CONNECTED = -1, -2
"""Statuses of requests without an answer."""
LEAD_S: Final = 0.2
START_DEADLINE_S: Final = 60.0
END_MARGIN_S: Final = 30.0


@dataclass(frozen=True)
class Samples:
    """Outcome of each request, [N] each, in the order of arrival.

    Attributes:
        due: Seconds from the start at which it was to be sent.
        sent: Seconds from the start at which it was.
        ended: Seconds from the start at which its answer was complete, or given up.
        status: HTTP status, `TIMED_OUT` or `NOT_CONNECTED`.
        retry_after: Whether the answer had the header ``Retry-After``.
    """

    due: FloatArray
    sent: FloatArray
    ended: FloatArray
    status: IntArray
    retry_after: IntArray


def send(plan: LoadPlan) -> Samples:
    """Send all requests of a plan.

    Raises:
        InputError: The body is not usable, or nothing listens at the URL.
        StageError: A sending process ended before its time.
    """
    plan.require_bodies()
    asyncio.run(_require_server(plan))
    context = multiprocessing.get_context("spawn")  # a fork would copy the parent's threads
    count = len(plan.arrivals)
    shares = [list(range(first, count, plan.processes)) for first in range(plan.processes)]
    pipes, children = [], []
    try:
        for share in shares:
            ours, theirs = context.Pipe()
            child = context.Process(target=_child, args=(plan, share, theirs), daemon=True)
            child.start()
            theirs.close()
            pipes.append(ours)
            children.append(child)
        for pipe in pipes:
            _receive(pipe, START_DEADLINE_S)
        begin = time.monotonic() + LEAD_S  # the clock is the same in all processes of a host
        for pipe in pipes:
            pipe.send(begin)
        longest = plan.seconds + plan.timeout_s + END_MARGIN_S
        found = [_receive(pipe, longest) for pipe in pipes]
    finally:
        for child in children:
            child.join(1)
            if child.is_alive():
                child.kill()
    table = np.zeros((count, 4))
    for share, rows in zip(shares, found, strict=True):
        table[share] = rows
    sent, ended, status, retry_after = table.T
    return Samples(plan.arrivals, sent, ended, status.astype(int), retry_after.astype(int))


def _receive(pipe: Connection, deadline_s: float) -> Any:
    try:
        if pipe.poll(deadline_s):
            return pipe.recv()
    except EOFError:
        pass
    raise StageError("load: a sending process ended or hung before it had sent its requests.")


def _child(plan: LoadPlan, share: Sequence[int], pipe: Connection) -> None:
    """One sending process: says that it is ready, waits for the start, sends its share."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    bodies = plan.bodies(share)
    pipe.send(True)
    begin = pipe.recv()
    with contextlib.suppress(KeyboardInterrupt):
        pipe.send(asyncio.run(_send_share(plan, share, bodies, begin)))


async def _send_share(
    plan: LoadPlan, share: Sequence[int], bodies: Sequence[bytes], begin: float
) -> FloatArray:
    """Return [n, 4]: sent, ended, status, whether ``Retry-After`` came."""
    rows = np.zeros((len(share), 4))

    async def request(session: aiohttp.ClientSession, row: int) -> None:
        sent, status, retry = time.monotonic(), NOT_CONNECTED, False
        try:
            async with session.post(plan.path, data=bodies[row]) as answer:
                await answer.read()
                status, retry = answer.status, "Retry-After" in answer.headers
        except TimeoutError:
            status = TIMED_OUT
        except (aiohttp.ClientError, OSError):
            status = NOT_CONNECTED
        rows[row] = (sent - begin, time.monotonic() - begin, status, retry)

    async with _session(plan) as session:
        tasks = []
        for row, index in enumerate(share):
            if (wait := begin + plan.arrivals[index] - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(request(session, row)))
        await asyncio.gather(*tasks)
    return rows


def _session(plan: LoadPlan) -> aiohttp.ClientSession:
    headers = {"Content-Type": "application/json"}
    if key := plan.key.get_secret_value():
        headers["Authorization"] = f"Bearer {key}"
    # A limit of connections would make requests wait here, where nobody counts it.
    return aiohttp.ClientSession(
        plan.url,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=plan.timeout_s),
        headers=headers,
    )


async def _require_server(plan: LoadPlan) -> None:
    """Send the first request once beside the load.

    Raises:
        InputError: Nothing answers, or it answers with an error of the request.
    """
    async with _session(plan) as session:
        try:
            async with session.post(plan.path, data=plan.bodies([0])[0]) as answer:
                text, status = await answer.text(), answer.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise InputError(f"{plan.url}{plan.path} does not answer: {reason}") from error
    if 400 <= status < 500 and status != 429:
        raise InputError(f"{plan.url}{plan.path} answers {status}: {text[:200]}")
