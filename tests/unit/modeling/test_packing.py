"""Documents packed into one row give what they give alone."""

import pytest
import torch

from .small import LENGTH, VOCAB, make_model

LENGTHS = (3, 1, 4)
BLOCK = {"type": "transformer", "num_heads": 4}
POSITIONS = {
    "learned": {"parts": ["word", "pos"]},
    "sinusoidal": {"parts": ["word", "sinusoidalpos"]},
    "rotary": {"rotary": {}},
    "alibi": {"position_bias": {"type": "alibi"}},
    "t5": {"position_bias": {"type": "t5", "buckets": 8, "max_distance": 6}},
}
OPTIONS = {
    "bidirectional": {},
    "causal": {"mask": "causal"},
    "prefix": {"mask": "prefix"},
    "window": {"mask": "causal", "window": 2},
    "window_both_sides": {"window": 2},
    "grouped_eager": {"mask": "causal", "num_kv_heads": 2, "attention": "eager"},
}


def model_of(positions, options):
    extra = POSITIONS[positions]
    parts = extra.get("parts", ["word"])
    own = {key: value for key, value in extra.items() if key != "parts"}
    model = make_model(embedding={"parts": parts}, encoder=BLOCK | own | OPTIONS[options])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("options", list(OPTIONS))
@pytest.mark.parametrize("positions", list(POSITIONS))
def test_packed_equals_unpacked(positions, options):
    model = model_of(positions, options)
    documents = [torch.randint(1, VOCAB, (1, length)) for length in LENGTHS]
    prefixes = [(torch.arange(length) < 2).long()[None] for length in LENGTHS]
    packed = {
        "input_ids": torch.cat(documents, dim=1),
        "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None],
        "document_ids": torch.tensor([i for i, n in enumerate(LENGTHS) for _ in range(n)])[None],
        "prefix_mask": torch.cat(prefixes, dim=1),
    }
    assert packed["input_ids"].shape == (1, LENGTH)
    found = model.encode(packed).split(LENGTHS, dim=1)
    for document, prefix, piece in zip(documents, prefixes, found, strict=True):
        alone = model.encode({"input_ids": document, "prefix_mask": prefix})
        torch.testing.assert_close(piece, alone, atol=1e-5, rtol=0)


def test_packed_losses_and_gradients_equal_unpacked_ones():
    model = make_model(
        embedding={"parts": ["word", "pos"]}, encoder=BLOCK | {"mask": "causal"}, target="lm"
    )
    documents = [torch.randint(1, VOCAB, (1, length)) for length in LENGTHS]
    labels = [torch.cat([d[:, 1:], torch.full((1, 1), -100)], dim=1) for d in documents]
    packed = {
        "input_ids": torch.cat(documents, dim=1),
        "labels.lm": torch.cat(labels, dim=1),
        "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None],
        "document_ids": torch.tensor([i for i, n in enumerate(LENGTHS) for _ in range(n)])[None],
    }
    whole = model(packed)
    whole["loss.lm"].backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    parts = [
        model({"input_ids": d, "labels.lm": label})
        for d, label in zip(documents, labels, strict=True)
    ]
    sum(part["loss.lm"] for part in parts).backward()
    assert sum(part["count.lm"] for part in parts) == whole["count.lm"] == LENGTH - len(LENGTHS)
    torch.testing.assert_close(sum(part["loss.lm"] for part in parts), whole["loss.lm"])
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=0, msg=name)
