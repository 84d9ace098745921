import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.randomness import (
    Purpose,
    draw,
    permutation,
    permuted,
    philox4x32,
    uniform,
)

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123 1.14, kat_vectors, philox4x32 with 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_published_vectors(counter, key, expected):
    assert tuple(int(word) for word in philox4x32(counter, key)) == expected


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    samples=st.lists(st.integers(0, 2**40), min_size=1, max_size=6),
    epochs=st.data(),
)
def test_a_sample_draws_the_same_numbers_in_any_batch(seed, samples, epochs):
    ages = [epochs.draw(st.integers(0, 1000)) for _ in samples]
    together = draw(seed, Purpose.MASK, np.asarray(ages), np.asarray(samples), 5)
    for i, (age, sample) in enumerate(zip(ages, samples, strict=True)):
        alone = draw(seed, Purpose.MASK, age, np.asarray([sample]), 5)
        for words, single in zip(together, alone, strict=True):
            assert (words[i] == single[0]).all()


def test_every_part_of_the_counter_matters():
    base = (7, Purpose.MASK, 3, np.asarray([5]), 4)
    others = [
        (8, *base[1:]),
        (7 + 2**32, *base[1:]),
        (7, Purpose.ORDER, *base[2:]),
        (7, Purpose.MASK, 4, *base[3:]),
        (7, Purpose.MASK, 3, np.asarray([6]), 4),
        (7, Purpose.MASK, 3, np.asarray([5 + 2**32]), 4),
    ]
    reference = draw(*base)[0]
    assert len(np.unique(reference)) == 4
    for other in others:
        assert not np.isin(draw(*other)[0], reference).any()


def test_numbers_are_uniform():
    values = uniform(draw(1, Purpose.MASK, 0, np.arange(2000), 50)[1]).ravel()
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 180  # 99 degrees of freedom: 180 has a probability of 1e-6
    assert values.min() >= 0
    assert values.max() < 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 50), st.integers(1, 500))
def test_permutation_holds_every_index_once(seed, epoch, size):
    order = permutation(seed, epoch, size)
    assert sorted(order) == list(range(size))
    assert (order == permutation(seed, epoch, size)).all()


def test_permutations_differ_between_epochs_and_seeds():
    orders = [tuple(permutation(seed, epoch, 50)) for seed in (1, 2) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 1000, 4097])
def test_places_are_permuted_one_by_one(size):
    places = np.arange(size)
    found = permuted(7, 0, size, places)
    assert sorted(found) == list(places)
    picked = places[:: max(1, size // 7)]
    assert permuted(7, 0, size, picked).tolist() == found[picked].tolist()
    if size >= 64:
        others = [permuted(8, 0, size, places), permuted(7, 1, size, places)]
        for other in [*others, places]:  # two random permutations agree in one place or so
            assert (found == other).sum() < 8


def test_permuted_places_are_spread_evenly_and_follow_no_order():
    size = 10_000
    found = permuted(3, 2, size, np.arange(size))
    blocks = np.histogram2d(np.arange(size), found, bins=10)[0]
    assert ((blocks - 100) ** 2 / 100).sum() < 81 + 5 * (2 * 81) ** 0.5  # chi-squared, 5 sigma
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.05


def test_of_a_trillion_samples_some_are_found_at_once():
    places = np.array([0, 1, 10**12 - 1])
    found = permuted(7, 5, 10**12, places)
    assert len(set(found.tolist())) == 3
    assert ((found >= 0) & (found < 10**12)).all()


def test_a_permutation_is_the_same_in_stretches_of_any_length(monkeypatch):
    whole = permutation(3, 4, 1000)
    monkeypatch.setattr("orchestrator.data.randomness.DRAWN_AT_ONCE", 7)
    assert (permutation(3, 4, 1000) == whole).all()
