"""Texts for people: the table of measured plans, messages, and the answer of ``--check``."""

from collections.abc import Sequence

from orchestrator.config.tables import table
from orchestrator.quantization.allocator import Point
from orchestrator.quantization.config import GoalConfig, QuantizeConfig
from orchestrator.quantization.inputs import Subject
from orchestrator.quantization.plans import Unit
from orchestrator.quantization.sensitivity import error_plans


def points_table(points: Sequence[Point]) -> str:
    """Return measured points as a table, fastest first."""
    rows = [
        (
            point.name,
            f"{len(point.plan.integer)}/{len(point.plan.kinds)}",
            f"{point.latency.ratio:.3f}",
            f"{point.latency.cpu_ms:.3f}",
            f"{point.paired.accuracy:.4f}",
            f"{point.paired.drop:+.4f}",
            f"{point.divergence.kl:.2e}",
        )
        for point in sorted(points, key=lambda point: point.latency.ratio)
    ]
    return table(rows, ("plan", "INT8", "time", "ms", "accuracy", "drop", "KL"), "<>>>>>>")


def no_plan(goal: GoalConfig, points: Sequence[Point]) -> str:
    """Return the message that no plan reaches the goal, with all measured plans."""
    asked = []
    if goal.max_accuracy_drop is not None:
        asked.append(f"max_accuracy_drop {goal.max_accuracy_drop:g}")
    if goal.max_latency_ms is not None:
        asked.append(f"max_latency_ms {goal.max_latency_ms:g}")
    return (
        f"no measured plan reaches {' and '.join(asked) or 'the goal'}. Nothing is committed. "
        "Measured (time relative to the float graph; accuracy on validation rows):\n"
        f"{points_table(points)}\nRelax the goal, allow more kinds, or give more evaluation rows"
    )


def plan_text(config: QuantizeConfig, subject: Subject) -> str:
    """Return the text that ``--check`` prints."""
    roles: dict[str, list[Unit]] = {}
    for unit in subject.units:
        roles.setdefault(unit.role, []).append(unit)
    lines = [
        f"{role}: {len(units)} x {units[0].shape[0]}x{units[0].shape[1]}, "
        f"kinds {', '.join(units[0].options(config.kinds))}"
        for role, units in roles.items()
    ]
    weights = sum(unit.shape[0] * unit.shape[1] for unit in subject.units)
    goal = (
        ", ".join(f"{name} {value}" for name, value in config.goal if value) or "knee of the front"
    )
    sessions = len(error_plans(subject.units, config.kinds))
    return "\n".join(
        [
            f"quantize {subject.package.ref}, target {subject.target!r}, inputs of up to "
            f"{subject.limit} tokens",
            f"data: {config.data.source}, {config.calibration_rows} calibration rows, up to "
            f"{config.evaluation_rows} validation and test rows",
            f"goal: {goal}",
            f"{len(subject.units)} units hold {weights:,} weights: {4 * weights / 2**20:.1f} MiB "
            f"in float, {weights / 2**20:.1f} MiB in INT8",
            *lines,
            f"{sessions} single-unit sessions, then up to {config.mixed_plans} mixed plans and the "
            "pure modes are measured",
        ]
    )
