"""The demo: every step is the job that a user would submit, with its preset and its zoo."""

from contextlib import ExitStack
from pathlib import Path

from orchestrator.config import JobResult
from orchestrator.continual.results import MATRIX_FILE, StreamEvaluation
from orchestrator.demo.config import DemoConfig
from orchestrator.demo.lifecycle import Lifecycle
from orchestrator.demo.narrator import Narrator
from orchestrator.demo.summary import DemoSummary, HeadsChapter
from orchestrator.report import figures, sections
from orchestrator.report.page import Page, Section, Table
from orchestrator.report.precision import quantization_section
from orchestrator.report.selection import performance_matrix, selection
from orchestrator.storage import RunFolder, atomic_write_text

STAGE = "demo"
SUMMARY, REPORT = "summary.json", "report.html"


def check(config: DemoConfig) -> str:
    """Return the ``--check`` text of every job of the demo that needs no package yet."""
    from orchestrator.pretraining.runner import check as check_pretraining

    life = Lifecycle(config, Narrator())
    return "\n\n".join(check_pretraining(job) for job in life.pretraining_jobs())


def run(config: DemoConfig) -> JobResult:
    """Carry models through their whole life; a second call repeats only the serving.

    Raises:
        InputError: Not enough CPUs, or a busy port.
        InterruptedRunError: Stopped; the same command continues.
    """
    from orchestrator.cluster.session import session_for

    narrator = Narrator()
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.open(config, STAGE))
        life = Lifecycle(config, narrator)
        stack.enter_context(session_for(config.cluster))
        summary = DemoSummary(
            pretrain=life.pretrain(),
            benchmark=life.benchmark(),
            select=life.select(),
            continual=life.learn_continually(),
            quantize=life.quantize(),
            heads=life.follow_heads(),
            serve=life.serve(),
            result=life.finish(),
        )
        _write(folder.path, life, summary)
    return JobResult(
        package=life.quantized.ref,
        metrics={"seconds": summary.result.seconds, "report": str(folder.path / REPORT)},
        run_dir=str(folder.path),
    )


def _write(folder: Path, life: Lifecycle, summary: DemoSummary) -> None:
    """Write the page and the figures, and print where everything is."""
    atomic_write_text(folder / REPORT, report(life, summary).html())
    atomic_write_text(folder / SUMMARY, summary.model_dump_json(by_alias=True, indent=2) + "\n")
    narrator = life.narrator
    narrator.say(f"packages   {life.config.run.zoo}   (orchestrator zoo list --zoo …)")
    narrator.say(f"report     {folder / REPORT}")
    narrator.say(f"figures    {folder / SUMMARY}")
    narrator.say(f"served     {life.quantized.ref} in {narrator.seconds():.0f} s altogether")


def report(life: Lifecycle, summary: DemoSummary) -> Page:
    """Return the page: curves, matrix, bracket, accuracy matrix, Pareto front, latencies."""
    traffic, models = life.traffic, summary.pretrain.models
    histories = {each.name: each.history() for each in life.pretrained}
    missing = [name for name, history in histories.items() if history is None]
    rows = [model.model_dump(by_alias=True) for model in models]
    quantized = summary.quantize
    return Page(
        title="The whole life of a model",
        subtitle=f"{life.quantized.ref}, from a corpus to an HTTP answer on this machine",
        facts={
            "models pre-trained": str(len(models)),
            "of brute force's cost": f"{summary.select.share_of_brute_force:.0%}",
            "test accuracy of the winner": f"{life.selected.test_accuracy:.3f}",
            "GEMMs in INT8": f"{quantized.integer_units} of {quantized.units}",
            "HTTP p99": f"{summary.serve.p99_ms:.1f} ms",
        },
        sections=[
            sections.pretraining(
                {name: history for name, history in histories.items() if history is not None},
                models[0].unigram_entropy,
                Table(tuple(rows[0]), tuple(tuple(row.values()) for row in rows)),
            ),
            performance_matrix(life.selected),
            selection(life.selected),
            sections.continual(life.learned.read_model(MATRIX_FILE, StreamEvaluation)),
            quantization_section(life.quantized),
            heads_section(summary.heads),
            sections.serving(traffic.latencies_ms, traffic.failures, traffic.examples),
        ],
        notes=[
            *(
                f"{package.ref} was refused: {'; '.join(package.manifest.reasons)}"
                for package in (life.learned, life.quantized)
                if package.rejected
            ),
            *summary.heads.verdicts,
            summary.result.points_lost.sentence(),
            *(f"{name} has no history: its curve is missing." for name in missing),
        ],
    )


def heads_section(chapter: HeadsChapter) -> Section:
    """Return what became of every head along the life."""
    heads = list(dict.fromkeys(score.head for score in chapter.scores))
    stages = list(dict.fromkeys(score.stage for score in chapter.scores))
    values = {(score.stage, score.head): score.value for score in chapter.scores}
    rows = tuple(
        (s.package, s.head, s.value, f"{s.low:.3f} – {s.high:.3f}", s.drop, s.bound, s.rows)
        for s in chapter.scores
    )
    return Section(
        "Every head after every stage",
        "Accuracy on the test rows of each head's task, measured on the committed package, with "
        "its 95 % interval, and how far it fell against the package before it on the same rows "
        "(negative: it rose).",
        (
            figures.accuracy_matrix(
                [[values.get((stage, head)) for head in heads] for stage in stages],
                heads,
                [f"after {stage}" for stage in stages],
            ),
            Table(
                ("package", "head", "accuracy", "95 % interval", "fall", "95 % bound", "rows"), rows
            ),
        ),
    )
