"""Low-rank adapters: y = W x + b + scale * B A dropout(x), only A and B are trained.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", equation 3; A is drawn as the
reference code and PEFT draw it, B is zero, so an adapted model begins as the model itself. Names of
the model's own parameters stay what they are; A and B stand beside a layer's ``weight``.

``freeze`` excludes parameters from training: no gradient, no optimizer state. The library ``peft``
wraps the classes of transformers by their names; these modules are the project's own.

Legend: B batch, S length, I and O inputs and outputs of a linear layer, r rank.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.config import nearest
from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.config import LoraConfig

EXAMPLES = "For example `embedding`, `encoder.layers.0` or `encoder.layers.*.norm?.*`."


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Exclude parameters from training.

    Args:
        model: The model, before an optimizer is made for it.
        patterns: Names of parameters or of what holds them, with ``*``, ``?`` and ``[a-z]``.

    Returns:
        Names of the parameters that are frozen now, in the model's order.

    Raises:
        InputError: A pattern fits no parameter, or nothing would be left to train.
    """
    named = dict(model.named_parameters())
    frozen = {name for pattern in patterns for name in fitting(named, pattern)}
    if all(name in frozen or not parameter.requires_grad for name, parameter in named.items()):
        raise InputError(f"freeze: {', '.join(patterns)} leaves nothing to train. Freeze less.")
    for name in frozen:
        named[name].requires_grad_(False)
    return [name for name in named if name in frozen]


def fitting(names: Iterable[str], pattern: str, what: str = "parameter") -> list[str]:
    """Return the names that a pattern fits: whole names, or names of what holds them.

    Args:
        names: All names there are.
        pattern: See `freeze`.
        what: What they are names of, for the message.

    Raises:
        InputError: None; the nearest name is given.
    """
    listed = list(names)
    found = [n for n in listed if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
    if not found:
        near = nearest(pattern, {prefix for name in listed for prefix in _prefixes(name)})
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(f"{pattern!r} fits no {what} of this model.{hint} {EXAMPLES}")
    return found


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


HEADS = "targets."


class LoraLinear(nn.Linear):
    """A linear layer with a low-rank change.

    Parameters: ``weight`` [O, I] and ``bias`` [O] of the layer it replaces; ``lora_a`` [r, I],
    ``lora_b`` [O, r].
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(
            layer.in_features, layer.out_features, layer.bias is not None, device="meta"
        )
        self.weight, self.bias = layer.weight, layer.bias
        device = torch.device("cpu") if layer.weight.is_meta else layer.weight.device
        self.lora_a = nn.Parameter(layer.weight.new_empty(rank, layer.in_features, device=device))
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank, device=device))
        self.scale = scale
        self.lora_dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., O] for [..., I]."""
        low = F.linear(F.linear(self.lora_dropout(x), self.lora_a), self.lora_b)
        return super().forward(x) + self.scale * low

    def change(self) -> Tensor:
        """Return scale * B A, [O, I], computed in fp64."""
        product = self.lora_b.detach().double() @ self.lora_a.detach().double()
        return (self.scale * product).to(self.weight.dtype)


def add_lora(model: nn.Module, config: LoraConfig) -> list[str]:
    """Adapt linear layers; everything else is frozen, but for ``config.train``.

    Args:
        model: The model, before an optimizer is made for it; A takes values from torch's global
            generator.
        config: Which layers, and how.

    Returns:
        Names of the adapted layers.

    Raises:
        InputError: A pattern fits nothing, or the model is adapted already.
    """
    if any(True for _ in adapted(model)):
        raise InputError("the model has adapters already. Adapt a model without them.")
    layers = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    below = [name for name in layers if not name.startswith(HEADS)]
    chosen: dict[str, None] = {}
    for pattern in config.layers:
        names = below if pattern == "*" else layers
        chosen |= dict.fromkeys(fitting(names, pattern, "linear layer"))
    named = dict(model.named_parameters())
    trained = {name for pattern in config.train for name in fitting(named, pattern)}
    for name, parameter in named.items():
        parameter.requires_grad_(name in trained)
    for name in layers:
        if name in chosen:
            adapt(model, name, config.rank, config.scale, config.dropout)
    return [name for name in layers if name in chosen]


def adapt(model: nn.Module, name: str, rank: int, scale: float, dropout: float = 0.0) -> LoraLinear:
    """Put a layer with a low-rank change in the place of the linear layer ``name``."""
    layer = LoraLinear(cast(nn.Linear, model.get_submodule(name)), rank, scale, dropout)
    _replace(model, name, layer)
    return layer


def adapted(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Yield the adapted layers by name."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what was trained: all A and B, and the other parameters that are not frozen."""
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def load_lora_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `lora_state` returned into a model adapted in the same way.

    Raises:
        IntegrityError: Names or shapes differ; all are listed.
    """
    own = {n: p for n, p in model.named_parameters() if p.requires_grad}
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
    if wrong:
        raise IntegrityError(f"the adapters belong to another model: {', '.join(wrong)} differ.")
    for name, parameter in own.items():
        parameter.copy_(state[name])


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of the model without adapters, with changes merged into weights.

    The model itself is not changed.
    """
    state = {n: t for n, t in model.state_dict().items() if not n.endswith((".lora_a", ".lora_b"))}
    for name, layer in adapted(model):
        state[f"{name}.weight"] = state[f"{name}.weight"] + layer.change()
    return state


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
