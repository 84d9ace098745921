"""The one contract between training code and hardware.

Everything that trains runs over an :class:`Engine`; clipping, sharpness-aware ascent, importance,
penalties and clamps are functions over :meth:`Engine.shards` and are therefore written once.

Rules of the interface:

1. ``forward_backward`` takes the whole accumulation window and discards earlier gradients. Calling
   it twice on the same window gives the same gradients; only ``step`` advances anything.
2. There are two reductions. ``sum_over_shards`` adds what is sharded over ranks (the identity when
   every rank holds the whole model); ``sum_over_ranks`` adds what each data-parallel rank
   measured (losses, counts). Using one for the other counts a norm ``world`` times.
3. ``step`` publishes the masters, so no ``refresh`` is needed between writing masters and
   ``step``; it is needed when a forward pass follows instead.
4. A trainable parameter that took no part in the window has gradient 0, in every engine. Heads of
   targets without a label in the window are stepped with learning rate 0: they do not move.
5. Every rank calls the collective methods in the same order, also a rank that holds no shard.
   ``shards`` is local and cheap; call it again after each ``forward_backward``, because gradient
   tensors may be new each time.
6. The caller sets training or evaluation mode: the loop sets training mode once, ``evaluate``
   returns to the mode that it found, importance uses eval mode.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from orchestrator.errors import StageError
from orchestrator.training.metrics import StepMetrics
from orchestrator.training.objective import ExtraLoss

if TYPE_CHECKING:  # it imports this file
    from orchestrator.training.engines.state_index import RankPart

CLIP_EPSILON = 1e-6
"""Added to the norm before dividing, as ``torch.nn.utils.clip_grad_norm_`` does."""

Batch = dict[str, Tensor]
"""``input_ids`` [B, S], ``attention_mask`` [B, S], ``labels.<target>`` ...; B batch, S length."""


class Runs(NamedTuple):
    """Equally long runs of elements at equal distances, in place of one range.

    Attributes:
        width: Elements of a run.
        stride: Distance between the beginnings of two runs.
        group: The ranks that hold what lies between the runs of this one.
    """

    width: int
    stride: int
    group: ProcessGroup

    def first(self, start: int) -> int:
        """Return where the row begins that holds the element ``start``."""
        return start - start % self.stride


@dataclass(slots=True)
class Shard:
    """This rank's part of one parameter. ``master`` and ``grad`` are views: writing changes them.

    Every element of a parameter is in the shard of one rank, or of every rank if the engine is
    ``replicated``.

    Attributes:
        name: The parameter's name in the model.
        master: fp32 [n], elements ``start : start + n`` of the flattened parameter.
        grad: Reduced gradient [n] of the last ``forward_backward``; None before the first.
        start: Offset in the flattened parameter.
        shape: Shape of the whole parameter.
        runs: The elements are runs from ``start`` on, not one range (tensor parallel); None: a
            range.
    """

    name: str
    master: Tensor
    grad: Tensor | None
    start: int
    shape: torch.Size
    runs: Runs | None = None

    def within(self, flat: Tensor) -> Tensor:
        """Return a view of this shard's elements of a flattened whole tensor, [n] or [k, width]."""
        numel = self.master.numel()
        if self.runs is None:
            return flat[self.start : self.start + numel]
        width, stride, _ = self.runs
        return flat.as_strided((numel // width, width), (stride, 1), self.start)


Projection = Callable[[list[Shard]], None]
"""Changes masters in place between the optimizer's update and its publication."""


class Engine(Protocol):
    """A model with its optimizer, spread over ``world`` ranks.

    Attributes:
        rank: This process's place among the data-parallel ranks.
        world: Number of data-parallel ranks.
        tensor_ranks: Processes that compute each data-parallel rank's samples together.
        replicated: Whether every rank holds all shards (single process, DDP).
        decides_on_device: Whether ``step`` takes ``finite``.
        module: The model itself, unwrapped.
    """

    rank: int
    world: int
    tensor_ranks: int
    replicated: bool
    decides_on_device: bool
    module: nn.Module

    def forward_backward(
        self, micro_batches: Sequence[Batch], extra: Sequence[ExtraLoss] = ()
    ) -> StepMetrics:
        """Clear, run the whole window forward and backward, reduce the gradients.

        The gradient is that of ``sum_t weight_t * sum(loss.t) / count.t`` where sums and counts
        run over all micro-batches of all ranks, and t over the model's targets and ``extra``
        (``training/objective.py``).

        Args:
            micro_batches: This rank's part of the accumulation window.
            extra: More loss terms that see the model's outputs and the batch, normalized like the
                targets' losses; the same terms on every rank. Heads that they read are trained by
                them, labels or not.

        Returns:
            ``loss``, and ``loss.<t>``, ``accuracy.<t>``, ``count.<t>`` of every target with at
            least one label in the window, ``loss.<name>`` and ``count.<name>`` of extra terms
            (``loss`` is the weighted sum of all of them); the same numbers on every rank. With
            precision fp16 also ``loss_scale``; gradients are unscaled already. Values stay on the
            device until they are read.

        Raises:
            InputError: The window is empty, or an extra term does not fit the model.
            NoLabelsError: It holds no label of any target, and nothing for an extra term.
        """
        ...

    def shards(self) -> list[Shard]:
        """This rank's shards: real elements only, frozen parameters skipped, tied ones once."""
        ...

    def sum_over_shards(self, value: Tensor) -> Tensor:
        """Add a quantity computed from this rank's shards to those of the other shard holders."""
        ...

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Add a quantity that each data-parallel rank measured on its own data."""
        ...

    def refresh(self) -> None:
        """Make the weights that the forward pass uses equal to the masters, on every rank."""
        ...

    def step(self, project: Projection | None = None, finite: Tensor | None = None) -> None:
        """Update the masters from the gradients, then ``project(shards)``, then publish.

        Args:
            project: Called where the step is taken, which the host knows: without ``finite``.
            finite: 0-dim bool on the device, the same on every rank. Where it is False the call is
                a ``skip``: weights and optimizer state stay, the loss scale comes down. Only where
                ``decides_on_device``; None: step.
        """
        ...

    def skip(self) -> bool:
        """Take no step: publish the masters as they are, and lower the loss scale; collective.

        Returns:
            Whether there is a loss scale and it could be lowered (precision fp16): gradients that
            are not finite are expected then, and the next step may do.
        """
        ...

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        ...

    def optimizer_state(self, key: str) -> dict[str, Tensor]:
        """Return views [n] of one kind of optimizer state, by the names of this rank's shards.

        Args:
            key: ``exp_avg``, ``average``, ...; parameters without such a state are left out.
        """
        ...

    def gathered(self) -> dict[str, Tensor]:
        """Return full fp32 copies of all parameters by name, on every rank."""
        ...

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Measure loss and accuracy in eval mode; each rank passes its own batches.

        Returns:
            The same keys as ``forward_backward``, weighted by label counts over all ranks.
        """
        ...

    def snapshot(self) -> "Callable[[Path], RankPart]":
        """Copy this rank's part of the training state; collective.

        Returns:
            What writes the copy into a folder and describes what it wrote. It is not collective,
            may run in a thread while training goes on, and may be called again.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the full training state (weights, optimizer) into ``folder``; collective."""
        ...

    def load(self, folder: Path) -> None:
        """Continue from what :meth:`save` wrote; collective."""
        ...

    def state_dict(self) -> Iterator[tuple[str, Tensor]]:
        """Stream full parameters (fp32) and persistent buffers one by one; collective."""
        ...


# Arithmetic over shards: correct under every engine because it never assumes a layout. A rank may
# hold no shard at all (a tiny model on many ranks); it still takes part in the reductions, which is
# why sums start from a zero tensor.


def gradient(shard: Shard) -> Tensor:
    """Return a shard's gradient.

    Raises:
        StageError: ``forward_backward`` has not run yet.
    """
    if shard.grad is None:
        raise StageError(f"{shard.name} has no gradient: run forward_backward before using it")
    return shard.grad


def global_norm(engine: Engine, values: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all ranks' tensors (one per shard), 0-dim fp64; collective.

    It is accumulated in fp64 on the device; nothing is transferred to the host.
    """
    local = torch.zeros((), dtype=torch.float64, device=next(engine.module.parameters()).device)
    if values:  # a few kernels in place of a few for each tensor
        norms = torch._foreach_norm(list(values), 2, dtype=torch.float64)
        local += torch.stack(norms).to(local).square().sum()
    return engine.sum_over_shards(local).sqrt()


def gradient_norm(engine: Engine) -> Tensor:
    """Global norm of the gradients of the last ``forward_backward``, as `global_norm`."""
    return global_norm(engine, [gradient(shard) for shard in engine.shards()])


@torch.no_grad()
def clip_gradients(engine: Engine, max_norm: float | None, norm: float | None = None) -> float:
    """Scale all gradients down to a global norm of ``max_norm``; collective without ``norm``.

    Args:
        engine: After ``forward_backward``.
        max_norm: The bound; None only measures.
        norm: The gradients' global norm, if the caller has measured it.

    Returns:
        The norm before clipping (inf or nan when a gradient is not finite: nothing is scaled).
    """
    if norm is None:
        norm = float(gradient_norm(engine))
    factor = math.inf if max_norm is None else max_norm / (norm + CLIP_EPSILON)
    gradients = [gradient(shard) for shard in engine.shards()]
    if gradients and math.isfinite(norm) and factor < 1:
        torch._foreach_mul_(gradients, factor)
    return norm


@torch.no_grad()
def clip_unread(engine: Engine, max_norm: float | None, norm: Tensor) -> None:
    """Do the same without a transfer; gradients are of no use afterwards if one was not finite.

    Args:
        engine: After ``forward_backward``.
        max_norm: The bound; None: do nothing.
        norm: The gradients' global norm, 0-dim fp64.
    """
    gradients = [gradient(shard) for shard in engine.shards()]
    if gradients and max_norm is not None:
        factor = (max_norm / (norm + CLIP_EPSILON)).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))


def part_of(full: Mapping[str, Tensor], shard: Shard) -> Tensor:
    """Return a full tensor's elements that belong to ``shard``, [n]; no communication.

    Args:
        full: Whole tensors by parameter name, each shaped like its parameter.
        shard: Any rank's shard.
    """
    return shard.within(full[shard.name].reshape(-1)).reshape(-1)
