"""Steps of the demo: each one is the job that a user would run."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.cli import JOBS
from orchestrator.config import JobResult, load_config
from orchestrator.continual.results import MATRIX_FILE, StreamEvaluation, StreamSummary
from orchestrator.demo.config import DemoConfig, preset
from orchestrator.demo.heads import HeadScore, changes, suite_scores, verdict
from orchestrator.demo.narrator import Narrator
from orchestrator.demo.summary import (
    Answered,
    BenchmarkChapter,
    ContinualChapter,
    HeadsChapter,
    MatrixRow,
    PlannedUnit,
    PointsLost,
    PretrainChapter,
    PretrainedModel,
    QuantizeChapter,
    RankedRow,
    ResultChapter,
    SelectChapter,
    ServeChapter,
)
from orchestrator.errors import RefusedError
from orchestrator.pretraining.results import Figures
from orchestrator.quantization.results import QuantizeMetrics
from orchestrator.selection.results import REPORT_NAME, SelectionReport
from orchestrator.zoo import Package, Zoo

if TYPE_CHECKING:
    from orchestrator.demo.traffic import Traffic
    from orchestrator.pretraining.config import PretrainConfig
    from orchestrator.quantization.config import QuantizeConfig

MATRIX: Final = "matrix.parquet"


@dataclass
class Lifecycle:
    """Models on their way through the stages, and what later stages need of earlier ones.

    Attributes:
        config: The demo's config.
        narrator: Prints what happens.
        pretrained: The candidates.
        results: The result of each stage's job.
        selected: The report of the selection.
        learned: The package after continual learning.
        stream: Figures of continual learning.
        quantized: The package that is served.
        metrics: Figures of the quantization.
        scores: What the suites of the packages say of each head.
        traffic: Answers of the HTTP endpoint.
    """

    config: DemoConfig
    narrator: Narrator
    pretrained: list[Package] = field(default_factory=list)
    results: dict[str, JobResult] = field(default_factory=dict)
    selected: SelectionReport = field(init=False)
    learned: Package = field(init=False)
    stream: StreamSummary = field(init=False)
    quantized: Package = field(init=False)
    metrics: QuantizeMetrics = field(init=False)
    scores: tuple[HeadScore, ...] = ()
    traffic: "Traffic" = field(init=False)

    @property
    def folder(self) -> Path:
        """Folder of the demo's runs, packages and pages."""
        return Path(self.config.run.dir) / self.config.run.name

    @property
    def zoo(self) -> Zoo:
        """The demo's zoo."""
        return Zoo(self.config.run.zoo)

    def job(self, verb: str, name: str, *changes: str) -> Any:
        """Return the config of a stage: its preset, moved into the demo's folder.

        Args:
            verb: The stage's verb.
            name: Name of the preset.
            changes: ``a.b=c`` overrides of the demo itself; the user's come after them.
        """
        moved = [
            f"run.dir={json.dumps(str(self.folder))}",
            f"run.zoo={json.dumps(self.config.run.zoo)}",
        ]
        if self.config.cluster.address:
            moved.append(f"cluster.address={json.dumps(self.config.cluster.address)}")
        asked = self.config.overrides.get(verb, ())
        job = JOBS[verb]
        return load_config(job.load(job.config), preset(name), [*moved, *changes, *asked])

    def pretraining_jobs(self) -> "list[PretrainConfig]":
        """Return the configs of the models to pre-train, on one group of workers."""
        workers = f"cluster.workers={self.config.cluster.workers}"
        return [self.job("pretrain", name, workers) for name in self.config.pretrain]

    def pretrain(self) -> PretrainChapter:
        """Corpus, tokenizer, and the candidates, through Ray Train with DeepSpeed."""
        from orchestrator.pretraining.runner import run_all

        jobs = self.pretraining_jobs()
        tell = self.narrator
        tell.chapter(f"Pre-train {len(jobs)} models of different components")
        results = run_all(jobs)
        self.pretrained = [self.zoo.get(str(result.package)) for result in results]
        figures = [Figures.model_validate(result.metrics) for result in results]
        models = tuple(
            PretrainedModel.model_validate(
                {
                    "package": package.ref,
                    "encoder": job.model.encoder.type_name(),
                    "target": job.model.target[0].type_name(),
                    "engine": f"{job.engine.title}, {job.cluster.workers} workers",
                    "steps": found.steps,
                    "loss": found.loss,
                    "unigram entropy": found.unigram_entropy,
                    "seconds": found.seconds,
                }
            )
            for job, package, found in zip(jobs, self.pretrained, figures, strict=True)
        )
        first = figures[0]
        tell.say(
            f"corpus builtin:pydoc: {first.documents:,} documents, {first.tokens:,} tokens; "
            f"tokenizer of {jobs[0].data.tokenizer.vocab_size:,} pieces trained on it"
        )
        rows = [model.model_dump(by_alias=True) for model in models]
        tell.table(list(rows[0]), [list(row.values()) for row in rows])
        return PretrainChapter(documents=first.documents, tokens=first.tokens, models=models)

    def benchmark(self) -> BenchmarkChapter:
        """Performance matrix of the candidates on the benchmark sets."""
        refs = ", ".join(package.ref for package in self.pretrained)
        matrix = json.dumps(str(self.folder / MATRIX))
        job = self.job("benchmark", self.config.benchmark, f"packages=[{refs}]", f"matrix={matrix}")
        tell = self.narrator
        tell.chapter(
            f"Fine-tune them on {len(job.datasets)} benchmark tasks: the performance matrix"
        )
        metrics = self._run("benchmark", job).metrics
        chapter = BenchmarkChapter.model_validate(
            {"matrix": self._matrix(), "epochs": metrics["epochs"], "steps": metrics["steps"]}
        )
        self._tell_matrix(chapter.matrix)
        tell.say(f"{chapter.epochs} epochs, {chapter.steps:,} optimizer steps")
        return chapter

    def _matrix(self) -> list[MatrixRow]:
        """Return the final test scores, one row per model."""
        from orchestrator.selection.matrix.files import read_matrix

        table = read_matrix(self.folder / MATRIX).final()
        return [
            {"model": str(model), **{str(task): float(score) for task, score in row.items()}}
            for model, row in table.iterrows()
        ]

    def _tell_matrix(self, rows: tuple[MatrixRow, ...]) -> None:
        self.narrator.table(list(rows[0]), [list(row.values()) for row in rows])

    def select(self) -> SelectChapter:
        """The best candidate for a task that is not in the matrix, at a fraction of the cost."""
        refs = ", ".join(package.ref for package in self.pretrained)
        matrix = json.dumps(str(self.folder / MATRIX))
        job = self.job("select", self.config.select, f"candidates=[{refs}]", f"matrix={matrix}")
        tell = self.narrator
        tell.chapter(f"Select the best of them for {job.target.source}")
        result = self._run("select", job)
        report = self.selected = SelectionReport.read(Path(result.run_dir) / REPORT_NAME)
        ranking = tuple(
            RankedRow.model_validate(row.model_dump(include=set(RankedRow.model_fields)))
            for row in report.ranking
        )
        tell.table(list(RankedRow.model_fields), [list(dict(row).values()) for row in ranking])
        cost = report.ledger
        tell.say(
            f"cost {cost.total_epochs:g} epochs ({cost.steps:,} steps, "
            f"{cost.proxy_passes} proxy passes) instead of {cost.brute_force_epochs} "
            f"({cost.brute_force_steps:,} steps) by brute force: "
            f"{cost.share_of_brute_force:.0%}"
        )
        majority = report.majority_accuracy
        assert majority is not None  # the target of the demo has classes
        tell.say(
            f"winner {report.winner} → {result.package}: test accuracy "
            f"{report.test_accuracy:.3f}, majority class {majority:.3f}"
        )
        return SelectChapter(
            **dict(cost),
            ranking=ranking,
            winner=report.winner,
            package=str(result.package),
            test_accuracy=report.test_accuracy,
            majority_accuracy=majority,
        )

    def learn_continually(self) -> ContinualChapter:
        """Further tasks, one after the other; the head that was selected is protected."""
        package = f"package={self.results['select'].package}"
        job = self.job("continual", self.config.continual, package)
        tell = self.narrator
        titles = " then ".join(task.title for task in job.tasks)
        tell.chapter(f"Learn {titles} without forgetting {self.selected.target.name}")
        result = self._run("continual", job)
        self.learned = self.zoo.get(str(result.package))
        self.stream = StreamSummary.model_validate(result.metrics)
        evaluation = self.learned.read_model(MATRIX_FILE, StreamEvaluation)
        rows: tuple[MatrixRow, ...] = tuple(
            {"": f"after {title}", **dict(zip(evaluation.tasks, row, strict=True))}
            for title, row in zip(evaluation.tasks, evaluation.matrix, strict=True)
        )
        self._tell_matrix(rows)
        figures = evaluation.figures
        change = figures.backward_transfer
        tell.say(
            f"average accuracy {figures.average_accuracy:.3f}, backward transfer "
            f"{'undefined' if change is None else f'{change:+.3f}'} ({evaluation.scenario})"
        )
        for score in suite_scores("continual", self.learned):
            if score.drop is not None:
                tell.say(
                    f"{score.head}, without its rows: {score.value + score.drop:.3f} → "
                    f"{score.value:.3f} (95 % bound of the fall {score.bound:.3f})"
                )
        return ContinualChapter(**dict(figures), accuracy_matrix=rows, package=str(result.package))

    def quantization_job(self) -> "QuantizeConfig":
        """Return the config that quantizes the learned package for its newest task."""
        newest = self.job("continual", self.config.continual).tasks[-1]
        config: QuantizeConfig = self.job(
            "quantize",
            self.config.quantize,
            f"package={self.learned.ref}",
            f"target={newest.title}",
            f"data={newest.spec.model_dump_json(exclude_defaults=True)}",
        )
        return config

    def quantize(self) -> QuantizeChapter:
        """A per-layer INT8 plan within the accuracy bound, really executed."""
        job = self.quantization_job()
        tell = self.narrator
        bound = job.goal.max_accuracy_drop
        tell.chapter(f"Quantize {self.learned.ref} within an accuracy drop of {bound}")
        result = self._run("quantize", job)
        self.quantized = self.zoo.get(str(result.package))
        found = self.metrics = QuantizeMetrics.model_validate(result.metrics)
        tell.table(("unit", "kind"), list(found.plan.items()))
        assert found.accuracy is not None  # the rows have labels
        assert found.accuracy_float is not None
        tell.say(
            f"{found.integer_units} of {found.units} GEMMs run in INT8; test accuracy "
            f"{found.accuracy_float:.4f} → {found.accuracy:.4f}; one text "
            f"{found.latency_torch_ms:.2f} ms (torch), {found.latency_float_ms:.2f} ms "
            f"(float graph) → {found.latency_ms:.2f} ms; "
            f"{found.bytes_float / 2**20:.1f} → {found.bytes / 2**20:.1f} MiB"
        )
        units = tuple(PlannedUnit(unit=unit, kind=kind) for unit, kind in found.plan.items())
        figures = found.model_dump(exclude={"plan"})
        return QuantizeChapter(**figures, plan=units, package=str(result.package))

    def follow_heads(self) -> HeadsChapter:
        """The suite of every package: each head after each stage."""
        tell = self.narrator
        tell.chapter("The suite of every package: what became of each head")
        stages = {
            "select": self.zoo.get(str(self.results["select"].package)),
            "continual": self.learned,
            "quantize": self.quantized,
        }
        scores = self.scores = tuple(
            score for stage, package in stages.items() for score in suite_scores(stage, package)
        )
        tell.table(
            ("after", "head", "accuracy", "95 % interval", "fall", "95 % bound", "rows"),
            [
                (s.stage, s.head, s.value, f"{s.low:.3f} – {s.high:.3f}", s.drop, s.bound, s.rows)
                for s in scores
            ],
        )
        bound = self.config.max_drop
        verdicts = tuple(verdict(change, bound) for change in changes(scores))
        for sentence in verdicts:
            tell.say(sentence)
        return HeadsChapter(scores=scores, max_drop=bound, verdicts=verdicts)

    def serve(self) -> ServeChapter:
        """The INT8 package behind HTTP with autoscaling, asked with texts it has not seen."""
        from orchestrator.demo.traffic import serve_and_ask

        tell = self.narrator
        tell.chapter(f"Serve {self.quantized.ref} behind HTTP")
        traffic = self.traffic = serve_and_ask(self)
        for question, answer, label in traffic.examples:
            tell.say(f"“{question}”\n        → {answer}; right: {label}")
        chapter = ServeChapter(
            requests=traffic.requests,
            failures=traffic.failures,
            p50_ms=traffic.quantile(50),
            p99_ms=traffic.quantile(99),
            accuracy=traffic.accuracy,
            answers=tuple(
                Answered(text=text, answer=answer, label=label)
                for text, answer, label in traffic.examples
            ),
        )
        tell.say(
            f"{chapter.requests} requests at {traffic.url}: {chapter.failures} failed, p50 "
            f"{chapter.p50_ms:.1f} ms, p99 {chapter.p99_ms:.1f} ms, accuracy "
            f"{chapter.accuracy:.3f}; shut down cleanly"
        )
        return chapter

    def finish(self) -> ResultChapter:
        """Duration, and the accuracy that the stages after the selection have lost."""
        tell = self.narrator
        tell.chapter("Where everything is")
        lost = PointsLost.of(self.scores, self.stream.unwatched_heads)
        tell.say(lost.sentence())
        return ResultChapter(seconds=round(tell.seconds(), 1), points_lost=lost)

    def _run(self, verb: str, job: Any) -> JobResult:
        result: JobResult
        try:
            result = JOBS[verb].load(JOBS[verb].run)(job)
        except RefusedError as refused:  # the package is in the zoo; the demo goes on to show it
            self.narrator.say(str(refused))
            result = JobResult.model_validate(refused.result)
        self.results[verb] = result
        return result
