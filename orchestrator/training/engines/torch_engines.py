"""Engines that need nothing but torch: one process, and DistributedDataParallel."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from orchestrator.errors import InputError
from orchestrator.modeling.transfer import to_device
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engines.engine import Batch, Projection, Shard
from orchestrator.training.engines.engine_config import USUAL_SCALE, LossScaleConfig, Precision
from orchestrator.training.engines.on_device import decides_on_device, stepping_where
from orchestrator.training.engines.optimizers import apply_lr, build_optimizer, trainable
from orchestrator.training.engines.precision import COMPUTE, LossScaler
from orchestrator.training.engines.reductions import sum_over_processes
from orchestrator.training.engines.state import (
    Snapshot,
    load_training_state,
    persistent_buffers,
    save_state,
    snapshot_training_state,
)
from orchestrator.training.metrics import MetricSums, StepMetrics, evaluate_batches
from orchestrator.training.objective import ExtraLoss, target_names, window_scales


class SingleEngine:
    """An :class:`~orchestrator.training.engines.engine.Engine` in one process.

    Args:
        model: Offers ``targets``, ``count_labels`` and a forward pass that returns loss sums.
        optimizer: Settings of AdamW.
        target_weights: Weight of each target in the objective; 1 where not given.
        precision: Number format of the forward pass, through autocast; masters stay fp32.
        loss_scale: How the loss is scaled with precision fp16.
    """

    rank = 0
    world = 1
    tensor_ranks = 1
    replicated = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        target_weights: Mapping[str, float] | None = None,
        *,
        precision: Precision = "fp32",
        loss_scale: LossScaleConfig = USUAL_SCALE,
    ) -> None:
        self.module = self._wrapped = model
        self.optimizer = build_optimizer(model, optimizer, precision)
        self.target_weights = dict(target_weights or {})
        self._targets = target_names(model)
        self._trainable = trainable(model)
        self._device = next(model.parameters()).device
        self._precision = precision
        self.decides_on_device = decides_on_device(self.optimizer)
        self._scaler = LossScaler(
            precision, loss_scale, self._device if self.decides_on_device else None
        )
        self._lr = optimizer.learning_rate
        self._active: frozenset[str] = frozenset(self._targets)

    def forward_backward(
        self, micro_batches: Sequence[Batch], extra: Sequence[ExtraLoss] = ()
    ) -> StepMetrics:
        """Clear, run the whole window, leave reduced gradients; see the protocol."""
        if not micro_batches:
            raise InputError("the window has no micro-batch. Give each rank at least one")
        self.optimizer.zero_grad(set_to_none=True)
        window = window_scales(
            self.module, micro_batches, self.target_weights, self.sum_over_ranks, extra
        )
        sums = MetricSums(self._targets, self.target_weights, extra, self._device)
        for index, each in enumerate(micro_batches):
            batch = to_device(each, self._device)
            with self._reduction(last=index == len(micro_batches) - 1):
                outputs = self._run(self._wrapped, batch, window.heads)
                if extra:
                    outputs = window.with_extra(index, outputs, batch)
                loss = window.loss(outputs) * self.world * self._scaler.scale
                loss.backward()  # type: ignore[no-untyped-call]
            sums.add(outputs)
        for _, parameter in self._trainable:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._active = window.active
        self._scaler.unscale(self.shards())
        metrics = sums.unread(self.sum_over_ranks, window.counts.keys())
        return StepMetrics(metrics, self._scaler.metrics())

    def shards(self) -> list[Shard]:
        """Every trainable parameter whole, once."""
        return [
            Shard(
                name,
                parameter.detach().view(-1),
                None if parameter.grad is None else parameter.grad.view(-1),
                0,
                parameter.shape,
            )
            for name, parameter in self._trainable
        ]

    def sum_over_shards(self, value: Tensor) -> Tensor:
        """Return ``value``: nothing is cut between ranks."""
        return value

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Return ``value``: there is one rank."""
        return value

    def refresh(self) -> None:
        """Do nothing: the masters are the weights."""

    def step(self, project: Projection | None = None, finite: Tensor | None = None) -> None:
        """Update the parameters; idle heads with learning rate 0; then ``project``."""
        apply_lr(self.optimizer, self._lr, self._active)
        with stepping_where(self.optimizer, finite):
            self.optimizer.step()
        if project is not None:
            with torch.no_grad():
                project(self.shards())
        self._scaler.stepped(finite)

    def skip(self) -> bool:
        """Take no step, lower the loss scale."""
        self.refresh()
        return self._scaler.skipped()

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        self._lr = lr

    def optimizer_state(self, key: str) -> dict[str, Tensor]:
        """Return one kind of optimizer state by parameter."""
        states = ((name, self.optimizer.state.get(p, {})) for name, p in self._trainable)
        return {name: state[key].view(-1) for name, state in states if key in state}

    def gathered(self) -> dict[str, Tensor]:
        """Return copies of all parameters."""
        return {name: p.detach().clone() for name, p in self.module.named_parameters()}

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Measure in eval mode, then return to the mode the model was in."""
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                sums = MetricSums(self._targets, self.target_weights, device=self._device)
                return evaluate_batches(self._evaluated, batches, sums, self.sum_over_ranks)
        finally:
            self.module.train(training)

    def snapshot(self) -> Snapshot:
        """Copy this rank's part of weights and optimizer state."""
        return snapshot_training_state(
            self.module, self.optimizer, self._scaler.state(), self.rank, self.world
        )

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state; collective."""
        save_state(self.snapshot(), folder, self.rank, self.world)

    def load(self, folder: Path) -> None:
        """Read weights and optimizer state; collective."""
        self._scaler.restore(
            load_training_state(folder, self.module, self.optimizer, self.rank, self.world)
        )

    def state_dict(self) -> Iterator[tuple[str, Tensor]]:
        """Yield copies of parameters and persistent buffers, on the CPU."""
        for name, parameter in self.module.named_parameters():
            yield name, parameter.detach().to("cpu", copy=True)
        for name, buffer in persistent_buffers(self.module).items():
            yield name, buffer.detach().to("cpu", copy=True)

    def _reduction(self, *, last: bool) -> AbstractContextManager[None]:
        """Context of one micro-batch; engines with a reduction postpone it to the last."""
        del last
        return nullcontext()

    def _evaluated(self, batch: Batch) -> dict[str, Tensor]:
        return self._run(self.module, to_device(batch, self._device))

    def _run(
        self, model: nn.Module, batch: Batch, heads: tuple[str, ...] = ()
    ) -> dict[str, Tensor]:
        """Run the model on a batch on its device, with the logits of ``heads``."""
        compute, enabled = COMPUTE[self._precision], self._precision != "fp32"
        with torch.autocast(self._device.type, dtype=compute, enabled=enabled):
            outputs: dict[str, Tensor] = model(batch, logits=heads) if heads else model(batch)
        return outputs


class DDPEngine(SingleEngine):
    """A single engine on each rank whose gradients are summed over ranks.

    The process group exists already. DDP *averages* gradients while the objective is a sum with
    global counts, hence the factor ``world`` in ``forward_backward``. Heads without labels in a
    micro-batch take no part in its graph: ``find_unused_parameters`` lets DDP go on without them.

    Args:
        model: As in :class:`SingleEngine`; the weights of rank 0 win.
        optimizer: Settings of AdamW.
        target_weights: Weight of each target in the objective; 1 where not given.
        precision: Number format of the forward pass.
        loss_scale: How the loss is scaled with precision fp16.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        target_weights: Mapping[str, float] | None = None,
        *,
        precision: Precision = "fp32",
        loss_scale: LossScaleConfig = USUAL_SCALE,
    ) -> None:
        super().__init__(
            model, optimizer, target_weights, precision=precision, loss_scale=loss_scale
        )
        self.rank = distributed.get_rank()
        self.world = distributed.get_world_size()
        several_heads = len(self._targets) > 1
        self._wrapped = DistributedDataParallel(model, find_unused_parameters=several_heads)

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Add ``value`` over all ranks (a new tensor, where ``value`` lies)."""
        return sum_over_processes(value, self._device)

    def _reduction(self, *, last: bool) -> AbstractContextManager[None]:
        if last:
            return nullcontext()
        wrapped = cast("DistributedDataParallel", self._wrapped)
        return cast("AbstractContextManager[None]", wrapped.no_sync())
