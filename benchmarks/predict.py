"""Batch prediction beside a loop that somebody writes by hand with ONNX Runtime.

Both answer the same Parquet file with the same graph (a BERT-like classifier of 6 layers, 384 wide,
as large as MiniLM), one thread each, and write Parquet. The loop reads the texts, tokenizes 64 at a
time with the library's padding, runs the session and takes the softmax. Ours is what a worker of
``orchestrator predict`` does: read a piece, answer it, check it, commit it with its record. They
take turns, a piece each, so that other load on the machine falls on both; what counts is the ratio
of rows per second.

Run: `python benchmarks/predict.py` (about 2 minutes), `--quick` for a smoke test.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer

from orchestrator.config import validate_config
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.finetuning.predicting.config import PredictConfig
from orchestrator.finetuning.predicting.parts import PartJob, PartWorker
from orchestrator.finetuning.predicting.runner import _claim, prepare
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.quantization.source import read_source
from orchestrator.zoo import Zoo

LABELS = 4
BATCH = 64
LENGTH = 128
GOAL = 0.9
"""Smallest ratio of rows per second that is accepted."""


def texts(count: int) -> list[str]:
    """Return docstrings of installed libraries."""
    found = load_task(DatasetSpec(source="builtin:pydoc/library", max_rows=4000)).train.texts
    return [found[index % len(found)] for index in range(count)]


def commit(zoo: Zoo, corpus: list[str], layers: int, width: int) -> None:
    """Commit a random classifier with its float graph."""
    torch.manual_seed(0)
    processor = TextProcessor.train(corpus[:2000], vocab_size=8000, max_length=LENGTH)
    config = ModelConfig.model_validate(
        {
            "hidden_size": width,
            "vocab_size": processor.vocab_size,
            "max_position_embeddings": LENGTH,
            "encoder": {"type": "transformer", "num_layers": layers, "num_heads": 12},
            "target": [{"type": "cls", "name": "topic", "num_labels": LABELS}],
        }
    )
    names = [f"class{index}" for index in range(LABELS)]
    task = {"kind": "classification", "modality": "text", "labels": {"topic": names}}
    with zoo.draft("bench", kind="finetuned", task=task | {"max_length": LENGTH}) as draft:
        processor.save(draft.path)
        write_model(draft.path, build_model(config), config)
        (draft.path / "model.onnx").write_bytes(read_source(draft.path).emit().to_bytes())
        draft.commit()


class Loop:
    """The loop that a user would write by hand."""

    def __init__(self, folder: Path, out: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.names = {value.name for value in self.session.get_inputs()}
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(LENGTH)
        self.tokenizer.enable_padding()
        self.out = out
        out.mkdir()

    def __call__(self, table: pa.Table, number: int) -> None:
        """Answer the rows of a table and write them with their answers."""
        rows = table["text"].to_pylist()
        labels: list[int] = []
        scores: list[np.ndarray] = []
        for start in range(0, len(rows), BATCH):
            found = self.tokenizer.encode_batch(rows[start : start + BATCH])
            feed = {
                "input_ids": np.asarray([each.ids for each in found], np.int32),
                "attention_mask": np.asarray([each.attention_mask for each in found], np.int32),
                "token_type_ids": np.asarray([each.type_ids for each in found], np.int32),
            }
            feed = {name: array for name, array in feed.items() if name in self.names}
            (logits,) = self.session.run(["logits.topic"], feed)
            exp = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities = exp / exp.sum(axis=1, keepdims=True)
            labels += probabilities.argmax(axis=1).tolist()
            scores += list(probabilities)
        table = table.append_column("label", pa.array([f"class{label}" for label in labels]))
        table = table.append_column("scores", pa.array(scores))
        pq.write_table(table, self.out / f"{number}.parquet")


def race(folder: Path, rows: int, piece: int, layers: int, width: int) -> dict[str, object]:
    """Return rows per second of both, piece by piece in turns."""
    corpus = texts(rows)
    table = pa.table({"id": range(rows), "text": corpus})
    pq.write_table(table, folder / "rows.parquet")
    zoo = Zoo(folder / "zoo")
    commit(zoo, corpus, layers, width)
    settings = {
        "package": "bench",
        "input": str(folder / "rows.parquet"),
        "output": str(folder / "out"),
        "piece_rows": piece,
        "run": {"zoo": zoo.root},
    }
    config = validate_config(PredictConfig, settings, "benchmark")
    plan = prepare(config)
    _claim(folder / "out", plan)
    ours = PartWorker(PartJob(output=str(folder / "out"), zoo=zoo.root, threads=1, device="cpu"))
    loop = Loop(zoo.get("bench").path, folder / "loop")
    speeds: dict[str, list[float]] = {"ours": [], "loop": []}
    for each in plan.pieces:
        part = table.slice(each.start, each.stop - each.start)
        for name in ("ours", "loop") if each.number % 2 else ("loop", "ours"):
            began = time.perf_counter()
            ours(each) if name == "ours" else loop(part, each.number)
            speeds[name].append(len(part) / (time.perf_counter() - began))
    warm = {name: values[1:] or values for name, values in speeds.items()}
    ratios = [a / b for a, b in zip(warm["ours"], warm["loop"], strict=True)]
    same = pq.read_table(folder / "out" / "part-00000.parquet")["answer_label"].to_pylist()
    other = pq.read_table(folder / "loop" / "0.parquet")["label"].to_pylist()
    return {
        "rows": rows,
        "piece_rows": piece,
        "ours_rows_per_s": round(statistics.median(warm["ours"]), 1),
        "loop_rows_per_s": round(statistics.median(warm["loop"]), 1),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(q, 3) for q in np.quantile(ratios, [0.25, 0.75])],
        "equal_labels": sum(a == b for a, b in zip(same, other, strict=True)) / len(same),
    }


def main() -> int:
    """Run the race; exit code 1 when ours is slower than the goal allows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model and few rows")
    options = parser.parse_args()
    sizes = (256, 64, 2, 96) if options.quick else (1024, 128, 6, 384)
    with tempfile.TemporaryDirectory() as folder:
        found = race(Path(folder), *sizes)
    found["machine"] = f"{platform.machine()}, onnxruntime {ort.__version__}, one thread each"
    print(json.dumps(found, indent=1))
    return 0 if options.quick or float(str(found["ratio_median"])) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
