"""Models for tests of how engines build them, and processes that build them."""

import os

import torch

from orchestrator.cluster.engines import build_engine
from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_model, build_on_meta, first_values
from orchestrator.modeling.config import LoraConfig, ModelConfig
from orchestrator.modeling.initialization import Materialization, set_aside
from orchestrator.modeling.lora import add_lora, freeze
from orchestrator.modeling.package import load_model, open_model, read_config
from orchestrator.modeling.targets.configs import ClsConfig
from orchestrator.training.config import EngineConfig, OptimizerConfig

SEED = 11
SIZES = {"vocab_size": 41, "hidden_size": 24, "max_position_embeddings": 16}
BLOCKS = {"type": "transformer", "num_heads": 4, "num_layers": 2, "dropout": 0.1}
RELATIVE = {
    "position_bias": {"type": "t5"},
    "norm": "rms",
    "norm_position": "pre",
    "activation": "relu",
    "bias": False,
}
WORDS = {"parts": ["word"], "layernorm": False}
IMAGES = {"type": "patch", "image_size": 8, "patch_size": 4}
MODELS = {
    "t5": SIZES
    | {
        "embedding": WORDS,
        "encoder": BLOCKS | RELATIVE,
        "target_embedding": WORDS,
        "decoder": BLOCKS | RELATIVE,
        "share_embedding": True,
        "initialization": "t5",
        "target": {"type": "lm", "tie": True, "bias": False},
    },
    "vit": {
        "hidden_size": 24,
        "max_position_embeddings": 16,
        "embedding": {"parts": [IMAGES, "pos"], "layernorm": False},
        "encoder": BLOCKS | {"norm_position": "pre", "layer_scale": 0.1},
        "target": {"type": "cls", "num_labels": 5},
    },
    "gpt": SIZES
    | {
        "embedding": {"parts": ["word", {"type": "sinusoidalpos", "stored": True}]},
        "encoder": BLOCKS | {"mask": "causal"},
        "initialization": "gpt2",
        "target": "lm",
    },
}
FROZEN = ("encoder.layers.0",)
ENGINES = {
    "ddp": {"type": "ddp"},
    "zero1": {"type": "zero", "zero_stage": 1},
    "zero1-bf16": {"type": "zero", "zero_stage": 1, "precision": "bf16"},
    "zero2": {"type": "zero", "zero_stage": 2},
    "zero2-bf16": {"type": "zero", "zero_stage": 2, "precision": "bf16"},
    "zero3": {"type": "zero", "zero_stage": 3},
    "zero3-bf16": {"type": "zero", "zero_stage": 3, "precision": "bf16"},
    "fsdp2": {"type": "fsdp2"},
    "fsdp2-bf16": {"type": "fsdp2", "precision": "bf16"},
    "tensor": {"type": "fsdp2", "tensor_parallel": 2},
}


def model_config(name):
    """Config of one of the models."""
    return validate_config(ModelConfig, MODELS[name], "test")


def whole(name):
    """Weights as one process builds them."""
    return build_model(model_config(name), SEED).state_dict()


def built(name, kind, world, frozen=()):
    """An engine whose model was built in parts."""
    config = model_config(name)
    model = build_on_meta(config)
    freeze(model, frozen)
    missing = Materialization(first_values(model, config, SEED), torch.device("cpu"))
    settings = EngineConfig(**ENGINES[kind])
    return build_engine(model, OptimizerConfig(), settings, world=world, missing=missing)


def prepared(model, adapted):
    """A package's model as fine-tuning prepares it; its first values are those of the seed."""
    if adapted:
        add_lora(model, LoraConfig(rank=2))
    return model


def heads_for(config):
    """A package's heads and a new one."""
    return [*config.target, ClsConfig(name="new", num_labels=3)]


def packaged(folder, adapted):
    """The model of a package with a new head, whole in one process."""
    torch.manual_seed(SEED)
    return prepared(load_model(folder, targets=heads_for(read_config(folder))), adapted)


def packaged_weights(rank, world, folder, packages, cases):
    """Weights that each engine begins with where each rank reads its part of a package."""
    os.environ |= {"LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"}
    found = {}
    for name, kind, adapted in cases:
        torch.manual_seed(SEED)
        model, stored = open_model(packages / name, heads_for(model_config(name)))
        values = set_aside(prepared(model, adapted), stored)
        assert all(parameter.is_meta for parameter in model.parameters())
        missing = Materialization(values, torch.device("cpu"))
        settings = EngineConfig(**ENGINES[kind])
        engine = build_engine(model, OptimizerConfig(), settings, world=world, missing=missing)
        found[name, kind, adapted] = {
            "weights": dict(engine.state_dict()),
            "trained": [key for key, p in engine.module.named_parameters() if p.requires_grad],
            "tied": engine.module.tied_names(),
        }
    return found


def first_weights(rank, world, folder, cases):
    """Weights that each engine begins with, gathered; elements that this rank holds."""
    os.environ |= {"LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"}
    found = {}
    for name, kind in cases:
        engine = built(name, kind, world, FROZEN if name == "gpt" else ())
        frozen = {key for key, p in engine.module.named_parameters() if not p.requires_grad}
        found[name, kind] = {
            "weights": dict(engine.state_dict()),
            "masters": sum(len(shard.master) for shard in engine.shards()),
            "tied": engine.module.tied_names(),
            "frozen": frozen,
            "meta": [key for key, p in engine.module.named_parameters() if p.is_meta],
        }
    return found
