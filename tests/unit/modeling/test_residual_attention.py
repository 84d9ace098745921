"""Residual attention: scores of a block go on to the next one."""

import pytest
import torch

from orchestrator.config import validate_config
from orchestrator.errors import ConfigError, InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.generation.config import GenerationConfig
from orchestrator.modeling.generation.generate import generate
from orchestrator.modeling.huggingface.classes import architecture_of

WIDTH, VOCAB, LENGTH = 24, 31, 9


def model_of(seed=1, target="lm", **encoder):
    raw = {
        "hidden_size": WIDTH,
        "vocab_size": VOCAB,
        "max_position_embeddings": 32,
        "embedding": {"parts": ["word", "pos"], "dropout": 0.0},
        "encoder": {
            "type": "transformer", "num_layers": 3, "num_heads": 4, "dropout": 0.0,
            "residual_attention": True, "mask": "causal",
        }
        | encoder,
        "target": target,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = build_model(validate_config(ModelConfig, raw, "model"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(float(parameter.mean()), 0.3)
    return model


def padded():
    ids = torch.randint(1, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([LENGTH, 4, 6])
    return {"input_ids": ids, "attention_mask": (torch.arange(LENGTH) < lengths[:, None]).long()}


def reference(model, batch):
    """Equation 3 of RealFormer, on post-norm blocks."""
    config, mask = model.config.encoder, batch["attention_mask"].bool()
    x, _ = model.embedding(batch)
    heads, size = config.num_heads, WIDTH // config.num_heads
    allowed = mask[:, None, None, :]
    if config.mask == "causal":
        allowed = allowed & torch.ones(LENGTH, LENGTH).tril().bool()
    earlier = 0.0
    for index in range(config.num_layers):
        layer = model.encoder.layers[index % len(model.encoder.layers)]
        query, key, value = (
            getattr(layer.attention, name)(x).unflatten(-1, (heads, size)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        earlier = query @ key.transpose(2, 3) / size**0.5 + earlier
        weights = earlier.masked_fill(~allowed, -torch.inf).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        x = layer.norm1(x + layer.attention.output(mixed))
        x = layer.norm2(x + layer.feed_forward(x))
    return x


@pytest.mark.parametrize("mask", ["bidirectional", "causal"])
@pytest.mark.parametrize("shared", [False, True])
def test_it_is_the_equation(mask, shared):
    target = "lm" if mask == "causal" else "mlm"
    model, batch = model_of(target=target, mask=mask, shared_layers=shared).eval(), padded()
    real = batch["attention_mask"].bool()
    found, expected = model.encode(batch), reference(model, batch)
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=0)
    plain = model.config.encoder.model_copy(update={"residual_attention": False})
    other = build_model(model.config.model_copy(update={"encoder": plain})).eval()
    other.load_state_dict(model.state_dict())
    assert (other.encode(batch) - found)[real].abs().max() > 0.01


def test_activation_checkpoints_change_no_gradient():
    batch = padded() | {"labels.lm": torch.randint(1, VOCAB, (3, LENGTH))}
    gradients = []
    for on in (False, True):
        model = model_of().train()
        model.checkpoint_activations(on)
        model(batch)["loss.lm"].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"position_bias": {"type": "alibi"}},
        {"rotary": {}, "num_kv_heads": 2, "norm_position": "pre"},
        {"window": 3, "window_layers": (1,), "position_bias": {"type": "t5", "buckets": 8}},
    ],
)
def test_generation_with_a_cache_reads_the_same_scores(options):
    model, batch = model_of(**options).eval(), padded()
    config = GenerationConfig(max_new_tokens=8, sample=True, temperature=4.0)
    cached, again = (generate(model, batch, config, cached=each).tokens for each in (True, False))
    assert torch.equal(cached, again)
    assert len(cached.unique()) > 3


def test_what_cannot_carry_scores_refuses():
    for change, path in (
        ({"attention_softcap": 5.0}, "encoder.attention_softcap"),
        (
            {"position_bias": {"type": "disentangled"}, "mask": "bidirectional"},
            "encoder.residual_attention",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            model_of(target="mlm" if "mask" in change else "lm", **change)
        assert path in [problem.path for problem in caught.value.problems]
    model = model_of(target={"type": "cls"}, mask="bidirectional")
    with pytest.raises(InputError):
        architecture_of(model.config)
