"""Computations of the tasks of a quantization job. Plain functions over plain values; no Ray.

Every figure comes from a session of the very graph that would be deployed. Calibration runs the
float graph with the input of every unit observed, one text at a time without padding, so that no
padding row widens a range.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.errors import StageError
from orchestrator.modeling.targets.configs import ClsConfig, PairConfig
from orchestrator.quantization.backends.backend import LoadedModel, Predictor
from orchestrator.quantization.inputs import QuantizeInputs
from orchestrator.quantization.kinds import Range
from orchestrator.quantization.measures import (
    Encoded,
    Outputs,
    compare,
    divergence,
    paired,
    predict_all,
)
from orchestrator.quantization.plans import Plan, float_plan
from orchestrator.quantization.results import (
    Accuracy,
    DeployedLatency,
    Divergence,
    Latency,
    MeasuredArtifact,
    PlanFigures,
    SplitFigures,
)
from orchestrator.quantization.source import Source
from orchestrator.storage import sha256_bytes

FLOAT_NAME: Final = "float"
TORCH_NAME: Final = "torch"
DEPLOYED_NAME: Final = "int8"
OPEN_SESSIONS_BYTES: Final = 2 * 2**30
"""Limit on the float bytes of the models that are timed together, because all are open at once."""
FLOAT_TOLERANCE: Final = 1e-3
"""Largest difference between torch and the float graph, relative to the largest logit."""

References = tuple[Outputs, Outputs]
"""Answers of the float graph to the calibration and to the validation texts."""


def open_plan(inputs: QuantizeInputs, plan: Plan) -> LoadedModel:
    """Emit the model under a plan and open it."""
    model = inputs.source.emit(plan).to_bytes()
    return inputs.backend.open(model, batch_invariant=plan.batch_invariant)


def calibrate(inputs: QuantizeInputs) -> dict[str, Range]:
    """Return the range of every unit's input over the calibration texts."""
    observed = inputs.source.emit(observe=True).to_bytes()
    # not batch-invariant: runs each text alone and cut, so that padding is never observed
    model = inputs.backend.open(observed, batch_invariant=False)
    return inputs.calibrator.ranges(model, inputs.texts.calibration)


def float_outputs(inputs: QuantizeInputs) -> References:
    """Return the float graph's answers to the calibration and to the validation texts."""
    model = open_plan(inputs, Plan({}))
    texts = inputs.texts
    return predict_all(model, texts.calibration), predict_all(model, texts.validation)


def measure_errors(
    inputs: QuantizeInputs, reference: References, plans: list[Plan]
) -> list[Divergence]:
    """Return how far each plan moves the answers to the calibration texts."""
    return [
        divergence(reference[0], predict_all(open_plan(inputs, plan), inputs.texts.calibration))
        for plan in plans
    ]


def measure_plan(
    inputs: QuantizeInputs, reference: References, plan: Plan, length: int | None = None
) -> PlanFigures:
    """Measure the accuracy of a plan, and its distance from float, on the validation texts.

    With a ``length`` the plan reads texts that are cut there; float always reads them up to the
    job's limit, so that the drop counts what the cut loses.
    """
    rows = inputs.texts_of(length).validation
    outputs = predict_all(open_plan(inputs, plan), rows)
    before, after = reference[1].logits[inputs.target], outputs.logits[inputs.target]
    return PlanFigures(
        paired=paired(before, after, rows.labels), divergence=divergence(reference[1], outputs)
    )


def measure_latencies(
    inputs: QuantizeInputs, plans: Mapping[str, Plan], lengths: Mapping[str, int] | None = None
) -> dict[str, Latency]:
    """Time plans against the float graph, which is measured beside them in every round.

    Args:
        inputs: The model and the timed batch.
        plans: Plans by name; one of them may be called ``float``.
        lengths: Limit in tokens of the plans that cut texts; their batch is shorter.
    """
    plain = open_plan(inputs, Plan({}))
    size = sum(values.nbytes for values in inputs.source.state.values())
    together = max(1, OPEN_SESSIONS_BYTES // size)
    others = [name for name in plans if name != FLOAT_NAME]
    found: dict[str, Latency] = {}
    for start in range(0, max(len(others), 1), together):
        group = {name: open_plan(inputs, plans[name]) for name in others[start : start + together]}
        found |= _timed(inputs, {FLOAT_NAME: plain, **group}, lengths or {})
    return found


def measure_artifact(
    inputs: QuantizeInputs, model: bytes, plan: Plan, length: int | None = None
) -> MeasuredArtifact:
    """Measure the file that is about to be committed: audit, accuracy and latency.

    Args:
        inputs: The float model and the texts.
        model: Content of the model file, as read back from the folder.
        plan: The plan that it must execute.
        length: Tokens at which the package cuts texts; None: at the job's limit.

    Raises:
        StageError: If the executed graph is not the plan, or the float graph differs from the torch
            model.
    """
    audited = inputs.backend.audit(model, plan)
    deployed = inputs.backend.open(model, batch_invariant=plan.batch_invariant)
    plain = open_plan(inputs, float_plan(inputs.source.emit().units))
    eager = _TorchModel(inputs.source)
    texts, read = inputs.texts, inputs.texts_of(length)
    difference = _float_difference(eager, plain, texts.validation, inputs.target)
    latency = _timed(
        inputs,
        {TORCH_NAME: eager, FLOAT_NAME: plain, DEPLOYED_NAME: deployed},
        {} if length is None else {DEPLOYED_NAME: length},
    )
    return MeasuredArtifact(
        sha256=sha256_bytes(model),
        length=inputs.timing.length,
        audit=audited,
        accuracy=Accuracy(
            validation=_split_figures(
                predict_all(plain, texts.validation), deployed, read.validation, inputs.target
            ),
            test=_split_figures(predict_all(plain, texts.test), deployed, read.test, inputs.target),
        ),
        float_graph_difference=difference,
        latency=DeployedLatency(**latency),
    )


def random_batch(size: int, length: int, vocabulary: int) -> dict[str, npt.NDArray[np.int32]]:
    """Return a batch [B, S] of ordinary tokens without padding; always the same one."""
    rng = np.random.default_rng(0)
    ids = rng.integers(vocabulary // 2, vocabulary, (size, length)).astype(np.int32)
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


class _TorchModel:
    """The package's own model in torch, eager, one thread, with the interface of ``Predictor``."""

    def __init__(self, source: Source) -> None:
        import torch

        from orchestrator.modeling.builder import build_on_meta

        torch.set_num_threads(1)
        self._torch = torch
        config = source.model_config
        heads = [head for head in config.target if isinstance(head, ClsConfig | PairConfig)]
        self.model = build_on_meta(config.with_targets(heads))
        names = self.model.state_dict()
        state = {name: torch.from_numpy(np.array(source.state[name])) for name in names}
        self.model.load_state_dict(state, assign=True)
        self.model.eval()

    def predict(self, batch: Mapping[str, AnyArray]) -> dict[str, Float32Array]:
        """Return logits [B, K] by target and ``embedding`` [B, D]."""
        torch = self._torch
        tensors = {
            name: torch.from_numpy(np.asarray(values, np.int64)) for name, values in batch.items()
        }
        with torch.inference_mode():
            answers = self.model.predict(tensors)
        return {name: logits.numpy() for name, logits in answers.items()}


def _split_figures(
    before: Outputs, deployed: Predictor, rows: Encoded, target: str
) -> SplitFigures:
    after = predict_all(deployed, rows)
    figures = paired(before.logits[target], after.logits[target], rows.labels)
    return SplitFigures(**dict(figures), error=divergence(before, after))


def _float_difference(eager: Predictor, plain: Predictor, texts: Encoded, target: str) -> float:
    """Compare torch and the float graph, so that no figure rests on a wrong float model."""
    worst, largest = 0.0, 1.0
    for batch in texts.batches:
        expected, got = eager.predict(batch)[target], plain.predict(batch)[target]
        worst = max(worst, float(np.abs(expected - got).max()))
        largest = max(largest, float(np.abs(expected).max()))
    if not worst <= FLOAT_TOLERANCE * largest:
        raise StageError(
            f"the float graph differs from the torch model by {worst:.3g} (logits up to "
            f"{largest:.3g}); nothing is committed. Report this with the package's config.json"
        )
    return worst


def _timed(
    inputs: QuantizeInputs, models: Mapping[str, Predictor], lengths: Mapping[str, int]
) -> dict[str, Latency]:
    """Time models on one batch of the configured shape, or cut, against the float graph."""
    timing = inputs.timing
    vocabulary = inputs.source.model_config.vocab_size

    def call(model: Predictor, length: int) -> Callable[[], object]:
        arrays = random_batch(timing.batch_size, min(timing.length, length), vocabulary)
        return lambda: model.predict(arrays)

    calls = {name: call(model, lengths.get(name, timing.length)) for name, model in models.items()}
    return compare(calls, FLOAT_NAME, rounds=timing.rounds, calls=timing.calls)
