"""Low-rank adapters: what they compute, and what they leave alone."""

import pytest
import torch

from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling import lora
from orchestrator.modeling.config import LoraConfig

from .small import make_batch, make_model

RAW = {
    "encoder": {"type": "transformer", "num_heads": 2, "num_layers": 2, "dropout": 0.0},
    "target": {"type": "cls", "num_labels": 3, "dropout": 0.0},
}


def shake(model, share=0.2):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * share)
    return model.eval()


def labelled():
    return make_batch() | {"labels.cls": torch.tensor([0, 1, 2, 0])}


def test_an_adapted_model_begins_as_the_model_itself():
    model = make_model(**RAW).eval()
    batch = make_batch()
    before, names = model.predict(batch)["cls"], set(model.state_dict())
    found = lora.add_lora(model, LoraConfig())
    assert found == [
        f"encoder.layers.{i}.attention.{p}" for i in (0, 1) for p in ("query", "value")
    ]
    assert torch.equal(model.predict(batch)["cls"], before)
    assert set(model.state_dict()) - names == {f"{n}.lora_{x}" for n in found for x in "ab"}
    assert not names - set(model.state_dict())


def test_only_adapters_and_heads_learn():
    model = make_model(**RAW)
    names = lora.add_lora(model, LoraConfig(layers=("*",), rank=2))
    assert any("feed_forward" in name for name in names)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # B is zero at first, and with it the gradient of A
        optimizer.zero_grad()
        model(labelled())["loss.cls"].backward()
        optimizer.step()
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    wanted = {n for n in before if ".lora_" in n or n.startswith("targets.")}
    assert changed == wanted
    assert all(p.grad is None for n, p in model.named_parameters() if n not in wanted)


def test_the_change_is_scale_times_b_a():
    model = make_model(**RAW).eval()
    lora.add_lora(model, LoraConfig(rank=4, alpha=6.0, rank_stabilised=True))
    shake(model)
    layer = model.encoder.layers[0].attention.query
    x = torch.randn(5, layer.in_features)
    weight = layer.weight + 3.0 * layer.lora_b @ layer.lora_a  # 6 / sqrt(4)
    torch.testing.assert_close(layer(x), x @ weight.T + layer.bias)


def test_the_merged_state_is_the_model_without_adapters():
    model, plain = make_model(**RAW).eval(), make_model(**RAW).eval()
    lora.add_lora(model, LoraConfig(layers=("encoder.layers.1",), rank=3))
    shake(model)
    batch = make_batch()
    weight = model.get_parameter("encoder.layers.1.attention.query.weight")
    before = weight.detach().clone()
    state = lora.merged_state(model)
    assert torch.equal(weight, before)
    assert not torch.equal(state["encoder.layers.1.attention.query.weight"], before)
    plain.load_state_dict(state)
    adapted = model.predict(batch)["cls"]
    torch.testing.assert_close(plain.predict(batch)["cls"], adapted, atol=1e-5, rtol=0)


def test_the_state_of_the_adapters_is_enough():
    model, other = make_model(**RAW).eval(), make_model(**RAW).eval()
    for each in (model, other):
        lora.add_lora(each, LoraConfig(rank=2))
    base = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    shake(model)
    model.load_state_dict(base, strict=False)
    state = lora.lora_state(model)
    assert set(state) == {n for n in model.state_dict() if ".lora_" in n or "targets" in n}
    other.load_state_dict(base, strict=False)
    lora.load_lora_state(other, state)
    batch = make_batch()
    assert torch.equal(model.predict(batch)["cls"], other.predict(batch)["cls"])
    with pytest.raises(IntegrityError, match="lora_a"):
        lora.load_lora_state(other, {n: t for n, t in state.items() if "lora_a" not in n})


def test_patterns_that_fit_nothing_are_refused():
    model = make_model(**RAW)
    with pytest.raises(InputError, match=r"'\*\.attention\.qery' fits no linear layer"):
        lora.add_lora(model, LoraConfig(layers=("*.attention.qery",)))
    lora.add_lora(model, LoraConfig())
    with pytest.raises(InputError, match="has adapters already"):
        lora.add_lora(model, LoraConfig())
