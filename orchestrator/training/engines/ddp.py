"""Every rank holds the whole model and a part of the data: torch's DistributedDataParallel."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from orchestrator.training.config import OptimizerConfig
from orchestrator.training.engine_config import USUAL_SCALE, LossScaleConfig, Precision
from orchestrator.training.engines.single import SingleEngine
from orchestrator.training.fragments import Snapshot


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
        total = value.detach().to(self._device, copy=True)
        distributed.all_reduce(total)
        return total.to(value.device)

    def snapshot(self) -> Snapshot:
        """Copy the state on rank 0; the others have nothing to add."""
        return super().snapshot() if self.rank == 0 else _nothing

    def save(self, folder: Path) -> None:
        """Write the state on rank 0; the others wait."""
        super().save(folder)
        distributed.barrier()

    def _reduction(self, *, last: bool) -> AbstractContextManager[None]:
        if last:
            return nullcontext()
        wrapped = cast(DistributedDataParallel, self._wrapped)
        return cast(AbstractContextManager[None], wrapped.no_sync())


def _nothing(folder: Path) -> None:
    """Write nothing: rank 0 writes all."""
