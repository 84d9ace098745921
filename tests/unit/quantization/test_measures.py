"""Accuracy, output error and speed of plans.

Timing is interleaved: ratios within a round are right on a machine that slows down.
"""

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from orchestrator.errors import StageError
from orchestrator.quantization import measures
from orchestrator.quantization.distances import lowest_decile, row_agreement, row_divergence
from orchestrator.quantization.measured_results import Paired
from orchestrator.quantization.measures import (
    Outputs,
    compare,
    divergence,
    encode,
    median_interval,
    predict_all,
)
from orchestrator.tasks.base import build_task
from orchestrator.tasks.metrics import share
from orchestrator.zoo.suite import TaskSpec


def one_hot(answers, classes=3):
    return np.eye(classes, dtype=np.float32)[answers]


def paired(before, after, labels):
    """Compare two classifiers by their logits."""
    rows = [(logits.argmax(axis=1) == labels).astype(float) for logits in (before, after)]
    return measures.paired(
        share("accuracy"), *(np.stack([right, np.ones_like(right)], axis=1) for right in rows)
    )


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
    texts = encode(rows, np.asarray([3, 1, 2]) - 1)
    assert [row[0] for row in predict_all(Echo(), texts).logits["t"]] == [1, 2, 3]


def test_answers_that_are_not_finite_are_refused():
    rows = [{"input_ids": np.asarray([[1]])}]

    class Broken(Echo):
        def predict(self, batch):
            return {"t": np.full((1, 2), np.nan), "embedding": np.zeros((1, 2))}

    with pytest.raises(StageError, match="not finite"):
        predict_all(Broken(), encode(rows, np.zeros(1)))


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
    work = {name: clock.worker(name, 4e-3) for name in "rabcd"}
    compare(work, "r", rounds=3, calls=1)
    assert "".join(clock.calls)[-27:] == "rarbrcrdr" + "rdrcrbrar" + "rarbrcrdr"


def test_short_calls_are_repeated_up_to_the_shortest_slice(monkeypatch):
    clock = Clock(monkeypatch)
    compare({"a": clock.worker("a", 1e-5)}, "a", rounds=3, calls=1)
    assert len(clock.calls) > 3 * 5 * 190


def test_the_interval_of_a_median_covers_it():
    rng = np.random.default_rng(0)
    low, high = np.transpose([median_interval(rng.exponential(1.0, 15)) for _ in range(500)])
    share_inside = np.mean((low <= np.log(2)) & (np.log(2) <= high))
    assert 0.94 < share_inside < 0.99
    assert median_interval(np.asarray([3.0, 1.0, 2.0])) == (1.0, 3.0)


def test_the_lower_bound_of_the_lowest_decile_holds_in_95_percent_of_draws():
    rng = np.random.default_rng(0)
    below = [lowest_decile(rng.random(200)).low <= 0.1 for _ in range(400)]
    assert 0.94 < np.mean(below) < 0.99
    assert lowest_decile(rng.random(28)).low == -1.0
    assert lowest_decile(rng.random(29)).low >= 0


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("classification", (4,)),
        ("tags", (6, 4)),
        ("multilabel", (4,)),
        ("regression", (2,)),
        ("question_answering", (6, 2)),
        ("multiple_choice", (3, 1)),
        ("similarity", (2, 5)),
    ],
)
def test_every_kind_has_a_divergence_that_grows_with_the_square_of_a_change(kind, shape):
    rng = np.random.default_rng(0)
    before = rng.standard_normal((30, *shape))
    change = rng.standard_normal(before.shape)
    assert row_divergence(kind, before, before) == pytest.approx(0, abs=1e-12)
    small, large = (row_divergence(kind, before, before + e * change).mean() for e in (1e-3, 2e-3))
    assert 0 < small < 1e-4
    assert large == pytest.approx(4 * small, rel=0.02)


def test_agreement_is_that_of_the_answers():
    def answers(kind, logits, labels=("a", "b")):
        return build_task(TaskSpec(kind=kind, head="h", labels=labels)).answers(list(logits))

    before, after = np.asarray([[1.0, 0], [0, 1]]), np.asarray([[2.0, 0], [1, 0]])
    classes = [answers("classification", logits) for logits in (before, after)]
    assert row_agreement(*classes).tolist() == [1, 0]
    labels = [answers("multilabel", logits - 0.5) for logits in (before, after)]
    assert row_agreement(*labels).tolist() == [1, 0]
    assert row_agreement(*[answers("regression", x, ()) for x in (before, after)]) is None
