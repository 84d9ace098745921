"""Operations by formula against the ones that torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.modeling.builder import build_model
from orchestrator.modeling.cost import ceiling_flops, training_flops

from .small import VOCAB, make_config

LENGTH = 32


@pytest.mark.parametrize(
    "encoder",
    [
        {"type": "transformer", "num_layers": 3, "mask": "causal"},
        {"type": "transformer", "num_layers": 2, "mask": "causal", "feed_forward": "gated"},
        {"type": "transformer", "mask": "causal", "num_kv_heads": 1, "head_size": 24},
    ],
)
def test_the_formula_counts_what_torch_counts(encoder):
    config = make_config(
        hidden_size=64,
        max_position_embeddings=LENGTH,
        embedding={"parts": ["word", "pos"]},
        encoder=encoder | {"attention": "eager"},
        target="lm",
    )
    ids = torch.randint(1, VOCAB, (2, LENGTH))
    with FlopCounterMode(display=False) as counter:
        build_model(config).predict({"input_ids": ids})
    counted = 3 * counter.get_total_flops() / ids.numel()
    assert training_flops(config, LENGTH) == pytest.approx(counted, rel=0.01)


def test_masked_heads_and_idle_experts_cost_less():
    base = {"encoder": {"type": "transformer", "intermediate_size": 256}}
    dense = training_flops(make_config(**base, target="mlm"), 8)
    causal = {"encoder": base["encoder"] | {"mask": "causal"}}
    assert dense < training_flops(make_config(**causal, target="lm"), 8) + 6 * 16 * 16
    eight, four = (
        training_flops(
            make_config(encoder=base["encoder"] | {"experts": {"num_experts": count, "top_k": 2}}),
            8,
        )
        for count in (8, 4)
    )
    router = 6 * 2 * 16 * (8 - 4)
    assert eight == pytest.approx(four + router)


def test_the_ceiling_is_a_rate():
    assert ceiling_flops("cpu", torch.float32) > 1e8
