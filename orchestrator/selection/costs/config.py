"""Config sections of a selection's budget, prices and constraints."""

from collections.abc import Iterable

from pydantic import Field

from orchestrator.config import StrictModel
from orchestrator.errors import Problem


class BudgetConfig(StrictModel):
    """Hard limit of a selection, in one unit; without one it takes what the policy needs.

    It is compared with the expected cost before each rung: the rung gets fewer models, or the
    selection ends there.
    """

    epochs: int | None = Field(None, ge=1)
    """Fine-tuning epochs over all models; proxy passes are not epochs."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps over all models."""
    seconds: float | None = Field(None, gt=0)
    """Seconds from the first proxy pass or trial on, those of interrupted tries included."""
    currency: float | None = Field(None, gt=0)
    """Money for all slots over that time, in `prices.currency`."""

    @property
    def unit(self) -> str | None:
        """Name of the limit that is set; None: nothing is limited."""
        return next((name for name, value in self if value is not None), None)

    @property
    def limit(self) -> float:
        """The limit in its unit; infinite without one."""
        return float("inf") if self.unit is None else float(getattr(self, self.unit))

    def problems(self) -> Iterable[Problem]:
        """Check that there is one limit at most."""
        given = [name for name, value in self if value is not None]
        if len(given) > 1:
            yield Problem("", f"has {' and '.join(given)}; keep one and set the others to null.")


class PricesConfig(StrictModel):
    """Prices of what a trial reserves."""

    cpu_hour: float | None = Field(None, ge=0)
    """Price of one CPU for one hour; null: unknown."""
    gpu_hour: float | None = Field(None, ge=0)
    """Price of one GPU for one hour; null: unknown."""
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$")
    """Currency of the prices, as in ISO 4217."""


class ConstraintsConfig(StrictModel):
    """Limits that a candidate must keep to; one that does not is left out before it is trained."""

    max_latency_ms: float | None = Field(None, gt=0)
    """Milliseconds per row on the CPU of a worker, one row of median length at a time."""
    max_parameters: int | None = Field(None, ge=1)
    """Numbers in the weights of the package, its heads included."""
    max_bytes: int | None = Field(None, ge=1)
    """Size of the package."""
    licences: tuple[str, ...] | None = Field(None, min_length=1)
    """SPDX identifiers of licenses that are allowed; a package that declares none is left out."""
