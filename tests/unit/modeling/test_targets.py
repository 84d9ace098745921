"""Losses are sums with counts; logits only where labels are; pooling counts real positions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from orchestrator.modeling.targets.sequence import pool

from .small import LENGTH, VOCAB, WIDTH, make_batch, make_model

CAUSAL = {"type": "transformer", "num_heads": 2, "mask": "causal"}


def with_token_labels(batch, name, keep=0.5):
    real = batch["attention_mask"].bool()
    chosen = (torch.rand(real.shape) < keep) & real
    labels = torch.where(chosen, torch.randint(0, VOCAB, real.shape), -100)
    return batch | {f"labels.{name}": labels}


@pytest.mark.parametrize("target", ["mlm", "lm"])
def test_token_loss_is_the_sum_over_labelled_positions(target):
    model = make_model(encoder=CAUSAL, target=target)
    batch = with_token_labels(make_batch(), target)
    labels = batch[f"labels.{target}"]
    result = model(batch)
    logits = model.predict(batch)[target]
    assert logits.shape == (4, LENGTH, VOCAB)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(result[f"loss.{target}"], expected)
    assert result[f"count.{target}"] == (labels != -100).sum()
    assert result[f"correct.{target}"] == (logits.argmax(-1) == labels).sum()


@pytest.mark.parametrize("target", ["mlm", "lm", "cls"])
def test_labels_are_smoothed_in_training_only(target):
    head = {"type": target, "label_smoothing": 0.2}
    head |= {"num_labels": 3, "dropout": 0.0} if target == "cls" else {}
    still = {"embedding": {"dropout": 0.0}, "encoder": CAUSAL | {"dropout": 0.0}}
    model = make_model(**still, target=head)
    batch = with_token_labels(make_batch(), target)
    if target == "cls":
        batch["labels.cls"] = torch.tensor([0, 2, -100, 1])
    labels = batch[f"labels.{target}"].flatten()
    logits = model.predict(batch)[target].flatten(0, -2)
    for training, share in ((True, 0.2), (False, 0.0)):
        result = model.train(training)(batch)
        expected = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=share)
        torch.testing.assert_close(result[f"loss.{target}"], expected)
        assert result[f"correct.{target}"] == (logits.argmax(-1) == labels).sum()
        assert result[f"count.{target}"] == (labels != -100).sum()


def test_micro_batches_add_up_to_the_batch():
    model = make_model(encoder=CAUSAL, target=["mlm", {"type": "cls", "num_labels": 3}])
    batch = with_token_labels(make_batch(), "mlm") | {"labels.cls": torch.tensor([0, 2, -100, 1])}
    whole = model(batch)
    parts = [model({k: v[i : i + 1] for k, v in batch.items()}) for i in range(4)]
    for key, value in whole.items():
        torch.testing.assert_close(sum(part[key] for part in parts), value, msg=key)


def test_a_batch_without_any_labelled_position_gives_zero_and_zero_gradients():
    model = make_model(encoder=CAUSAL, target=["lm", {"type": "cls"}])
    batch = make_batch()
    batch |= {"labels.lm": torch.full((4, LENGTH), -100), "labels.cls": torch.full((4,), -100)}
    result = model(batch)
    assert result["loss.lm"] == result["count.lm"] == result["correct.lm"] == 0
    assert result["loss.cls"] == result["count.cls"] == result["correct.cls"] == 0
    (result["loss.lm"] + result["loss.cls"]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_targets_without_labels_are_left_out_and_counts_tell_which_have_some():
    model = make_model(encoder=CAUSAL, target=["lm", {"type": "cls", "name": "topic"}])
    batch = make_batch() | {"labels.topic": torch.tensor([0, 1, -100, 1])}
    assert set(model(batch)) == {"loss.topic", "count.topic", "correct.topic"}
    assert {k: int(v) for k, v in model.count_labels(batch).items()} == {"topic": 3}
    assert set(model.predict(batch)) == {"lm", "topic"}


def test_two_directions_are_two_language_models_on_the_halves():
    model = make_model(encoder="bigru", target="bilm")
    batch = make_batch()
    labels = torch.randint(0, VOCAB, (4, LENGTH, 2))
    labels[batch["attention_mask"] == 0] = -100
    result = model(batch | {"labels.bilm": labels})
    hidden, head = model.encode(batch), model.targets["bilm"].output
    expected = 0
    for direction in (0, 1):
        half = hidden[..., direction * WIDTH // 2 : (direction + 1) * WIDTH // 2]
        logits = head(half).flatten(0, 1)
        expected += F.cross_entropy(logits, labels[..., direction].flatten(), reduction="sum")
    torch.testing.assert_close(result["loss.bilm"], expected)
    assert result["count.bilm"] == 2 * batch["attention_mask"].sum()


@pytest.mark.parametrize("name", ["type", "train", "keys", "forward", "parameters"])
def test_a_head_may_have_any_name(name):
    model = make_model(encoder="gru", target={"type": "cls", "name": name})
    batch = make_batch() | {f"labels.{name}": torch.tensor([0, 1, 0, 1])}
    assert f"loss.{name}" in model.train()(batch)
    assert f"targets.{name}.output.weight" in model.state_dict()


def test_output_layers_share_the_word_table_of_their_side():
    model = make_model(
        encoder="gru",
        target_embedding={"parts": ["word", "pos"]},
        decoder={"type": "transformer", "num_heads": 2},
        target=["lm", {"type": "mlm", "name": "free", "tie": False}],
    )
    assert model.targets["lm"].output.weight is model.target_embedding.word.weight
    assert model.targets["lm"].output.weight is not model.embedding.word.weight
    assert model.tied_names() == {"targets.lm.output.weight": "target_embedding.word.weight"}


MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])


def numpy_pool(values, how):
    rows = []
    for row, mask in zip(values, MASK, strict=True):
        real = row[mask == 1]
        if len(real) == 0:
            rows.append(None)
        else:
            rows.append(
                {"mean": real.mean(0), "max": real.max(0), "first": real[0], "last": real[-1]}[how]
            )
    return rows


@pytest.mark.parametrize("how", ["mean", "max", "first", "last"])
def test_pooling_counts_real_positions_once(how):
    values = np.random.default_rng(0).normal(size=(4, 4, 3)) - 5.0
    found = pool(torch.tensor(values), torch.tensor(MASK).bool(), how)
    assert found.isfinite().all()
    for row, expected in zip(found.numpy(), numpy_pool(values, how), strict=True):
        if expected is not None:
            np.testing.assert_allclose(row, expected)
        elif how in ("mean", "max"):
            assert not row.any()


def test_segment_ids_do_not_weigh_in_pooling():
    model = make_model(encoder="gru", embedding={"parts": ["word"]}, target={"type": "cls"})
    batch = make_batch()
    other = batch | {"token_type_ids": batch["token_type_ids"] + 5}
    assert torch.equal(model.predict(batch)["cls"], model.predict(other)["cls"])
    hidden = model.encode(batch)
    torch.testing.assert_close(
        model.pool(hidden, batch)[1], hidden[1, :5].mean(0), atol=1e-6, rtol=1e-5
    )
