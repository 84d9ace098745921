"""Sizes before building, against the built thing."""

import pytest
import torch

from orchestrator.modeling.builder import build_model
from orchestrator.modeling.cost import activation_bytes, count_parameters, training_memory

from .small import VOCAB, WIDTH, make_config


def test_parameters_are_those_of_the_built_model_and_tied_ones_count_once():
    config = make_config(
        encoder={"type": "transformer", "num_heads": 2}, target=["mlm", {"type": "cls"}]
    )
    model = build_model(config)
    counted = count_parameters(config)
    assert counted.total == sum(parameter.numel() for parameter in model.parameters())
    assert set(counted.by_part) == {"embedding", "encoder", "targets.mlm", "targets.cls"}
    own = sum(p.numel() for n, p in model.named_parameters() if n.startswith("targets.mlm."))
    assert counted.by_part["targets.mlm"] == own


def test_bert_base_has_110_million_parameters():
    """transformers' BertForPreTraining of the released size has 110 106 428."""
    config = make_config(
        vocab_size=30522,
        hidden_size=768,
        max_position_embeddings=512,
        encoder={"type": "transformer", "num_layers": 12, "num_heads": 12},
        target=["mlm", "sp"],
    )
    assert count_parameters(config).total == 110_106_428


@pytest.mark.parametrize(
    ("precision", "stage", "expected"),
    [
        ("fp32", 0, (4, 4, 8)),
        ("bf16", 0, (2, 4, 12)),
        ("bf16", 1, (2, 4, 3)),
        ("fp32", 2, (4, 1, 2)),
        ("fp32", 3, (1, 1, 2)),
    ],
)
def test_zero_splits_state_then_gradients_then_parameters(precision, stage, expected):
    memory = training_memory(1000, precision=precision, workers=4, zero_stage=stage)
    found = (memory.parameters, memory.gradients, memory.optimizer)
    assert found == tuple(1000 * share for share in expected)
    assert memory.total == 1000 * sum(expected)


def saved_bytes(config, batch, checkpointing=False):
    """Return what autograd really keeps, parameters apart; each storage once."""
    model = build_model(config).train()
    model.checkpoint_activations(checkpointing)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        (model if config.target else model.encode)(batch)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize(
    "encoder",
    [
        {"type": "transformer", "dropout": 0.0},
        {"type": "transformer"},
        {"type": "transformer", "attention_dropout": 0.1},
        {"type": "transformer", "attention": "eager"},
        {
            "type": "transformer",
            "norm_position": "pre",
            "norm": "rms",
            "feed_forward": "gated",
            "rotary": {},
            "dropout": 0.0,
        },
        {
            "type": "transformer",
            "norm_position": "pre",
            "first_norm": False,
            "rotary": {},
            "rotary_layers": [1],
            "window": 5,
            "window_layers": [0, 2],
            "dropout": 0.0,
        },
        {"type": "transformer", "position_bias": {"type": "disentangled"}},
        {"type": "transformer", "position_bias": {"type": "disentangled"}, "dropout": 0.0},
        {"type": "transformer", "norm_position": "output", "query_key_norm": "projection"},
        {
            "type": "transformer",
            "norm_position": "both",
            "norm": "rms_offset",
            "query_key_norm": "head",
            "attention_softcap": 5.0,
            "dropout": 0.0,
        },
        {"type": "lstm"},
        {"type": "bilstm"},
        {"type": "gru"},
        {"type": "birnn"},
        {"type": "gatedcnn"},
    ],
)
def test_activations_are_estimated_near_what_autograd_keeps(encoder):
    config = make_config(
        hidden_size=64,
        max_position_embeddings=32,
        embedding={"parts": ["word", "pos"]},
        encoder=encoder | {"num_layers": 3},
        target="mlm",
    )
    ids = torch.randint(1, VOCAB, (4, 32))
    batch = {"input_ids": ids, "labels.mlm": torch.where(torch.rand(4, 32) < 0.15, ids, -100)}
    real = saved_bytes(config, batch)
    estimate = activation_bytes(config, batch_size=4, length=32)
    assert 0.8 * real < estimate < 1.5 * real


@pytest.mark.parametrize("mask", ["bidirectional", "causal"])
def test_activations_of_a_sequence_in_chunks_are_estimated(mask):
    blocks = {"num_layers": 3, "window": 65, "dropout": 0.0, "mask": mask}
    config = make_config(
        hidden_size=64,
        max_position_embeddings=512,
        embedding={"parts": ["word"]},
        encoder={"type": "transformer", **blocks},
    )
    real = saved_bytes(config, {"input_ids": torch.randint(1, VOCAB, (2, 512))})
    estimate = activation_bytes(config, batch_size=2, length=512)
    assert 0.8 * real < estimate < 1.5 * real


def test_only_blocks_with_rotary_positions_keep_rotated_vectors():
    def estimate(**options):
        encoder = {"type": "transformer", "num_layers": 3, "rotary": {}} | options
        config = make_config(embedding={"parts": ["word"]}, encoder=encoder)
        return activation_bytes(config, batch_size=1, length=1)

    one = estimate(rotary_layers=[1]) - estimate(rotary=None)
    assert estimate() - estimate(rotary=None) == 3 * one == 3 * 4 * 2 * WIDTH


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "speech", "channels": 96}, "sinusoidalpos"],
        [{"type": "speech", "activation": "gelu", "kernels": [3, 3], "strides": [1, 2]}],
        [{"type": "waveform", "channels": [48] * 7}, {"type": "convpos", "kernel_size": 16}],
        [{"type": "waveform", "channels": [48] * 7, "norm": "layer"}],
    ],
)
def test_convolutions_over_sound_are_in_the_estimate(parts):
    config = make_config(
        hidden_size=64, max_position_embeddings=256, embedding={"parts": parts}, encoder="gru"
    )
    strides = config.embedding.parts[0].strides
    length = 25 if len(strides) > 2 else 128
    sound = {"input_features": torch.randn(4, length * strides[0] * strides[1], 80)}
    if len(strides) > 2:
        sound = {"input_values": torch.randn(4, length * 320)}
    real = saved_bytes(config, sound)
    assert 0.8 * real < activation_bytes(config, batch_size=4, length=length) < 1.5 * real


def test_checkpointing_leaves_one_block_and_the_inputs_of_all():
    config = make_config(
        hidden_size=64,
        max_position_embeddings=32,
        encoder={"type": "transformer", "num_layers": 8},
        target="mlm",
    )
    ids = torch.randint(1, VOCAB, (4, 32))
    batch = {"input_ids": ids, "labels.mlm": torch.where(torch.rand(4, 32) < 0.15, ids, -100)}
    plain = activation_bytes(config, batch_size=4, length=32)
    estimate = activation_bytes(config, batch_size=4, length=32, checkpointing=True)
    between_blocks = saved_bytes(config, batch, checkpointing=True)
    one_block = saved_bytes(config, batch) / 8
    assert 0.8 * (between_blocks + one_block) < estimate < 1.5 * (between_blocks + one_block)
    assert estimate < 0.4 * plain
