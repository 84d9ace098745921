"""Dispatch: the cheapest cut of all, by times of this host, and the bits of a text alone."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import IntegrityError
from orchestrator.inference.dispatch import (
    DISPATCH_FILE,
    Dispatch,
    RunTime,
    RunTimes,
    measure_times,
    read_times,
)
from orchestrator.inference.inputs import rows_of_texts
from orchestrator.inference.predictor import Predictor
from orchestrator.quantization.backends.hosts import this_host
from orchestrator.zoo import Zoo
from tests.support.packages import SENTENCES, commit_graph, commit_tiny


def times(overhead, token, square=0.0, noise=1.0, host=None):
    runs = [
        RunTime(batch=b, length=s, seconds=(overhead + b * s * (token + square * s)) * noise**b)
        for b, s in [(1, 8), (4, 8), (16, 8), (1, 32), (4, 32), (16, 32), (1, 128), (4, 128)]
    ]
    return RunTimes(host=host or this_host(), threads=1, runs=runs)


@given(st.floats(0, 1e-2), st.floats(1e-6, 1e-4), st.floats(0, 1e-6))
@settings(max_examples=30, deadline=None)
def test_the_three_numbers_are_found_again(overhead, token, square):
    found = times(overhead, token, square).fitted()
    for got, expected, unit in zip(found, (overhead, token, square), (1, 8, 64), strict=True):
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-6 * (overhead + 8 * token) / unit)


def test_no_part_of_a_time_is_negative():
    assert min(times(1e-6, 1e-5, noise=1.02).fitted()) >= 0


def price(cut, lengths, overhead, token, limit):
    """Seconds of a cut by the definition; infinite where a run is too large."""
    total, start = 0.0, 0
    for size in cut:
        run = lengths[start : start + size]
        start += size
        padded = size * max(run)
        if size > 1 and padded > limit:
            return float("inf")
        total += (overhead + padded * token) * (1.02 if size > 1 else 1)
    return total


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=8).map(sorted),
    st.sampled_from([0.0, 1e-4, 1e-3, 1e-2]),
    st.integers(50, 700),
)
@settings(max_examples=60, deadline=None)
def test_no_other_cut_is_cheaper(lengths, overhead, limit):
    token = 5e-5
    got = Dispatch(times(overhead, token)).cut(lengths, limit)
    assert sum(got) == len(lengths)
    ends = range(1, len(lengths))
    every = (
        np.diff([0, *inner, len(lengths)]).tolist()
        for count in range(len(lengths))
        for inner in combinations(ends, count)
    )
    limit = min(limit, 512)
    best = min(price(cut, lengths, overhead, token, limit) for cut in every)
    assert price(got, lengths, overhead, token, limit) == pytest.approx(best, rel=1e-6)


def test_texts_run_alone_where_a_run_costs_nothing_beside_its_tokens():
    assert Dispatch(times(0.0, 5e-5)).cut([7] * 40, 4096) == [1] * 40


def test_without_times_runs_are_as_large_as_the_limit():
    assert Dispatch().cut([2, 2, 3, 9], 9) == [3, 1]


def test_times_of_another_host_or_thread_count_are_not_used(tmp_path):
    assert read_times(tmp_path, 1) is None
    path = tmp_path / DISPATCH_FILE
    path.write_text(times(1e-3, 1e-5).model_dump_json())
    assert read_times(tmp_path, 1) == times(1e-3, 1e-5)
    assert read_times(tmp_path, 2) is None
    other = this_host().model_copy(update={"cpu": "another"})
    path.write_text(times(1e-3, 1e-5, host=other).model_dump_json())
    assert read_times(tmp_path, 1) is None
    path.write_text("[1")
    with pytest.raises(IntegrityError, match=r"dispatch\.json"):
        read_times(tmp_path, 1)


def test_a_model_of_any_limit_is_measured():
    shapes = []
    found = measure_times(lambda b: shapes.append(b["input_ids"].shape), vocabulary=9, longest=5)
    assert {(run.batch, run.length) for run in found.runs} == {(1, 5), (4, 5), (16, 5)}
    assert set(shapes) == {(1, 5), (4, 5), (16, 5)}


@pytest.mark.parametrize("kind", ["fp32", "row_u8", "row_s7"])
def test_answers_have_the_bits_of_a_text_alone(tmp_path, kind):
    zoo = Zoo(str(tmp_path))
    graph = commit_graph(zoo, commit_tiny(zoo), kind=kind)
    predictor = Predictor.open(graph)
    texts = [" ".join([SENTENCES[0]] * (1 + n % 5))[: 5 + 3 * n] for n in range(40)]
    rows = rows_of_texts(texts)
    task = predictor.task()
    runs = []
    run = predictor.run
    predictor.run = lambda sequences, wanted: runs.append(len(sequences)) or run(sequences, wanted)
    for overhead in (None, 0.0, 1.0):  # measured here, never joined, joined as far as allowed
        runs.clear()
        if overhead is not None:
            predictor.dispatch = Dispatch(times(overhead, 1e-6))
        together = predictor.outputs(rows, task, embeddings=True)
        assert sum(runs) == len(texts)
        if overhead is not None:
            assert (max(runs) > 1) is (overhead > 0)
        for place in range(len(texts)):
            alone = predictor.outputs(rows.take([place]), task, embeddings=True)
            np.testing.assert_array_equal(alone.logits[0], together.logits[place])
            np.testing.assert_array_equal(alone.embeddings[0], together.embeddings[place])
    assert Predictor.open(graph).dispatch.times is None


def test_rows_that_may_not_share_a_call_are_not_measured(tmp_path):
    zoo = Zoo(str(tmp_path))
    predictor = Predictor.open(commit_graph(zoo, commit_tiny(zoo), kind="s7"))
    predictor.dispatch.prepare()
    assert predictor.dispatch.times is None
