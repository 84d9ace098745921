"""Accuracy, output error and speed of plans.

Timing is interleaved: ratios within a round are right on a machine that slows down.
"""

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from orchestrator.errors import StageError
from orchestrator.quantization import measures
from orchestrator.quantization.measures import (
    Outputs,
    compare,
    divergence,
    encode,
    paired,
    predict_all,
)
from orchestrator.quantization.results import Paired


def one_hot(answers, classes=3):
    return np.eye(classes, dtype=np.float32)[answers]


def test_paired_counts_gains_and_losses():
    labels = np.asarray([0, 1, 2, 0, 1, 2, 0, 0])
    before = one_hot([0, 1, 2, 0, 0, 0, 0, 1])
    after = one_hot([1, 2, 0, 0, 1, 0, 0, 1])
    figures = paired(before, after, labels)
    assert (figures.lost, figures.gained, figures.texts) == (3, 1, 8)
    assert figures.reference - figures.accuracy == pytest.approx(figures.drop) == 2 / 8
    # exact McNemar by hand: 2 * (C(4,0) + C(4,1)) / 2^4
    assert figures.p_value == pytest.approx(2 * (1 + 4) / 16)
    assert figures.interval[0] < 0 < figures.drop < figures.interval[1]
    assert Paired.model_validate_json(figures.model_dump_json()) == figures


def test_no_change_is_no_evidence():
    figures = paired(one_hot([0, 1]), one_hot([0, 1]), np.asarray([0, 2]))
    assert (figures.drop, figures.p_value) == (0.0, 1.0)


def test_the_interval_covers_the_true_drop_in_about_95_percent_of_draws():
    rng = np.random.default_rng(0)
    lost, gained, texts, trials, hits = 0.08, 0.03, 200, 300, 0
    for _ in range(trials):
        draw = rng.random(texts)
        before = np.where(draw < gained, 1, 0)
        after = np.where((draw >= gained) & (draw < gained + lost), 1, 0)
        low, high = paired(one_hot(before), one_hot(after), np.zeros(texts, int)).interval
        hits += low <= lost - gained <= high
    assert 0.91 < hits / trials < 0.985


def test_divergence_is_kl_and_cosine():
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal((2, 20, 5)).astype(np.float32)
    found = divergence(Outputs({"t": left}, left), Outputs({"t": right}, right))
    p, q = np.exp(log_softmax(left, axis=1)), np.exp(log_softmax(right, axis=1))
    assert found.kl == pytest.approx(entropy(p, q, axis=1).mean(), rel=1e-5)
    cosine = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    assert found.cosine == pytest.approx(1 - cosine.mean(), rel=1e-5)
    assert divergence(Outputs({"t": left}, left), Outputs({"t": left}, left)).kl == 0


class Echo:
    """Answers with the first token of each text."""

    def predict(self, batch):
        first = batch["input_ids"][:, :1].astype(np.float32)
        return {"t": first, "embedding": first}


def test_answers_come_back_in_the_order_of_the_texts():
    rows = [{"input_ids": np.asarray([[3], [1]])}, {"input_ids": np.asarray([[2, 9]])}]
    texts = encode(rows, np.asarray([3, 1, 2]) - 1, np.zeros(3))
    assert predict_all(Echo(), texts).logits["t"][:, 0].tolist() == [1, 2, 3]


def test_answers_that_are_not_finite_are_refused():
    rows = [{"input_ids": np.asarray([[1]])}]

    class Broken(Echo):
        def predict(self, batch):
            return {"t": np.full((1, 2), np.nan), "embedding": np.zeros((1, 2))}

    with pytest.raises(StageError, match="not finite"):
        predict_all(Broken(), encode(rows, np.zeros(1), np.zeros(1)))


class Clock:
    """A clock that moves only during work; the machine gets slower all the time."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(measures.time, "thread_time", lambda: self.now)
        monkeypatch.setattr(measures.time, "perf_counter", lambda: 3 * self.now)
        self.calls = []

    def worker(self, name, seconds):
        def work():
            self.calls.append(name)
            self.now += seconds * (1 + self.now)

        return work


def test_ratios_are_taken_within_a_round(monkeypatch):
    clock = Clock(monkeypatch)
    work = {"float": clock.worker("float", 4e-3), "half": clock.worker("half", 2e-3)}
    found = compare(work, "float", rounds=7, calls=3)
    assert found["float"].ratio == 1.0
    assert found["half"].ratio == pytest.approx(0.5, rel=0.02)
    assert found["half"].wall_ms == pytest.approx(3 * found["half"].cpu_ms)
    low, high = found["half"].spread
    assert low <= found["half"].ratio <= high


def test_the_order_is_reversed_every_other_round(monkeypatch):
    clock = Clock(monkeypatch)
    work = {name: clock.worker(name, 2e-3) for name in "rabcd"}
    compare(work, "r", rounds=3, calls=1)
    assert "".join(clock.calls)[-27:] == "rarbrcrdr" + "rdrcrbrar" + "rarbrcrdr"


def test_short_calls_are_repeated_up_to_the_shortest_slice(monkeypatch):
    clock = Clock(monkeypatch)
    compare({"a": clock.worker("a", 1e-5)}, "a", rounds=3, calls=1)
    assert len(clock.calls) > 3 * 5 * 190
