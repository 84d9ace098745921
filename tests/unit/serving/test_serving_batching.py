import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.model.batching import Encoded, Work, pad, padded_tokens, run_batch


def encoded(ids) -> Encoded:
    return Encoded(np.asarray(ids, dtype=np.int64), np.zeros(len(ids), dtype=np.int64))


def marker(inputs, operation):
    """A model whose row says which input it was and what was wanted."""
    offset = 0.5 if operation == "embed" else 0.0
    return {operation: np.asarray([[item.input_ids[0] + offset, len(item)] for item in inputs])}


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=6)
requests = st.lists(
    st.tuples(st.sampled_from(["predict", "embed"]), lengths), min_size=1, max_size=8
)


@given(requests, st.integers(1, 120))
@settings(max_examples=100, deadline=None)
def test_every_request_gets_its_own_rows_in_order_and_no_run_is_too_large(wanted, limit):
    number = iter(range(1, 1000))
    works = [
        Work(operation, [encoded([next(number)] + [0] * (length - 1)) for length in sizes])
        for operation, sizes in wanted
    ]
    runs = []

    def run(inputs, operation):
        runs.append(inputs)
        return marker(inputs, operation)

    results = run_batch(works, run, limit)
    assert len(results) == len(works)
    for work, result in zip(works, results, strict=True):
        assert list(result) == [work.operation]
        np.testing.assert_array_equal(
            result[work.operation], marker(work.inputs, work.operation)[work.operation]
        )
    for inputs in runs:
        assert padded_tokens(inputs) <= limit or len(inputs) == 1


def test_padding_is_masked():
    batch = pad([encoded([5, 6, 7]), Encoded(np.asarray([8]), np.asarray([1]))])
    np.testing.assert_array_equal(batch["input_ids"], [[5, 6, 7], [8, 0, 0]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(batch["token_type_ids"], [[0, 0, 0], [1, 0, 0]])
    assert all(array.dtype == np.int64 for array in batch.values())


def test_inputs_of_equal_length_share_one_run():
    runs = []
    works = [Work("predict", [encoded([1, 2, 3])]) for _ in range(5)]
    run_batch(
        works, lambda inputs, operation: runs.append(len(inputs)) or marker(inputs, operation), 15
    )
    assert runs == [5]
