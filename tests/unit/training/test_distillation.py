"""Loss terms of distillation beside the formulas in float64, and through an engine."""

import numpy as np
import pytest
import torch

from orchestrator.errors import InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.targets.configs import StatesConfig
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.distillation.config import spread_layers
from orchestrator.training.distillation.losses import (
    DIVERGENCES,
    HiddenStates,
    SoftLabels,
    layer_distance,
)
from orchestrator.training.engines.torch_engines import SingleEngine


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(kind, student, teacher, heat):
    """Return the summed loss of rows [N, K] as the papers write it."""
    if kind == "regression":
        return ((student - teacher) ** 2).sum()
    if kind == "multilabel":
        p, q = (1 / (1 + np.exp(-x / heat)) for x in (teacher, student))
        kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        return heat**2 * kl.sum()
    p, q = softmax(teacher / heat), softmax(student / heat)
    return heat**2 * (p * np.log(p / q)).sum()


@pytest.mark.parametrize("heat", [1.0, 3.0])
@pytest.mark.parametrize("kind", list(DIVERGENCES))
def test_a_loss_is_the_formula(kind, heat):
    student, teacher = torch.randn(2, 7, 5, dtype=torch.float64, generator=seeded())
    found = DIVERGENCES[kind](student, teacher, heat).sum()
    expected = reference(kind, student.numpy(), teacher.numpy(), heat)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert DIVERGENCES[kind](teacher, teacher, heat).abs().max() < 1e-12


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", list(DIVERGENCES))
def test_a_term_counts_what_the_teacher_answered(kind):
    shape = (4, 6, 5) if kind == "tags" else (4, 5)
    student, teacher = torch.randn(2, *shape, generator=seeded())
    teacher[1] = torch.nan
    if kind == "tags":
        teacher[0, 2:] = torch.nan
    known = teacher.isfinite().all(-1)
    term = SoftLabels("head", kind, 2.0, 0.5)
    batch = {"teacher.head": teacher}
    outputs = known.sum().item() * (5 if kind in ("multilabel", "regression") else 1)
    assert term.count(batch) == outputs
    assert term.count({"teacher.other": teacher}) == 0
    rows = (student[known].double().numpy(), teacher[known].double().numpy())
    found = term({"logits.head": student}, batch)
    assert found.item() == pytest.approx(reference(kind, *rows, 2.0), rel=1e-5)


def test_layers_are_compared_at_real_tokens():
    student, teacher = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64, generator=seeded())
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    student.requires_grad_()
    found = layer_distance(student, teacher, mask)
    error = ((student - teacher) ** 2).detach().numpy()
    expected = error.mean(axis=(2, 3))[mask.numpy() == 1].sum()
    assert found.item() == pytest.approx(expected, rel=1e-12)
    found.backward()
    assert not student.grad[0, 2].any()


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (2, 4, (0, 2, 4)),
        (4, 12, (0, 3, 6, 9, 12)),
        (3, 4, (0, 1, 2, 4)),
        (1, 1, (0, 1)),
        (4, 2, (0, 0, 1, 1, 2)),
    ],
)
def test_layers_are_spread_evenly(student, teacher, expected):
    assert spread_layers(student, teacher) == expected


def model_of(layers, width, heads, *, pre=False):
    torch.manual_seed(layers)
    norm = {"norm_position": "pre"} if pre else {}
    return build_model(
        ModelConfig(
            hidden_size=width,
            vocab_size=20,
            max_position_embeddings=8,
            embedding={"parts": ["word", "pos"], "dropout": 0.0},
            encoder={"type": "transformer", "num_layers": layers, "num_heads": 2, "dropout": 0.0}
            | norm,
            target=heads,
        )
    )


def batch_of(rows, seed=0):
    lengths = torch.randint(3, 9, (rows,), generator=seeded(seed))
    return {
        "input_ids": torch.randint(1, 20, (rows, 8), generator=seeded(seed)),
        "attention_mask": (torch.arange(8) < lengths[:, None]).long(),
        "labels.cls": torch.randint(0, 3, (rows,), generator=seeded(seed)),
        "teacher.cls": torch.randn(rows, 3, generator=seeded(seed)),
    }


@pytest.mark.parametrize("pre", [False, True])
def test_a_head_of_states_gives_the_outputs_of_layers(pre):
    model = model_of(2, 8, [StatesConfig(layers=(0, 1, 2))], pre=pre).eval()
    seen = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    batch = {name: value for name, value in batch_of(3).items() if "." not in name}
    found = model.predict(batch)["states"]
    (first, _), (_, last) = seen
    torch.testing.assert_close(found[:, :, 0], first)
    torch.testing.assert_close(found[:, :, 2], last)
    assert found.shape == (3, 8, 3, 8)
    with pytest.raises(InputError, match="layer 5 is wanted, the encoder has 2"):
        model_of(2, 8, [StatesConfig(layers=(5,))]).predict(batch)
    gru = ModelConfig(
        hidden_size=8, vocab_size=20, encoder="gru", embedding={"parts": ["word"]}, target="states"
    )
    with pytest.raises(InputError, match="does not keep theirs"):
        build_model(gru).predict(batch)


def test_a_batch_gives_the_same_step_however_it_is_cut():
    def step(pieces, weights=(0.7, 0.3)):
        heads = [
            {"type": "cls", "num_labels": 3, "dropout": 0.0},
            StatesConfig(name="distillation", layers=(0, 1), width=12),
        ]
        student = model_of(1, 8, heads)
        teacher = model_of(2, 12, [StatesConfig(name="distillation", layers=(0, 2))]).eval()
        terms = (
            SoftLabels("cls", "classification", 2.0, weights[0]),
            HiddenStates("distillation", teacher, weights[1]),
        )
        whole = batch_of(8)
        size = 8 // pieces
        parts = [
            {key: value[i * size : (i + 1) * size] for key, value in whole.items()}
            for i in range(pieces)
        ]
        engine = SingleEngine(student, OptimizerConfig())
        metrics = engine.forward_backward(parts, terms)
        return metrics, {shard.name: shard.grad.clone() for shard in engine.shards()}

    (one, gradients), (four, cut) = step(1), step(4)
    real = int(batch_of(8)["attention_mask"].sum())
    assert (one["count.soft.cls"], one["count.hidden"]) == (8, real)
    expected = one["loss.cls"] + 0.7 * one["loss.soft.cls"] + 0.3 * one["loss.hidden"]
    assert one["loss"] == pytest.approx(expected, rel=1e-5)
    for name in ("loss", "loss.soft.cls", "loss.hidden", "count.hidden"):
        assert four[name] == pytest.approx(one[name], rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6)
    assert gradients["targets.distillation.projection.weight"].abs().sum() > 0
    assert gradients["embedding.word.weight"].abs().sum() > 0
