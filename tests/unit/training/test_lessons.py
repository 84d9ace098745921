"""Which lesson a step learns, and class weights in the loss."""

import numpy as np
import pytest
import torch

from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.errors import InputError
from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.targets.configs import ClsConfig
from orchestrator.modeling.targets.sequence import ClsTarget
from orchestrator.tasks.base import HeadOptions
from orchestrator.training.finetune.lessons import Lesson, LessonSource, class_weights, lesson_of

SIZES = Dimensions(
    hidden_size=4, vocab_size=8, max_position_embeddings=8, type_vocab_size=1, pad_token_id=0
)


class Steps:
    """A source whose window is its own name and turn."""

    def __init__(self, name, steps):
        self.name, self.steps_per_epoch = name, steps

    def window(self, step, rank, world):
        return [(self.name, step, rank)]


def source(steps, seed=3, weights=(1.0, 3.0)):
    return LessonSource([Steps("a", 30), Steps("b", 10)], weights, steps, seed)


def test_the_lesson_of_a_step_depends_on_seed_and_step_alone():
    long, short = source(4000), source(100)
    taken = [long.window(step, 0, 2)[0] for step in range(100)]
    assert taken == [short.window(step, 0, 2)[0] for step in range(100)]
    other = [name for name, _, _ in (long.window(step, 1, 2)[0] for step in range(100))]
    assert other == [name for name, _, _ in taken]
    assert other != [source(100, seed=4).window(step, 0, 1)[0][0] for step in range(100)]
    for name in "ab":
        turns = [turn for each, turn, _ in taken if each == name]
        assert turns == list(range(len(turns)))
    assert np.mean(long.lessons == 1) == pytest.approx(0.5, abs=0.03)  # 3 * 10 against 1 * 30
    assert long.epoch(40) == 1.0


def test_class_weights_have_mean_one_over_the_training_rows():
    rows = Rows(["x"] * 10, None, np.asarray([0] * 8 + [1] * 2))
    for wanted in ("balanced", {"b": 5.0}):
        weights = class_weights(wanted, ("a", "b"), rows)
        assert np.mean([weights[label] for label in rows.labels]) == pytest.approx(1.0)
    assert class_weights("balanced", ("a", "b"), rows) == pytest.approx((10 / 16, 10 / 4))
    with pytest.raises(InputError, match="'c' is not a class"):
        class_weights({"c": 2.0}, ("a", "b"), rows)
    with pytest.raises(InputError, match="not above 0"):
        class_weights({"a": 0.0}, ("a", "b"), rows)


def test_only_classes_have_weights():
    rows = Rows(["x", "y"], None, np.asarray([0.5, 1.5], np.float32)[:, None])
    data = TaskData("score", (), rows, rows, rows)
    lesson = lesson_of(data, "regression")
    with pytest.raises(InputError, match="has no classes to weigh"):
        Lesson(lesson.task, data, class_weights="balanced").target(HeadOptions())


def test_the_weighted_loss_is_the_weighted_sum_of_cross_entropies():
    torch.manual_seed(0)
    config = ClsConfig(num_labels=3, dropout=0.0, class_weights=(0.5, 1.0, 2.0))
    head = ClsTarget(config, SIZES)
    hidden, mask = torch.randn(5, 2, 4), torch.ones(5, 2, dtype=torch.bool)
    labels = torch.tensor([0, 1, 2, 2, -100])
    each = torch.nn.functional.cross_entropy(
        head.predict(hidden, mask)[:4], labels[:4], reduction="none"
    )
    output = head(hidden, mask, labels)
    torch.testing.assert_close(output.loss, each @ torch.tensor([0.5, 1.0, 2.0, 2.0]))
    assert output.terms == 4
    head.eval()
    torch.testing.assert_close(head(hidden, mask, labels).loss, each.sum())
