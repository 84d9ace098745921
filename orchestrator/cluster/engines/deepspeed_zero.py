"""DeepSpeed ZeRO 1, 2, 3 (Rajbhandari et al. 2020) behind the engine interface.

The only file that imports DeepSpeed. Where masters and gradients live between backward and step
is not part of DeepSpeed's public interface; the names used here have been stable for years, each
stage's are in one class below, and a self-test at construction fails loudly should they change.

Settings that are not DeepSpeed's defaults, and why:

- ``gradient_clipping: 0``: its default is 1.0; clipping is ours, over shards.
- ``gradient_accumulation_steps: 1``: the window is ours, so a pass never advances anything.
- ``stage3_param_persistence_threshold: 0``: the default leaves small models unsharded.
- ``reduce_bucket_size``: the default of 5e8 elements is allocated anew at every backward.
- ``reduce_scatter: false`` on gloo: whole buckets are all-reduced faster than scattered.
- ``grad_accum_dtype: fp32``: otherwise bf16 gradients are accumulated and exposed in bf16.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import deepspeed
import deepspeed.ops
import torch
from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_grad
from torch import Tensor, distributed, nn

from orchestrator.cluster.engines.zero_layouts import (
    ChunkLayout,
    ChunkTools,
    FlatLayout,
    Layout,
    offset_in,
    whole_shape,
)
from orchestrator.cluster.engines.zero_state import load_state, save_state
from orchestrator.errors import InputError, StageError
from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engine import Batch, Projection, Shard
from orchestrator.training.objective import (
    MetricSums,
    evaluate_batches,
    target_names,
    window_scales,
)
from orchestrator.training.optimizers import apply_lr, build_optimizer, trainable
from orchestrator.training.state import persistent_buffers

BUCKET_ELEMENTS = 2_500_000  # fits a cache; re-allocating more costs page faults
NEVER = 10**9


class ZeroEngine:
    """An :class:`~orchestrator.training.engine.Engine` whose optimizer state is cut over ranks.

    The process group exists already; one rank is allowed. ``project`` in :meth:`step` is called
    once per parameter group, with that group's shards: it must treat each element by itself.

    Args:
        model: On its device, built the same way on every rank; rank 0's weights win.
        optimizer: Settings of AdamW.
        target_weights: Weight of each target in the objective; 1 where not given.
        stage: 1 cuts optimizer state, 2 also gradients, 3 also weights.
        precision: Number format of weights and activations; masters stay fp32.

    Raises:
        StageError: The installed DeepSpeed does not behave as this file needs.
    """

    replicated = False

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        target_weights: Mapping[str, float] | None = None,
        *,
        stage: Literal[1, 2, 3] = 2,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self.module = model
        self.stage = stage
        self.target_weights = dict(target_weights or {})
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        self._targets = target_names(model)
        self._trainable = trainable(model)
        self._active: frozenset[str] = frozenset(self._targets)
        self._device = next(model.parameters()).device
        self._bf16 = precision == "bf16"
        self._lr = optimizer.learning_rate
        self._project: Projection | None = None
        self._base = build_optimizer(model, optimizer)
        self._base.register_step_post_hook(self._after_update)
        with _nothing_compiled(), _quiet():
            self._engine, self._zero, _, _ = deepspeed.initialize(
                model=model, optimizer=self._base, config=self._settings()
            )
        tools = ChunkTools(
            safe_get_local_fp32_param, safe_get_local_grad, deepspeed.zero.GatheredParameters
        )
        self._layout: Layout = (
            ChunkLayout(self._zero, self._trainable, self.rank, tools)
            if stage == 3
            else FlatLayout(self._zero, self._trainable)
        )
        self._check_internals()

    def _settings(self) -> dict[str, Any]:
        zero: dict[str, Any] = {"stage": self.stage, "reduce_bucket_size": BUCKET_ELEMENTS}
        if self.stage == 3:
            zero["stage3_param_persistence_threshold"] = 0
        elif self._device.type == "cpu":
            zero["reduce_scatter"] = False
        return {
            "train_micro_batch_size_per_gpu": 1,  # not used: batches come cut from the loop
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,
            "steps_per_print": NEVER,
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": self._bf16},
            **({"data_types": {"grad_accum_dtype": "fp32"}} if self._bf16 else {}),
            "zero_optimization": zero,
        }

    # --- a step ----------------------------------------------------------------------------------

    def forward_backward(self, micro_batches: Sequence[Batch]) -> dict[str, float]:
        """Clear, run the whole window, leave reduced gradients; see the protocol."""
        if not micro_batches:
            raise InputError("the window has no micro-batch. Give each rank at least one")
        self._layout.clear()
        window = window_scales(self.module, micro_batches, self.target_weights, self.sum_over_ranks)
        if self.stage == 3:
            self._require_same_heads(micro_batches)
        sums = MetricSums(self._targets, self.target_weights)
        for index, batch in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            self._engine.set_gradient_accumulation_boundary(is_boundary=last)
            outputs = self._forward(batch)
            # DeepSpeed averages gradients over ranks; the objective is a sum with global counts.
            self._engine.backward(window.loss(outputs) * self.world, scale_wrt_gas=False)
            sums.add(outputs)
        self._active = window.active
        return sums.reduce(self.sum_over_ranks)

    def step(self, project: Projection | None = None) -> None:
        """Update the masters; ``project`` them; publish; heads without labels do not move."""
        apply_lr(self._base, self._lr, self._active)
        self._project = project
        try:
            self._engine.set_gradient_accumulation_boundary(is_boundary=True)
            self._engine.step()
        finally:
            self._project = None

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        self._lr = lr

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Measure in eval mode; under stage 3 all ranks run the same number of passes."""
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                sums = MetricSums(self._targets, self.target_weights)
                return evaluate_batches(
                    self._forward, batches, sums, self.sum_over_ranks, lockstep=self.stage == 3
                )
        finally:
            self.module.train(training)

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        moved = {key: self._placed(value) for key, value in batch.items()}
        outputs: dict[str, Tensor] = self._engine(moved)
        return outputs

    def _placed(self, value: Tensor) -> Tensor:
        if self._bf16 and value.is_floating_point():
            return value.to(self._device, torch.bfloat16)
        return value.to(self._device)

    def _require_same_heads(self, micro_batches: Sequence[Batch]) -> None:
        """Stage 3 gathers a head's weights when it runs: it must run on all ranks or on none."""
        present = torch.zeros(len(micro_batches), len(self._targets), dtype=torch.float64)
        for row, batch in enumerate(micro_batches):
            for column, name in enumerate(self._targets):
                present[row, column] = float(f"labels.{name}" in batch)
        total = self.sum_over_ranks(present)
        if bool(((total > 0) & (total < self.world)).any()):
            raise InputError(
                "with ZeRO stage 3 every worker's micro-batch must have labels of the same "
                "targets. Use engine.zero_stage: 2, or mix the targets within each batch"
            )

    def _after_update(self, _optimizer: Any, _args: Any, _kwargs: Any) -> None:
        """Apply the projection to the shards that this call of the base optimizer has updated."""
        if self._project is None:
            return
        updated = [p for group in self._base.param_groups for p in group["params"]]
        shards = [
            shard
            for shard in self.shards()
            if any(offset_in(shard.master, flat) is not None for flat in updated)
        ]
        with torch.no_grad():
            self._project(shards)

    # --- shards and reductions -------------------------------------------------------------------

    def shards(self) -> list[Shard]:
        """This rank's part of every trainable parameter it holds a part of."""
        return list(self._layout.shards())

    def sum_over_shards(self, value: Tensor) -> Tensor:
        """Add over the ranks, each of which holds different elements."""
        return self.sum_over_ranks(value)

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Add ``value`` over all ranks (a new tensor, where ``value`` lies)."""
        total = value.detach().to(self._device, copy=True)
        distributed.all_reduce(total)
        return total.to(value.device)

    def refresh(self) -> None:
        """Publish the masters to the weights of all ranks; collective."""
        with torch.no_grad():
            self._layout.refresh()

    def gathered(self) -> dict[str, Tensor]:
        """Return full fp32 copies of all parameters on every rank."""
        buffers = persistent_buffers(self.module)
        return {name: value for name, value in self.state_dict() if name not in buffers}

    def state_dict(self) -> Iterator[tuple[str, Tensor]]:
        """Yield full fp32 parameters and buffers one by one, on the CPU; collective.

        One parameter at a time is assembled from the masters, so the model is never held twice.
        """
        mine = {shard.name: shard for shard in self.shards()}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                yield name, self._assembled(whole_shape(parameter), mine.get(name)).cpu()
            else:
                with self._layout.whole(parameter, write=False):
                    yield name, parameter.detach().float().cpu().clone()
        for name, buffer in persistent_buffers(self.module).items():
            yield name, buffer.detach().cpu().clone()

    def _assembled(self, shape: torch.Size, shard: Shard | None) -> Tensor:
        flat = torch.zeros(shape.numel(), dtype=torch.float32, device=self._device)
        if shard is not None:
            flat[shard.start : shard.start + shard.master.numel()] = shard.master
        distributed.all_reduce(flat)
        return flat.view(shape)

    # --- state -----------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write this rank's fragments; rank 0 adds frozen parameters and buffers; collective."""
        save_state(folder, self, self._base.state, self._layout)
        distributed.barrier()

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Continue from a state of any engine, stage and number of ranks; collective.

        Raises:
            IntegrityError: The state is missing, incomplete or of another model.
        """
        load_state(folder, self, self._base.state, self._layout)
        self.refresh()

    # --- self-test -------------------------------------------------------------------------------

    def _check_internals(self) -> None:
        """Prove that shards cover the model, and that writing a master changes the weights."""
        try:
            elements = sum(shard.master.numel() for shard in self.shards())
            total = self.sum_over_ranks(torch.tensor([elements], dtype=torch.int64))
            expected = sum(whole_shape(p).numel() for _, p in self._trainable)
            if int(total) != expected:
                raise StageError(_changed(f"shards hold {int(total)} of {expected} elements"))
            self._check_publication()
        except (AttributeError, TypeError, KeyError) as error:
            raise StageError(_changed(str(error))) from error

    @torch.no_grad()
    def _check_publication(self) -> None:
        name, parameter = self._trainable[0]
        first = next((s for s in self.shards() if s.name == name and s.start == 0), None)
        kept = torch.zeros(1, device=self._device)
        if first is not None:
            kept = first.master[:1].clone()
            first.master[0] = 1.0 - torch.sign(kept[0])
        mark = self.sum_over_shards(1.0 - torch.sign(kept) if first is not None else kept * 0)
        self.refresh()
        with self._layout.whole(parameter, write=False):
            seen = parameter.detach().reshape(-1)[0].float()
        if seen != mark[0]:
            raise StageError(_changed("a changed master does not reach the weights"))
        if first is not None:
            first.master[0] = kept[0]
        self.refresh()


def _changed(what: str) -> str:
    return (
        f"DeepSpeed {version('deepspeed')} does not work as this engine needs it: {what}. "
        "Install the version named in pyproject.toml, or use engine.type: ddp"
    )


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """Keep DeepSpeed from building C++ extensions and from importing torch's compiler.

    ``shm_comm`` would be built at the first use in minutes and is never used for training; the
    Muon optimizer, imported by every ZeRO stage, is wrapped in ``torch.compile`` when imported.
    """

    def plain(function: Any = None, **_options: Any) -> Any:
        return (lambda inner: inner) if function is None else function

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with mock.patch.object(torch, "compile", plain):
        deepspeed.init_distributed(dist_backend=distributed.get_backend())
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence DeepSpeed's start-up report."""
    from deepspeed.utils import logger

    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(max(level, logging.WARNING))
