"""Heads for tags, replaced tokens, several labels, numbers, vectors and pairs."""

import pytest
import torch
import torch.nn.functional as F

from orchestrator.errors import ConfigError, InputError

from .small import LENGTH, WIDTH, make_batch, make_model

NAN = float("nan")


def run(target, labels):
    model = make_model(encoder="gru", target=target)
    batch = make_batch() | {f"labels.{target['type']}": labels}
    return model.predict(batch)[target["type"]], model(batch), model.count_labels(batch)


def check(result, counted, name, loss, count, correct):
    torch.testing.assert_close(result[f"loss.{name}"], loss)
    assert result[f"count.{name}"] == counted[name] == count
    assert result[f"correct.{name}"] == correct
    assert not result[f"correct.{name}"].requires_grad


def token_labels(classes):
    labels = torch.randint(0, classes, (4, LENGTH))
    labels[make_batch()["attention_mask"] == 0] = -100
    labels[0, 2] = -100
    return labels


def test_tags_sum_the_cross_entropy_of_labelled_tokens():
    labels = token_labels(5)
    logits, result, counted = run({"type": "tags", "num_labels": 5}, labels)
    assert logits.shape == (4, LENGTH, 5)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    correct = (logits.argmax(-1) == labels).sum()
    check(result, counted, "tags", loss, (labels >= 0).sum(), correct)


def test_replaced_tokens_are_a_yes_or_no_at_each_token():
    labels = token_labels(2)
    logits, result, counted = run({"type": "rtd"}, labels)
    assert logits.shape == (4, LENGTH)
    known = labels >= 0
    probability = logits.sigmoid()[known].double()
    right = torch.where(labels[known] == 1, probability, 1 - probability)
    correct = (right > 0.5).sum()
    check(result, counted, "rtd", -right.log().sum().float(), known.sum(), correct)


def test_each_of_several_labels_is_a_loss_term():
    labels = torch.tensor([[1, 0, 1], [0, -100, 1], [-100, -100, -100], [1, 1, 0]])
    logits, result, counted = run({"type": "multilabel", "num_labels": 3}, labels)
    assert logits.shape == (4, 3)
    known = labels >= 0
    probability = logits.sigmoid()[known].double()
    right = torch.where(labels[known] == 1, probability, 1 - probability)
    correct = (right > 0.5).sum()
    check(result, counted, "multilabel", -right.log().sum().float(), 8, correct)
    _, as_floats, _ = run({"type": "multilabel", "num_labels": 3}, labels.float())
    assert as_floats["count.multilabel"] == 8


@pytest.mark.parametrize(
    ("count", "labels"),
    [
        (1, torch.tensor([0.1, -40.0, NAN, 0.3])),
        (2, torch.tensor([[0.1, NAN], [-100.0, 0.0], [NAN, NAN], [0.2, 9.0]])),
    ],
)
def test_regression_sums_squares_and_counts_what_is_near(count, labels):
    target = {"type": "regression", "num_labels": count, "tolerance": 1.0}
    answers, result, counted = run(target, labels)
    assert answers.shape == (4, count)
    known = ~labels.isnan()
    distance = answers.view(labels.shape)[known] - labels[known]
    correct = (distance.abs() <= 1).sum()
    assert 0 < correct < known.sum()
    check(result, counted, "regression", distance.square().sum(), known.sum(), correct)


def test_unknown_numbers_have_no_gradient():
    model = make_model(encoder="gru", target="regression")
    result = model(make_batch() | {"labels.regression": torch.full((4,), NAN)})
    result["loss.regression"].backward()
    assert result["loss.regression"] == result["count.regression"] == 0
    assert not any(parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["multilabel", "regression"])
def test_labels_that_do_not_fit_are_refused(name):
    with pytest.raises(InputError, match=r"labels are \[4, 3\], the target answers with \[4, 2\]"):
        run({"type": name, "num_labels": 2}, torch.ones(4, 3))


@pytest.mark.parametrize("name", ["tags", "rtd", "multilabel", "regression"])
def test_micro_batches_add_up(name):
    labels = {
        "tags": token_labels(2),
        "rtd": token_labels(2),
        "multilabel": torch.randint(0, 2, (4, 2)),
        "regression": torch.randn(4),
    }[name]
    model = make_model(encoder="gru", target=name)
    batch = make_batch() | {f"labels.{name}": labels}
    whole = model(batch)
    parts = [model({k: v[i : i + 1] for k, v in batch.items()}) for i in range(4)]
    for key, value in whole.items():
        torch.testing.assert_close(sum(part[key] for part in parts), value, msg=key)


@pytest.mark.parametrize("name", ["sp", "nsp", "sop"])
def test_pairs_are_two_classes_of_the_first_vector(name):
    labels = torch.tensor([0, 1, -100, 1])
    model = make_model(encoder="gru", target=name)
    batch = make_batch() | {f"labels.{name}": labels}
    head, hidden = model.targets[name], model.encode(batch)
    first = hidden[torch.arange(4), torch.tensor([0, 0, 3, 0])]  # row 2 is padded on the left
    logits = head.output(head.dense(first).tanh())
    torch.testing.assert_close(model.predict(batch)[name], logits)
    result = model(batch)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(result[f"loss.{name}"], expected)
    assert result[f"count.{name}"] == 3


def test_a_vector_answers_and_learns_nothing():
    model = make_model(encoder="gru", target=[{"type": "vector", "pooling": "mean"}, "cls"])
    batch = make_batch() | {"labels.cls": torch.tensor([0, 1, 0, 1])}
    assert set(model(batch)) == {"loss.cls", "count.cls", "correct.cls"}
    vector = model.predict(batch)["vector"]
    assert vector.shape == (4, WIDTH)
    torch.testing.assert_close(vector, model.pool(model.encode(batch), batch, "mean"))
    with pytest.raises(InputError, match="has no labels"):
        model(batch | {"labels.vector": torch.zeros(4)})
    with pytest.raises(InputError, match="has no labels"):
        model.count_labels(batch | {"labels.vector": torch.zeros(4)})


def test_an_activation_without_a_hidden_layer_is_refused():
    for name in ("cls", "multilabel", "regression"):
        with pytest.raises(ConfigError, match="hidden_activation: needs a hidden layer"):
            make_model(encoder="gru", target={"type": name, "hidden_activation": "relu"})
