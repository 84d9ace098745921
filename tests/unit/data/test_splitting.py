import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.rows.splitting import cap_indices, fingerprint, split_indices
from orchestrator.errors import InputError

labels_of = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(
    lambda extra: np.asarray([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, *extra])
)


def keys_of(labels):
    return [f"text {i}" for i in range(len(labels))]


@settings(max_examples=60, deadline=None)
@given(labels_of, st.floats(0.01, 0.49), st.floats(0.01, 0.49), st.integers(0, 9))
def test_a_split_is_a_partition_with_every_class_everywhere(labels, first, second, seed):
    parts = split_indices(labels, keys_of(labels), (first, second), seed)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for part in parts:
        assert set(labels[part]) == {0, 1, 2, 3}


def test_shares_are_kept():
    labels = np.repeat([0, 1], [400, 100])
    train, validation, test = split_indices(labels, keys_of(labels), (0.1, 0.2), 1)
    assert [np.bincount(labels[part]).tolist() for part in (train, validation, test)] == [
        [280, 70], [40, 10], [80, 20]
    ]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(30)))
def test_a_split_does_not_depend_on_the_order_of_rows(order):
    labels = np.arange(30) % 3
    keys = keys_of(labels)
    straight = split_indices(labels, keys, (0.2, 0.2), 1)
    shuffled = split_indices(labels[list(order)], [keys[i] for i in order], (0.2, 0.2), 1)
    for part, other in zip(straight, shuffled, strict=True):
        assert [keys[i] for i in part] == [keys[order[i]] for i in other]


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_that_is_too_small_is_named(count):
    labels = np.asarray([0] * 5 + [1] * count)
    with pytest.raises(InputError, match=f"'rare' has {count} row.*at least 3"):
        split_indices(labels, keys_of(labels), (0.1, 0.1), 1, names=("common", "rare"))
    if count == 1:
        with pytest.raises(InputError, match="has 1 row, at least 2"):
            split_indices(labels, keys_of(labels), (), 1)


@settings(max_examples=60, deadline=None)
@given(labels_of, st.integers(1, 80))
def test_a_cap_takes_from_the_largest_classes(labels, limit):
    kept = cap_indices(labels, keys_of(labels), limit, 1)
    assert len(set(kept)) == len(kept) == min(limit, len(labels))
    before, after = np.bincount(labels, minlength=4), np.bincount(labels[kept], minlength=4)
    # nobody who lost rows has more than one row less than anybody else
    assert all(after[c] == before[c] or after[c] >= after.max() - 1 for c in range(4))


@pytest.mark.parametrize(
    ("one", "two", "equal"),
    [
        (
            "Constructs a `BertModel` with 12 layers.",
            "Constructs a `GPT2Model` with 3 layers",
            True,
        ),
        ("Return the mean.", "return  the MEAN", False),  # MEAN is a name
        ("Return the mean.", "Return the median.", False),
        ("The value of x_max", "the value of y_min!", True),
    ],
)
def test_copies_have_the_same_fingerprint(one, two, equal):
    assert (fingerprint(one) == fingerprint(two)) is equal


def test_a_text_without_words_has_no_fingerprint():
    assert fingerprint(" -- 12! ") in ("", "x")
    assert fingerprint("...") == ""
