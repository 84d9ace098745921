"""The loss in pieces against linear layer and cross entropy."""

import pytest
import torch
import torch.nn.functional as F

from orchestrator.modeling.targets import vocabulary
from orchestrator.modeling.targets.vocabulary import VocabularyLayer

N, WIDTH, VOCAB = 11, 6, 13


@pytest.fixture
def layer(monkeypatch):
    """A layer whose labels are cut into four pieces: 3, 3, 3 and 2 rows."""
    monkeypatch.setitem(vocabulary.VALUES_PER_PIECE, "cpu", 3 * VOCAB + 5)
    return VocabularyLayer(WIDTH, VOCAB).double()


def data(dtype=torch.float64):
    return torch.randn(N, WIDTH, dtype=dtype, requires_grad=True), torch.randint(0, VOCAB, (N,))


def gradients(tensors, loss):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_loss_and_gradients_equal_the_plain_formula(layer, smoothing, softcap):
    layer = layer.float()
    x, labels = data(torch.float32)
    layer.smoothing, layer.softcap = smoothing, softcap
    loss, correct = layer(x, labels)
    logits = layer(x)
    if softcap is not None:
        plain = F.linear(x, layer.weight, layer.bias)
        assert torch.equal(logits, (plain / softcap).tanh() * softcap)
        assert plain.abs().max() > softcap / 2
    expected = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    assert correct == (logits.argmax(1) == labels).sum()
    tensors = (x, layer.weight, layer.bias)
    scaled = zip(gradients(tensors, loss * 0.3), gradients(tensors, expected * 0.3), strict=True)
    for found, wanted in scaled:
        torch.testing.assert_close(found, wanted)


def test_huge_logits_stay_finite(layer):
    layer = layer.float()
    x, labels = data(torch.float32)
    loss, _ = layer(x * 1e4, labels)
    torch.testing.assert_close(loss, F.cross_entropy(layer(x * 1e4), labels, reduction="sum"))
    assert all(gradient.isfinite().all() for gradient in gradients((x, layer.weight), loss))


def test_a_frozen_table_gets_no_gradient(layer):
    layer = layer.float()
    layer.weight.requires_grad_(False)
    x, labels = data(torch.float32)
    layer(x, labels)[0].backward()
    assert layer.weight.grad is None
    assert x.grad.any()
    assert layer.bias.grad.any()


def test_nothing_is_kept_without_gradients(layer):
    layer = layer.float()
    x, labels = data(torch.float32)
    with torch.no_grad():
        loss, _ = layer(x, labels)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, layer(x, labels)[0].detach())


def test_no_labels_at_all(layer):
    layer = layer.float()
    loss, correct = layer(torch.randn(0, WIDTH, requires_grad=True), torch.zeros(0).long())
    assert loss == correct == 0
    loss.backward()
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bf16_sums_in_fp32(layer, how):
    """A sum of bf16 terms would keep 8 bits; the oracle is the plain formula on fp32 logits."""
    layer = layer.float() if how == "autocast" else layer.bfloat16()
    x, labels = data(layer.weight.dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        loss, _ = layer(x, labels)
        logits = layer(x)
        plain = F.cross_entropy(logits.float(), labels, reduction="sum")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)
    tensors = (x, layer.weight, layer.bias)
    for found, wanted in zip(gradients(tensors, loss), gradients(tensors, plain), strict=True):
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found.float(), wanted.float(), rtol=0.03, atol=0.03)


def test_no_more_than_a_piece_of_logits_is_kept(layer):
    layer = layer.float()
    x, labels = data(torch.float32)
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x, labels)
    assert sum(kept) == x.numel() + layer.weight.numel() + layer.bias.numel()
    assert sum(kept) < N * VOCAB + layer.weight.numel()
