"""Models and windows for engines that cut layers, and processes that train with them."""

from pathlib import Path

import torch
from torch import Tensor

from orchestrator.cluster.engines import build_engine
from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.descent import descend
from orchestrator.training.engines.engine import Engine
from orchestrator.training.loop import seed_step
from tests.support import ranks

STEPS, ROWS, LENGTH, VOCABULARY, RATE = 20, 8, 11, 41, 3e-3
SIDE, LABELS = 12, 5
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "max_position_embeddings": 16,
    "embedding": {"parts": ["word", "pos"], "dropout": 0.0},
}
PLAIN = {"type": "transformer", "num_heads": 4, "num_layers": 2, "dropout": 0.0}
RELATIVE = {
    "position_bias": {"type": "t5"},
    "norm": "rms",
    "norm_position": "pre",
    "activation": "relu",
    "bias": False,
}
MODELS = {
    "llama": BASE
    | {
        "embedding": {"parts": ["word"], "dropout": 0.0, "layernorm": False},
        "encoder": PLAIN
        | {
            "num_kv_heads": 2,
            "norm": "rms",
            "norm_position": "pre",
            "rotary": {},
            "mask": "causal",
            "feed_forward": "gated",
            "activation": "silu",
            "bias": False,
            "query_key_norm": "head",
        },
        "target": {"type": "lm", "tie": False, "bias": False},
    },
    "bert": BASE
    | {
        "embedding": {"parts": ["word", "pos", "seg"], "dropout": 0.0},
        "encoder": PLAIN,
        "target": ["mlm", "nsp"],
    },
    "gpt": BASE
    | {
        "encoder": PLAIN | {"norm_position": "pre", "mask": "causal", "activation": "gelu_tanh"},
        "target": "lm",
        "initialization": "gpt2",
    },
    "t5": BASE
    | {
        "embedding": {"parts": ["word"], "dropout": 0.0, "layernorm": False},
        "encoder": PLAIN | RELATIVE,
        "target_embedding": {"parts": ["word"], "dropout": 0.0, "layernorm": False},
        "decoder": PLAIN | RELATIVE,
        "target": "lm",
    },
    "alibi": BASE
    | {
        "encoder": PLAIN
        | {"position_bias": {"type": "alibi"}, "mask": "causal", "residual_attention": True},
        "target": "lm",
    },
    "moe": BASE
    | {
        "encoder": PLAIN | {"mask": "causal", "experts": {"num_experts": 4, "top_k": 2}},
        "target": ["lm", {"type": "balance", "weight": 0.1}],
    },
    "albert": BASE
    | {"encoder": PLAIN | {"shared_layers": True, "norm_position": "pre"}, "target": "mlm"},
    "vit": {
        "hidden_size": 24,
        "max_position_embeddings": 16,
        "embedding": {
            "parts": [{"type": "patch", "image_size": SIDE, "patch_size": 4}, "pos"],
            "dropout": 0.0,
            "layernorm": False,
        },
        "encoder": PLAIN | {"norm_position": "pre"},
        "target": {"type": "cls", "num_labels": LABELS, "dropout": 0.0},
    },
}


def model_config(name: str, **encoder: object) -> ModelConfig:
    """Return a model's config, some options of its encoder changed."""
    raw = MODELS[name]
    return validate_config(ModelConfig, raw | {"encoder": raw["encoder"] | encoder}, "test")


def window(
    config: ModelConfig, step: int, rank: int, world: int, micro: int = 2
) -> list[dict[str, Tensor]]:
    """Return one rank's part of a step, which has ``micro`` micro-batches over all ranks."""
    generator = torch.Generator().manual_seed(100 + step)
    if not config.vocab_size:
        pictures = torch.randn(ROWS, 3, SIDE, SIDE, generator=generator)
        labels = torch.randint(LABELS, (ROWS,), generator=generator)
        return _cut({"pixel_values": pictures, "labels.cls": labels}, rank, world, micro)
    ids = torch.randint(5, VOCABULARY, (ROWS, LENGTH), generator=generator)
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (ROWS, 1), generator=generator)
    mask = (torch.arange(LENGTH) < lengths).long()
    batch = {"input_ids": ids, "attention_mask": mask}
    for target in config.target:
        if target.type_name() == "mlm":
            chosen = (torch.rand(ROWS, LENGTH, generator=generator) < 0.3) & (mask > 0)
            chosen[:, 0] = True
            batch["labels.mlm"] = torch.where(chosen, (ids * 7 + 3) % VOCABULARY, -100)
        elif target.type_name() == "lm":
            batch["labels.lm"] = torch.where(mask > 0, (ids * 7 + 3) % VOCABULARY, -100)
        elif target.type_name() == "nsp":
            batch["labels.nsp"] = ids.sum(1) % 2
            batch["token_type_ids"] = (torch.arange(LENGTH) > LENGTH // 2).long().expand(ROWS, -1)
    if config.decoder is not None:
        batch |= {"decoder_input_ids": ids.flip(1), "decoder_attention_mask": mask}
    return _cut(batch, rank, world, micro)


def _cut(batch: dict[str, Tensor], rank: int, world: int, micro: int) -> list[dict[str, Tensor]]:
    size = ROWS // micro
    parts = [{k: v[b : b + size] for k, v in batch.items()} for b in range(0, ROWS, size)]
    return parts[rank * micro // world : (rank + 1) * micro // world]


def engine(
    config: ModelConfig, world: int = 1, seed: int = 0, kind: str = "adamw", **settings: object
) -> Engine:
    """Return an engine over a new model."""
    torch.manual_seed(seed)
    chosen = validate_config(EngineConfig, settings, "test")
    optimizer = OptimizerConfig(type=kind, learning_rate=RATE, eps=1e-6)
    return build_engine(build_model(config), optimizer, chosen, world=world)


def advance(each: Engine, config: ModelConfig, steps: range, micro: int = 2) -> list[list[float]]:
    """Train; loss and gradient norm of each step, clipped in most."""
    rows = []
    each.module.train()
    for step in steps:
        seed_step(7, step, each.rank)
        metrics = each.forward_backward(window(config, step, each.rank, each.world, micro))
        found = descend(each, metrics, RATE, max_grad_norm=1.0)
        rows.append([found["loss"], found["grad_norm"]])
    return rows


def spawn(function, folder: Path, world: int, *given: object) -> list[object]:
    """Run ``function(rank, world, folder, *given)`` in a gloo group; what each rank returned."""
    ranks.spawn(_on_rank, world, folder, function, given)
    return [torch.load(folder / f"found{rank}.pt") for rank in range(world)]


def _on_rank(rank: int, world: int, folder: Path, function, given: tuple[object, ...]) -> None:
    torch.save(function(rank, world, folder, *given), folder / f"found{rank}.pt")
