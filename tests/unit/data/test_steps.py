from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.steps import StepSource, eval_batches
from orchestrator.errors import InputError


class Numbers:
    """Samples that are their own index; remembers the epochs they were asked for."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def collate(self, indices, epoch):
        epochs = np.broadcast_to(epoch, indices.shape).copy()
        return {
            "x": torch.from_numpy(indices.copy()),
            "epoch": torch.from_numpy(epochs),
            "labels.t": torch.from_numpy(indices.copy()),
        }


def drawn(windows):
    """(sample, epoch) of every place in some windows."""
    return [
        pair
        for window in windows
        for batch in window
        for pair in zip(batch["x"].tolist(), batch["epoch"].tolist(), strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 50),
    micro=st.sampled_from([1, 2, 4]),
    per_rank=st.sampled_from([1, 3]),
    world=st.sampled_from([1, 2, 3]),
    step=st.integers(0, 40),
)
def test_ranks_and_micro_batches_make_up_the_same_batch(size, micro, per_rank, world, step):
    total = micro * per_rank * world
    source = StepSource(Numbers(size), total, micro, seed=5)
    windows = [source.window(step, rank, world) for rank in range(world)]
    assert all(len(window) == per_rank for window in windows)
    assert all(len(batch["x"]) == micro for window in windows for batch in window)
    alone = StepSource(Numbers(size), total, total, seed=5).window(step)
    assert drawn(windows) == drawn([alone])


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 40), batch=st.integers(1, 12), epochs=st.integers(1, 4))
def test_every_sample_occurs_once_an_epoch(size, batch, epochs):
    source = StepSource(Numbers(size), batch, 1, seed=1)
    steps = -(-size * epochs // batch)
    counts = Counter(drawn(source.window(step) for step in range(steps)))
    assert set(counts.values()) == {1}
    for epoch in range(epochs):
        assert {sample for sample, age in counts if age == epoch} == set(range(size))


def test_resume_gives_the_same_batches_in_any_order_of_asking():
    source = StepSource(Numbers(37), 8, 4, seed=2)
    straight = [drawn([source.window(step)]) for step in range(30)]
    resumed = StepSource(Numbers(37), 8, 4, seed=2)
    assert [drawn([resumed.window(step)]) for step in reversed(range(30))] == straight[::-1]


def test_order_depends_on_seed_and_epoch():
    def order(seed, epoch):
        source = StepSource(Numbers(40), 40, 40, seed)
        return source.window(epoch)[0]["x"].tolist()

    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)


def test_epochs_are_counted_in_samples():
    source = StepSource(Numbers(10), 4, 4, seed=1)
    assert source.steps_per_epoch == 3
    assert [source.epoch(step) for step in range(6)] == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("batch", "micro", "world", "words"),
    [
        (64, 7, 2, ["7", "64", "32", "1, 2, 4, 8, 16, 32"]),
        (64, 0, 1, ["micro_batch_size: 0"]),
        (9, 1, 2, ["9", "2 workers", "1, 3, 9"]),
    ],
)
def test_sizes_that_do_not_divide_are_refused(batch, micro, world, words):
    with pytest.raises(InputError) as caught:
        StepSource(Numbers(10), batch, micro, 1).window(0, 0, world)
    assert all(word in str(caught.value) for word in words)


def test_an_empty_set_and_a_wrong_rank_are_refused():
    with pytest.raises(InputError, match="no samples"):
        StepSource(Numbers(0), 4, 2, 1)
    with pytest.raises(InputError, match="rank 2"):
        StepSource(Numbers(4), 4, 2, 1).window(0, 2, 2)
    with pytest.raises(InputError, match="global_batch_size is 0"):
        StepSource(Numbers(4), 0, 1, 1)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 60), batch=st.integers(1, 9), world=st.integers(1, 4))
def test_evaluation_covers_every_sample_once_with_equal_numbers_of_batches(size, batch, world):
    shares = [list(eval_batches(Numbers(size), batch, rank, world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    labels = torch.cat([b["labels.t"] for share in shares for b in share])
    assert sorted(labels[labels != -100].tolist()) == list(range(size))
    assert all(1 <= len(b["x"]) <= batch for share in shares for b in share)


def test_evaluation_refuses_impossible_sizes():
    with pytest.raises(InputError, match="batch_size 0"):
        list(eval_batches(Numbers(3), 0))


@settings(max_examples=40, deadline=None)
@given(world=st.sampled_from([1, 2, 3]), step=st.integers(0, 20))
def test_known_lengths_sort_a_rank_s_slice_and_change_no_sample(world, step):
    lengths = np.random.default_rng(3).integers(1, 90, 37)
    source = StepSource(Numbers(37), 12, 2, seed=5, lengths=lengths)
    plain = StepSource(Numbers(37), 12, 2, seed=5)
    for rank in range(world):
        window = source.window(step, rank, world)
        assert sorted(drawn([window])) == sorted(drawn([plain.window(step, rank, world)]))
        sizes = np.concatenate([lengths[batch["x"]] for batch in window])
        assert sizes.tolist() == sorted(sizes.tolist())


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_by_length_has_every_sample_once(world):
    lengths = np.random.default_rng(3).integers(1, 90, 37)
    shares = [list(eval_batches(Numbers(37), 4, rank, world, lengths)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    counted = [
        sample
        for share in shares
        for batch in share
        for sample, label in zip(batch["x"].tolist(), batch["labels.t"].tolist(), strict=True)
        if label != -100
    ]
    assert sorted(counted) == list(range(37))
