"""Objective shared by all engines: global label counts and loss scales.

Every target reports the *sum* of its loss terms and their number. A step minimizes

    L = sum_t weight_t * (sum of loss.t over the window) / (count.t over the window)

where the window is all micro-batches of all ranks and t runs over the model's targets and the
caller's :class:`ExtraLoss` terms. Averaging each micro-batch by itself would give a token of a
short text more weight than a token of a long text, and the result would depend on how a batch was
cut; with global counts, 1 x 16, 4 x 4 and 2 ranks x 2 x 4 are the same step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from orchestrator.errors import InputError, NoLabelsError

Reduce = Callable[[Tensor], Tensor]


class ExtraLoss(Protocol):
    """One more loss term of a step: distillation (LwF), replayed logits (DER++), consistency.

    Given to ``Engine.forward_backward(window, extra=[...])``, the term is normalized like a
    target's loss: ``weight * (sum over the window) / (count over the window)``, over all
    micro-batches of all ranks. It therefore reports a SUM, and how many terms that sum has.

    Every rank passes the same terms in the same order. A teacher model is the caller's: make it
    before the engine wraps the model (ZeRO and FSDP2 cut the wrapped one) and run it under
    ``torch.no_grad()``.

    Attributes:
        name: Metrics are reported as ``loss.<name>`` and ``count.<name>``; not a target's name.
        weight: Weight in the objective.
        heads: Targets whose logits the term reads. The model computes them in its one forward
            pass, also for batches without labels of that target.
    """

    @property
    def name(self) -> str:
        """Name in the metrics."""
        ...

    @property
    def weight(self) -> float:
        """Weight in the objective."""
        ...

    @property
    def heads(self) -> frozenset[str]:
        """Targets whose logits are read."""
        ...

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Return the number of loss terms in a micro-batch; 0 where there is nothing to compare.

        Called before the forward pass, with the batch as it came from the loader.
        """
        ...

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss SUM of one micro-batch, 0-dim; only called where ``count`` > 0.

        Args:
            outputs: The model's outputs, with ``logits.<head>`` in fp32 for each of ``heads``.
            batch: The micro-batch on the model's device, floating-point values not rounded. It may
                hold more than the model reads, such as stored logits.
        """
        ...


def target_names(model: nn.Module) -> tuple[str, ...]:
    """Names of a model's targets in their fixed order, the same on every rank.

    Raises:
        InputError: The model has no ``targets``.
    """
    targets = getattr(model, "targets", None)
    if not isinstance(targets, nn.ModuleDict) or not len(targets):
        raise InputError(
            f"{type(model).__name__} has no targets to train. Add at least one to model.target"
        )
    return tuple(targets)


@dataclass(frozen=True, slots=True)
class Window:
    """Loss terms of one accumulation window, over all ranks.

    Attributes:
        counts: Number of terms of each loss (target or extra) with at least one.
        scales: Factor of each loss *sum*: ``weight / count``.
        extra: The caller's additional terms.
        terms: How many terms each of them has in each micro-batch of this rank.
    """

    counts: Mapping[str, int]
    scales: Mapping[str, float]
    extra: tuple[ExtraLoss, ...] = ()
    terms: tuple[tuple[int, ...], ...] = ()

    @property
    def active(self) -> frozenset[str]:
        """Targets that a loss reaches; the heads of all others must not move."""
        reached = [each.heads for each in self.extra if each.name in self.counts]
        return frozenset(self.counts).union(*reached)

    @property
    def heads(self) -> tuple[str, ...]:
        """Targets whose logits the extra terms read, sorted: the same order on every rank."""
        return tuple(sorted(frozenset().union(*(each.heads for each in self.extra))))

    def with_extra(
        self, index: int, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return one micro-batch's outputs with ``loss.<name>``, ``count.<name>`` of extra terms.

        Args:
            index: Number of the micro-batch in the window.
            outputs: The model's outputs; logits become fp32.
            batch: The micro-batch on the model's device.
        """
        found = {k: v.float() if k.startswith("logits.") else v for k, v in outputs.items()}
        for each, terms in zip(self.extra, self.terms[index], strict=True):
            if terms:
                loss = each(found, batch)
                found |= {f"loss.{each.name}": loss, f"count.{each.name}": torch.tensor(terms)}
        return found

    def loss(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return one micro-batch's share of the objective, 0-dim, ready for backward.

        Shares of all micro-batches of all ranks add up to the objective. An engine whose
        reduction *averages* gradients over ranks multiplies this by its world size.
        """
        shares = [
            outputs[f"loss.{name}"].float() * scale
            for name, scale in self.scales.items()
            if f"loss.{name}" in outputs
        ]
        # Logits that no term has used (count 0 on this rank) stay in the graph: DDP waits for the
        # gradient of every parameter that the outputs reach, and the collectives of ZeRO's and
        # FSDP2's backward pass must happen on every rank.
        shares += [outputs[f"logits.{name}"].sum() * 0.0 for name in self.heads]
        if not shares:
            # A micro-batch whose targets have no label anywhere in the window: keep its graph for
            # the same reason.
            shares = [value * 0.0 for key, value in outputs.items() if key.startswith("loss.")]
        return sum(shares[1:], shares[0])


def window_scales(
    model: nn.Module,
    micro_batches: Sequence[Mapping[str, Tensor]],
    target_weights: Mapping[str, float] | None,
    sum_over_ranks: Reduce,
    extra: Sequence[ExtraLoss] = (),
) -> Window:
    """Count the loss terms of a window on all ranks and derive each loss's scale.

    Collective: one all-reduce of as many numbers as there are targets and extra terms.

    Args:
        model: Offers ``targets`` and ``count_labels(batch)``.
        micro_batches: This rank's part of the window.
        target_weights: Weight of each target in the objective; 1 where not given.
        sum_over_ranks: The engine's data-parallel sum.
        extra: Additional terms, the same on every rank.

    Raises:
        InputError: An extra term has the name of another loss, or reads a head that the model
            does not have.
        NoLabelsError: No rank has a label of any target, or a term of an extra loss.
    """
    targets = target_names(model)
    names = (*targets, *(each.name for each in extra))
    _require_fitting(targets, extra)
    count_labels = cast(Callable[[Mapping[str, Tensor]], dict[str, Tensor]], model.count_labels)
    local = torch.zeros(len(names), dtype=torch.float64)
    for batch in micro_batches:
        for name, count in count_labels(batch).items():
            local[names.index(name)] += int(count)
    terms = tuple(tuple(each.count(batch) for each in extra) for batch in micro_batches)
    for row in terms:
        local[len(targets) :] += torch.tensor(row, dtype=torch.float64)
    totals = [int(value) for value in sum_over_ranks(local).tolist()]
    counts = {name: total for name, total in zip(names, totals, strict=True) if total > 0}
    if not counts:
        raise NoLabelsError(
            f"the batch has no label for any of the model's targets ({', '.join(targets)}). "
            "Give at least one sample with labels.<target>"
        )
    weights = {**(target_weights or {}), **{each.name: each.weight for each in extra}}
    scales = {name: weights.get(name, 1.0) / counts[name] for name in counts}
    return Window(counts, scales, tuple(extra), terms)


def _require_fitting(targets: Sequence[str], extra: Sequence[ExtraLoss]) -> None:
    taken = list(targets)
    for each in extra:
        if each.name in taken:
            raise InputError(
                f"two losses are named {each.name!r}. Give every extra term a name of its own; "
                f"names in use: {', '.join(taken)}"
            )
        taken.append(each.name)
        if unknown := sorted(each.heads.difference(targets)):
            raise InputError(
                f"the extra loss {each.name!r} reads the logits of {', '.join(unknown)}; "
                f"the model's targets are {', '.join(targets)}"
            )
