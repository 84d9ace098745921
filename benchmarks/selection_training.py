"""Selection with real training: cost and result against brute force, ASHA and HyperBand.

The candidates are tiny encoders of different corpora and components, pre-trained here. The targets
are real texts, images and sounds. Every candidate is trained once by the code of the product's
trials on every target, with each seed and learning rate; each method is then played on the recorded
curves: the product's own plan, proxies (really computed), recall and bracket, and the schedulers
of Ray Tune. A whole `select` job per modality, on a cluster, shows that it decides as the records
say.

Run: `python benchmarks/selection_training.py --work FOLDER [--data DATA] [--write]`. DATA has the
public sets. What FOLDER has already is not done again: a stopped run goes on. `--write` puts
the section into selection.md (about 20 CPU minutes).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import torch
from peers.played_methods import (
    BASELINES,
    Curves,
    Outcome,
    Outcomes,
    play_baselines,
    play_two_phase,
)
from peers.real_data import HISTORY, LARGE, OTHERS, TARGETS, corpora, history, target_rows
from peers.recorded_trials import RateChoice, Records
from peers.tiny_zoo import RECIPES, WIDTH, make_zoo
from peers.training_page import BRUTE, HEADING, OURS, Case, goal_found, others, section
from peers.whole_jobs import import_minilm, run_job
from selection import DATA as PUBLISHED
from selection import PAGE, TITLE, with_section

from orchestrator.selection.benchmark_runner import complete_matrix, plan_benchmark
from orchestrator.selection.config import BenchmarkConfig, SelectConfig
from orchestrator.selection.matrix.files import write_matrix
from orchestrator.selection.planning import SelectionPlan, plan_selection
from orchestrator.selection.replay.methods import THROUGH_TUNE
from orchestrator.selection.results import ProxyScore
from orchestrator.selection.scores.features import ProxyPayload
from orchestrator.selection.trials.fine_tuning import FineTuneTrial, TrialPayload
from orchestrator.selection.trials.journal import Journal
from orchestrator.training.config import FineTuneConfig
from orchestrator.zoo import Zoo

DATA: Final = PUBLISHED.parents[1]
EPOCHS: Final = 5
RATES: Final = (1e-3, 3e-3, 1e-2)
SEEDS: Final = (0, 1, 2)
USUAL: Final = tuple(name for name in TARGETS if name != LARGE)
WHOLE: Final = "two_phase, a whole epoch for every rate"
FINE_TUNE: Final = FineTuneConfig(epochs=EPOCHS, max_length=32, learning_rate=2e-3)
"""Of the history, at the product's default rate of narrow models."""
AT_ONCE: Final = 3
"""Cases that one Ray plays; then they are stored."""


class Bench:
    """Work folder, data, and everything that is recorded.

    Args:
        work: Folder of what is done.
        data: Folder of the public sets.
        targets: Names of the targets.
    """

    def __init__(self, work: Path, data: Path, targets: tuple[str, ...]) -> None:
        self.work, self.data, self.targets = work, data, targets
        self.records = Records(work / "records.jsonl")

    def prepare(self) -> None:
        """Pre-train the zoo, and measure its history on other texts."""
        make_zoo(self.work, corpora(self.work / "data", self.data))
        config = BenchmarkConfig.model_validate(
            {
                "run": self._run("history"),
                "packages": [name for name in RECIPES if RECIPES[name].parts[0] == "word"],
                "datasets": [
                    {"source": s} for s in history(self.work / "data", self.data).values()
                ],
                "fine_tune": FINE_TUNE.model_dump(),
                "matrix": str(self.matrix),
            }
        )
        if self.matrix.is_file():
            return
        plan, journal = plan_benchmark(config), Journal(self.work / "history.jsonl")
        for number, cell in enumerate(plan.cells):
            trial = FineTuneTrial(
                TrialPayload(
                    trial=cell.trial,
                    package=cell.package,
                    zoo=plan.zoo,
                    task=cell.spec,
                    asked=cell.asked,
                    fine_tune=FINE_TUNE,
                    seed=config.seed,
                    state=str(self.work / "states" / f"history-{number}"),
                )
            )
            while not trial.done and len(journal.of(cell.trial)) < EPOCHS:
                journal.append(trial.step().journal_row())
            say(f"history: {cell.trial}")
        write_matrix(complete_matrix(plan, journal, EPOCHS), self.matrix)

    @property
    def matrix(self) -> Path:
        """File of the performance matrix."""
        return self.work / "matrix.parquet"

    def _run(self, name: str) -> dict[str, Any]:
        return {"name": name, "dir": str(self.work / "runs"), "zoo": str(self.work / "zoo")}

    def config(self, target: str, seed: int, **more: Any) -> SelectConfig:
        """The select job of one target and seed."""
        name = f"{target}-{seed}"
        return SelectConfig.model_validate(
            {
                "run": self._run(f"select-{name}"),
                "seed": seed,
                "task": TARGETS[target].task,
                "target": {"source": target_rows(self.work / "data", self.data, target, seed)},
                "matrix": str(self.matrix),
                "candidates": list(RECIPES),
                "fine_tune": FINE_TUNE.model_dump(),
                "salvage": False,
                "package": name,
                **more,
            }
        )

    @cache  # noqa: B019 - one bench per process; a plan reads all rows of its target
    def plan(self, target: str, seed: int) -> SelectionPlan:
        """The plan of the select job of one target and seed."""
        return plan_selection(self.config(target, seed))

    def curves(self, target: str, seed: int) -> Curves:
        """Every candidate of the target's modality at every rate; trains what is not recorded."""
        config = self.config(target, seed)
        found, plan = {}, self.plan(target, seed)
        for package in plan.packages:
            for rate in RATES:
                key = f"{target}-{seed} {package} {rate:g}"
                curve = self.records.curve(key, self._payload(config, plan, package, rate))
                say(f"{key}: {curve.error or f'{curve.validation[-1]:.3f}'}")
                if not curve.error:
                    found[package, rate] = curve
        return found

    def rows(self, target: str, seed: int) -> Path:
        """Folder of the scores per validation row, a folder for each rate below it."""
        return self.work / "rows" / f"{target}-{seed}"

    def _payload(
        self, config: SelectConfig, plan: SelectionPlan, package: str, rate: float
    ) -> TrialPayload:
        return TrialPayload(
            trial=package,
            package=package,
            zoo=config.run.zoo,
            task=config.target,
            asked=plan.asked,
            fine_tune=FINE_TUNE.model_copy(update={"learning_rate": rate}),
            seed=config.seed,
            state=str(self.work / "states" / config.package),
            row_scores=str(self.work / "rows" / config.package / f"{rate:g}"),
        )

    def choose(self, target: str, seed: int, package: str) -> RateChoice:
        """The learning rate of a candidate as the first rung of `select` chooses it."""
        config = self.config(target, seed)
        payload = self._payload(config, self.plan(target, seed), package, RATES[0])
        return self.records.choice(f"{target}-{seed} {package} rate", payload, RATES)

    def score(self, target: str, seed: int, package: str) -> tuple[ProxyScore, float]:
        """Proxy scores of a candidate as `select` computes them, and their CPU seconds."""
        config = self.config(target, seed)
        plan = self.plan(target, seed)
        payload = ProxyPayload(
            package=package,
            zoo=config.run.zoo,
            task=config.target,
            asked=plan.asked,
            proxies=plan.proxies,
            rows=config.recall.max_proxy_rows,
            max_length=config.fine_tune.max_length,
            seed=seed,
        )
        return self.records.proxy(f"{target}-{seed} {package} proxy", payload)

    def cases(self) -> Iterator[tuple[str, int]]:
        """Every target with every seed, one seed of all targets after the other."""
        every = ((target, seed) for seed in SEEDS for target in self.targets)
        return ((target, seed) for target, seed in every if not seed or target not in OTHERS)


def play(
    bench: Bench, curves: Mapping[Case, Curves], *, with_tune: bool
) -> dict[str, dict[Case, Outcome]]:
    """Play every method on the recorded trials.

    Args:
        bench: What is recorded.
        curves: Case to all of its curves.
        with_tune: Start Tune for cases that it has not played; else they are left out.
    """
    found: dict[str, dict[Case, Outcome]] = {OURS: {}, WHOLE: {}}
    for case, each in curves.items():
        config, score = bench.config(*case), partial(bench.score, *case)
        for method, choose in ((OURS, partial(bench.choose, *case)), (WHOLE, None)):
            rows, plan = bench.rows(*case), bench.plan(*case)
            outcome = play_two_phase(config, plan, each, score, rows, choose)
            found[method][case] = outcome
    names = {f"{target}-{seed}": (target, seed) for target, seed in curves}
    for title, method in BASELINES.items():
        say(f"{title} ...")
        stored = Outcomes(bench.work / f"{method}.json")
        known = stored.of if method in THROUGH_TUNE else {}
        missing = [name for name in names if name not in known]
        while missing and (with_tune or method not in THROUGH_TUNE):
            part, missing = missing[:AT_ONCE], missing[AT_ONCE:]
            stored.add(play_baselines({name: curves[names[name]] for name in part}, method))
        found[title] = {c: stored.of[name] for name, c in names.items() if name in stored.of}
    for case, outcome in found[BRUTE].items():
        plan = bench.plan(*case)
        notes = f"{len(plan.packages)} ({len(plan.failed)} left out)"
        found[BRUTE][case] = outcome.model_copy(update={"notes": notes})
    return found


def jobs(bench: Bench, curves: Mapping[Case, Curves], *, start: bool) -> list[str]:
    """Whole jobs at one learning rate: one per modality and kind of task."""
    lines = [
        "| select | chosen: job, records | test: job, records | steps: job, records | "
        "seconds: job, records | wall, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    kinds = {
        (TARGETS[n].modality, TARGETS[n].task): n
        for n in reversed(bench.targets)
        if n not in OTHERS
    }
    one = FINE_TUNE.model_copy(update={"learning_rate": RATES[1]}).model_dump()
    for target in kinds.values():
        config, case = bench.config(target, 0, fine_tune=one), (target, 0)
        job = run_job(config, bench.work / "jobs", start=start)
        if job is None:
            continue
        same = {arm: curve for arm, curve in curves[case].items() if arm[1] == RATES[1]}
        score, rows = partial(bench.score, *case), bench.rows(*case)
        played = play_two_phase(config, bench.plan(*case), same, score, rows, None)
        lines.append(
            f"| {target} | {job.winner}, {played.winner[0]} | {job.test:.3f}, {played.test:.3f} "
            f"| {job.steps}, {played.steps} | {job.seconds:.0f}, {played.seconds:.0f} "
            f"| {job.wall:.0f} |"
        )
    return [*lines, ""] if len(lines) > 2 else []


def minilm(bench: Bench, *, start: bool) -> list[str]:
    """A job with a published checkpoint among the candidates, each at the rate of the rule."""
    name = import_minilm(Zoo(bench.work / "zoo"))
    rule = FINE_TUNE.model_copy(update={"learning_rate": None}).model_dump()
    config = bench.config(LARGE, 0, candidates=[*RECIPES, name], fine_tune=rule)
    job = run_job(config, bench.work / "jobs", start=start)
    if job is None:
        return []
    places = [place for place, model in enumerate(job.recalled, 1) if model.startswith(name)]
    place = f"place {places[0] if places else 'none'} of the {len(job.recalled)} recalled"
    curves = {model: curve for model, curve in job.curves.items() if curve}
    firsts = sorted(curves, key=lambda model: -curves[model][0])
    shown = ", ".join(f"{m} {' '.join(f'{v:.3f}' for v in curves[m])}" for m in firsts[:4])
    return [
        f"With all-MiniLM-L6-v2 among {job.candidates} candidates, each at the rate of the "
        f"product's rule, {TARGETS[LARGE].rows[0]} rows of trec: {place}; chosen: {job.winner}, "
        f"test {job.test:.3f}.",
        f"Validation by epoch, the four best after the first: {shown}.",
        "",
        goal_found(job.winner.startswith(name)),
    ]


def facts_of(bench: Bench, found: Mapping[str, Mapping[Case, Outcome]]) -> list[str]:
    """Paragraphs on the zoo, the history, the targets and what was left out."""
    reasons = {reason for case in found[BRUTE] for reason in bench.plan(*case).failed.values()}
    names, rows = dict.fromkeys(name for name, _ in found[BRUTE]), TARGETS[bench.targets[0]].rows
    return [
        f"Zoo: {len(RECIPES)} encoders of width {WIDTH}, pre-trained on "
        f"{len({recipe.corpus for recipe in RECIPES.values()})} corpora: {', '.join(RECIPES)}. "
        f"History: the text encoders on {', '.join(HISTORY)}; none for images and sounds.",
        f"Targets: {', '.join(names)}, {len(SEEDS)} seeds; {rows[0]} training rows "
        f"of a text; {EPOCHS} epochs; learning rates {', '.join(f'{rate:g}' for rate in RATES)}.",
        f"Left out at no cost, as their config says: {'; '.join(sorted(reasons))}.",
    ]


def say(text: str) -> None:
    """Tell on stderr what is done."""
    sys.stderr.write(f"{text}\n")


def main() -> int:
    """Record what is missing, play every method, and write the section if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of what is done")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public sets")
    parser.add_argument("--targets", nargs="+", choices=USUAL, default=USUAL)
    parser.add_argument("--until", choices=("zoo", "records"), help="stop after this part")
    parser.add_argument("--without-tune", action="store_true", help="start no ASHA, no HyperBand")
    parser.add_argument("--without-jobs", action="store_true", help="start no whole jobs")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.work.absolute(), options.data.absolute(), tuple(options.targets))
    bench.prepare()
    if options.until == "zoo":
        return 0
    curves = {case: bench.curves(*case) for case in bench.cases()}
    for case in curves:
        for package in bench.plan(*case).to_score:
            bench.score(*case, package)
    if options.until == "records":
        return 0
    apart = {case: curves.pop(case) for case in list(curves) if case[0] in OTHERS}
    found = play(bench, curves, with_tune=not options.without_tune)
    starts = not options.without_jobs
    whole = [*jobs(bench, curves, start=starts), *minilm(bench, start=starts)]
    check = others(play(bench, apart, with_tune=False)) if apart else []
    text = section(found, facts_of(bench, found), [*check, *whole])
    sys.stdout.write(f"## {HEADING}\n\n{text}\n")
    if options.write:
        old = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else TITLE
        PAGE.write_text(with_section(old, HEADING, text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
