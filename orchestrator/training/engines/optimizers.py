"""The optimizer and its parameter groups, the same for every engine.

Groups are cut by two things. **Role**: only weight matrices decay. Norm scales, biases and other
vectors do not (decay would pull a norm's scale to 0, not to its neutral 1), nor do lookup tables
(every row decays at every step although few rows are in a batch, so rare words would shrink to
nothing). **Target**: each head has its own groups, so that a head without labels in the window
can be stepped with learning rate 0; ZeRO cannot skip a parameter, and AdamW would otherwise move
an idle head by its momentum and decay.

Muon's **hidden** matrices have groups of their own: those of the encoder, the decoder and whatever
else lies between embeddings and heads. Where a parameter holds several matrices, each of them is
orthogonalized by itself (:func:`hidden_matrices`).

An exponential moving average of the weights is stored as one more optimizer state: it is cut,
stored and restored like any moment, under every engine. The averaged weights are evaluated and
exported (:func:`averaged`); training goes on with the rest.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from orchestrator.errors import InputError
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.engine import Engine
from orchestrator.training.engines.engine_config import Precision
from orchestrator.training.engines.muon import Muon, Stack
from orchestrator.training.engines.on_device import left_out
from orchestrator.training.engines.update_rules import AdamW8bit, Lamb, Lion
from orchestrator.training.engines.weight_decay import decay_cautiously

TARGET_PREFIX = "targets."
OUTER = ("embedding.", "target_embedding.", TARGET_PREFIX)
"""Beginnings of the names of parameters that are not between embeddings and heads."""
Role = Literal["matrix", "table", "vector"]
AVERAGE = "average"
"""Name of the state: a tensor like the parameter."""


def trainable(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Trainable parameters by name in registration order; a tied one once, under its first name."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def roles(module: nn.Module) -> dict[str, Role]:
    """Role of every parameter: matrix (decays), table (lookup) or vector."""
    return {name: _role(owner, p) for name, owner, p in _owned(module)}


def target_of(name: str) -> str | None:
    """Target whose head a parameter belongs to; None for shared parameters."""
    return name.split(".")[1] if name.startswith(TARGET_PREFIX) else None


def hidden_matrices(module: nn.Module) -> dict[str, Stack]:
    """Return the matrices in each trainable parameter between embeddings and heads.

    - A parameter of three or more axes is a stack of matrices of its last two: experts.
    - Kernels of a convolution are one matrix, a row for each output channel.
    - Recurrent layers stack the matrices of their gates; a module with fused projections says how
      many of one size lie in it by an attribute ``stacked_matrices``.
    """
    trained = {name for name, _ in trainable(module)}
    return {
        name: _stack(name.rpartition(".")[2], owner, parameter)
        for name, owner, parameter in _owned(module)
        if name in trained and not name.startswith(OUTER) and _role(owner, parameter) == "matrix"
    }


def _stack(name: str, owner: nn.Module, parameter: Tensor) -> Stack:
    *before, rows, columns = parameter.shape
    if isinstance(owner, nn.modules.conv._ConvNd):
        return Stack(1, len(parameter), parameter.numel() // len(parameter))
    if before:
        return Stack(parameter.numel() // (rows * columns), rows, columns)
    count = int(getattr(owner, "stacked_matrices", 1))
    if isinstance(owner, nn.RNNBase) and not name.startswith("weight_hr"):
        count = rows // owner.hidden_size
    return Stack(count, rows // count, columns)


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Cut trainable parameters into groups for a torch optimizer.

    Args:
        module: The model, before any engine wraps it.
        config: Type of the optimizer, decay of matrices.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``target`` (None: shared), in order of first
        appearance; those of hidden matrices have ``stacks`` if the optimizer is Muon.

    Raises:
        InputError: The optimizer is Muon, and no hidden matrix is trained.
    """
    role_of = roles(module)
    stacks = hidden_matrices(module) if config.type == "muon" else {}
    if config.type == "muon" and not stacks:
        raise InputError("train.optimizer.type: muon, but no hidden matrix is trained. Use adamw")
    groups: dict[tuple[str | None, bool, bool], dict[str, Any]] = {}
    for name, parameter in trainable(module):
        decays, hidden = role_of[name] == "matrix", name in stacks
        key = (target_of(name), decays, hidden)
        if key not in groups:
            decay = config.weight_decay if decays else 0.0
            groups[key] = {"params": [], "weight_decay": decay, "target": key[0]}
            groups[key] |= {"stacks": []} if hidden else {}
        groups[key]["params"].append(parameter)
        if hidden:
            groups[key]["stacks"].append(stacks[name])
    return list(groups.values())


def build_optimizer(
    module: nn.Module, config: OptimizerConfig, precision: Precision = "fp32"
) -> Optimizer:
    """Build the optimizer over :func:`parameter_groups`; nothing is compiled."""
    return optimizer_over(parameter_groups(module, config), config, precision)


def optimizer_over(
    groups: list[dict[str, Any]], config: OptimizerConfig, precision: Precision = "fp32"
) -> Optimizer:
    """Build the optimizer over ready-made parameter groups.

    Args:
        groups: As `parameter_groups` returns them.
        config: Settings.
        precision: Of the passes. With bf16, Muon's matrix products are in bf16, too; with fp16,
            whose range is too small for them, in fp32.
    """
    optimizer = _bare_optimizer(groups, config, precision)
    if config.average_decay is not None:
        keep_average(optimizer, config.average_decay)
    return optimizer


def _bare_optimizer(
    groups: list[dict[str, Any]], config: OptimizerConfig, precision: Precision
) -> Optimizer:
    rate, betas, cautious = config.learning_rate, config.moments, config.cautious
    if config.type == "lion":
        return Lion(groups, rate, betas, cautious=cautious)
    if config.type == "lamb":
        return Lamb(groups, rate, betas, config.eps, cautious=cautious)
    if config.type == "muon":
        compute = torch.bfloat16 if precision == "bf16" else torch.float32
        given = (groups, rate, betas, config.eps, config.momentum)
        return Muon(*given, compute=compute, cautious=cautious)
    if config.type == "adafactor":
        return torch.optim.Adafactor(groups, lr=rate)
    if config.type == "adamw8bit":
        return AdamW8bit(groups, rate, betas, config.eps, cautious=cautious)
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=betas, eps=config.eps, fused=True)
    if cautious:
        decay_cautiously(optimizer)
    return optimizer


def fp32_state(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return a parameter's state as it is stored: whole numbers and fp32 tensors of its size."""
    if isinstance(optimizer, AdamW8bit) and parameter in optimizer.state:
        return dict(optimizer.fp32_state(parameter))
    return dict(optimizer.state.get(parameter, {}))


def load_fp32_state(optimizer: Optimizer, parameter: Tensor, state: dict[str, Tensor]) -> None:
    """Replace a parameter's state by a stored one; an empty one forgets it.

    A stored average is dropped if this run has none: it would never be updated, yet be evaluated
    and exported in place of the weights.
    """
    if not keeps_average(optimizer):
        state = {key: value for key, value in state.items() if key != AVERAGE}
    if isinstance(optimizer, AdamW8bit) and state:
        optimizer.load_fp32_state(parameter, state)
    else:
        optimizer.state[parameter] = state


def apply_lr(optimizer: Optimizer, lr: float, active: Collection[str]) -> None:
    """Set the learning rate of shared groups and of active heads; idle heads get 0."""
    for group in optimizer.param_groups:
        target = group.get("target")
        group["lr"] = lr if target is None or target in active else 0.0


def keep_average(optimizer: Optimizer, decay: float) -> None:
    """Update ``average = decay * average + (1 - decay) * weights`` after every step.

    The average begins as the weights after the first step.

    Args:
        optimizer: Its states get a tensor more.
        decay: In [0, 1); 0.999 averages about the last thousand steps.
    """

    @torch.no_grad()
    def update(stepped: Optimizer, _args: Any, _kwargs: Any) -> None:
        left = left_out(stepped)
        for group in stepped.param_groups:
            for parameter in group["params"]:
                state = stepped.state[parameter]
                if AVERAGE not in state:
                    state[AVERAGE] = parameter.detach().clone()
                elif left is None or "step" not in state:  # it never had a gradient
                    state[AVERAGE].lerp_(parameter, 1.0 - decay)
                else:
                    # The host does not know whether there was a first step yet.
                    weight = torch.where(state["step"] <= 1, 1.0, (1.0 - decay) * (1.0 - left))
                    state[AVERAGE].lerp_(parameter, weight)

    optimizer.register_step_post_hook(update)
    optimizer.defaults[AVERAGE] = decay
    if isinstance(optimizer, Lion | Muon):  # without a count of steps for every weight
        optimizer._step_supports_amp_scaling = False


def keeps_average(optimizer: Optimizer) -> bool:
    """Return whether :func:`keep_average` was called for an optimizer."""
    return AVERAGE in optimizer.defaults


@contextmanager
@torch.no_grad()
def averaged(engine: Engine) -> Iterator[None]:
    """Put the averaged weights in the place of the weights for a while; collective.

    Does nothing without an average, or before the first step.
    """
    averages = engine.optimizer_state(AVERAGE)
    ranks = engine.sum_over_ranks(torch.tensor([float(bool(averages))]))
    if not ranks.item():
        yield
        return
    saved = {shard.name: shard.master.clone() for shard in engine.shards()}
    for shard in engine.shards():
        shard.master.copy_(averages[shard.name])
    engine.refresh()
    try:
        yield
    finally:
        for shard in engine.shards():
            shard.master.copy_(saved[shard.name])
        engine.refresh()


def _owned(module: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Every parameter once with the module that holds it."""
    owners = dict(module.named_modules())
    for name, parameter in module.named_parameters():
        yield name, owners[name.rpartition(".")[0]], parameter


def _role(owner: nn.Module, parameter: Tensor) -> Role:
    if isinstance(owner, nn.Embedding) or getattr(owner, "is_table", False):
        return "table"
    return "matrix" if parameter.dim() >= 2 else "vector"
