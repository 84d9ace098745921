"""Floating-point operations of training, by formula, and the rate a device really reaches."""

import time
from functools import cache

import torch
from torch import nn

from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.encoders.block_options import BlockOptions
from orchestrator.modeling.layers.experts import Experts
from orchestrator.modeling.targets.configs import MASKED_SHARE

PASSES = 3
"""Forward pass, and twice as much for the backward pass."""
PER_WEIGHT = 2
"""A multiplication and an addition for each weight and token."""
SIDE = 768
"""Rows and columns of the matrices that the ceiling is measured with."""
ROUNDS = 5
BUDGET_S = 0.2
"""A processor that takes longer for this emulates the format: one product has to do."""


def training_flops(config: ModelConfig, length: int) -> float:
    """Return the operations of one training step for each token (Chowdhery et al. 2022, app. B).

    6 for each weight of a matrix that a token passes through, and 12 L H d S for attention over S
    positions. Lookup tables cost nothing, except as tied output layers; of experts those count that
    a token passes through; masked language modelling computes its head at 15 % of the positions.
    Recomputed activations are not counted.

    Args:
        config: The model.
        length: S, positions of a sequence.
    """
    model = build_on_meta(config)
    shares = {f"targets.{t.name}": MASKED_SHARE for t in config.target if t.type_name() == "mlm"}
    weights = 0.0
    for name, module in model.named_modules():
        share = next((s for prefix, s in shares.items() if name.startswith(prefix)), 1.0)
        weights += share * _weights(module)
    stacks: list[object] = [config.encoder, config.decoder]
    attention = sum(
        2 * stack.num_layers * stack.num_heads * stack.size_of_head(config.dimensions) * length
        for stack in stacks
        if isinstance(stack, BlockOptions)
    )
    return float(PASSES * PER_WEIGHT * (weights + attention))


def _weights(module: nn.Module) -> float:
    """Weights of a module's own that every token is multiplied with."""
    own = [p.numel() for p in module.parameters(recurse=False) if p.dim() > 1]
    if getattr(module, "is_table", False) or isinstance(module, nn.Embedding):
        return 0.0
    used = module.top_k / len(module.up) if isinstance(module, Experts) else 1.0
    return used * sum(own)


@cache
def ceiling_flops(device: str, dtype: torch.dtype) -> float:
    """Return the operations a second of a matrix product on this device: the best of a few.

    Args:
        device: ``cpu``, ``cuda:0``, ...
        dtype: Number format of the matrices.
    """
    left = torch.randn(SIDE, SIDE, device=device).to(dtype)
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) < BUDGET_S:
        began = time.perf_counter()
        left @ left
        if left.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return float(2.0 * SIDE**3 / min(times))
