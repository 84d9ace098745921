"""Candidates that the objective's compression cannot take, found from their configs alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.errors import InputError
from orchestrator.modeling.config import CONFIG_FILE, parse_config
from orchestrator.selection.objective.config import ObjectiveConfig
from orchestrator.selection.target_tasks import TargetTask
from orchestrator.training.compression import compressor_of

if TYPE_CHECKING:
    from orchestrator.zoo import Package

KIND = "classification"
"""Kind of task whose head compressors take."""


def compressible(
    found: tuple[Sequence["Package"], Mapping[str, str]],
    objective: ObjectiveConfig,
    asked: TargetTask | str,
) -> tuple[list["Package"], dict[str, str]]:
    """Separate the packages that can be compressed from the others.

    Args:
        found: Candidates that can be trained, and the reference of each other one with the reason.
        objective: Without a compression every package is left.
        asked: Task of the target; its kind alone where the rows have not been read.

    Returns:
        The same, with the packages that cannot be compressed among the others.

    Raises:
        InputError: Compressed models cannot be compared by this task.
    """
    packages, reasons = found[0], dict(found[1])
    if objective.after is None:
        return list(packages), reasons
    kind, plain = (asked, True) if isinstance(asked, str) else (asked.kind, asked.plain)
    if kind != KIND or not plain:
        raise InputError(
            f"objective.after: {objective.after} takes tasks of kind {KIND} with a metric "
            f"where more is better; the target is of kind {kind}. Leave objective out."
        )
    compressor, left = compressor_of(objective.after), []
    known: dict[str, str | None] = {}  # many packages share one config
    for package in packages:
        where = f"{package.location}/{CONFIG_FILE}"
        config = parse_config(package.read_json(CONFIG_FILE), where)
        key = config.with_targets(()).model_dump_json()
        if key not in known:
            known[key] = compressor.refusal(config)
        if (reason := known[key]) is None:
            left.append(package)
        else:
            reasons[package.ref] = f"objective.after: {objective.after}: {reason}"
    return left, reasons


def objective_lines(objective: ObjectiveConfig, finalists: int) -> list[str]:
    """Return the lines of `--check` about the objective; none without one."""
    if objective.after is None:
        return []
    limits = [
        f"{name} {value:g}"
        for name, value in (
            ("p95_ms", objective.p95_ms),
            ("max_accuracy_drop", objective.max_accuracy_drop),
        )
        if value is not None
    ]
    return [
        f"  objective: score after {objective.after}, checked in each rung on at most "
        f"{objective.check_rows} validation rows",
        f"  full searches: at most {finalists}; limits: {', '.join(limits) or 'none'}",
    ]
