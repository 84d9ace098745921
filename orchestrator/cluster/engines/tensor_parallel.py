"""Tensor parallelism: the layers of a block cut among a few ranks (Shoeybi et al. 2020).

The plan, by kind of layer (axis 0: rows of the weight, its outputs; 1: columns, its inputs):

    attention      query, key, value along 0, by heads; output along 1
    feed-forward   up and gate along 0; down along 1
    position bias  the tables of T5 and of patches along 1, by heads; ALiBi's slopes

Everything else is computed by every tensor rank on the same values: embeddings, norms, residual
sums, heads, and the biases of layers whose sum is shared. Their weights are cut by FSDP2 among all
processes, those of the plan among the data-parallel ranks alone, so that each element is on one
rank and has one optimizer state.

Not torch's ``ColwiseParallel`` and ``RowwiseParallel``: these make norms and shared biases DTensors
with a copy on each tensor rank, whose elements would count several times in norms, checkpoints
and exports, and FSDP2 refuses such parameters where all processes do not divide their rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

# Not public yet: FSDP2 takes other ranks for some parameters through its placement function alone.
from torch.distributed.fsdp._fully_shard._fsdp_common import FSDPMeshInfo, ShardPlacementResult

from orchestrator.cluster.engines.cuts import Cuts, cut_parameter
from orchestrator.cluster.engines.tensor_ranks import TensorRanks, copied
from orchestrator.errors import InputError
from orchestrator.modeling.layers.attention import Attention
from orchestrator.modeling.layers.cache import KeyValues
from orchestrator.modeling.layers.feed_forward import FeedForward
from orchestrator.modeling.layers.relative_positions import (
    AlibiBias,
    PatchBias,
    Rotation,
    T5Bias,
)

Placement = Callable[[nn.Parameter], ShardPlacementResult | None]


@dataclass(frozen=True)
class Parallel:
    """Ranks of a job, and what of the model each has before FSDP2 cuts rows.

    Attributes:
        mesh: All processes; FSDP2 cuts among them what is not in ``cuts``. With replicas there are
            two axes, and it cuts among those of the second.
        data: Those with the same part of each layer; FSDP2 cuts the parts among them.
        cuts: Parameters that are cut, with the part of this rank.
        factors: Parameters whose reduced gradient lacks a factor.
    """

    mesh: DeviceMesh
    data: DeviceMesh
    cuts: Cuts = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)

    def placement(self, model: nn.Module) -> Placement | None:
        """Return what names the ranks of each parameter for FSDP2; None: all processes."""
        if not self.cuts:
            return None
        parts = {id(p) for name, p in model.named_parameters() if name in self.cuts}
        among = ShardPlacementResult(None, FSDPMeshInfo(self.data, shard_mesh_dim=0))
        return lambda parameter: among if id(parameter) in parts else None


def parallelized(
    model: nn.Module, device: str, tensor_parallel: int, replicas: int = 1
) -> Parallel:
    """Cut the layers of a model in place; collective.

    Consecutive processes are tensor ranks of one another: those of one host, if it has enough.

    Args:
        model: Whole, the same on every rank.
        device: Type of its device.
        tensor_parallel: t, number of tensor ranks.
        replicas: Groups of consecutive processes among which FSDP2 cuts; not with tensor ranks.

    Raises:
        InputError: The model has no block to cut, or one cannot be cut among so many ranks.
    """
    world = distributed.get_world_size()
    if replicas > 1:
        axes = ("replicas", "rows")
        mesh = init_device_mesh(device, (replicas, world // replicas), mesh_dim_names=axes)
    else:
        mesh = init_device_mesh(device, (world,))
    if tensor_parallel == 1:
        return Parallel(mesh, mesh)
    grid = init_device_mesh(
        device, (world // tensor_parallel, tensor_parallel), mesh_dim_names=("data", "tensor")
    )
    tensor = grid["tensor"]
    ranks = TensorRanks(tensor.get_group(), tensor.get_local_rank(), tensor_parallel)
    plan = _Plan(ranks)
    for name, module in list(model.named_modules()):
        plan.apply(name, module)
    if not plan.cuts:
        raise InputError(
            "engine.tensor_parallel is above 1, but no component of this model has blocks. "
            "Set it to 1, or use a transformer"
        )
    return Parallel(mesh, grid["data"], plan.cuts, plan.factors)


class _Plan:
    """The cuts of one model, as they are made."""

    def __init__(self, ranks: TensorRanks) -> None:
        self.ranks = ranks
        self.cuts: dict[str, Any] = {}
        self.factors: dict[str, float] = {}

    def apply(self, name: str, module: nn.Module) -> None:
        """Cut one module, if the plan has its kind."""
        if isinstance(module, Attention):
            self._attention(name, module)
        elif isinstance(module, FeedForward):
            self._feed_forward(name, module)
        elif isinstance(module, T5Bias | PatchBias):
            self._cut(name, module, "weight", 1)
        elif isinstance(module, AlibiBias):
            module.__class__ = _Alibi
            cast(_Alibi, module).ranks = self.ranks

    def _attention(self, name: str, module: Attention) -> None:
        for layer in (module.query, module.key, module.value):
            self._rows(f"{name}.{_name_in(module, layer)}", layer, module.head_size)
        self._columns(f"{name}.output", module.output)
        module.num_heads //= self.ranks.size
        module.num_kv_heads //= self.ranks.size
        _become(module, _SharedAttention, self.ranks)
        for norm in ("query_norm", "key_norm"):  # each rank has seen its own heads alone
            if (part := getattr(module, norm)) is not None:
                found = part.named_parameters()
                self.factors |= {f"{name}.{norm}.{key}": self.ranks.size for key, _ in found}

    def _feed_forward(self, name: str, module: FeedForward) -> None:
        self._rows(f"{name}.up", module.up)
        if module.gate is not None:
            self._rows(f"{name}.gate", module.gate)
        self._columns(f"{name}.down", module.down)
        _become(module, _SharedFeedForward, self.ranks)

    def _rows(self, name: str, layer: nn.Linear, unit: int = 1) -> None:
        if layer.out_features % (unit * self.ranks.size):
            number = layer.out_features // unit
            what = "heads" if unit > 1 else "channels"
            raise InputError(
                f"engine.tensor_parallel: {self.ranks.size} does not divide the {number} {what} "
                f"of {name}. Use a divisor"
            )
        self._cut(name, layer, "weight", 0)
        if layer.bias is not None:
            self._cut(name, layer, "bias", 0)
        layer.out_features //= self.ranks.size

    def _columns(self, name: str, layer: nn.Linear) -> None:
        self._cut(name, layer, "weight", 1)
        layer.in_features //= self.ranks.size
        _become(layer, _SharedSum, self.ranks)

    def _cut(self, name: str, module: nn.Module, parameter: str, axis: int) -> None:
        self.cuts[f"{name}.{parameter}"] = cut_parameter(module, parameter, axis, self.ranks.group)


def _name_in(module: nn.Module, child: nn.Module) -> str:
    return next(name for name, each in module.named_children() if each is child)


def _become(module: nn.Module, kind: type[nn.Module], ranks: TensorRanks) -> None:
    """Give a module the methods of ``kind`` before its own, as ``fully_shard`` does."""
    own = type(module)
    module.__class__ = type(f"Shared{own.__name__}", (kind, own), {})
    module.ranks = ranks  # type: ignore[assignment]


class _SharedSum(nn.Linear):
    """A linear layer whose inputs lie on several ranks: products are summed, then biased."""

    ranks: TensorRanks

    def forward(self, input: Tensor) -> Tensor:
        total = self.ranks.leave(F.linear(input, self.weight))
        return total if self.bias is None else total + self.bias


class _SharedAttention(Attention):
    """Attention with some of the heads."""

    ranks: TensorRanks

    def forward(self, x: Tensor, *given: Any, **named: Any) -> Tensor:
        with self.ranks.own_noise(self.dropout if self.training else 0.0, x.device):
            return super().forward(x, *given, **named)

    def with_scores(self, x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        """Attend; see ``ResidualAttention``, which alone has this."""
        with self.ranks.own_noise(self.dropout if self.training else 0.0, x.device):
            own: Any = super()
            result: tuple[Tensor, Tensor] = own.with_scores(x, *given)
            return result

    def heads(
        self,
        x: Tensor,
        memory: Tensor | None,
        rotation: Rotation | None,
        cache: KeyValues | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        memory = None if memory is None else copied(memory, self.ranks.group)
        return super().heads(self.ranks.enter(x), memory, rotation, cache)


class _SharedFeedForward(FeedForward):
    """A feed-forward with some of the inner channels."""

    ranks: TensorRanks

    def forward(self, x: Tensor) -> Tensor:
        with self.ranks.own_noise(self.dropout.p if self.training else 0.0, x.device):
            return super().forward(self.ranks.enter(x))


class _Alibi(AlibiBias):
    """Slopes of some of the heads."""

    ranks: TensorRanks

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        return super().forward(queries, keys).chunk(self.ranks.size, dim=1)[self.ranks.rank]
