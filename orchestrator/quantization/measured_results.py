"""Figures of a plan on the rows of one split: against labels, and against the float model.

Needs neither torch, Ray nor ONNX. Names of fields are the keys on disk.
"""

from pydantic import Field

from orchestrator.config import StrictModel


class Divergence(StrictModel):
    """Distance between the answers of a model and of the float model, averaged over rows."""

    kl: float | None = None
    """Kullback-Leibler divergence of the answers in nats, averaged over targets too; null: the
    package answers with embeddings only."""
    cosine: float
    """1 - cosine of the embeddings."""
    margin: float | None = None
    """Mean squared change of the distance between the two best answers; null: not measured, or the
    target's answers are not one of several."""

    @property
    def error(self) -> float:
        """The divergence of answers, or of embeddings where there are no answers."""
        return self.cosine if self.kl is None else self.kl


class Bounded(StrictModel):
    """A figure with its one-sided 95 % bounds."""

    value: float
    """The figure."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""


class Closeness(StrictModel):
    """Answers of a model against those of the float model, without labels."""

    texts: int
    """Number of rows."""
    cosine: Bounded
    """Cosine of the embeddings that 90 % of the rows reach."""
    cosine_mean: float
    """Mean cosine."""
    cosine_min: float
    """Smallest cosine."""
    agreement: Bounded | None = None
    """Share of equal answers; null: the target answers with numbers or vectors."""
    kl: Bounded | None = None
    """Mean divergence of the target's probabilities; null: there is no target."""


class Paired(StrictModel):
    """A metric of a candidate against a reference on the same rows."""

    metric: str = "accuracy"
    """Name of the metric."""
    texts: int
    """Number of rows."""
    reference: float
    """Metric of the reference."""
    accuracy: float
    """Metric of the candidate; the key is older than other metrics."""
    drop: float
    """Loss against the reference: positive when the candidate is worse, in either direction."""
    gained: int
    """Rows on which only the candidate is right, or is better."""
    lost: int
    """Rows on which only the reference is right, or is better."""
    p_value: float
    """Exact McNemar test, two-sided: probability of a split this uneven between equal models."""
    interval: tuple[float, float]
    """95 % confidence interval of the drop: Agresti and Min (2005) where rows are right or wrong,
    else from the bootstrap."""
    bound: float | None = None
    """One-sided 95 % upper bound of the drop; null in files of earlier releases."""


class SplitFigures(Paired):
    """Accuracy and output error of the deployed model on one split."""

    error: Divergence
    """Distance from the float model."""


class Accuracy(StrictModel):
    """Figures of the deployed model on the rows that chose it and on rows that did not."""

    validation: SplitFigures
    """Rows by which the plan was chosen."""
    test: SplitFigures
    """Rows that confirm the choice."""


class PlanFigures(StrictModel):
    """Accuracy and output error of one plan on rows of one split."""

    paired: Paired | None = None
    """Primary metric against the float graph; null: without labels."""
    gates: dict[str, Paired] = Field(default_factory=dict)
    """The other metrics that the goal bounds."""
    closeness: Closeness | None = None
    """Answers against those of the float graph, where the goal bounds them."""
    divergence: Divergence
    """Distance from the float graph."""
    size: int | None = None
    """Bytes of the model file."""
    stopped: bool = False
    """Whether the measurement ended early, because the interval excluded a bound of the goal."""
