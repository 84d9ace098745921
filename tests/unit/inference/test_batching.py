"""Sequences of several requests in few runs: the right rows, in order, within the limit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.inference.batching import Work, pad, padded_tokens, run_works
from orchestrator.inference.dispatch import Dispatch
from orchestrator.inference.inputs import Tokens


def sequence(ids) -> Tokens:
    return Tokens(np.asarray(ids, dtype=np.int64), np.zeros(len(ids), dtype=np.int64))


def marker(sequences, wanted):
    """A model whose row says which sequence it was, how long, and what was wanted."""
    return {
        name: [np.asarray([item.input_ids[0], len(item), len(name)]) for item in sequences]
        for name in wanted
    }


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=6)
names = st.lists(st.sampled_from(["topic", "ner", "embedding"]), min_size=1, unique=True)
requests = st.lists(st.tuples(names, lengths), min_size=1, max_size=8)


@given(requests, st.integers(1, 120))
@settings(max_examples=100, deadline=None)
def test_every_request_gets_its_own_rows_in_order_and_no_run_is_too_large(wanted, limit):
    number = iter(range(1, 1000))
    works = [
        Work(tuple(names), [sequence([next(number)] + [0] * (length - 1)) for length in sizes])
        for names, sizes in wanted
    ]
    runs = []

    def run(sequences, wanted):
        runs.append(sequences)
        return marker(sequences, wanted)

    results = run_works(works, run, lambda each: Dispatch().cut(each, limit))
    assert len(results) == len(works)
    for work, result in zip(works, results, strict=True):
        assert tuple(result) == work.wanted
        expected = marker(work.sequences, work.wanted)
        for name in work.wanted:
            np.testing.assert_array_equal(result[name], expected[name])
    for sequences in runs:
        assert padded_tokens(sequences) <= limit or len(sequences) == 1


def test_padding_is_masked():
    batch = pad([sequence([5, 6, 7]), Tokens(np.asarray([8]), np.asarray([1]))], pad_id=3)
    np.testing.assert_array_equal(batch["input_ids"], [[5, 6, 7], [8, 3, 3]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(batch["token_type_ids"], [[0, 0, 0], [1, 0, 0]])
    assert all(array.dtype == np.int64 for array in batch.values())


def test_sequences_of_equal_length_share_one_run():
    runs = []

    def run(sequences, wanted):
        runs.append((len(sequences), tuple(wanted)))
        return marker(sequences, wanted)

    works = [Work((name,), [sequence([1, 2, 3])]) for name in ("topic", "embedding", "topic")]
    run_works(works, run, lambda each: Dispatch().cut(each, 15))
    assert runs == [(3, ("topic", "embedding"))]
