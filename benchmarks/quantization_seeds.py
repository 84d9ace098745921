"""Whether a bound of accuracy holds on rows that no job has seen: one job of `quantize` per seed.

A small classifier of docstrings (8 libraries) is trained, and outliers of three strengths are
planted between V and O of its layers, so that full INT8 costs accuracy and a search has to choose.
Each job chooses its rows by its seed: it quantizes under `goal.max_accuracy_drop` by a part of the
validation rows, and confirms on a part of the test rows. The drop of the file that it would commit
is then computed on all test rows, by the file and the float model alone. A job that finds no plan
promises nothing and is counted apart. The same is done with `statistic: mean`, which takes the
figure on validation rows itself, and with the fully quantized model, which promises nothing.

Run: `python benchmarks/quantization_seeds.py [--seeds 20] [--write]` (about 15 minutes).
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch

from orchestrator.arrays import BoolArray
from orchestrator.config import validate_config
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.rows.rows import Rows, TaskData
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.package import write_model
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.goals import NoPlanError
from orchestrator.quantization.inputs import prepare
from orchestrator.quantization.kinds import KindName
from orchestrator.quantization.plans import Plan, fully_quant
from orchestrator.quantization.search import Search
from orchestrator.quantization.source import Source, read_source
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo

PAGE: Final = Path(__file__).with_suffix(".md")
DATA: Final = DatasetSpec(
    source="builtin:pydoc/library", validation_fraction=0.2, test_fraction=0.45
)
KIND: Final[KindName] = "row_s7"
HEAD, LENGTH, WIDTH, LAYERS = "library", 48, 64, 3
BOUND, ROWS, GOAL = 0.01, 512, 95
"""Largest drop, rows of a job per split, and the share of plans in percent that must keep it."""
EPOCHS, BATCH = 8, 32
SCALES: Final = (1000.0, 4000.0, 20000.0)
"""Factors of the planted channels, by layer."""
PLANTED: Final = 3
"""Channels that are planted in each layer."""
Value = TypeVar("Value")


class InProcess:
    """Runs the measurements of a job in this process."""

    def put(self, value: Value) -> Value:
        """Return a value as it is."""
        return value

    def map(
        self,
        function: Callable[..., Any],
        items: Mapping[str, Sequence[Any]],
        title: str = "",
        unit: str = "call",
    ) -> Iterator[tuple[str, Any]]:
        """Yield the results of calls, one after the other."""
        del title, unit
        return ((name, function(*arguments)) for name, arguments in items.items())

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of one call."""
        return function(*arguments)


@dataclass(frozen=True)
class Outcome:
    """A plan on all test rows; None where a job found none."""

    drop: float | None
    units: int = 0


def commit(zoo: Zoo, data: TaskData) -> Path:
    """Train a classifier, plant outliers, commit it, and return its folder."""
    processor = TextProcessor.train(data.train.texts, vocab_size=2000, max_length=LENGTH)
    config = ModelConfig.model_validate(
        {
            "hidden_size": WIDTH,
            "vocab_size": processor.vocab_size,
            "max_position_embeddings": LENGTH,
            "encoder": {"type": "transformer", "num_layers": LAYERS, "num_heads": 4},
            "target": {"type": "cls", "name": HEAD, "num_labels": len(data.label_names)},
        }
    )
    torch.manual_seed(0)
    model, rng = build_model(config), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(EPOCHS * len(data.train) // BATCH):
        rows = data.train.take(rng.integers(0, len(data.train), BATCH))
        batch = processor(rows.texts) | {f"labels.{HEAD}": torch.from_numpy(rows.labels)}
        optimizer.zero_grad()
        (model(batch)[f"loss.{HEAD}"] / BATCH).backward()
        optimizer.step()
    state = model.state_dict()
    for layer, scale in enumerate(SCALES):
        part = f"encoder.layers.{layer}.attention"
        state[f"{part}.value.weight"][:PLANTED] *= scale
        state[f"{part}.value.bias"][:PLANTED] *= scale
        state[f"{part}.output.weight"][:, :PLANTED] /= scale
    stated = {
        "kind": "classification",
        "labels": {HEAD: list(data.label_names)},
        "max_length": LENGTH,
    }
    producer = {"stage": "benchmark", "job": "quantization_seeds"}
    with zoo.draft("classifier", kind="finetuned", producer=producer, task=stated) as draft:
        write_model(draft.path, model.eval(), config)
        processor.save(draft.path)
        return draft.commit().path


def right(model: OnnxModel, processor: TextProcessor, rows: Rows) -> BoolArray:
    """Return which rows a graph answers rightly [N]."""
    found = []
    for start in range(0, len(rows), BATCH):
        batch = processor.arrays(rows.texts[start : start + BATCH], None, LENGTH)
        found.append(model.predict(batch)[HEAD].argmax(axis=1))
    return np.asarray(np.concatenate(found) == rows.labels)


def quantized(place: Path, seed: int, statistic: str) -> tuple[Path, int] | None:
    """Run the search of one job; return the folder of the file, and its INT8 units."""
    settings = {
        "run": {"name": f"{statistic}-{seed}", "dir": str(place), "zoo": str(place / "zoo")},
        "package": "classifier",
        "seed": seed,
        "data": DATA.model_dump(mode="json"),
        "goal": {"max_accuracy_drop": BOUND, "statistic": statistic},
        "kinds": [KIND],
        "evaluation_rows": ROWS,
        "latency": {"rounds": 3, "calls": 1, "length": LENGTH},
    }
    config = validate_config(QuantizeConfig, settings, "benchmark")
    with RunFolder.open(config, "quantize") as folder:
        try:
            choice = Search(config, prepare(config), folder, InProcess()).run()
        except NoPlanError as error:
            print(f"{statistic} seed {seed}: {str(error).splitlines()[0]}", file=sys.stderr)
            return None
        return choice.folder, len(choice.point.plan.integer)


def outcomes(place: Path, seeds: int, data: TaskData, package: Path) -> dict[str, list[Outcome]]:
    """Return the outcomes of all jobs by statistic, and those of the fully quantized model."""
    processor, source = TextProcessor.load(package), read_source(package)
    plain = opened(source, Plan({}))
    before = right(plain, processor, data.test)
    print(f"float: {before.mean():.4f} of {len(before)} rows", file=sys.stderr)

    def on_all_rows(model: OnnxModel, units: int) -> Outcome:
        after = right(model, processor, data.test)
        return Outcome(float(before.mean() - after.mean()), units)

    units = source.emit().units
    found = {"full": [on_all_rows(opened(source, fully_quant(units, KIND)), len(units))]}
    for statistic in ("bound", "mean"):
        found[statistic] = []
        for seed in range(seeds):
            file = quantized(place, seed, statistic)
            found[statistic].append(
                Outcome(None) if file is None else on_all_rows(OnnxModel.load(file[0]), file[1])
            )
            print(f"{statistic} seed {seed}: {found[statistic][-1]}", file=sys.stderr)
    return found


def opened(source: Source, plan: Plan) -> OnnxModel:
    """Open the graph of a plan."""
    return OnnxModel.from_bytes(source.emit(plan).to_bytes(), batch_invariant=True)


def page(found: Mapping[str, Sequence[Outcome]], seeds: int, data: TaskData) -> str:
    """Return the page."""
    rows = [
        "| decided by | jobs | with a plan | INT8 units, mean | largest drop | drops ≤ "
        f"{BOUND:g} |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    names = {"bound": "one-sided 95 % bound", "mean": "the figure itself", "full": "nothing: full"}
    shares = {}
    for statistic, name in names.items():
        drops = [each.drop for each in found[statistic] if each.drop is not None]
        kept = sum(drop <= BOUND for drop in drops)
        units = np.mean([each.units for each in found[statistic] if each.drop is not None] or [0])
        shares[statistic] = 100 * kept / max(len(drops), 1)
        rows.append(
            f"| {name} | {len(found[statistic])} | {len(drops)} | {units:.1f} | "
            f"{max(drops, default=0):+.4f} | {kept} of {len(drops)} |"
        )
    share = int(shares["bound"])
    verdict = "reached" if share >= GOAL else "**missed**"
    return "\n".join(
        [
            "# Promises of quantized packages",
            "",
            "Made by `python benchmarks/quantization_seeds.py --write`; what is done is in its",
            f"first lines. {seeds} seeds, {ROWS} validation and {ROWS} test rows a job, drops on "
            f"all {len(data.test):,} test rows.",
            "",
            *rows,
            "",
            f"- plans whose drop on all test rows is at most {BOUND:g}, of {seeds} seeds, in "
            f"percent: {share}; goal ≥ {GOAL}: {verdict}",
            "",
        ]
    )


def main() -> None:
    """Run the benchmark, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="write the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_task(DATA)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        package = commit(Zoo(place / "zoo"), data)
        text = page(outcomes(place, options.seeds, data, package), options.seeds, data)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
