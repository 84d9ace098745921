"""Recall at scale: CPU seconds and memory, proxies on pure noise, `--check` of a large zoo.

    python benchmarks/recall.py                    every figure
    python benchmarks/recall.py --models 1000      a smaller history

Goals: recall over 10,000 models x 50 data sets in 5 s of CPU and 1 GiB; pure noise above chance in
at most 10 of 100 draws for every proxy; `--check` of 500 packages in 2 s of CPU on 30 lines.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from orchestrator.config import validate_config
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.matrix.history import History
from orchestrator.selection.planning import describe_selection
from orchestrator.selection.recall import plan_open_choice, plan_recall, recall_candidates
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.score_predictor import ShrunkenPredictor
from orchestrator.selection.scores.base import PROXIES, score_features
from orchestrator.selection.scores.permutations import is_informative

POOL, STAGES, PAPER_MODELS = 10, 5, 1000


def main() -> None:
    """Print every figure beside its goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--datasets", type=int, default=50)
    parser.add_argument("--packages", type=int, default=500)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--child", choices=("default", "paper", "check"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "check":
        show_check(options.packages)
    elif options.child is not None:
        show_recall(options.child, options.models, options.datasets)
    else:
        # A process each: the largest memory of a process never falls.
        for child, models in (("default", options.models), ("paper", PAPER_MODELS), ("check", 0)):
            sizes = ["--models", str(models), "--datasets", str(options.datasets)]
            sizes += ["--packages", str(options.packages), "--child", child]
            subprocess.run([sys.executable, __file__, *sizes], check=True, timeout=600)
        show_noise(options.draws)


def show_recall(mode: str, models: int, datasets: int) -> None:
    """Print what recall costs, from a history in memory to the ranking."""
    history = synthetic_history(models, datasets)
    before, started = memory_mib(), time.process_time()
    predictor = ShrunkenPredictor.fit(history)
    if mode == "paper":
        plan = plan_recall(history, history.models)
    else:
        plan = plan_open_choice(history, history.models, predictor, POOL)
    scores = {
        model: ProxyScore(values={"knn": 0.5 + place / 1e4}, floors={"knn": 0.3})
        for place, model in enumerate(plan.to_score)
    }
    recalled = recall_candidates(plan, scores, mode=mode, predictor=predictor, pool=POOL)
    assert sum(item.kept for item in recalled) == POOL
    print(
        f"recall, mode {mode}: {models} models x {datasets} sets: "
        f"{time.process_time() - started:.2f} s CPU, {memory_mib():.0f} MiB "
        f"({before:.0f} with the history alone), {len(plan.to_score)} forward passes"
    )


def show_check(packages: int) -> None:
    """Print what the check of a large zoo costs, with the imports of a new process."""
    with tempfile.TemporaryDirectory() as folder:
        zoo = Path(folder) / "zoo"
        make_zoo(zoo, packages)
        rows = Path(folder) / "target.jsonl"
        rows.write_text('{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n')
        fields = {
            "run": {"name": "check", "dir": folder, "zoo": str(zoo)},
            "target": {"source": f"files:{rows}"},
            "package": "chosen",
        }
        config = validate_config(SelectConfig, fields, "benchmark")
        started = time.process_time()
        text = describe_selection(config)
        print(
            f"--check of {packages} packages: {time.process_time() - started:.2f} s CPU, "
            f"{len(text.splitlines())} lines"
        )


def show_noise(draws: int) -> None:
    """Print in how many draws of pure noise each proxy is above chance."""
    found = dict.fromkeys(PROXIES.names(), 0)
    seconds = dict.fromkeys(PROXIES.names(), 0.0)
    for draw in range(draws):
        generator = np.random.default_rng(draw)
        labels = generator.integers(0, 6, 300)
        features, head = generator.normal(size=(300, 32)), generator.dirichlet(np.ones(5), 300)
        for name in found:
            started = time.process_time()
            score = score_features([name], features, labels, head, seed=draw)
            seconds[name] += time.process_time() - started
            found[name] += is_informative(score, name)
    for name, count in found.items():
        print(
            f"pure noise, {name}: above chance in {count} of {draws} draws, "
            f"{1e3 * seconds[name] / draws:.0f} ms CPU each with its permutations"
        )


def synthetic_history(models: int, datasets: int) -> History:
    """Curves of random models, ``[models, datasets, STAGES + 1]``."""
    generator = np.random.default_rng(0)
    effect = generator.normal(0, 0.04, (models, 1, 1))
    noise = generator.normal(0, 0.03, (models, datasets, STAGES + 1))
    names = tuple(f"m{number:05d}" for number in range(models))
    sets = tuple(f"d{number}" for number in range(datasets))
    return History(names, sets, 0.6 + effect + noise, np.zeros((models, datasets), dtype=bool))


def make_zoo(zoo: Path, packages: int) -> None:
    """Write a zoo of packages that differ in their names alone."""
    from orchestrator.modeling.builder import build_model
    from orchestrator.modeling.config import ModelConfig
    from orchestrator.modeling.package import write_model
    from orchestrator.zoo import Zoo

    encoder = {"type": "transformer", "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
    config = ModelConfig(
        hidden_size=16,
        vocab_size=64,
        max_position_embeddings=16,
        embedding={"parts": ["word", "pos"]},
        encoder=encoder,
        target=["mlm"],
    )
    with Zoo(zoo).draft("model-000", kind="pretrained", producer={"stage": "benchmark"}) as draft:
        write_model(draft.path, build_model(config), config)
        (draft.path / "tokenizer.json").write_text("{}")
        first = draft.commit()
    manifest = json.loads((first.path / "manifest.json").read_text())
    for number in range(1, packages):
        manifest["name"] = f"model-{number:03d}"
        copy = zoo / manifest["name"] / first.version
        shutil.copytree(first.path, copy)
        (copy / "manifest.json").write_text(json.dumps(manifest))


def memory_mib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
