"""Our plans in the comparison of INT8 encoders, and our answers to texts of many lengths."""

import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from orchestrator.arrays import Float32Array
from orchestrator.inference.inputs import rows_of_texts
from orchestrator.inference.predictor import Predictor
from orchestrator.quantization.allocator import Option, surrogate_front
from orchestrator.quantization.backends.hosts import exact_kinds, this_host
from orchestrator.quantization.backends.onnxruntime_cpu.session import EMBEDDING, OnnxModel
from orchestrator.quantization.emission.equalization import equalizable
from orchestrator.quantization.kinds import KindName
from orchestrator.quantization.plans import Plan, Unit, ffn_only, fully_quant, single_plan
from orchestrator.quantization.source import Source
from peers.int8_engines import Batch, Engine

FULL: Final = "ours full plan: static, FFN outputs by row"
MIXED: Final = "ours mixed plan of the allocator"
MIXED_ERROR: Final = 4e-4
"""Largest mean 1 - cosine of the mixed plan on calibration sentences, without a peer to beat."""
MARGIN: Final = 0.9
"""Share of a peer's error on calibration sentences that the mixed plan may have."""
AFTER_ACTIVATION: Final = ".feed_forward.down"
BATCH: Final = 16
ROUNDS: Final = 3


def plans(source: Source) -> dict[str, Plan]:
    """Return our plans by name, without the mixed one."""
    units = source.emit().units
    norms = tuple(each.norm for each in equalizable(source.model_config))
    found = {"ours fp32": Plan({})}
    kinds = exact_kinds(this_host())
    for kind in kinds:
        if kind != "s7":  # depends on batch mates
            found[f"ours {kind}, equalized"] = Plan(fully_quant(units, kind).kinds, norms)
    wide = "static_s8" in kinds
    static: KindName = "static_s8" if wide else "static_s7"
    rows: KindName = "row_s8" if wide else "row_s7"
    full = {
        unit.name: rows if AFTER_ACTIVATION in unit.name else static
        for unit in units
        if static in unit.kinds
    }
    found[FULL] = Plan(full, norms)
    found["ours row_s7"] = Plan(fully_quant(units, "row_s7").kinds)
    found["ours FFN-only row_s7"] = ffn_only(units, "row_s7")
    return found


def mixed(source: Source, rows: list[Batch], peer: Engine | None) -> Plan:
    """Return the fastest plan of the allocator's front that is closer to float than a peer.

    Errors are measured, one unit at a time; times are taken in proportion to the weights. The plans
    of the front are then measured from the fastest on. All of it is done on calibration sentences.

    Args:
        source: The calibrated model.
        rows: Calibration sentences.
        peer: Somebody else's INT8 model; None: `MIXED_ERROR` is the bound.
    """
    units = source.emit().units
    norms = tuple(each.norm for each in equalizable(source.model_config))
    kind: KindName = "row_s8" if "row_s8" in exact_kinds(this_host()) else "row_u8"
    expected = _vectors(source, Plan({}), rows)
    whole = sum(unit.shape[0] * unit.shape[1] for unit in units)
    options: dict[str, list[Option]] = {}
    for unit in units:
        error, _ = _errors(_vectors(source, _single(units, unit, kind, norms), rows), expected)
        share = unit.shape[0] * unit.shape[1] / whole
        options[unit.name] = [Option(kind, -share, max(0.0, error))]
    most, worst = MIXED_ERROR, float("inf")
    if peer is not None:
        found = _unit(np.concatenate([peer(ids, mask) for ids, mask in rows]))
        most, worst = (MARGIN * error for error in _errors(found, expected))
    for each in surrogate_front(units, options):
        plan = Plan(each.plan.kinds, norms)
        error, largest = _errors(_vectors(source, plan, rows), expected)
        if error <= most and largest <= worst:
            return plan
    raise RuntimeError("no plan of the front is close enough to float")


def _single(units: tuple[Unit, ...], unit: Unit, kind: KindName, norms: tuple[str, ...]) -> Plan:
    return Plan(single_plan(units, unit.name, kind).kinds, norms)


def _errors(found: Float32Array, expected: Float32Array) -> tuple[float, float]:
    """Return mean and largest 1 - cosine of unit vectors [N, D]."""
    errors = 1 - (found * expected).sum(axis=1, dtype=np.float64)
    return float(errors.mean()), float(errors.max())


def _unit(vectors: Float32Array) -> Float32Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _vectors(source: Source, plan: Plan, rows: list[Batch]) -> Float32Array:
    """Return the unit vectors of rows, [N, D]."""
    model = OnnxModel.from_bytes(source.emit(plan).to_bytes(), batch_invariant=True)
    found = [model.predict({"input_ids": ids, "attention_mask": mask})[EMBEDDING]
             for ids, mask in rows]  # fmt: skip
    return _unit(np.concatenate(found))


def encoder_share(units: tuple[Unit, ...], whole: Path, small: Path) -> float:
    """Return the bytes of the units' weights in an INT8 file over those in a float one.

    Args:
        units: The GEMMs.
        whole: The float file.
        small: The file with every unit in INT8; the rest of both files is the same.
    """
    floats = 4 * sum(unit.shape[0] * unit.shape[1] for unit in units)
    return (floats - whole.stat().st_size + small.stat().st_size) / floats


def ragged(
    package: Path, model: Path, texts: list[str], padded: Mapping[str, Engine], length: int
) -> dict[str, float]:
    """Return how many times as fast as the first engine texts of many lengths are answered.

    Texts in, vectors out, tokens included. The engines answer batches of 16 in the order of the
    texts, padded to the longest; ours are answered as every package is (`Predictor.embed`).

    Args:
        package: Folder with the tokenizer of the model.
        model: Our graph.
        texts: The texts.
        padded: Engines by name, the one to compare with first.
        length: Longest text in tokens.
    """
    folder = model.parent / "package"
    shutil.copytree(package, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx"))
    for name in (model.name, "plan.json"):
        shutil.copy(model.parent / name, folder / name)
    predictor = Predictor.open_folder(folder, {}, max_length=length)
    rows = rows_of_texts(texts, None)
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding()
    calls: dict[str, Callable[[], object]] = {
        name: lambda engine=engine: _in_batches(engine, tokenizer, texts)  # type: ignore[misc]
        for name, engine in padded.items()
    }
    calls["ours"] = lambda: predictor.embed(rows)
    return _ratios(calls)


def _in_batches(engine: Engine, tokenizer: Tokenizer, texts: list[str]) -> None:
    for start in range(0, len(texts), BATCH):
        found = tokenizer.encode_batch(texts[start : start + BATCH])
        engine(
            np.asarray([each.ids for each in found], np.int64),
            np.asarray([each.attention_mask for each in found], np.int64),
        )


def _ratios(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median over rounds of the first one's CPU time over each one's."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(ROUNDS + 1):
        for name in list(calls)[:: 1 if number % 2 else -1]:
            began = time.process_time()
            calls[name]()
            seconds[name].append(time.process_time() - began)
    first = next(iter(seconds.values()))[1:]  # the first round warms up
    return {
        name: statistics.median(base / own for base, own in zip(first, times[1:], strict=True))
        for name, times in seconds.items()
    }
