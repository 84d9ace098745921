"""PyTorch's fully sharded data parallel, second generation, behind the engine interface.

Every parameter is cut along its first axis in chunks of ``ceil(rows / world)`` rows; masters are
the parameters themselves. Blocks (members of a ``layers`` list) are gathered one after the other,
everything else at once. The optimizer steps plain views of the local chunks, not DTensors: a rank
may hold no row of a small parameter, and fused kernels take neither empty nor distributed tensors.

Settings: the root stays gathered between its forward and backward pass (its table and output
layers are used at both ends); it is released before anything reads or writes masters.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from orchestrator.cluster.engines.layouts import Layout, Named
from orchestrator.cluster.engines.sharded import ShardedEngine
from orchestrator.errors import InputError
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.engine import Batch, Projection, Shard
from orchestrator.training.engines.engine_config import USUAL_SCALE, LossScaleConfig, Precision
from orchestrator.training.engines.optimizers import optimizer_over, parameter_groups
from orchestrator.training.engines.precision import COMPUTE

BLOCKS = "layers"
"""Name of the module lists whose members are gathered one by one."""


class RowLayout:
    """Rows of each parameter on each rank, in rank order.

    Args:
        module: The wrapped model.
        named: Its trainable parameters.
        rank: This process.
        world: Number of processes.
        device: Where whole parameters are gathered.
    """

    def __init__(
        self, module: FSDPModule, named: Named, rank: int, world: int, device: torch.device
    ) -> None:
        self.module, self.named, self.rank, self.world = module, named, rank, world
        self.device = device
        self.masters = {name: nn.Parameter(_local(p).view(-1)) for name, p in named}

    def clear(self) -> None:
        """Drop all gradients."""
        for _, parameter in self.named:
            parameter.grad = None

    def fill(self) -> None:
        """Give parameters that took no part a gradient of zero, and masters a view of theirs."""
        for name, parameter in self.named:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.masters[name].grad = _local(parameter.grad).view(-1)

    def shards(self) -> Iterator[Shard]:
        """Yield the rows of this rank."""
        for name, parameter in self.named:
            master = self.masters[name]
            if not master.numel():
                continue
            grad = None if parameter.grad is None else _local(parameter.grad).view(-1)
            start = self._first_row(parameter) * (parameter.numel() // parameter.shape[0])
            yield Shard(name, master.detach(), grad, start, parameter.shape)

    def _first_row(self, parameter: Tensor) -> int:
        rows = parameter.shape[0]
        return min(self.rank * -(-rows // self.world), rows)

    def refresh(self) -> None:
        """Release gathered parameters: the next forward pass gathers the masters."""
        self.module.reshard()

    def flats(self) -> Sequence[Tensor]:
        """One tensor per parameter."""
        return list(self.masters.values())

    @contextmanager
    def whole(self, parameter: nn.Parameter, *, write: bool) -> Iterator[Tensor]:
        """Gather the parameter; with ``write`` every rank takes its rows of what is written."""
        full = cast(DTensor, parameter.data.to(self.device)).full_tensor()
        yield full
        if write:
            distributed.broadcast(full, src=0)  # rank 0's values win, as under ZeRO
            own, first = _local(parameter.data), self._first_row(parameter)
            own.copy_(full[first : first + len(own)])


def _local(tensor: Tensor) -> Tensor:
    return cast(DTensor, tensor).to_local().detach()


class Fsdp2Engine(ShardedEngine):
    """An :class:`~orchestrator.training.engines.engine.Engine` over ``fully_shard``.

    Args:
        model: On its device, built the same way on every rank; every rank keeps its own rows.
        optimizer: Its settings.
        target_weights: Weight of each target in the objective; 1 where not given.
        precision: Number format of weights and activations in a pass; masters and reductions stay
            fp32.
        loss_scale: Loss scaling with precision fp16.
        offload: Keep the rows, their gradients and the optimizer's state in the host's memory.

    Raises:
        InputError: A trainable parameter has no axis to cut.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        target_weights: Mapping[str, float] | None = None,
        *,
        precision: Precision = "fp32",
        loss_scale: LossScaleConfig = USUAL_SCALE,
        offload: bool = False,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            target_weights,
            precision=precision,
            loss_scale=loss_scale,
            lockstep=True,
        )
        _require_rows(model)
        groups = _named_groups(model, optimizer.weight_decay, self._trainable)
        self._wrapped = _shard(model, self._device.type, self.world, precision, offload=offload)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._trainable = named
        layout = RowLayout(self._wrapped, named, self.rank, self.world, self._device)
        self._layout: Layout = layout
        self._base = optimizer_over(_masters_in(groups, layout.masters), optimizer)

    def _update(self, project: Projection | None) -> None:
        """Update the masters; ``project`` them; the next pass gathers them."""
        self._base.step()
        if project is not None:
            with torch.no_grad():
                project(self.shards())

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Measure in eval mode, and release what stays gathered without a backward pass."""
        try:
            return super().evaluate(batches)
        finally:
            self._wrapped.reshard()

    def _prepare(self, *, last: bool) -> None:
        # Accumulated gradients are fp32, those of the last backward pass of the short format: FSDP2
        # does not reduce a mixture of both, which is what heads that take turns would leave.
        mixture = self._heads_differ and self._precision != "fp32"
        self._wrapped.set_requires_gradient_sync(last or mixture)

    def _run(self, batch: Batch, heads: tuple[str, ...]) -> dict[str, Tensor]:
        asked = {"logits": heads} if heads else {}
        outputs: dict[str, Tensor] = self.module(batch, **asked)
        return outputs

    def _backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]


def _require_rows(model: nn.Module) -> None:
    flat = [name for name, parameter in model.named_parameters() if not parameter.dim()]
    if flat:
        raise InputError(
            f"FSDP2 cuts parameters along their first axis; {', '.join(flat)} has none. "
            "Use engine.type: zero or ddp"
        )


def _named_groups(model: nn.Module, decay: float, named: Named) -> list[dict[str, Any]]:
    """Return the optimizer's groups with names in place of parameters, taken before they change."""
    names = {id(parameter): name for name, parameter in named}
    return [
        group | {"params": [names[id(p)] for p in group["params"]]}
        for group in parameter_groups(model, decay)
    ]


def _masters_in(
    groups: list[dict[str, Any]], masters: Mapping[str, nn.Parameter]
) -> list[dict[str, Any]]:
    return [group | {"params": [masters[name] for name in group["params"]]} for group in groups]


def _shard(
    model: nn.Module, device: str, world: int, precision: Precision, *, offload: bool
) -> FSDPModule:
    mesh = init_device_mesh(device, (world,))
    policy = (
        MixedPrecisionPolicy(param_dtype=COMPUTE[precision], reduce_dtype=torch.float32)
        if precision != "fp32"
        else MixedPrecisionPolicy()
    )
    place = CPUOffloadPolicy(pin_memory=device != "cpu") if offload else OffloadPolicy()
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == BLOCKS:
            for block in module:
                fully_shard(block, mesh=mesh, mp_policy=policy, offload_policy=place)
    fully_shard(
        model, mesh=mesh, mp_policy=policy, offload_policy=place, reshard_after_forward=False
    )
    return cast(FSDPModule, model)
