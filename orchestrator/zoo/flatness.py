"""Flatness of a package: how much its loss rises at the worst point near its weights.

``evaluation/flatness.json`` is written by a stage that measured it (``training/sharpness.py``).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field

from orchestrator.config import StrictModel
from orchestrator.zoo.suite import Number

if TYPE_CHECKING:
    from orchestrator.zoo.package import Package

FLATNESS_FILE = "evaluation/flatness.json"
"""Path of the figures in a package."""


class Flatness(StrictModel):
    """Loss on validation samples at the weights, and at the worst point near them."""

    model_config = ConfigDict(allow_inf_nan=True)

    schema_version: Literal[1] = 1
    """Version of this layout."""
    rho: float = Field(gt=0)
    """Radius of the perturbation."""
    adaptive: bool
    """Whether the perturbation is scaled by the weights (ASAM, else SAM)."""
    batches: int = Field(ge=1)
    """Validation batches of each worker that were measured."""
    loss: Number
    """Loss without the perturbation, in nats; NaN (null in JSON) where it diverged."""
    perturbed_loss: Number
    """Loss on the same samples with it."""
    sharpness: Number
    """Difference of both."""
    steps: int = Field(ge=0)
    """Last steps that were trained with the gradient at the worst point; 0: none."""


def read_flatness(package: "Package") -> Flatness | None:
    """Return the flatness of a package; None: it was not measured.

    Raises:
        IntegrityError: The file is damaged, or of a newer layout.
    """
    return package.read_model(FLATNESS_FILE, Flatness) if package.has(FLATNESS_FILE) else None


def flatness_rows(flatness: Flatness) -> Iterable[tuple[str, str]]:
    """Return names and values of the figures, for people."""
    return (
        ("rho", f"{flatness.rho:g} ({'adaptive' if flatness.adaptive else 'not adaptive'})"),
        ("loss at the weights", f"{flatness.loss:.6g}"),
        ("loss at the worst point near them", f"{flatness.perturbed_loss:.6g}"),
        ("sharpness", f"{flatness.sharpness:.6g}"),
        ("last steps trained at the worst point", f"{flatness.steps:,}"),
    )
