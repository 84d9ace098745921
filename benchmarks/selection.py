"""Selection on stored curves: cost, regret, calibration, each method on the same 20 targets.

``replay`` plays every method of ``select replay`` on the published fine-tuning curves (39 text
encoders, 23 data sets, 5 epochs): each target is left out of its history, and so are mnli and
multirc, which are targets only. ASHA and HyperBand are Ray Tune's own schedulers, in a Ray of their
own. Gates are cost, calibration and non-inferiority, never better choices: with 20 targets most
differences of regret are noise. Non-inferior: the upper end of the one-sided 95 % interval of the
paired difference (bootstrap over targets) is at most one point.

The curves are not part of this project: `nlp_convergence_curves.csv`, converted from
github.com/plasware/OLML-DEMO.

Run: `python benchmarks/selection.py [DATA] [--only replay] [--write]`, DATA being the folder of
the curves (about 6 minutes; `--without-tune` takes 20 seconds and keeps the page's rows of ASHA and
HyperBand, which no rule of selection changes).
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from orchestrator.arrays import FloatArray
from orchestrator.selection.matrix.files import read_matrix
from orchestrator.selection.matrix.history import History
from orchestrator.selection.matrix.performance import PerformanceMatrix
from orchestrator.selection.replay.methods import ReplaySettings
from orchestrator.selection.replay.playing import replay
from orchestrator.selection.score_predictor import ShrunkenPredictor, conformal_halfwidth

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_suffix(".md")
DATA = ROOT.parent / "shared" / "data" / "two_phase_selection" / "olml_demo"
CURVES = "nlp_convergence_curves.csv"
TITLE = "# Selection\n\nMade by `python benchmarks/selection.py`. Each section is a part of it.\n"
TINY, TARGETS_ONLY = ("copa", "cb", "wnli"), ("mnli", "multirc")
MARGIN, BOOTSTRAPS, DRAWS = 0.01, 20_000, 4
ERROR_GOALS = {1: 0.095, 2: 0.055}
COVERAGE = (0.80, 0.98)
BASES = {"successive halving": "SH", "the paper": "paper"}
COLUMNS = (
    "Epochs include proxy passes. Regret: final test score of the best\n"
    "model minus that of the chosen one. Best trained: share of the targets for which the best "
    "model was trained. Last columns:\n"
    "mean regret minus that of successive halving (SH) and of the paper."
)
EVERY = ReplaySettings(never_history=TARGETS_ONLY)
METHODS: dict[str, ReplaySettings] = {
    "two_phase": replace(EVERY, use_tags=True),
    "two_phase, no tags": EVERY,
    "two_phase, fast": replace(EVERY, policy="fast", use_tags=True),
    "two_phase, fast, no tags": replace(EVERY, policy="fast"),
    "the paper": replace(EVERY, method="paper"),
    "successive halving": replace(EVERY, method="successive_halving"),
    "successive halving of 10": replace(EVERY, method="successive_halving", keep=10),
    "random 10, halved": replace(EVERY, method="random"),
    "ASHA (Tune)": replace(EVERY, method="asha"),
    "HyperBand (Tune)": replace(EVERY, method="hyperband"),
    "brute force": replace(EVERY, method="brute_force"),
}
LIMITS = {"two_phase": 19, "two_phase, no tags": 19, "two_phase, fast": 12}
LIMITS["two_phase, fast, no tags"] = 12


@dataclass(frozen=True)
class Row:
    """One method on all targets.

    Attributes:
        regrets: ``[T]``.
        epochs: ``[T]``, proxy passes included.
        recalled: Share of targets whose best model was trained.
    """

    regrets: FloatArray
    epochs: FloatArray
    recalled: float


def main() -> int:
    """Run the parts, print them, and write the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=DATA)
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--without-tune", action="store_true", help="start no ASHA, no HyperBand")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    for name, (heading, part) in PARTS.items():
        if options.only in (None, name):
            text = part(options)
            sys.stdout.write(f"## {heading}\n\n{text}\n")
            if options.write:
                old = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else TITLE
                PAGE.write_text(with_section(old, heading, text), encoding="utf-8")
    return 0


def with_section(page: str, heading: str, text: str) -> str:
    """Return a page with one section replaced, or added at the end."""
    first, *sections = page.split("\n## ")
    bodies = {section.partition("\n")[0]: section for section in sections}
    bodies[heading] = f"{heading}\n\n{text.strip()}\n"
    return "\n## ".join([first.rstrip() + "\n", *(b.rstrip() + "\n" for b in bodies.values())])


def replay_part(options: argparse.Namespace) -> str:
    """Every method on every target, and the calibration of the predictor."""
    matrix = read_matrix(options.data / CURVES)
    targets = [name for name in matrix.dataset_names if name not in TINY]
    rows: dict[str, Row] = {}
    for name, settings in METHODS.items():
        if options.without_tune and "Tune" in name:
            continue
        sys.stderr.write(f"{name} ...\n")
        results = replay(matrix, targets, settings).results
        rows[name] = Row(
            np.array([result.regret for result in results], dtype=float),
            np.array([result.ledger.total_epochs for result in results]),
            float(np.mean([result.recall_regret == 0 for result in results])),
        )
    head = f"{len(targets)} targets, 39 models, 5 epochs each. {COLUMNS}\n"
    table = _cost_table(rows, _stored_rows())
    return "\n".join([head, *table, "", *_gates(rows), "", *_calibration(matrix)])


def upper_bound(difference: FloatArray) -> float:
    """Upper end of the one-sided 95 % interval of a mean, by bootstrap over targets."""
    drawn = np.random.default_rng(0).integers(0, len(difference), (BOOTSTRAPS, len(difference)))
    return float(np.quantile(difference[drawn].mean(axis=1), 0.95))


def _stored_rows() -> dict[str, str]:
    """Method to its line in the table of the page."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    part = page.partition(f"## {PARTS['replay'][0]}\n")[2].partition("\n## ")[0].splitlines()
    return {name: line for line in part for name in METHODS if line.startswith(f"| {name} |")}


def _cost_table(rows: Mapping[str, Row], stored: Mapping[str, str]) -> list[str]:
    """A line per method; of one that was not played the stored line, if there is one."""
    bases = [name for name in BASES if name in rows]
    lines = [
        "| method | epochs, mean (most) | share of brute force | regret, mean / median "
        + "| best trained "
        + "".join(f"| minus {BASES[name]} (upper 95 %) " for name in bases)
        + "|",
        "| --- " * (5 + len(bases)) + "|",
    ]
    everything = rows["brute force"].epochs.mean()
    for name in METHODS:
        if name not in rows:
            lines += [stored[name]] if name in stored else []
            continue
        row = rows[name]
        cells = [
            name,
            f"{row.epochs.mean():.1f} ({row.epochs.max():g})",
            f"{row.epochs.mean() / everything:.0%}",
            f"{row.regrets.mean():.4f} / {np.median(row.regrets):.4f}",
            f"{row.recalled:.0%}",
        ]
        for base in bases:
            difference = row.regrets - rows[base].regrets
            told = f"{difference.mean():+.4f} ({upper_bound(difference):+.4f})"
            cells.append("" if name == base else told)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _gates(rows: Mapping[str, Row]) -> list[str]:
    lines = []
    for name, limit in LIMITS.items():
        row = rows[name]
        lines.append(
            f"- {name}, most epochs: {row.epochs.max():g}; goal ≤ {limit}: "
            f"{_reached(row.epochs.max() <= limit)}"
        )
        for base in BASES:
            bound = upper_bound(row.regrets - rows[base].regrets)
            lines.append(
                f"- {name}, upper bound against {base}: {bound:+.4f}; goal ≤ {MARGIN}: "
                f"{_reached(bound <= MARGIN)}"
            )
    noise = upper_bound(rows["brute force"].regrets - rows["the paper"].regrets)
    lines.append(
        f"- for comparison: brute force against the paper has the upper bound {noise:+.4f}; that "
        "much of a bound is noise of 20 targets"
    )
    return lines


def _calibration(matrix: PerformanceMatrix) -> list[str]:
    """Error of the predictor and coverage of its 90 % intervals, target by target left out."""
    full = matrix.history().without_tags()
    targets = [name for name in full.datasets if name not in TINY]
    lines = []
    for stage, goal in ERROR_GOALS.items():
        errors = np.concatenate([_errors(full, t, _others(full, t), stage)[0] for t in targets])
        lines.append(
            f"- error of the predicted final score after epoch {stage}: {errors.mean():.3f}; goal "
            f"≤ {goal}: {_reached(errors.mean() <= goal)}"
        )
    draw = np.random.default_rng(0)
    for sets in (None, 3):
        for stage in ERROR_GOALS:
            inside = []
            for target in targets * (1 if sets is None else DRAWS):
                others = _others(full, target)
                if sets is not None:
                    others = draw.choice(others, sets, replace=False).tolist()
                errors, half = _errors(full, target, others, stage)
                inside.append(float(np.mean(errors <= half)))
            found = float(np.mean(inside))
            history = f"{sets or 'all'} history sets"
            head = f"- cover of 90 % intervals, epoch {stage}, {history}: {found:.0%}"
            lines += [
                f"{head}; goal ≥ {COVERAGE[0]:.0%}: {_reached(found >= COVERAGE[0])}",
                f"{head}; goal ≤ {COVERAGE[1]:.0%}: {_reached(found <= COVERAGE[1])}",
            ]
    return lines


def _others(history: History, target: str) -> list[str]:
    return [name for name in history.datasets if name not in (target, *TARGETS_ONLY)]


def _errors(full: History, target: str, sets: list[str], stage: int) -> tuple[FloatArray, float]:
    """Absolute errors of all models on a target, and the half-width of their interval."""
    history = full.with_datasets(sets)
    column = full.curves[:, full.datasets.index(target)]
    seen = {m: row for m, row in zip(full.models, column, strict=True) if not np.isnan(row).any()}
    observed = {(m, e): float(row[e - 1]) for m, row in seen.items() for e in range(1, stage + 1)}
    shown = ShrunkenPredictor.fit(history).predict_for_report(observed, list(seen))
    errors = np.array([abs(shown[model] - row[-1]) for model, row in seen.items()])
    return errors, conformal_halfwidth(history, stage, history.models)


def _reached(good: bool) -> str:
    return "reached" if good else "**missed**"


PARTS: dict[str, tuple[str, Callable[[argparse.Namespace], str]]] = {
    "replay": ("Replay on published curves", replay_part),
}
"""Name → heading of its section, and the function that makes it."""

if __name__ == "__main__":
    raise SystemExit(main())
