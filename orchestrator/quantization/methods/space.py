"""Everything that a method chooses plans from. Needs neither torch, Ray nor ONNX."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.quantization.allocator import Option, Predicted
from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.kinds import KindName
from orchestrator.quantization.plans import Plan, Unit

Measure = Callable[[Mapping[str, Plan]], Mapping[str, bool]]
"""Measures plans by name, and returns which of them keep the bounds that the method searches by."""


@dataclass(frozen=True, slots=True)
class Space:
    """Units, prices and bounds of one search.

    Attributes:
        units: Units of the model.
        kinds: INT8 kinds to choose from.
        goal: Bounds of the job.
        options: Prices of every unit; empty for methods that need none.
        front: Predicted front, fastest first; empty for methods that need none.
        baselines: Float and the pure modes by name.
        budget: Largest number of plans of the front that are measured.
    """

    units: Sequence[Unit]
    kinds: Sequence[KindName]
    goal: GoalConfig
    options: Mapping[str, Sequence[Option]]
    front: Sequence[Predicted]
    baselines: Mapping[str, Plan]
    budget: int
