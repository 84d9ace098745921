"""The proxy scores of `select` against those of transformer-ranker, on the same features.

Candidates, targets and fine-tuned scores are those of `selection_training.py`; its `--work FOLDER`
has them. Features are of the last layer, as `select` reads them. Both score the same arrays in
turn, in one process with one thread. transformer-ranker is installed apart (`pip install
transformer-ranker==0.2.0`): the product does not need it.

Run: `python benchmarks/proxy_scores.py --work FOLDER [--data DATA] [--write]`. `--write` puts
the section into selection.md.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Final

import numpy as np
import torch
from peers.recorded_trials import Curve
from scipy.stats import spearmanr, weightedtau
from selection import PAGE, TITLE, with_section
from selection_training import DATA, RATES, SEEDS, Bench

from orchestrator.arrays import FloatArray, IntArray
from orchestrator.selection.planning import plan_selection
from orchestrator.selection.scores.base import PROXIES, score_features
from orchestrator.selection.scores.features import extract, sample_rows
from orchestrator.zoo import Zoo

HEADING: Final = "Against transformer-ranker"
PAIRS: Final = {"h_score": "HScore", "knn": "NearestNeighbors", "logme": "LogME"}
"""Proxies that both have: our name, and the class of theirs."""
TARGETS: Final = ("trec", "subj", "mnist", "spoken")
"""Targets with classes; theirs reads no tags."""
MIN_CANDIDATES: Final = 4
"""A ranking of fewer says nothing."""
TRAIN_ROWS, WIDTH, CLASSES, ROUNDS = 1000, 768, 6, 5
DRAWS: Final = 2000
"""Resamples of the cases for an interval."""
ABOUT_LOGME: Final = """\
LogME: ours is the maximum of the evidence, theirs is what is reached after at most 11 steps towards
it. Ended there, ours gives their correlations; the intervals above hold 0.
Centered or standardized features, rows of length 1 and principal components rank lower on these
sets; an intercept, or classes weighted by their frequency, differ by less than the interval."""


@dataclass
class Found:
    """Scores and seconds of one proxy.

    Attributes:
        ours: Rank correlations with the fine-tuned scores, a pair (Spearman, weighted Kendall) for
            each case.
        theirs: The same of transformer-ranker.
        seconds: CPU seconds of ours, of ours with its floor, and of theirs, of each feature set.
    """

    ours: list[tuple[float, float]] = field(default_factory=list)
    theirs: list[tuple[float, float]] = field(default_factory=list)
    seconds: list[tuple[float, float, float]] = field(default_factory=list)


def main() -> int:
    """Score every candidate on every target with both, and print the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="of selection_training.py")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench, found = Bench(options.work, options.data, TARGETS), {name: Found() for name in PAIRS}
    cases = [case for case in bench.cases() if add_case(bench, *case, found)]
    text = section(found, len(cases), wide_seconds())
    sys.stdout.write(f"## {HEADING}\n\n{text}\n")
    if options.write:
        old = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else TITLE
        PAGE.write_text(with_section(old, HEADING, text), encoding="utf-8")
    return 0


def add_case(bench: Bench, target: str, seed: int, found: Mapping[str, Found]) -> bool:
    """Rank the candidates of a target; False: too few of them have been fine-tuned."""
    config = bench.config(target, seed)
    plan, zoo = plan_selection(config), Zoo(config.run.zoo)
    tuned = fine_tuned(bench, target, seed, list(plan.packages))
    if len(tuned) < MIN_CANDIDATES:
        return False
    rows = sample_rows(plan.task.train, config.recall.max_proxy_rows, seed)
    labels = np.unique(rows.labels, return_inverse=True)[1]
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in PAIRS}
    for package in tuned:
        path, length = zoo.get(package).path, config.fine_tune.max_length
        features = extract(path, rows, length, set(), "last", plan.asked)[0]
        for name, both in scores.items():
            ours, theirs, seconds = score_in_turn(name, features, labels, seed)
            both.append((ours, theirs))
            found[name].seconds.append(seconds)
        sys.stderr.write(f"{target}-{seed} {package}\n")
    final = list(tuned.values())
    for name, both in scores.items():
        ours, theirs = np.array(both).T
        found[name].ours.append(agreement(ours, final))
        found[name].theirs.append(agreement(theirs, final))
    return True


def fine_tuned(bench: Bench, target: str, seed: int, packages: list[str]) -> dict[str, float]:
    """Return the test score of each candidate at the learning rate that validates best."""
    final = {}
    for package in packages:
        keys = [f"{target}-{seed} {package} {rate:g}" for rate in RATES]
        lines = [bench.records.lines[key] for key in keys if key in bench.records.lines]
        curves = [Curve.model_validate(line) for line in lines]
        if len(curves) == len(RATES) and not any(curve.error for curve in curves):
            final[package] = max(curves, key=lambda curve: curve.validation[-1]).test
    return final


def agreement(scores: FloatArray, final: list[float]) -> tuple[float, float]:
    """Return Spearman's and the weighted Kendall correlation."""
    pair = spearmanr(scores, final).statistic, weightedtau(scores, final).statistic
    return float(pair[0]), float(pair[1])


def score_in_turn(
    name: str, features: FloatArray, labels: IntArray, seed: int
) -> tuple[float, float, tuple[float, float, float]]:
    """Score features with both in turn; the second one is not always the same.

    Returns:
        Our score, theirs, and CPU seconds of ours, ours with its floor, and theirs; the least of
        several rounds.
    """
    estimators = import_module("transformer_ranker.estimators")
    proxy = PROXIES.component_class(name)()
    estimator = getattr(estimators, PAIRS[name])()
    tensors = torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)
    exact = features.astype(np.float64)
    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: proxy.score(exact, labels),
        "floor": lambda: score_features([name], exact, labels, None, seed),
        "theirs": lambda: estimator.fit(embeddings=tensors[0], labels=tensors[1]),
    }
    seconds: dict[str, list[float]] = {run: [] for run in runs}
    values: dict[str, object] = {}
    for number in range(ROUNDS):
        for run in list(runs)[:: 1 if number % 2 else -1]:
            begun = time.process_time()
            values[run] = runs[run]()
            seconds[run].append(time.process_time() - begun)
    least = min(seconds["ours"]), min(seconds["floor"]), min(seconds["theirs"])
    return float(str(values["ours"])), float(str(values["theirs"])), least


def wide_seconds() -> dict[str, tuple[float, float, float]]:
    """Return the CPU seconds on features as wide as those of a base model."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, TRAIN_ROWS)
    features = generator.normal(size=(TRAIN_ROWS, WIDTH)) + np.eye(CLASSES, WIDTH)[labels]
    return {name: score_in_turn(name, features, labels, 0)[2] for name in PAIRS}


def section(
    found: Mapping[str, Found], cases: int, wide: Mapping[str, tuple[float, float, float]]
) -> str:
    """Return the section: a table, and a line for each goal."""
    models = len(next(iter(found.values())).seconds)
    lines = [
        "Made by `python benchmarks/proxy_scores.py --work FOLDER`, with the folder of",
        "`selection_training.py`.",
        f"transformer-ranker 0.2.0, its three estimators against ours of the same name on {models} "
        f"feature sets of {cases} cases",
        f"({', '.join(TARGETS)}; {len(SEEDS)} seeds where trained). Rank correlation with the test "
        "score after fine-tuning at the best of",
        f"{len(RATES)} learning rates, mean over cases. CPU time: sum over the feature sets, and "
        f"one set of {TRAIN_ROWS} x {WIDTH}, {CLASSES} classes. A floor is",
        "what labels without information give; transformer-ranker has none.",
        "",
        "| proxy | Spearman, ours / theirs | weighted Kendall, ours / theirs "
        "| CPU ms, ours / theirs | with our floor | wide: CPU ms, ours / theirs | with our floor |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    goals = []
    for name, each in found.items():
        ours, theirs = np.array(each.ours), np.array(each.theirs)
        mine, floor, other = 1e3 * np.array(each.seconds).sum(axis=0)
        near, far, peer = (1e3 * value for value in wide[name])
        lines.append(
            f"| {name} | {ours[:, 0].mean():.3f} / {theirs[:, 0].mean():.3f} | "
            f"{ours[:, 1].mean():.3f} / {theirs[:, 1].mean():.3f} | {mine:.0f} / {other:.0f} | "
            f"{floor:.0f} | {near:.0f} / {peer:.0f} | {far:.0f} |"
        )
        for place, measure in enumerate(("Spearman", "weighted Kendall")):
            goals.append(goal(f"{name}, {measure}", ours[:, place] - theirs[:, place]))
        goals.append(
            f"- {name}, CPU time, theirs ÷ ours: {other / mine:.1f}, wide {peer / near:.1f}"
        )
    return "\n".join([*lines, "", *goals, "", ABOUT_LOGME])


def goal(what: str, differences: FloatArray) -> str:
    """Return the line of a goal: ours is not lower, on average over the cases."""
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(differences), (DRAWS, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    mean = float(f"{differences.mean():.3f}") + 0.0  # as it is shown, and never -0
    verdict = "reached" if mean >= 0 else "**missed**"
    shown = f"{mean:+.3f} ({low:+.3f}–{high:+.3f})"
    return f"- {what}, ours minus theirs: {shown}; goal ≥ 0: {verdict}"


if __name__ == "__main__":
    raise SystemExit(main())
