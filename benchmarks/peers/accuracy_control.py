"""NNCF's accuracy control on a trained package, and plans of any origin in OpenVINO.

NNCF quantizes the model that OpenVINO reads from PyTorch, then reverts groups to float until the
metric on the validation rows has dropped by at most a bound. What it keeps in INT8 is read from the
graph that it returns. The other way round, a plan of ours is given to NNCF by naming the matrix
products that stay in float.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.modeling.package import load_model
from orchestrator.quantization import worker
from orchestrator.quantization.backends.onnxruntime_cpu.session import EMBEDDING
from orchestrator.quantization.kinds import KindName
from orchestrator.quantization.measured_results import PlanFigures
from orchestrator.quantization.measures import Encoded, joint, median_interval, predict_all
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.results import Latency
from peers.quantized_figures import Lab, Measured, timed_batch

ENGINE: Final = "OpenVINO"
BOUNDS: Final = (0.02, 0.01, 0.005, 0.002)
RANKED_ROWS: Final = 300
"""Rows on which NNCF ranks groups: its default."""
ROUNDS: Final = 9
SLICE_S: Final = 0.02
OPTIONS: Final = {
    "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"
}  # fmt: skip
KIND: Final[KindName] = "static_s8"
"""Kind of NNCF's units in our engine: one calibrated range per activation."""
Batch = Mapping[str, AnyArray]


class _Logits(torch.nn.Module):
    """One head of a model, with inputs by place."""

    def __init__(self, folder: Path, head: str, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.head, self.names = load_model(folder).eval(), head, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        batch = dict(zip(self.names, inputs, strict=True))
        found: torch.Tensor = self.model.predict(batch, {self.head})[self.head]
        return found


@dataclass(frozen=True)
class _Compiled:
    """A model in OpenVINO, with the interface that measures read."""

    model: Any
    head: str
    names: tuple[str, ...]

    def predict(self, batch: Batch) -> dict[str, Float32Array]:
        """Return the logits; embeddings are not asked for."""
        logits = self.model(values(batch, self.names))[0]
        return {self.head: logits, EMBEDDING: np.ones((len(logits), 1), np.float32)}


@dataclass(frozen=True)
class _Item:
    """A batch of validation rows, with what makes answers of outputs."""

    batch: Batch
    encoded: Encoded
    rows: list[int]


def values(batch: Batch, names: tuple[str, ...]) -> tuple[AnyArray, ...]:
    """Return the inputs of a batch by place, as the traced model reads them."""
    found = (batch[name] for name in names)
    return tuple(each.astype(np.int64) if each.dtype == np.int32 else each for each in found)


class Controls:
    """Runs of NNCF on one package.

    Attributes:
        counts: Validations of the whole model, by bound.
        float_ms: CPU milliseconds of a float call, by engine.

    Args:
        folder: Files of the float package.
        lab: Its measurements in our engine.
    """

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.lab, self.inputs = lab, lab.inputs
        self.ov, self.nncf = import_module("openvino"), import_module("nncf")
        assert self.inputs.task is not None
        self.task, self.head = self.inputs.task, self.inputs.task.head
        (calibration,) = self.inputs.texts.calibration.parts
        self.rows = [row for batch in calibration.batches for row in _alone(batch)]
        self.names = tuple(self.rows[0])
        sample = calibration.batches[0]  # padded, so that the traced graph reads the mask
        example = tuple(torch.from_numpy(each) for each in values(sample, self.names))
        wrapped = _Logits(folder, self.head, self.names)
        with torch.inference_mode():
            self.plain = self.ov.convert_model(wrapped, example_input=example)
        self.transformer = self.nncf.ModelType.TRANSFORMER
        self.counts: dict[str, int] = {}
        self.float_ms: dict[str, float] = {}
        self.models = self._controlled()

    def plans(self) -> dict[str, Plan]:
        """Return the plans of NNCF for our engine, by ``nncf <bound>``."""
        return {
            f"nncf {name}": Plan(
                {
                    unit.name: KIND if self._is_integer(model, unit.name) else "fp32"
                    for unit in self.lab.units
                }
            )
            for name, model in self.models.items()
        }

    def race(self, ours: Iterable[Plan], most: int = 4) -> dict[str, tuple[Measured, ...]]:
        """Measure NNCF's models, and up to ``most`` of our plans, in OpenVINO."""
        theirs = self.plans()
        models = {name: (theirs[name], self.models[name[5:]]) for name in theirs}
        places = dict.fromkeys(tuple(plan.integer) for plan in ours if plan.integer)
        for units in sorted(places, key=len, reverse=True)[:most]:
            plan = Plan({u.name: KIND if u.name in units else "fp32" for u in self.lab.units})
            models[f"front {len(units)} units"] = plan, self._imposed(plan)
        opened = {name: self._open(model) for name, (_, model) in models.items()}
        times = self._times({"float": self._open(self.plain), **opened})
        found = [
            self.lab.measured(name, plan, self._quality(opened[name]), times[name])
            for name, (plan, _) in models.items()
        ]
        return {ENGINE: tuple(found)}

    def _controlled(self) -> dict[str, Any]:
        """Run NNCF with every bound, the loosest first; a model within the next bound stays."""
        found: dict[str, Any] = {}
        batches = self._validation()
        ranked = max(1, RANKED_ROWS * len(batches) // len(self.inputs.texts.validation))
        advanced = import_module("nncf.quantization.advanced_parameters")
        control = advanced.AdvancedAccuracyRestorerParameters(ranking_subset_size=ranked)
        drop = np.inf
        for bound in BOUNDS:
            if drop <= bound:
                found[str(bound)] = next(reversed(found.values()))
                continue
            count = [0]
            found[str(bound)] = self.nncf.quantize_with_accuracy_control(
                self.plain.clone(),
                self.nncf.Dataset(self.rows, partial(values, names=self.names)),
                self.nncf.Dataset(batches, lambda item: values(item.batch, self.names)),
                partial(self._validate, count=count, whole=len(batches)),
                max_drop=bound,
                subset_size=len(self.rows),
                model_type=self.transformer,
                advanced_accuracy_restorer_parameters=control,
            )
            self.counts[str(bound)] = count[0]
            quality = self._quality(self._open(found[str(bound)])).paired
            assert quality is not None
            drop = quality.drop
        return found

    def _validation(self) -> list[_Item]:
        """Return the batches of the validation rows."""
        found, before = [], 0
        for part in self.inputs.texts.validation.parts:
            start = 0
            for batch in part.batches:
                size = len(next(iter(batch.values())))
                places = part.order[start : start + size]
                start += size
                items = None if part.items is None else tuple(part.items[at] for at in places)
                encoded = Encoded((dict(batch),), np.arange(size), items)
                found.append(_Item(batch, encoded, [before + int(at) for at in places]))
            before += len(part)
        return found

    def _validate(
        self, model: Any, items: Iterable[_Item], count: list[int], whole: int
    ) -> tuple[float, None]:
        """Return the metric over batches; NNCF calls this."""
        taken, answers = list(items), list[Any]()
        count[0] += len(taken) == whole
        for item in taken:
            outputs = predict_all(_Compiled(model, self.head, self.names), item.encoded)
            readings = [reading for reading in outputs.readings if reading is not None]
            logits = outputs.logits[self.head]
            answers += self.task.answers(logits, readings if self.task.needs_reading else None)
        rows = self.inputs.texts.validation.rows.take([at for item in taken for at in item.rows])
        primary = self.task.primary
        found = self.task.statistics(rows, answers)[primary.name]
        return float(primary.value(np.ones((1, len(found))), found)[0]), None

    def _is_integer(self, model: Any, unit: str) -> bool:
        """Whether every matrix product of a unit reads quantized activations in a graph."""
        products = [
            op for op in model.get_ops() if _is_product(op) and _unit_of(op) in _parts(unit)
        ]
        if not products:
            raise ValueError(f"no product of {unit} in the graph of OpenVINO")
        return all(
            op.input_value(0).get_node().get_type_name() == "FakeQuantize" for op in products
        )

    def _imposed(self, plan: Plan) -> Any:
        """Quantize with NNCF, with products outside the plan in float."""
        integer = {part for unit in plan.integer for part in _parts(unit)}
        floats = [
            op.get_friendly_name()
            for op in self.plain.get_ops()
            if _is_product(op) and _unit_of(op) not in integer
        ]
        return self.nncf.quantize(
            self.plain.clone(),
            self.nncf.Dataset(self.rows, partial(values, names=self.names)),
            subset_size=len(self.rows),
            model_type=self.transformer,
            ignored_scope=self.nncf.IgnoredScope(names=floats),
        )

    def _open(self, model: Any) -> _Compiled:
        return _Compiled(self.ov.compile_model(model, "CPU", OPTIONS), self.head, self.names)

    def _quality(self, model: _Compiled) -> PlanFigures:
        """Compare a model with the float model on all validation rows."""
        validation = self.inputs.texts.validation
        before = joint(self.lab.measurements.reference[1])
        after = joint([predict_all(model, part) for part in validation.parts])
        before = replace(before, embedding=after.embedding)
        return worker.figures_of(self.inputs, validation.rows, before, after)

    def _times(self, models: Mapping[str, _Compiled]) -> dict[str, Latency]:
        """Time models in interleaved rounds by the CPU time of the process."""
        batch = timed_batch(self.inputs)
        calls = {name: self._calls(model, batch) for name, model in models.items()}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for number in range(ROUNDS):
            for name in list(models)[:: 1 if number % 2 else -1]:
                seconds[name].append(_seconds(models[name], batch, calls[name]))
        self.float_ms[ENGINE] = 1e3 * median(seconds["float"])
        found = {}
        for name, times in seconds.items():
            ratios = np.asarray(times) / np.asarray(seconds["float"])
            found[name] = Latency(
                cpu_ms=1e3 * median(times),
                wall_ms=1e3 * median(times),
                ratio=float(np.median(ratios)),
                spread=(float(ratios.min()), float(ratios.max())),
                interval=median_interval(ratios),
            )
        return found

    def _calls(self, model: _Compiled, batch: Batch) -> int:
        for _ in range(2):
            model.predict(batch)
        return max(1, round(SLICE_S / max(_seconds(model, batch, 1), 1e-6)))


def _seconds(model: _Compiled, batch: Batch, calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        model.predict(batch)
    return (time.process_time() - began) / calls


def _is_product(op: Any) -> bool:
    return op.get_type_name() in ("MatMul", "Convolution")


def _unit_of(op: Any) -> str:
    """Return the name of the layer that an operator was traced from."""
    name: str = op.get_friendly_name()
    return name.removeprefix("__module.model.").split("/")[0]


def _parts(unit: str) -> tuple[str, ...]:
    """Return the layers of PyTorch that one of our units joins."""
    layer, _, role = unit.rpartition(".")
    if role == "qkv":
        return tuple(f"{layer}.{part}" for part in ("query", "key", "value"))
    return (unit,)


def _alone(batch: Batch) -> Iterable[dict[str, AnyArray]]:
    """Yield the rows of a batch one by one, without padding."""
    mask = batch.get("attention_mask")
    for at in range(len(next(iter(batch.values())))):
        length = None if mask is None else int(mask[at].sum())
        yield {name: each[at : at + 1, :length] for name, each in batch.items()}
