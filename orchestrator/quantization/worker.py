"""What the tasks of a quantization job compute. Plain functions over plain values; no Ray.

Every figure comes from an ONNX Runtime session of the very graph that would be deployed.

Calibrated activation ranges: what the inputs of each GEMM are like on real texts.

The float graph is run with every unit's input observed, one text at a time without padding, so
that no padding row widens a range. The range of a unit is the largest over the texts (the *max*
calibrator of TensorRT and FasterTransformer); what a later text has outside of it is clipped.
Whether that hurts is not assumed: the allocator measures it like every other error.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import StageError
from orchestrator.modeling.targets.configs import ClsConfig, PairConfig
from orchestrator.quantization.accuracy import (
    Encoded,
    Outputs,
    Predictor,
    divergence,
    paired,
    predict_all,
)
from orchestrator.quantization.audit import audit, verify
from orchestrator.quantization.backends.onnx_session import OnnxModel
from orchestrator.quantization.graph import HIGH, LOW
from orchestrator.quantization.kinds import Range
from orchestrator.quantization.latency import compare
from orchestrator.quantization.plans import Plan, float_plan
from orchestrator.quantization.source import Source, Texts
from orchestrator.storage import sha256_bytes


def observed_ranges(model: bytes, texts: Encoded) -> dict[str, Range]:
    """Run an observed float graph over texts.

    Args:
        model: an ONNX model emitted with ``observe=True``.
        texts: encoded calibration texts.

    Returns:
        Smallest and largest input of each GEMM unit; layers that are not GEMMs have none.
    """
    runner = OnnxModel.from_bytes(model, batch_invariant=False)
    units = [name.removeprefix(LOW) for name in runner.outputs if name.startswith(LOW)]
    low, high = {unit: np.inf for unit in units}, {unit: -np.inf for unit in units}
    for batch in texts.batches:
        answers = runner.predict(batch)
        for unit in units:
            low[unit] = min(low[unit], float(answers[f"{LOW}{unit}"].min()))
            high[unit] = max(high[unit], float(answers[f"{HIGH}{unit}"].max()))
    return {unit: (low[unit], high[unit]) for unit in units}


FLOAT_NAME = "float"
TORCH_NAME = "torch"
DEPLOYED_NAME = "int8"
OPEN_SESSIONS_BYTES = 2 * 2**30
"""Float bytes of the models that are open at a time: what is timed together is held together."""
FLOAT_TOLERANCE = 1e-3
"""Largest difference between torch and the float graph, relative to the largest logit."""

Json = dict[str, Any]


def open_plan(source: Source, plan: Plan) -> OnnxModel:
    """Emit a model under a plan and open it."""
    model = source.emit(plan).to_bytes()
    return OnnxModel.from_bytes(model, batch_invariant=plan.batch_invariant)


def calibrate(source: Source, texts: Texts) -> dict[str, Range]:
    """Return the range of every unit's input over the calibration texts (see ``calibration``)."""
    return observed_ranges(source.emit(observe=True).to_bytes(), texts.calibration)


def float_outputs(source: Source, texts: Texts) -> tuple[Outputs, Outputs]:
    """Return the float graph's answers to the calibration and to the validation texts."""
    model = open_plan(source, Plan({}))
    return predict_all(model, texts.calibration), predict_all(model, texts.validation)


def measure_errors(
    source: Source, texts: Texts, reference: tuple[Outputs, Outputs], plans: list[Plan]
) -> list[Json]:
    """Return how far each plan moves the answers to the calibration texts."""
    errors = []
    for plan in plans:
        outputs = predict_all(open_plan(source, plan), texts.calibration)
        errors.append(asdict(divergence(reference[0], outputs)))
    return errors


def measure_plan(
    source: Source, texts: Texts, reference: tuple[Outputs, Outputs], plan: Plan, target: str
) -> Json:
    """Measure the accuracy of a plan, and its distance from float, on the validation texts."""
    outputs = predict_all(open_plan(source, plan), texts.validation)
    labels = texts.validation.labels
    figures = paired(reference[1].logits[target], outputs.logits[target], labels)
    return {
        "paired": figures.to_json(),
        "divergence": asdict(divergence(reference[1], outputs)),
    }


def measure_latencies(
    source: Source, plans: Mapping[str, Plan], batch: Mapping[str, int]
) -> dict[str, Json]:
    """Time plans against the float graph, which is measured beside them in every round.

    Args:
        source: the float model.
        plans: plans by name; one of them may be called ``float``.
        batch: ``batch_size``, ``length``, ``rounds`` and ``calls``.
    """
    plain = open_plan(source, Plan({}))
    arrays = random_batch(batch["batch_size"], batch["length"], source.model_config.vocab_size)
    size = sum(values.nbytes for values in source.state.values())
    together = max(1, OPEN_SESSIONS_BYTES // size)
    others = [name for name in plans if name != FLOAT_NAME]
    found: dict[str, Json] = {}
    for start in range(0, max(len(others), 1), together):
        group = {name: open_plan(source, plans[name]) for name in others[start : start + together]}
        calls = {name: _call(model, arrays) for name, model in {FLOAT_NAME: plain, **group}.items()}
        figures = compare(calls, FLOAT_NAME, rounds=batch["rounds"], calls=batch["calls"])
        found |= {name: latency.to_json() for name, latency in figures.items()}
    return found


def measure_artefact(
    source: Source, texts: Texts, model: bytes, plan: Plan, target: str, batch: Mapping[str, int]
) -> Json:
    """Measure the file that is about to be committed: audit, accuracy and latency.

    Args:
        source: the float model.
        texts: encoded rows.
        model: content of ``model.onnx`` as read back from the package's folder.
        plan: what it is supposed to execute.
        target: classification target whose accuracy counts.
        batch: ``batch_size``, ``length``, ``rounds`` and ``calls``.

    Raises:
        StageError: if the executed graph is not the plan, or the float graph is not the torch
            model.
    """
    audited = audit(model)
    verify(audited, plan)
    deployed = OnnxModel.from_bytes(model, batch_invariant=plan.batch_invariant)
    units = source.emit().units
    plain = open_plan(source, float_plan(units))
    eager = _TorchModel(source)
    accuracy: Json = {}
    for split in ("validation", "test"):
        rows: Encoded = getattr(texts, split)
        before, after = predict_all(plain, rows), predict_all(deployed, rows)
        figures = paired(before.logits[target], after.logits[target], rows.labels)
        accuracy[split] = figures.to_json() | {"error": asdict(divergence(before, after))}
    difference = _float_difference(eager, plain, texts.validation, target)
    arrays = random_batch(batch["batch_size"], batch["length"], source.model_config.vocab_size)
    runners: dict[str, Predictor] = {TORCH_NAME: eager, FLOAT_NAME: plain, DEPLOYED_NAME: deployed}
    calls = {name: _call(runner, arrays) for name, runner in runners.items()}
    latency = compare(calls, FLOAT_NAME, rounds=batch["rounds"], calls=batch["calls"])
    return {
        "sha256": sha256_bytes(model),
        "length": batch["length"],
        "audit": audited.to_json(),
        "accuracy": accuracy,
        "float_graph_difference": difference,
        "latency": {name: figures.to_json() for name, figures in latency.items()},
    }


def random_batch(size: int, length: int, vocabulary: int) -> dict[str, npt.NDArray[np.int32]]:
    """Return a batch [B, S] of ordinary tokens without padding, always the same."""
    rng = np.random.default_rng(0)
    ids = rng.integers(vocabulary // 2, vocabulary, (size, length)).astype(np.int32)
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


class _TorchModel:
    """The package's own model in torch, eager, one thread, with the interface of ``OnnxModel``."""

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

    def predict(self, batch: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Return logits [B, K] by target and ``embedding`` [B, D]."""
        torch = self._torch
        tensors = {
            name: torch.from_numpy(np.asarray(values, np.int64)) for name, values in batch.items()
        }
        with torch.inference_mode():
            answers = self.model.predict(tensors)
        return {name: logits.numpy() for name, logits in answers.items()}


def _float_difference(eager: _TorchModel, plain: OnnxModel, texts: Encoded, target: str) -> float:
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


def _call(model: Predictor, arrays: Mapping[str, npt.NDArray[np.int32]]) -> Callable[[], Any]:
    return lambda: model.predict(arrays)
