"""Description of a stream before it runs (``--check``). Needs no cluster and reads no rows."""

import math
from pathlib import Path

from orchestrator.continual.config import ContinualConfig
from orchestrator.continual.stream import units_of
from orchestrator.errors import InputError
from orchestrator.modeling.cost import count_parameters, training_memory
from orchestrator.modeling.package import read_config
from orchestrator.zoo import Package
from orchestrator.zoo.flatness import read_flatness

FP32_BYTES = 4


def describe(config: ContinualConfig, package: Package) -> str:
    """Return the text of ``--check``.

    Raises:
        InputError: A file of a task is not there.
    """
    require_files(config)
    model = read_config(package.path)
    parameters = count_parameters(model.with_targets(())).total
    workers, units = config.cluster.workers, units_of(config)
    steps = sum(unit.steps for unit in units)
    rows = {
        "run": f"{config.run.name}: {package.ref} → package {config.output} in {config.run.zoo}",
        "tasks": " → ".join(f"{task.title} ({task.source})" for task in config.tasks),
        "method": f"{config.method.preset}: {_parts(config)}",
        "parameters": f"{parameters:,} shared, and one head per task",
        "engine": f"{config.engine.type}, {config.engine.precision}, {workers} × "
        f"{config.cluster.cpus_per_worker:g} CPU, {config.cluster.gpus_per_worker:g} GPU",
        "memory": _memory(config, parameters),
        "batch": f"{config.train.global_batch_size} rows = {workers} workers × micro-batches of "
        f"{config.train.micro_batch_size}",
        "steps": f"{steps:,} steps, {gradient_passes(config):,} gradients",
        "promotion": _promotion(config),
    }
    if (flat := read_flatness(package)) is not None:
        rows["flatness"] = f"of the start: sharpness {flat.sharpness:.3g} at rho {flat.rho:g}"
    return "\n".join(f"{name:12} {text}" for name, text in rows.items())


def require_files(config: ContinualConfig) -> None:
    """Check that files of tasks exist.

    Raises:
        InputError: One does not.
    """
    for index, task in enumerate(config.tasks):
        if task.scheme == "files" and not Path(task.location).exists():
            raise InputError(
                f"tasks.{index}.source: {task.location} does not exist. Give an existing file"
            )


def gradient_passes(config: ContinualConfig) -> int:
    """Return the number of gradients of global batches in the stream, without importance."""
    parts = config.method.used()
    updates = sum(
        unit.steps + sum(part.rehearsals(unit.index, unit.steps) for part in parts)
        for unit in units_of(config)
    )
    return math.prod(part.gradients_per_update for part in parts) * updates


def _parts(config: ContinualConfig) -> str:
    used = [part.type_name() for part in config.method.used()]
    return ", ".join(used) or "nothing protects earlier tasks"


def _memory(config: ContinualConfig, parameters: int) -> str:
    workers, stage = config.cluster.workers, config.engine.sharding_stage
    training = training_memory(
        parameters,
        precision=config.engine.precision,
        workers=workers,
        zero_stage=stage,
    ).total
    copies = frozenset[str]().union(*(part.copies for part in config.method.used()))
    method = len(copies) * parameters * FP32_BYTES // (workers if stage else 1)
    total = (training + method) / 1e6
    return f"{total:.1f} MB per worker, {method / 1e6:.1f} MB of it for the method"


def _promotion(config: ContinualConfig) -> str:
    bound, alias = config.promotion.max_forgetting, config.promotion.alias
    if bound is None and alias is None:
        return "no alias moves"
    limit = "" if bound is None else f" if forgetting is at most {bound:g}"
    return f"{alias or 'no alias'} moves{limit}"
