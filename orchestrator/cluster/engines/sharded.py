"""Common base of engines that shard parameters: everything but the sharding itself."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup

from orchestrator.cluster.engines.building import fill_shards, own_parts
from orchestrator.cluster.engines.layouts import (
    Layout,
    home_of,
    load_state,
    snapshot_state,
    whole_shape,
)
from orchestrator.cluster.engines.matrices import spread_matrices
from orchestrator.errors import InputError
from orchestrator.modeling.initialization import Values
from orchestrator.modeling.transfer import to_device
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.engine import Batch, Projection, Shard, part_of
from orchestrator.training.engines.engine_config import LossScaleConfig, Precision
from orchestrator.training.engines.muon import Muon
from orchestrator.training.engines.on_device import decides_on_device, stepping_where
from orchestrator.training.engines.optimizers import apply_lr, hidden_matrices, trainable
from orchestrator.training.engines.precision import LossScaler, compute_type
from orchestrator.training.engines.reductions import sum_over_processes
from orchestrator.training.engines.state import Snapshot, persistent_buffers, save_state
from orchestrator.training.engines.update_rules import MIN_TRUST_RATIO_DIMS, Lamb, Piece
from orchestrator.training.metrics import MetricSums, StepMetrics, evaluate_batches
from orchestrator.training.objective import ExtraLoss, target_names, window_scales


class ShardedEngine(ABC):
    """An ``Engine`` that gives each rank a part of the model.

    The process group exists already. A subclass wraps the model and sets ``_layout`` and ``_base``.

    Args:
        model: On its device, built the same way on every rank.
        optimizer: Its settings.
        target_weights: Weight of each target in the objective; 1 where not given.
        precision: Number format of weights and activations in a pass; masters stay fp32.
        loss_scale: How the loss is scaled with precision fp16.
        lockstep: Forward passes are collective: every rank must run the same ones.
        device: Where the model will be, if it is on the meta device.
    """

    replicated = False
    tensor_ranks = 1
    replicas = 1
    """Groups of processes with all shards each."""
    stores = True
    """Whether this process's shards are stored: those of one group are."""
    _holders: ProcessGroup | None = None
    """The ranks that hold the shards of one copy of the model; None: all processes."""
    _frozen: list[Shard] | None
    """This rank's fp32 parts of frozen parameters; None where their weights are fp32 anyway."""
    _layout: Layout
    decides_on_device = False
    _base: torch.optim.Optimizer
    """The optimizer that steps the flat tensors of the layout."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        target_weights: Mapping[str, float] | None,
        *,
        precision: Precision,
        loss_scale: LossScaleConfig,
        lockstep: bool,
        device: torch.device | None = None,
    ) -> None:
        self.module = model
        self.target_weights = dict(target_weights or {})
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        self._targets = target_names(model)
        self._trainable = trainable(model)
        self._matrices = hidden_matrices(model)
        self._active: frozenset[str] = frozenset(self._targets)
        self._device = device or next(model.parameters()).device
        self._lr = optimizer.learning_rate
        self._precision, self._lockstep = precision, lockstep
        self._scaler = LossScaler(precision, loss_scale)
        self._heads_differ = False  # between the micro-batches of a window
        self._frozen: list[Shard] | None = None

    # --- a step ----------------------------------------------------------------------------------

    def forward_backward(
        self, micro_batches: Sequence[Batch], extra: Sequence[ExtraLoss] = ()
    ) -> StepMetrics:
        """Clear, run the whole window, leave reduced gradients; see the protocol."""
        if not micro_batches:
            raise InputError("the window has no micro-batch. Give each rank at least one")
        self._layout.clear()
        window = window_scales(
            self.module, micro_batches, self.target_weights, self.sum_over_ranks, extra
        )
        if self._lockstep:
            self._require_same_heads(micro_batches)
        self._heads_differ = len({_labels(batch) for batch in micro_batches}) > 1
        sums = MetricSums(self._targets, self.target_weights, extra, self._device)
        for index, batch in enumerate(micro_batches):
            self._prepare(last=index == len(micro_batches) - 1)
            outputs = self._forward(batch, window.heads)
            if extra:
                # Moved once more: what the model was given is rounded to the pass's precision.
                outputs = window.with_extra(index, outputs, to_device(batch, self._device))
            # Gradients are averaged over ranks; the objective is a sum with global counts.
            self._backward(window.loss(outputs) * self.world * self._scaler.scale)
            sums.add(outputs)
        self._active = window.active
        self._layout.fill()
        self._scaler.unscale(self._layout.shards())
        metrics = sums.unread(self.sum_over_ranks, window.counts.keys())
        return StepMetrics(metrics, self._scaler.metrics())

    def _stepped_by(self, base: torch.optim.Optimizer, *, offloaded: bool = False) -> None:
        self._base = base
        self.decides_on_device = decides_on_device(base) and not offloaded
        if self.decides_on_device:
            self._scaler.move_to(self._device)

    def step(self, project: Projection | None = None, finite: Tensor | None = None) -> None:
        """Update the masters; ``project`` them; publish; heads without labels do not move."""
        apply_lr(self._base, self._lr, self._active)
        if isinstance(self._base, Lamb) and not self._base.is_cut:
            self._base.cut(*self._layers(), self.sum_over_shards)
        if isinstance(self._base, Muon) and not self._base.is_cut:
            holders = self._holders
            spread_matrices(self._base, self._layout, self._matrices, self._device, holders)
        with stepping_where(self._base, finite):
            self._update(project)
        self._scaler.stepped(finite)

    def _layers(self) -> tuple[dict[Tensor, list[Piece]], int]:
        """Return where this rank has pieces of the layers that LAMB scales, and how many exist."""
        numbers = {name: number for number, (name, _) in enumerate(self._trainable)}
        pieces: dict[Tensor, list[Piece]] = {}
        for shard in self.shards():
            if len(shard.shape) >= MIN_TRUST_RATIO_DIMS:
                flat, start = home_of(shard, self._layout)
                piece = Piece(numbers[shard.name], start, shard.master.numel())
                pieces.setdefault(flat, []).append(piece)
        return pieces, len(numbers)

    def skip(self) -> bool:
        """Take no step: publish the masters, lower the loss scale; collective."""
        self.refresh()
        return self._scaler.skipped()

    @abstractmethod
    def _update(self, project: Projection | None) -> None:
        """Update the masters, ``project`` them and publish."""

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        self._lr = lr

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Measure in eval mode; in lockstep all ranks run the same number of passes."""
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                sums = MetricSums(self._targets, self.target_weights, device=self._device)
                return evaluate_batches(
                    self._forward, batches, sums, self.sum_over_ranks, lockstep=self._lockstep
                )
        finally:
            self.module.train(training)

    @abstractmethod
    def _prepare(self, *, last: bool) -> None:
        """Say before a micro-batch whether it is the window's last: then gradients are reduced."""

    @abstractmethod
    def _run(self, batch: Batch, heads: tuple[str, ...]) -> dict[str, Tensor]:
        """Run the wrapped model, with the logits of ``heads``."""

    @abstractmethod
    def _backward(self, loss: Tensor) -> None:
        """Run the backward pass of a micro-batch."""

    def _forward(self, batch: Batch, heads: tuple[str, ...] = ()) -> dict[str, Tensor]:
        moved = to_device(batch, self._device)
        if self._precision != "fp32":
            moved = {k: v.to(compute_type(self._precision, v)) for k, v in moved.items()}
        return self._run(moved, heads)

    def _require_same_heads(self, micro_batches: Sequence[Batch]) -> None:
        """In lockstep a head's weights are gathered when it runs: on all ranks or on none."""
        present = torch.zeros(len(micro_batches), len(self._targets), dtype=torch.float64)
        for row, batch in enumerate(micro_batches):
            for column, name in enumerate(self._targets):
                present[row, column] = float(f"labels.{name}" in batch)
        total = self.sum_over_ranks(present)
        if bool(((total > 0) & (total < self.world)).any()):
            raise InputError(
                "with ZeRO stage 3 and FSDP2 every worker's micro-batch must have labels of the "
                "same targets. Use engine.zero_stage: 2, or mix the targets within each batch"
            )

    # --- shards and reductions -------------------------------------------------------------------

    def shards(self) -> list[Shard]:
        """This rank's part of every trainable parameter it holds a part of."""
        return list(self._layout.shards())

    def sum_over_shards(self, value: Tensor) -> Tensor:
        """Add over the processes that hold different elements.

        Replicas hold the same ones; all processes are added, for the same bits on all.
        """
        return _share(sum_over_processes(value, self._device), self.replicas)

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Add ``value`` over the data-parallel ranks (a new tensor, where ``value`` lies).

        Tensor ranks measure the same on the same samples. Adding over all processes gives them the
        same bits, too, so that what they decide from it cannot part them.
        """
        return _share(sum_over_processes(value, self._device), self.tensor_ranks)

    def refresh(self) -> None:
        """Publish the masters to the weights of all ranks; collective."""
        with torch.no_grad():
            self._layout.refresh()

    def optimizer_state(self, key: str) -> dict[str, Tensor]:
        """Return this rank's part of one kind of optimizer state by parameter."""
        found = {}
        for shard in self.shards():
            flat, offset = home_of(shard, self._layout)
            state = self._base.state.get(flat, {})
            if key in state:
                found[shard.name] = state[key][offset : offset + shard.master.numel()]
        return found

    def gathered(self) -> dict[str, Tensor]:
        """Return full fp32 copies of all parameters on every rank."""
        buffers = persistent_buffers(self.module)
        return {name: value for name, value in self.state_dict() if name not in buffers}

    def state_dict(self) -> Iterator[tuple[str, Tensor]]:
        """Yield full fp32 parameters and buffers one by one, on the CPU; collective.

        One parameter at a time is assembled from the masters, so the model is never held twice.
        """
        mine = {shard.name: shard for shard in (*self.shards(), *(self._frozen or ()))}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad or self._frozen is not None:
                yield name, self._assembled(self._shape_of(name, parameter), mine.get(name)).cpu()
            else:
                with self._layout.whole(parameter, write=False) as whole:
                    copy = whole.detach().float().cpu().clone()
                yield name, copy
        for name, buffer in persistent_buffers(self.module).items():
            yield name, buffer.detach().cpu().clone()

    def _shape_of(self, name: str, parameter: nn.Parameter) -> torch.Size:
        """Return the shape of a whole parameter."""
        del name
        return whole_shape(parameter)

    def _unrounded(self, values: Values | None) -> list[Shard]:
        """Return this rank's parts of all parameters, fp32, in host memory; collective.

        For an engine that casts the model's own weights, before it does; rank 0's weights win. With
        `values`, of frozen parameters alone: masters are written from them.
        """
        if values is not None:
            return own_parts(self.module, values)
        parts = []
        for name, parameter in self.module.named_parameters():
            distributed.broadcast(parameter.detach(), src=0)
            size = -(-parameter.numel() // self.world)
            start = self.rank * size
            part = parameter.detach().reshape(-1)[start : start + size].float().cpu().clone()
            if part.numel():
                parts.append(Shard(name, part, None, start, parameter.shape))
        return parts

    @torch.no_grad()
    def _take_unrounded(self, parts: Sequence[Shard], values: Values | None) -> None:
        """Begin with what the weights were before they were cast; collective.

        Masters get these values, and frozen parameters keep theirs for what is stored: a job that
        begins with a package neither trains nor stores rounded copies of its weights.
        """
        if values is not None:
            fill_shards(self.shards(), values)
            self._frozen = list(parts)
            return
        mine = {part.name: part for part in parts}
        masters = {shard.name: shard for shard in self.shards()}
        for name, parameter in self._trainable:
            whole = self._assembled(whole_shape(parameter), mine.pop(name, None))
            if name in masters:
                masters[name].master.copy_(part_of({name: whole}, masters[name]))
        self._frozen = list(mine.values())

    def _assembled(self, shape: torch.Size, shard: Shard | None) -> Tensor:
        flat = torch.zeros(shape.numel(), dtype=torch.float32, device=self._device)
        if shard is not None and self.stores:
            place = shard.within(flat)
            place.copy_(shard.master.view_as(place))
        distributed.all_reduce(flat)  # every element is set on one rank and 0 on all others
        return flat.view(shape)

    # --- state -----------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Copy this rank's fragments; rank 0 adds what no rank has a part of; collective."""
        given = (self, self._base, self._layout, self._scaler.state(), self._frozen)
        return snapshot_state(*given, stores=self.stores)

    def save(self, folder: Path) -> None:
        """Write the fragments of all ranks; collective."""
        save_state(self.snapshot(), folder, distributed.get_rank(), distributed.get_world_size())

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Continue from a state of any engine, stage and number of ranks; collective.

        Raises:
            IntegrityError: The state is missing, incomplete or of another model.
        """
        found = load_state(
            folder, self, self._base, self._layout, self._frozen or (), device=self._device
        )
        self._scaler.restore(found)
        self.refresh()


def _share(total: Tensor, copies: int) -> Tensor:
    """Return what was added, where ``copies`` processes have added the same."""
    if copies == 1:
        return total
    return total / copies if total.is_floating_point() else total // copies


def _labels(batch: Batch) -> frozenset[str]:
    return frozenset(key for key in batch if key.startswith("labels."))
