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
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from orchestrator.cluster.engines.building import fill_shards, groups_of, named_groups
from orchestrator.cluster.engines.cuts import placed
from orchestrator.cluster.engines.layouts import Layout, Named
from orchestrator.cluster.engines.parallel import Parallel, parallelized
from orchestrator.cluster.engines.sharded import ShardedEngine
from orchestrator.errors import InputError
from orchestrator.modeling.initialization import Materialization
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.engine import Batch, Projection, Shard
from orchestrator.training.engines.engine_config import EngineConfig, Precision
from orchestrator.training.engines.optimizers import optimizer_over, trainable
from orchestrator.training.engines.precision import COMPUTE

BLOCKS = "layers"
"""Name of the module lists whose members are gathered one by one."""


class RowLayout:
    """Rows of each parameter on each rank, in rank order.

    Args:
        module: The wrapped model.
        named: Its trainable parameters.
        device: Where whole parameters are gathered.
        parallel: What other cuts were made before.
    """

    def __init__(
        self, module: FSDPModule, named: Named, device: torch.device, parallel: Parallel
    ) -> None:
        self.module, self.named, self.device, self.parallel = module, named, device, parallel
        self.names = {
            id(parameter): name for name, parameter in cast(nn.Module, module).named_parameters()
        }
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
        for name, factor in self.parallel.factors.items():
            if name in self.masters:
                cast(Tensor, self.masters[name].grad).mul_(factor)

    def shards(self) -> Iterator[Shard]:
        """Yield the rows of this rank."""
        for name, parameter in self.named:
            master = self.masters[name]
            if not master.numel():
                continue
            grad = None if parameter.grad is None else _local(parameter.grad).view(-1)
            cut = self.parallel.cuts.get(name)
            first = _first_row(parameter)
            yield placed(name, master.detach(), grad, first, parameter.shape, cut)

    def refresh(self) -> None:
        """Release gathered parameters: the next forward pass gathers the masters."""
        self.module.reshard()

    def flats(self) -> Sequence[Tensor]:
        """One tensor per parameter."""
        return list(self.masters.values())

    @contextmanager
    def whole(self, parameter: nn.Parameter, *, write: bool) -> Iterator[Tensor]:
        """Gather the parameter; with ``write`` every rank takes its rows of what is written."""
        cut = self.parallel.cuts.get(self.names[id(parameter)])
        full = cast(DTensor, parameter.data.to(self.device)).full_tensor()
        full = full if cut is None else cut.assembled(full)
        yield full
        if write:
            distributed.broadcast(full, src=0)  # rank 0's values win, as under ZeRO
            own, first = _local(parameter.data), _first_row(parameter)
            part = full if cut is None else cut.take(full)
            own.copy_(part[first : first + len(own)])


def _local(tensor: Tensor) -> Tensor:
    return cast(DTensor, tensor).to_local().detach()


def _first_row(parameter: Tensor) -> int:
    """Return the number of the first row of this rank: rows are cut by ``ceil(rows / ranks)``."""
    mesh, rows = cast(DTensor, parameter).device_mesh, parameter.shape[0]
    last = mesh.ndim - 1  # the axis before it, if there is one, is that of the replicas
    return min(mesh.get_local_rank(last) * -(-rows // mesh.size(last)), rows)


class Fsdp2Engine(ShardedEngine):
    """An :class:`~orchestrator.training.engines.engine.Engine` over ``fully_shard``.

    Args:
        model: On its device, built the same way on every rank; every rank keeps its own rows. Or on
            the meta device.
        optimizer: Its settings.
        target_weights: Weight of each target in the objective; 1 where not given.
        engine: Number format of weights and activations in a pass (masters and reductions stay
            fp32), loss scaling, offload, replicas, and what is cut before rows are.
        missing: Device and values for a model on the meta device; each rank makes its own part.

    Raises:
        InputError: A trainable parameter has no axis to cut, or a layer cannot be shared.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        target_weights: Mapping[str, float] | None,
        engine: EngineConfig,
        *,
        missing: Materialization | None = None,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            target_weights,
            precision=engine.precision,
            loss_scale=engine.loss_scale,
            lockstep=True,
            device=None if missing is None else missing.device,
        )
        _require_rows(model)
        groups = named_groups(model, optimizer)
        self._parallel = parallel = parallelized(model, self._device.type, engine)
        self.tensor_ranks = copies = engine.tensor_parallel
        self.replicas = engine.replicas or 1
        self._holders = parallel.mesh.get_group(parallel.mesh.ndim - 1)  # without the replicas
        self.stores = self.rank < self.world // self.replicas
        self.rank, self.world = self.rank // copies, self.world // copies
        offload = engine.offload.any
        self._wrapped = _shard(model, parallel, engine.precision, offload=offload)
        if missing is not None:
            self._materialize(missing, torch.device("cpu") if offload else self._device)
        named = trainable(model)
        self._trainable = named
        layout = RowLayout(self._wrapped, named, self._device, parallel)
        self._layout: Layout = layout
        masters = groups_of(groups, layout.masters)
        self._stepped_by(optimizer_over(masters, optimizer, engine.precision))

    def _materialize(self, missing: Materialization, device: torch.device) -> None:
        """Give this rank's rows memory and values, frozen ones too; move buffers."""

        def made(tensor: Tensor) -> Tensor:
            if tensor.is_meta:
                return torch.empty_like(tensor, device=device)
            return tensor.to(missing.device)

        # Rows are DTensors, which keep their identity, so that ties hold; FSDP2 takes note of them.
        self.module._apply(made)  # type: ignore[no-untyped-call]
        named = list(self.module.named_parameters())
        rows = RowLayout(self._wrapped, named, self._device, self._parallel)
        fill_shards(rows.shards(), missing.values)

    def _shape_of(self, name: str, parameter: nn.Parameter) -> torch.Size:
        """Return the shape of a whole parameter."""
        cut = self._parallel.cuts.get(name)
        return parameter.shape if cut is None else cut.shape

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


def _shard(
    model: nn.Module, parallel: Parallel, precision: Precision, *, offload: bool
) -> FSDPModule:
    policy = (
        MixedPrecisionPolicy(param_dtype=COMPUTE[precision], reduce_dtype=torch.float32)
        if precision != "fp32"
        else MixedPrecisionPolicy()
    )
    pinned = parallel.mesh.device_type != "cpu"
    place = CPUOffloadPolicy(pin_memory=pinned) if offload else OffloadPolicy()
    shared: Any = {
        "mesh": parallel.mesh,
        "mp_policy": policy,
        "offload_policy": place,
        "shard_placement_fn": parallel.placement(model),
    }
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == BLOCKS:
            for block in module:
                fully_shard(block, **shared)
    fully_shard(model, reshard_after_forward=False, **shared)
    return cast(FSDPModule, model)
