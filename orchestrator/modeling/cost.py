"""Size and cost of a model before it is built.

Parameters by part, bytes to train and to store, floating-point operations of training by formula,
and the rate that a device reaches.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import nn

from orchestrator.modeling.builder import build_on_meta
from orchestrator.modeling.component import Dimensions, EncoderConfig
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.encoders.configs import DualEncoderConfig
from orchestrator.modeling.layers.attention import Attention
from orchestrator.modeling.layers.block_options import BlockOptions
from orchestrator.modeling.layers.feed_forward import Experts, FeedForward
from orchestrator.modeling.lora import freeze
from orchestrator.modeling.targets.token_configs import MASKED_SHARE

Precision = Literal["fp32", "bf16", "fp16"]

FP32_BYTES = 4
HALF_BYTES = 2
EMBEDDING_VECTORS = 2
"""Vectors per position that the embedding keeps: the sum and its dropout mask."""
BLOCKS = "layers"
"""Name of the module lists whose members are blocks."""
ADAM_MOMENTS = 2
"""AdamW keeps the first and second moment of every gradient, in fp32."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters; a tied one counts once.

    Attributes:
        by_part: Part (``embedding``, ``encoder``, ``decoder``, ``targets.<name>``, ...) →
            parameters.
    """

    by_part: dict[str, int]

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.by_part.values())


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes on one worker that parameters and their training state take; activations are not in it.

    Attributes:
        parameters: What the forward pass reads.
        gradients: One per trained parameter.
        optimizer: fp32 master copies (if the parameters are not fp32) and AdamW's moments.
    """

    parameters: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All three."""
        return self.parameters + self.gradients + self.optimizer


def count_parameters(config: ModelConfig) -> Parameters:
    """Return the numbers of parameters by part; builds on the meta device.

    Raises:
        ConfigError: The config cannot be built.
    """
    counts: Counter[str] = Counter()
    for name, parameter in build_on_meta(config).named_parameters():
        first, second, *_ = name.split(".")
        counts[f"{first}.{second}" if first == "targets" else first] += parameter.numel()
    return Parameters(dict(counts))


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Numbers of parameters that decide how much memory training takes; tied ones count once.

    Attributes:
        total: All of them.
        trained: Those with a gradient.
        largest: Of the largest single parameter.
        block: Of the largest block (a member of a ``layers`` list).
        root: Outside of all blocks.
        layers: Of the block, in layers that tensor ranks cut.
        experts: Of the block, in experts.
    """

    total: int
    trained: int
    largest: int
    block: int
    root: int
    layers: int = 0
    experts: int = 0

    def on_a_rank(self, tensor_ranks: int, expert_ranks: int) -> "ModelSizes":
        """Return these sizes with the block that one rank has where ranks cut its layers."""
        cut = self.layers * (1 - 1 / tensor_ranks) + self.experts * (1 - 1 / expert_ranks)
        return replace(self, block=self.block - round(cut))


def model_sizes(config: ModelConfig, frozen: Sequence[str] = ()) -> ModelSizes:
    """Measure a model on the meta device.

    Args:
        config: The model.
        frozen: Patterns of parameters that stay as they are.

    Raises:
        ConfigError: The config cannot be built.
        InputError: A pattern fits nothing, or everything.
    """
    model = build_on_meta(config)
    freeze(model, frozen)
    blocks: Counter[str] = Counter()
    named = dict(model.named_parameters())
    for name, parameter in named.items():
        before, _, after = name.rpartition(f"{BLOCKS}.")
        blocks[f"{before}{BLOCKS}.{after.split('.')[0]}" if before else ""] += parameter.numel()
    root = blocks.pop("", 0)
    numels = [parameter.numel() for parameter in named.values()]
    trained = sum(p.numel() for p in named.values() if p.requires_grad)
    block = max(blocks, key=blocks.__getitem__, default="")
    cut = (0, 0) if not block else _cut_of_block(model.get_submodule(block))
    return ModelSizes(sum(numels), trained, max(numels), blocks[block], root, *cut)


def _cut_of_block(block: nn.Module) -> tuple[int, int]:
    """Return a block's parameters in layers that tensor ranks cut, and those in experts."""
    layers = experts = 0
    for name, parameter in block.named_parameters():
        owner, _, last = name.rpartition(".")
        inside = block.get_submodule(owner.rpartition(".")[0])
        if isinstance(block.get_submodule(owner), Experts):
            experts += parameter.numel()
        elif isinstance(inside, Attention | FeedForward) and isinstance(
            block.get_submodule(owner), nn.Linear
        ):
            summed = owner.rpartition(".")[2] in ("output", "down")
            layers += 0 if summed and last == "bias" else parameter.numel()
    return layers + experts, experts


def training_memory(
    parameters: int, *, precision: Precision = "fp32", workers: int = 1, zero_stage: int = 0
) -> TrainingMemory:
    """Return the bytes one worker needs with AdamW (Rajbhandari et al. 2020, figure 1).

    Args:
        parameters: Number of parameters.
        precision: Of parameters and activations; masters and moments are fp32.
        workers: Data-parallel workers.
        zero_stage: 1 splits the optimizer state among workers, 2 also gradients, 3 also parameters.
    """
    width = FP32_BYTES if precision == "fp32" else HALF_BYTES
    master = 0 if precision == "fp32" else FP32_BYTES
    state = parameters * (master + ADAM_MOMENTS * FP32_BYTES)
    return TrainingMemory(
        parameters=_share(parameters * width, workers, split=zero_stage >= 3),
        gradients=_share(parameters * FP32_BYTES, workers, split=zero_stage >= 2),
        optimizer=_share(state, workers, split=zero_stage >= 1),
    )


def _share(size: int, workers: int, *, split: bool) -> int:
    return -(-size // workers) if split else size


def activation_bytes(
    config: ModelConfig,
    *,
    batch_size: int,
    length: int,
    precision: Precision = "fp32",
    checkpointing: bool = False,
    tensor_ranks: int = 1,
    positions_cut: bool = False,
) -> int:
    """Return about what the backward pass of one micro-batch keeps; components say how much.

    Args:
        config: The model.
        batch_size: Sequences.
        length: Positions in each, on both sides of an encoder-decoder.
        precision: Of activations.
        checkpointing: Blocks keep their inputs alone, and one of them at a time all the rest.
        tensor_ranks: Ranks that each keep their heads' and inner channels' values.
        positions_cut: They also keep those of their positions alone between layers.
    """
    width = FP32_BYTES if precision == "fp32" else HALF_BYTES
    values = sum(target.saved_activations(config.dimensions) for target in config.target)
    values += sum(part.saved_activations(config.dimensions) for part in config.embedding.parts)
    for stack, sizes in _stacks(config):
        values += 0 if stack is config.decoder else EMBEDDING_VECTORS * sizes.hidden_size
        saved = stack.saved_activations(sizes, length)
        if tensor_ranks > 1 and isinstance(stack, BlockOptions):
            saved -= round(
                _cut_values(stack, sizes, length, positions_cut) * (1 - 1 / tensor_ranks)
            )
        checkpointed = checkpointing and isinstance(stack, BlockOptions)
        values += _one_block(stack, saved, sizes.hidden_size) if checkpointed else saved
    return width * values * batch_size * length


def _cut_values(stack: BlockOptions, sizes: Dimensions, length: int, positions_cut: bool) -> int:
    """Values per position that lie on several ranks; what the first products read does not.

    Of the eight vectors of a block (``BlockOptions.saved_activations_of_blocks``), queries, keys,
    values and what is read from them are cut by heads, the inputs of both norms by positions.
    """
    width, inner = sizes.hidden_size, stack.size_of_feed_forward(sizes)
    passes = 1 if stack.experts is None else stack.experts.top_k
    values = 4 * width + (4 if stack.feed_forward == "gated" else 2) * inner * passes
    if not stack.fuses_attention or stack.attention_dropout:
        values += 3 * stack.num_heads * length + 2 * width
    if positions_cut:
        values += 2 * width + (4 * width if stack.dropout else 0)
    return values * stack.num_layers


def _stacks(config: ModelConfig) -> Iterator[tuple[EncoderConfig, Dimensions]]:
    """Yield the encoder (that of each stream, if there are two) and the decoder, with its sizes."""
    encoder, sizes = config.encoder, config.dimensions
    if isinstance(encoder, DualEncoderConfig):
        yield encoder.first, sizes
        yield encoder.of_second, sizes.of_second
    else:
        yield encoder, sizes
    if config.decoder is not None:
        yield config.decoder, sizes


def _one_block(stack: EncoderConfig, saved: int, width: int) -> int:
    """Values per position of all blocks' inputs and of one block's inside."""
    layers: int = getattr(stack, "num_layers", 1)
    return layers * width + saved // layers


PASSES = 3
"""Forward pass, and twice as much for the backward pass."""
PER_WEIGHT = 2
"""One multiplication and one addition per weight and token."""
SIDE = 768
SIDE_ELSEWHERE = 8192
"""Rows and columns of the matrices that the ceiling is measured with: on a CPU, elsewhere."""
ROUNDS = 5
BUDGET_S = 0.2
"""A processor that takes longer for this emulates the format: one product has to do."""


def training_flops(config: ModelConfig, length: int) -> float:
    """Return the operations of one training step for each token (Chowdhery et al. 2022, app. B).

    6 for each weight of a matrix that a token passes through, and 12 L H d S for attention over S
    positions, or as many as a window holds. Lookup tables cost nothing, except as tied output
    layers; of experts those count that a token passes through; masked language modeling computes
    its head at 15 % of the positions.
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
        stack.num_heads
        * stack.size_of_head(config.dimensions)
        * stack.reads_of_query(block, length)
        for stack in stacks
        if isinstance(stack, BlockOptions)
        for block in range(stack.num_layers)
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
    side = SIDE if device == "cpu" else SIDE_ELSEWHERE
    left = torch.randn(side, side, device=device).to(dtype)
    if left.is_cuda:
        left @ left  # loads the kernel
        torch.cuda.synchronize()
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) < BUDGET_S:
        began = time.perf_counter()
        left @ left
        if left.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return float(2.0 * side**3 / min(times))
