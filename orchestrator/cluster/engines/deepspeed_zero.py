"""DeepSpeed ZeRO 1, 2, 3 (Rajbhandari et al. 2020) behind the engine interface.

The only file that imports DeepSpeed. Where masters and gradients live between backward and step
is not part of DeepSpeed's public interface; the names used here have been stable for years, each
stage's are in one class below, and a self-test at construction fails loudly should they change.

Its settings are in ``zero_settings``; ``engine.deepspeed`` amends them
(``training/engines/engine_config.py``). Stage 0 is not built here.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, distributed, nn

from orchestrator.cluster.engines.building import (
    flattened,
    groups_of,
    named_groups,
    partition,
)
from orchestrator.cluster.engines.layouts import Layout, offset_in, whole_shape
from orchestrator.cluster.engines.sharded import ShardedEngine
from orchestrator.cluster.engines.zero_layouts import ChunkLayout, ChunkTools, FlatLayout
from orchestrator.cluster.engines.zero_settings import zero_settings
from orchestrator.errors import StageError
from orchestrator.modeling.initialization import Materialization, Values, fill_all
from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines.engine import Batch, Projection
from orchestrator.training.engines.optimizers import optimizer_over, trainable
from orchestrator.training.engines.precision import COMPUTE


@contextmanager
def hide_modules(*names: str) -> Iterator[None]:
    """Make optional imports of a library fail; modules that are imported already stay.

    Args:
        names: Top-level modules.
    """
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it then fails
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with hide_modules("mlflow"):  # two seconds of every worker, for an autotuner that is never used
    import deepspeed
    import deepspeed.ops
    from deepspeed.runtime import bf16_optimizer
    from deepspeed.runtime.zero import stage3, stage_1_and_2
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_grad


class ZeroEngine(ShardedEngine):
    """An ``Engine`` whose optimizer state is cut over ranks.

    The process group exists already; one rank is allowed. ``project`` in :meth:`step` is called
    once per parameter group, with that group's shards: it must treat each element by itself.

    Args:
        model: On its device, built the same way on every rank; rank 0's weights win. Or on the meta
            device.
        optimizer: Settings of the optimizer.
        target_weights: Weight of each target in the objective; 1 where not given.
        config: Stage (1 cuts optimizer state, 2 also gradients, 3 also weights), number format of
            weights and activations, offload, amendments. Masters are fp32 and begin unrounded, and
            what is stored of frozen parameters is: each rank keeps its part of them in host memory.
        missing: Device and values for a model on the meta device; each rank makes what it keeps.

    Raises:
        StageError: The installed DeepSpeed does not behave as this file needs.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        target_weights: Mapping[str, float] | None,
        config: EngineConfig,
        *,
        missing: Materialization | None = None,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            target_weights,
            precision=config.precision,
            loss_scale=config.loss_scale,
            lockstep=config.zero_stage == 3,
            device=None if missing is None else missing.device,
        )
        self._offloaded = config.offload.optimizer is not None
        # Stages 2 and 3 reduce at every micro-batch, and copy to the host, at the last one, only
        # what that one has used; the layout does it for all of them when the window has ended.
        self._deferred = self._offloaded and config.zero_stage > 1
        self._project: Projection | None = None
        values = None if missing is None else missing.values
        groups = named_groups(model, optimizer)
        short = config.precision != "fp32"  # DeepSpeed casts the model's weights where they are
        unrounded = self._unrounded(values) if short else []
        elements = sum(p.numel() for _, p in self._trainable)
        settings = zero_settings(config, self._device.type, elements)
        with _nothing_compiled(self._device), _quiet(), _held_once():
            if values is not None:
                self._build(values, settings)
            masters = groups_of(groups, dict(self._trainable))
            base = optimizer_over(masters, optimizer, config.precision)
            self._stepped_by(base, offloaded=self._offloaded)
            self._base.register_step_post_hook(self._after_update)
            self._engine, self._zero, _, _ = deepspeed.initialize(
                model=model, optimizer=self._base, config=settings
            )
        self._layout: Layout = self._layout_of(config.zero_stage)
        if short:
            self._take_unrounded(unrounded, values)
        self._check_internals()

    def _build(self, values: Values, settings: dict[str, Any]) -> None:
        """Give the model on the meta device memory and values, as far as the stage keeps them."""
        dtype = COMPUTE[self._precision]
        if settings["zero_optimization"]["stage"] < 3:
            fill_all(self.module, values, self._device, dtype)
        else:
            # DeepSpeed prepares its gathering linear layer only where a module is given.
            init = deepspeed.zero.Init(nn.Module(), config_dict_or_path=settings, dtype=dtype)
            partition(self.module, values, init, self._device, dtype)
        self._trainable = trainable(self.module)

    def _layout_of(self, stage: int) -> Layout:
        if stage < 3:
            return FlatLayout(self._zero, self._trainable, offloaded=self._offloaded)
        tools = ChunkTools(
            safe_get_local_fp32_param, safe_get_local_grad, deepspeed.zero.GatheredParameters
        )
        return ChunkLayout(self._zero, self._trainable, self.rank, tools, offloaded=self._offloaded)

    def _update(self, project: Projection | None) -> None:
        self._project = project
        try:
            self._engine.set_gradient_accumulation_boundary(is_boundary=True)
            with _trusted(self._zero):
                self._engine.step()
        finally:
            self._project = None

    def _prepare(self, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_boundary=last and not self._deferred)

    def _run(self, batch: Batch, heads: tuple[str, ...]) -> dict[str, Tensor]:
        asked = {"logits": heads} if heads else {}
        outputs: dict[str, Tensor] = self._engine(batch, **asked)
        return outputs

    def _backward(self, loss: Tensor) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)

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
        before = torch.zeros(1, device=self._device)
        if first is not None:
            before = first.master[:1].clone()
            first.master[0] = 1.0 - torch.sign(before[0])
        mark = self.sum_over_shards(1.0 - torch.sign(before) if first is not None else before * 0)
        self.refresh()
        with self._layout.whole(parameter, write=False) as whole:
            seen = whole.detach().reshape(-1)[0].float()
        if seen != mark[0]:
            raise StageError(_changed("a changed master does not reach the weights"))
        if first is not None:
            first.master[0] = before[0]
        self.refresh()


def _changed(what: str) -> str:
    return (
        f"DeepSpeed {version('deepspeed')} does not work as this engine needs it: {what}. "
        "Install the version named in pyproject.toml, or use engine.type: ddp"
    )


@contextmanager
def _nothing_compiled(device: torch.device) -> Iterator[None]:
    """Keep DeepSpeed from building C++ extensions and from importing torch's compiler.

    ``shm_comm`` would be built at the first use in minutes and is never used for training; the
    Muon optimizer, imported by every ZeRO stage, is wrapped in ``torch.compile`` when imported.
    """

    def plain(function: Any = None, **_options: Any) -> Any:
        return (lambda inner: inner) if function is None else function

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with ExitStack() as patches:
        patches.enter_context(_replaced(torch, "compile", plain))
        if device.type == "cpu":  # torch computes in fp16 also without the instructions for it
            accelerator = deepspeed.get_accelerator()
            patches.enter_context(_replaced(accelerator, "is_fp16_supported", lambda: True))
        deepspeed.init_distributed(dist_backend=distributed.get_backend())
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a module or object for the duration of the block."""
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:  # it came from the class
            delattr(owner, name)


@contextmanager
def _trusted(zero: Any) -> Iterator[None]:
    """Keep DeepSpeed from looking for gradients that are not finite: ``descend`` has done so.

    It would wait for the device, and drop a step without publishing the masters.
    """
    with ExitStack() as patches:
        for module in (bf16_optimizer, stage3, stage_1_and_2):
            patches.enter_context(_replaced(module, "is_invalid_grad_norm", lambda _norm: False))
        if hasattr(zero, "check_overflow"):  # of fp16
            patches.enter_context(_replaced(zero, "check_overflow", lambda **_options: None))
        yield


@contextmanager
def _held_once() -> Iterator[None]:
    """Let ZeRO-1 and 2 release a parameter as soon as it is in their flat tensor."""
    with _replaced(
        stage_1_and_2.DeepSpeedZeroOptimizer, "flatten_dense_tensors_aligned", flattened
    ):
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
