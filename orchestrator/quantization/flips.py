"""Flips: answers that a plan changes, predicted from margins; needs no labels.

An answer that is one of several changes when the distance between the two best outputs of the float
model, its margin m, falls below zero. The error of INT8 adds noise to it. The noise of single units
is measured on calibration rows, one unit in INT8 at a time; it is nearly independent between
units, so that variances add up. With variance v of a plan, the share of flips is the mean over
answers of the normal probability of a value below ``-m / sqrt(v)``. The prediction ignores third
outputs, which only add flips, and rows with more noise than others.

Legend: N rows, M decisions, K outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.quantization.measured_results import Divergence
from orchestrator.quantization.measures import joint
from orchestrator.quantization.plans import Plan

if TYPE_CHECKING:
    from orchestrator.quantization.inputs import QuantizeInputs
    from orchestrator.quantization.worker import References

DECIDES: Final = ("classification", "tags", "multiple_choice")
"""Kinds whose answers are one of several."""
TINY: Final = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class Margins:
    """Margins of the float model's answers.

    Attributes:
        values: Distance between the two best outputs of each decision [M].
        weights: Share of each decision in the agreement of all rows [M]; their sum is 1.
    """

    values: tuple[float, ...]
    weights: tuple[float, ...]

    def flips(self, variance: float) -> float:
        """Return the share of answers that noise of a variance changes."""
        from scipy.special import ndtr

        chances = ndtr(-np.asarray(self.values) / sqrt(max(variance, TINY)))
        return float(np.asarray(self.weights) @ chances)


def margins(kind: str, before: Sequence[AnyArray]) -> Margins | None:
    """Return the margins of the float model; None: answers of the kind are not one of several.

    Args:
        kind: Task kind.
        before: Outputs of each row: [K], [S, K] or [C, 1].
    """
    if kind not in DECIDES:
        return None
    rows = [_decisions(kind, row) for row in before]
    values = [np.diff(np.sort(row, axis=1)[:, -2:], axis=1)[:, 0] for row in rows]
    weights = [np.full(len(row), 1 / (len(row) * len(rows))) for row in rows]
    return Margins(*(tuple(np.concatenate(each).tolist()) for each in (values, weights)))


def noise(kind: str, before: Sequence[AnyArray], after: Sequence[AnyArray]) -> float | None:
    """Return the mean squared change of the margins between two models; None: as ``margins``.

    Args:
        kind: Task kind.
        before: Outputs of the float model for each row.
        after: Those of the other model.
    """
    if kind not in DECIDES:
        return None
    changes = []
    for left, right in zip(before, after, strict=True):
        was, now = _decisions(kind, left), _decisions(kind, right)
        best = np.argsort(was, axis=1)[:, -2:]
        change = np.take_along_axis(now - was, best, axis=1)
        changes.append(float((np.diff(change, axis=1) ** 2).mean()))
    return float(np.mean(changes))


def float_margins(inputs: "QuantizeInputs", reference: "References") -> Margins | None:
    """Return the margins of the float graph's answers to the validation rows."""
    if inputs.task is None:
        return None
    return margins(inputs.task.kind(), joint(reference[1]).logits[inputs.task.head])


def predicted_flips(
    plan: Plan, errors: Mapping[str, Divergence], float_margins: Margins | None
) -> float | None:
    """Return the share of answers that a plan changes; None: nothing predicts it.

    Args:
        plan: The plan.
        errors: Measured error of each unit alone, by ``<unit>@<kind>``.
        float_margins: Margins of the float model's answers.
    """
    found = [errors.get(f"{unit}@{kind}") for unit, kind in plan.integer.items()]
    parts = [None if each is None else each.margin for each in found]
    if float_margins is None or any(part is None for part in parts):
        return None
    return float_margins.flips(sum(part for part in parts if part is not None)) if parts else 0.0


def _decisions(kind: str, outputs: AnyArray) -> FloatArray:
    """Return the outputs of each decision of a row [M, K]."""
    values = np.asarray(outputs, dtype=np.float64)
    return values if kind == "tags" else values.reshape(1, -1)
