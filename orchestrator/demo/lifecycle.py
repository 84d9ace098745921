"""The steps of the demo, each one the job a user would run, told as it happens."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli import JOBS
from orchestrator.config import JobResult, load_config
from orchestrator.continual.results import MATRIX_FILE, StreamEvaluation
from orchestrator.demo.config import DemoConfig, preset
from orchestrator.demo.narrator import Narrator
from orchestrator.zoo import Package, Zoo

if TYPE_CHECKING:
    from orchestrator.demo.traffic import Traffic
    from orchestrator.pretraining.config import PretrainConfig
    from orchestrator.quantization.config import QuantizeConfig
    from orchestrator.selection.results import SelectionReport

MATRIX = "matrix.parquet"


@dataclass
class Lifecycle:
    """Models on their way through the stages; what a later stage needs of an earlier one.

    Attributes:
        config: the demo's config.
        narrator: tells what happens.
        pretrained: the candidates.
        results: the result of each stage's job.
        learned: the package after continual learning.
        quantized: the package that is served.
        traffic: what the HTTP endpoint answered.
    """

    config: DemoConfig
    narrator: Narrator
    pretrained: list[Package] = field(default_factory=list)
    results: dict[str, JobResult] = field(default_factory=dict)
    learned: Package = field(init=False)
    quantized: Package = field(init=False)
    traffic: "Traffic" = field(init=False)

    @property
    def folder(self) -> Path:
        """Where the demo's runs, packages and pages lie."""
        return Path(self.config.run.dir) / self.config.run.name

    @property
    def zoo(self) -> Zoo:
        """The demo's zoo."""
        return Zoo(self.config.run.zoo)

    def job(self, verb: str, name: str, *changes: str) -> Any:
        """Return the config of a stage: its preset, moved into the demo's folder.

        Args:
            verb: the stage's verb.
            name: name of the preset.
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

    def pretrain(self) -> None:
        """Corpus, tokenizer, and the candidates, through Ray Train with DeepSpeed."""
        from orchestrator.pretraining.runner import run_all

        jobs = self.pretraining_jobs()
        tell = self.narrator
        tell.chapter("pretrain", f"Pre-train {len(jobs)} models of different components")
        results = run_all(jobs)
        self.pretrained = [self.zoo.get(str(result.package)) for result in results]
        first = results[0].metrics
        tell.say(
            f"corpus builtin:pydoc: {first['documents']:,} documents, {first['tokens']:,} tokens; "
            f"tokenizer of {jobs[0].data.tokenizer.vocab_size:,} pieces trained on it",
            documents=first["documents"],
            tokens=first["tokens"],
        )
        rows = [
            {
                "package": package.ref,
                "encoder": job.model.encoder.type_name(),
                "target": job.model.target[0].type_name(),
                "engine": _engine(job),
                "steps": result.metrics["steps"],
                "loss": result.metrics["loss"],
                "unigram entropy": result.metrics["unigram_entropy"],
                "seconds": result.metrics["seconds"],
            }
            for job, package, result in zip(jobs, self.pretrained, results, strict=True)
        ]
        tell.table("models", rows)

    def benchmark(self) -> None:
        """Performance matrix of the candidates on the benchmark sets."""
        refs = ", ".join(package.ref for package in self.pretrained)
        matrix = json.dumps(str(self.folder / MATRIX))
        job = self.job("benchmark", self.config.benchmark, f"packages=[{refs}]", f"matrix={matrix}")
        tell = self.narrator
        tell.chapter(
            "benchmark",
            f"Fine-tune them on {len(job.datasets)} benchmark tasks: the performance matrix",
        )
        result = self._run("benchmark", job)
        finals = self.matrix()
        rows = [{"model": model, **scores} for model, scores in finals.items()]
        tell.table("matrix", rows)
        tell.say(
            f"{result.metrics['epochs']} epochs, {result.metrics['steps']:,} optimizer steps",
            epochs=result.metrics["epochs"],
            steps=result.metrics["steps"],
        )

    def matrix(self) -> dict[str, dict[str, float]]:
        """Return the final test scores, model to data set to score."""
        from orchestrator.selection.matrix.files import read_matrix

        table = read_matrix(self.folder / MATRIX).final()
        return {str(model): dict(row) for model, row in table.iterrows()}

    def select(self) -> None:
        """The best candidate for a task that is not in the matrix, at a fraction of the cost."""
        refs = ", ".join(package.ref for package in self.pretrained)
        matrix = json.dumps(str(self.folder / MATRIX))
        job = self.job("select", self.config.select, f"candidates=[{refs}]", f"matrix={matrix}")
        tell = self.narrator
        tell.chapter("select", f"Select the best of them for {job.target.source}")
        result = self._run("select", job)
        report = self.selection()
        ledger = report.ledger
        shown = {"place", "model", "status", "epochs", "reason"}
        tell.table("ranking", [row.model_dump(include=shown) for row in report.ranking])
        tell.say(
            f"cost {ledger.total_epochs:g} epochs ({ledger.steps:,} steps, "
            f"{ledger.proxy_passes} proxy passes) instead of {ledger.brute_force_epochs} "
            f"({ledger.brute_force_steps:,} steps) by brute force: "
            f"{ledger.share_of_brute_force:.0%}",
            **ledger.model_dump(),
        )
        tell.say(
            f"winner {report.winner} → {result.package}: test accuracy "
            f"{report.test_accuracy:.3f}, majority class {report.majority_accuracy:.3f}",
            winner=report.winner,
            package=result.package,
            test_accuracy=report.test_accuracy,
            majority_accuracy=report.majority_accuracy,
        )

    def selection(self) -> "SelectionReport":
        """Return what the selection found."""
        from orchestrator.selection.results import REPORT_NAME, SelectionReport

        return SelectionReport.read(Path(self.results["select"].run_dir) / REPORT_NAME)

    def learn_continually(self) -> None:
        """Two further tasks, one after the other, with the C&F step."""
        winner = self.results["select"].package
        job = self.job("continual", self.config.continual, f"package={winner}")
        tell = self.narrator
        titles = [task.title for task in job.tasks]
        tell.chapter("continual", f"Learn {' then '.join(titles)} with create-and-find flatness")
        result = self._run("continual", job)
        self.learned = self.zoo.get(str(result.package))
        evaluation = self.stream_evaluation()
        rows = [
            {"": f"after {title}", **dict(zip(evaluation.tasks, row, strict=True))}
            for title, row in zip(evaluation.tasks, evaluation.matrix, strict=True)
        ]
        tell.table("accuracy_matrix", rows)
        figures = evaluation.figures
        tell.say(
            f"average accuracy {figures.average_accuracy:.3f}, backward transfer "
            f"{figures.backward_transfer:+.3f} ({evaluation.scenario})",
            package=result.package,
            **figures.model_dump(),
        )

    def stream_evaluation(self) -> StreamEvaluation:
        """Return the accuracy matrix of the learned package."""
        return StreamEvaluation.model_validate(self.learned.read_json(MATRIX_FILE))

    def quantization_job(self) -> "QuantizeConfig":
        """Return the config that quantizes the learned package for its newest task."""
        newest = self.job("continual", self.config.continual).tasks[-1]
        config: QuantizeConfig = self.job(
            "quantize",
            self.config.quantize,
            f"package={self.learned.ref}",
            f"target={newest.title}",
            f"data.source={json.dumps(newest.source)}",
        )
        return config

    def quantize(self) -> None:
        """A per-layer INT8 plan within the accuracy bound, really executed."""
        job = self.quantization_job()
        tell = self.narrator
        bound = job.goal.max_accuracy_drop
        tell.chapter("quantize", f"Quantize {self.learned.ref} within an accuracy drop of {bound}")
        result = self._run("quantize", job)
        self.quantized = self.zoo.get(str(result.package))
        figures: dict[str, Any] = dict(result.metrics)
        plan = figures.pop("plan")
        tell.table("plan", [{"unit": unit, "kind": kind} for unit, kind in plan.items()])
        tell.say(
            f"{figures['integer_units']} of {figures['units']} GEMMs run in INT8; test accuracy "
            f"{figures['accuracy_float']:.4f} → {figures['accuracy']:.4f}; one text "
            f"{figures['latency_torch_ms']:.2f} ms (torch), {figures['latency_float_ms']:.2f} ms "
            f"(float graph) → {figures['latency_ms']:.2f} ms; "
            f"{figures['bytes_float'] / 2**20:.1f} → {figures['bytes'] / 2**20:.1f} MiB",
            package=result.package,
            **figures,
        )

    def serve(self) -> None:
        """The INT8 package behind HTTP with autoscaling, asked with texts it has not seen."""
        from orchestrator.demo.traffic import serve_and_ask

        tell = self.narrator
        tell.chapter("serve", f"Serve {self.quantized.ref} behind HTTP")
        self.traffic = serve_and_ask(self)
        traffic = self.traffic
        for question, answer in traffic.examples:
            tell.say(f"“{question}”\n        → {answer}")
        tell.say(
            f"{traffic.requests} requests at {traffic.url}: {traffic.failures} failed, p50 "
            f"{traffic.quantile(50):.1f} ms, p99 {traffic.quantile(99):.1f} ms, accuracy "
            f"{traffic.accuracy:.3f}; shut down cleanly",
            requests=traffic.requests,
            failures=traffic.failures,
            p50_ms=traffic.quantile(50),
            p99_ms=traffic.quantile(99),
            accuracy=traffic.accuracy,
            answers=[{"text": text, "answer": answer} for text, answer in traffic.examples],
        )

    def _run(self, verb: str, job: Any) -> JobResult:
        result: JobResult = JOBS[verb].load(JOBS[verb].run)(job)
        self.results[verb] = result
        return result


def _engine(job: "PretrainConfig") -> str:
    return f"{job.engine.title}, {job.cluster.workers} workers"
