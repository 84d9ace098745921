"""Texts of a job: its check, the table of measured plans, and what to say where there is none."""

from collections.abc import Iterator, Sequence

from orchestrator.config.tables import table
from orchestrator.quantization.allocator import error_plans
from orchestrator.quantization.config import GoalConfig, QuantizeConfig
from orchestrator.quantization.goals import NearMiss
from orchestrator.quantization.inputs import Subject, data_of
from orchestrator.quantization.methods.samp import sweeps
from orchestrator.quantization.plans import Unit, named_plans
from orchestrator.quantization.ranking import Point
from orchestrator.tasks.base import AnyTask
from orchestrator.tasks.measure import split_name
from orchestrator.zoo.gate import rows_needed

FEWEST_FOR_A_DECILE = 29
"""Number of rows whose smallest one is below the lowest decile with 95 % confidence."""


def points_table(points: Sequence[Point]) -> str:
    """Return measured points as a table, fastest first."""
    rows = [_row(point) for point in sorted(points, key=lambda point: point.latency.ratio)]
    names = ("plan", "INT8", "time", "ms", "metric", "drop", "cosine", "divergence")
    return table(rows, names, "<>>>>>>>")


def _row(point: Point) -> tuple[str, ...]:
    paired, divergence = point.figures.paired, point.figures.divergence
    return (
        point.name,
        f"{len(point.plan.integer)}/{len(point.plan.kinds)}",
        f"{point.latency.ratio:.3f}",
        f"{point.latency.cpu_ms:.3f}",
        "-" if paired is None else f"{paired.accuracy:.4f}",
        "-" if paired is None else f"{paired.drop:+.4f}",
        f"{1 - divergence.cosine:.4f}",
        f"{divergence.error:.2e}" + (" stopped early" if point.figures.stopped else ""),
    )


def no_plan(goal: GoalConfig, points: Sequence[Point], nearest: NearMiss | None) -> str:
    """Return the message that no plan reaches the goal, with all measured plans."""
    near = ""
    if nearest is not None:
        words = "; ".join(miss.in_words() for miss in nearest.missed)
        near = f" The nearest is {nearest.plan}: {words}."
    return (
        f"no measured plan reaches {goal_text(goal) or 'the goal'}.{near} Nothing is committed. "
        "Measured (time relative to the float graph; metric on validation rows):\n"
        f"{points_table(points)}\nRelax the goal, allow more kinds, or give more evaluation rows"
    )


def goal_text(goal: GoalConfig) -> str:
    """Return the bounds of a goal in words; empty without a bound."""
    names = ("max_accuracy_drop", "min_cosine", "min_agreement", "max_kl", "max_latency_ms")
    asked = [(name, getattr(goal, name)) for name in (*names, "max_bytes")]
    words = [f"{name} {value:g}" for name, value in asked if value is not None]
    words += [f"gates.{name} {value:g}" for name, value in goal.gates.items()]
    words += [f"buckets.{bucket.name} {bucket.max_ms:g}" for bucket in goal.buckets]
    return " and ".join(words)


def plan_text(config: QuantizeConfig, subject: Subject) -> str:
    """Return the text that ``--check`` prints."""
    roles: dict[str, list[Unit]] = {}
    for unit in subject.units:
        roles.setdefault(unit.role, []).append(unit)
    lines = [
        f"{role}: {len(units)} x {units[0].shape[0]}x{units[0].shape[1]}, "
        f"kinds {', '.join(units[0].options(config.allowed))}"
        for role, units in roles.items()
    ]
    weights = sum(unit.shape[0] * unit.shape[1] for unit in subject.units)
    target = "its embeddings" if subject.target is None else f"target {subject.target!r}"
    return "\n".join(
        [
            f"quantize {subject.package.ref}, {target}, inputs of up to {subject.limit} tokens",
            f"data: {data_of(config, subject).source}, {config.calibration_rows} calibration rows, "
            f"up to {config.evaluation_rows} validation and test rows",
            f"goal: {goal_text(config.goal) or 'knee of the front'}",
            *_needed_rows(config.goal, subject.task),
            _backend(subject),
            f"{len(subject.units)} units hold {weights:,} weights: {4 * weights / 2**20:.1f} MiB "
            f"in float, {weights / 2**20:.1f} MiB in INT8",
            *lines,
            _work(config, subject),
        ]
    )


def _backend(subject: Subject) -> str:
    """Return the runtime, and why it is not the usual one."""
    backend = subject.backend
    why = "" if subject.reason is None else f", because {subject.reason}"
    return f"back end: {backend.config.type_name()} ({backend.name} {backend.version}){why}"


def _work(config: QuantizeConfig, subject: Subject) -> str:
    """Return what is measured, in words."""
    if config.method == "samp":
        count = len(sweeps(subject.units, config.allowed))
        kinds = ", ".join(config.allowed)
        return f"method samp: {count} plans are measured, the sweeps of {kinds}"
    if config.method != "front":
        return f"method {config.method}: every plan of it is measured"
    prices = len(error_plans(subject.units, config.allowed))
    pure = len(named_plans(subject.units, config.allowed)) - 1
    shorter = ", ".join(map(str, config.lengths))
    cut = f", the fastest of them also with texts cut at {shorter} tokens" if shorter else ""
    return (
        f"{prices} errors of single units from one pass and its gradients, then {pure} pure modes "
        f"and up to {config.most_mixed} mixed plans are measured{cut}"
    )


def _needed_rows(goal: GoalConfig, task: AnyTask | None) -> Iterator[str]:
    """Yield how many validation rows each bound of quality needs at least."""
    if goal.statistic == "mean" or not goal.bounds_quality:
        return
    losses = {"max_accuracy_drop": goal.max_accuracy_drop}
    losses |= {f"gates.{name}": drop for name, drop in goal.gates.items()}
    if goal.min_agreement is not None:
        losses["min_agreement"] = 1 - goal.min_agreement
    for name, loss in losses.items():
        if loss is not None:
            needed, gate = rows_needed(loss), name.removeprefix("gates.")
            part = None if task is None else split_name(gate, task.metrics())[1]
            of = "" if part is None else f" of slice {part!r}"
            yield f"{name} needs {needed} validation rows{of} with none lost, more with losses"
    if goal.min_cosine is not None:
        yield f"min_cosine needs {FEWEST_FOR_A_DECILE} validation texts"
