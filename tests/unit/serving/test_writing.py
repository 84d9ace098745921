"""Answers in pieces: the same JSON, bounded, and the loop gets its turn."""

import asyncio
import json

import numpy as np
import pytest
from pydantic import TypeAdapter

from serving.guard.errors import ErrorType, ServingError
from serving.writing import Writer

ROWS = [[float(x) for x in np.random.default_rng(seed).normal(size=8000)] for seed in range(20)]


def write(answer, result, most=10**9):
    """Write an answer; return it and the turns that another task had meanwhile."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run():
        counting = asyncio.create_task(count())
        try:
            return await Writer(answer).write(result, most)
        finally:
            counting.cancel()

    return asyncio.run(run()), turns


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (list[list[float]], ROWS[:2]),
        (list[list[float]], []),
        (dict[str, int], {"a": 1}),
        (list[int] | dict[str, int], [1, 2]),
    ],
)
def test_the_text_is_that_of_one_piece(answer, result):
    content, _ = write(answer, result)
    assert content == TypeAdapter(answer).dump_json(result)
    assert json.loads(content) == result


def test_the_loop_gets_a_turn_for_each_large_row():
    _, turns = write(list[list[float]], ROWS)
    assert turns >= len(ROWS)


@pytest.mark.parametrize("answer", [list[list[float]], list[list[float]] | None])
def test_an_answer_that_is_too_large_is_refused(answer):
    exact, _ = write(answer, ROWS[:2])
    assert write(answer, ROWS[:2], len(exact) + 1)[0] == exact
    with pytest.raises(ServingError, match="ask for fewer") as caught:
        write(answer, ROWS[:2], len(exact) - 2)
    assert caught.value.error_type is ErrorType.TOO_LARGE
