"""Computations of the tasks of a quantization job. Plain functions over plain values; no Ray.

Every figure comes from a session of the very graph that would be deployed. Calibration runs the
float graph with the input of every unit observed, one text at a time without padding, so that no
padding row widens a range.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.data.rows.rows import Rows
from orchestrator.errors import StageError
from orchestrator.inference.dispatch import RunTimes, measure_times, random_batch
from orchestrator.quantization.backends.backend import LoadedModel, Predictor
from orchestrator.quantization.calibrators.calibrator import channel_extremes
from orchestrator.quantization.distances import closeness, row_agreement, row_cosine, row_divergence
from orchestrator.quantization.flips import noise
from orchestrator.quantization.goals import is_hopeless
from orchestrator.quantization.inputs import QuantizeInputs
from orchestrator.quantization.kinds import Channels, KindName, Range
from orchestrator.quantization.measured_results import Closeness, Divergence, PlanFigures
from orchestrator.quantization.measures import (
    Encoded,
    Outputs,
    compare,
    divergence,
    joint,
    paired_by_name,
    predict_all,
)
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.results import DeployedLatency, Latency, MeasuredArtifact
from orchestrator.quantization.source import Folded
from orchestrator.storage import sha256_bytes
from orchestrator.tasks.base import Answer, AnyTask

FLOAT_NAME: Final = "float"
TORCH_NAME: Final = "torch"
DEPLOYED_NAME: Final = "int8"
OPEN_SESSIONS_BYTES: Final = 2 * 2**30
"""Limit on the float bytes of the models that are timed together, because all are open at once."""
FLOAT_TOLERANCE: Final = 1e-3
"""Largest difference between torch and the float graph, relative to the largest output."""

References = tuple[Outputs, list[Outputs]]
"""Answers of the float graph to the calibration rows, and to each part of the validation rows."""


def open_plan(inputs: QuantizeInputs, plan: Plan) -> LoadedModel:
    """Emit the model under a plan and open it."""
    model = inputs.backend.emit(inputs.source, plan).to_bytes()
    return inputs.backend.open(model, batch_invariant=plan.batch_invariant)


def calibrate(inputs: QuantizeInputs) -> dict[str, Range]:
    """Return the range of every unit's input over the calibration texts.

    Empty of a back end without calibrated kinds.
    """
    if "calibrator" not in inputs.backend.settings:
        return {}
    (texts,) = inputs.texts.calibration.parts
    return inputs.calibrator.ranges(_observed(inputs), texts)


def measure_channels(inputs: QuantizeInputs) -> dict[str, Channels]:
    """Return the extremes of every unit's input by channel over the calibration rows."""
    (texts,) = inputs.texts.calibration.parts
    return channel_extremes(_observed(inputs), texts)


def _observed(inputs: QuantizeInputs) -> LoadedModel:
    """Open the float model with the input of every unit as an output."""
    observed = inputs.backend.emit(inputs.source, observe=True).to_bytes()
    # not batch-invariant: runs each text alone and cut, so that padding is never observed
    return inputs.backend.open(observed, batch_invariant=False)


def fold(
    inputs: QuantizeInputs, kinds: Mapping[str, Sequence[KindName]], norms: tuple[str, ...]
) -> Folded:
    """Return what the graphs of all plans share."""
    return inputs.source.fold(kinds, norms)


def float_outputs(inputs: QuantizeInputs) -> References:
    """Return the float graph's answers to the calibration and to the validation rows."""
    model, texts = open_plan(inputs, Plan({})), inputs.texts
    calibration = joint([predict_all(model, part) for part in texts.calibration.parts])
    return calibration, [predict_all(model, part) for part in texts.validation.parts]


def measure_errors(
    inputs: QuantizeInputs, reference: References, plans: list[Plan]
) -> list[Divergence]:
    """Return how far each plan moves the answers to the calibration rows."""
    parts = inputs.texts.calibration.parts
    found = []
    for plan in plans:
        model = open_plan(inputs, plan)
        outputs = joint([predict_all(model, part) for part in parts])
        error, task = divergence(reference[0], outputs, inputs.heads), inputs.task
        if task is not None:
            logits = (each.logits[task.head] for each in (reference[0], outputs))
            error = error.model_copy(update={"margin": noise(task.kind(), *logits)})
        found.append(error)
    return found


def measure_plan(
    inputs: QuantizeInputs, reference: References, plan: Plan, length: int | None = None
) -> PlanFigures:
    """Measure a plan on the validation rows, part by part.

    A plan whose interval excludes a bound of the goal after a part is given up there: it could not
    be chosen. No plan is accepted on fewer than all rows, so that looking early makes no wrong
    acceptance more likely.

    With a ``length`` the plan reads texts that are cut there; float always reads them up to the
    job's limit, so that the drop counts what the cut loses.
    """
    content = inputs.backend.emit(inputs.source, plan).to_bytes()
    model = inputs.backend.open(content, batch_invariant=plan.batch_invariant)
    split, done = inputs.texts_of(length).validation, list[Outputs]()
    known = not plan.integer and length is None  # float itself, whose answers are the reference
    for count, part in enumerate(split.parts, 1):
        done.append(reference[1][count - 1] if known else predict_all(model, part))
        before = joint(reference[1][:count])
        figures = figures_of(inputs, split.seen(count), before, joint(done))
        if is_hopeless(figures, inputs.goal):
            break
    stopped = len(done) < len(split.parts)
    return figures.model_copy(update={"stopped": stopped, "size": len(content)})


def figures_of(inputs: QuantizeInputs, rows: Rows, before: Outputs, after: Outputs) -> PlanFigures:
    """Compare a model with the float model on the same rows, as the goal asks."""
    task, goal = inputs.task, inputs.goal
    distance = divergence(before, after, inputs.heads)
    if task is None or not inputs.labelled:
        return PlanFigures(divergence=distance, closeness=_closeness(task, before, after))
    statistics = [task.statistics(rows, _answers(task, each)) for each in (before, after)]
    return PlanFigures(
        paired=paired_by_name(task, rows, statistics, task.primary.name),
        gates={name: paired_by_name(task, rows, statistics, name) for name in goal.gates},
        closeness=_with_labels(task, before, after, inputs),
        divergence=distance,
    )


def _with_labels(
    task: AnyTask, before: Outputs, after: Outputs, inputs: QuantizeInputs
) -> Closeness | None:
    """Return the figures without labels where the goal bounds them beside labelled ones."""
    goal = inputs.goal
    asked = (goal.min_cosine, goal.min_agreement, goal.max_kl)
    return _closeness(task, before, after) if any(x is not None for x in asked) else None


def _closeness(task: AnyTask | None, before: Outputs, after: Outputs) -> Closeness:
    cosine = row_cosine(before.embedding, after.embedding)
    if task is None:
        return closeness(cosine, None, None)
    agreement = row_agreement(_answers(task, before), _answers(task, after))
    kl = row_divergence(task.kind(), before.logits[task.head], after.logits[task.head])
    return closeness(cosine, agreement, kl)


def _answers(task: AnyTask, outputs: Outputs) -> list[Answer]:
    readings = [reading for reading in outputs.readings if reading is not None]
    found: list[Answer] = task.answers(
        outputs.logits[task.head], readings if task.needs_reading else None
    )
    return found


def measure_latencies(
    inputs: QuantizeInputs,
    plans: Mapping[str, Plan],
    lengths: Mapping[str, int] | None = None,
    shape: tuple[int, int] | None = None,
) -> dict[str, Latency]:
    """Time plans against the float graph, which is measured beside them in every round.

    Args:
        inputs: The model and the timed batch.
        plans: Plans by name; one of them may be called ``float``.
        lengths: Limit in tokens of the plans that cut texts; their batch is shorter.
        shape: Rows and tokens of the timed batch; None: those of the job.
    """
    plain = open_plan(inputs, Plan({}))
    size = sum(values.nbytes for values in inputs.source.state.values())
    together = max(1, OPEN_SESSIONS_BYTES // size)
    others = [name for name in plans if name != FLOAT_NAME]
    found: dict[str, Latency] = {}
    for start in range(0, max(len(others), 1), together):
        group = {name: open_plan(inputs, plans[name]) for name in others[start : start + together]}
        found |= _timed(inputs, {FLOAT_NAME: plain, **group}, lengths or {}, shape)
    return found


def measure_artifact(
    inputs: QuantizeInputs,
    reference: References,
    model: bytes,
    plan: Plan,
    length: int | None = None,
) -> MeasuredArtifact:
    """Measure the file that may be committed: audit, validation rows and latency.

    Args:
        inputs: The float model and the rows.
        reference: Answers of the float graph.
        model: Content of the model file, as read back from the folder.
        plan: The plan that it must execute.
        length: Tokens at which the package cuts texts; None: at the job's limit.

    Raises:
        StageError: If the executed graph is not the plan, or the float graph differs from the torch
            model.
    """
    audited = inputs.backend.audit(model, plan, inputs.texts.calibration.parts[0].batches[0])
    deployed = inputs.backend.open(model, batch_invariant=plan.batch_invariant)
    plain = open_plan(inputs, Plan({}))
    from orchestrator.quantization.prices.eager import EagerModel  # imports torch

    eager, read = EagerModel(inputs.source, inputs.heads), inputs.texts_of(length).validation
    outputs = joint([predict_all(deployed, part) for part in read.parts])
    first = inputs.texts.validation.parts[0]  # random rows; no other figure is torch's
    difference = _float_difference(eager, plain, first, eager.wanted)
    lengths = {} if length is None else {DEPLOYED_NAME: length}
    models: dict[str, Predictor] = {FLOAT_NAME: plain, DEPLOYED_NAME: deployed}
    latency = _timed(inputs, {TORCH_NAME: eager, **models}, lengths)
    return MeasuredArtifact(
        sha256=sha256_bytes(model),
        length=inputs.timing.length,
        audit=audited,
        validation=figures_of(inputs, read.rows, joint(reference[1]), outputs),
        float_graph_difference=difference,
        latency=DeployedLatency(**latency),
        buckets={
            name: _timed(inputs, models, lengths, shape)[DEPLOYED_NAME]
            for name, shape in inputs.timing.buckets.items()
        },
        runs=_run_times(inputs, deployed, plan),
    )


def _run_times(inputs: QuantizeInputs, model: Predictor, plan: Plan) -> RunTimes | None:
    """Time runs of texts, where texts may share one."""
    if inputs.texts.calibration.parts[0].items is None or not plan.batch_invariant:
        return None
    config = inputs.source.model_config
    longest = config.max_position_embeddings
    return measure_times(model.predict, vocabulary=config.vocab_size, longest=longest)


def measure_test(
    inputs: QuantizeInputs, model: bytes, plan: Plan, length: int | None = None
) -> PlanFigures:
    """Measure the file of the one chosen plan on the test rows."""
    plain = open_plan(inputs, Plan({}))
    deployed = inputs.backend.open(model, batch_invariant=plan.batch_invariant)
    whole, read = inputs.texts.test, inputs.texts_of(length).test
    before = joint([predict_all(plain, part) for part in whole.parts])
    after = joint([predict_all(deployed, part) for part in read.parts])
    return figures_of(inputs, whole.rows, before, after)


def _float_difference(
    eager: Predictor, plain: Predictor, texts: Encoded, wanted: Sequence[str]
) -> float:
    """Compare torch and the float graph, so that no figure rests on a wrong float model."""
    worst, largest = 0.0, 1.0
    for batch in texts.batches:
        mask = batch.get("attention_mask")
        answers = eager.predict(batch), plain.predict(batch)
        for name in wanted:
            expected, got = (_real(answer[name], mask) for answer in answers)
            worst = max(worst, float(np.abs(expected - got).max()))
            largest = max(largest, float(np.abs(expected).max()))
    if not worst <= FLOAT_TOLERANCE * largest:
        raise StageError(
            f"the float graph differs from the torch model by {worst:.3g} (outputs up to "
            f"{largest:.3g}); nothing is committed. Report this with the package's config.json"
        )
    return worst


def _real(values: Float32Array, mask: AnyArray | None) -> Float32Array:
    """Return the outputs of real tokens, of a head with one output per token [B, S, K]."""
    return values if mask is None or values.ndim < 3 else values[mask.astype(bool)]


def _timed(
    inputs: QuantizeInputs,
    models: Mapping[str, Predictor],
    lengths: Mapping[str, int],
    shape: tuple[int, int] | None = None,
) -> dict[str, Latency]:
    """Time models on one batch of a shape, or cut, against the float graph."""
    timing = inputs.timing
    size, longest = shape or (timing.batch_size, timing.length)

    def call(model: Predictor, length: int) -> Callable[[], object]:
        arrays = _batch_of(inputs, size, min(longest, length))
        return lambda: model.predict(arrays)

    calls = {name: call(model, lengths.get(name, longest)) for name, model in models.items()}
    return compare(calls, FLOAT_NAME, rounds=timing.rounds, calls=timing.calls)


def _batch_of(inputs: QuantizeInputs, size: int, length: int) -> dict[str, AnyArray]:
    """Return a timed batch: random tokens, or the first image again and again."""
    part = inputs.texts.calibration.parts[0]
    if part.items is None:
        return {name: np.repeat(each[:1], size, axis=0) for name, each in part.batches[0].items()}
    return dict(random_batch(size, length, inputs.source.model_config.vocab_size))
