"""The figures of a finished run, in its package and on its report page."""

import math

from orchestrator.pretraining.results import figures_of
from orchestrator.pretraining.worker import EXPORT, pretrain
from orchestrator.report import sections
from orchestrator.training.engines.torch_engines import SingleEngine
from orchestrator.training.history import History
from orchestrator.training.metrics import StepMetrics


def test_a_skipped_step_is_told_though_the_run_was_interrupted_after_it(
    alone, make_job, tmp_path, monkeypatch
):
    passes, calls = SingleEngine.forward_backward, []

    def second_is_infinite(engine, micro_batches, extra=None):
        calls.append(engine)
        metrics = passes(engine, micro_batches, extra)
        return StepMetrics(metrics, {"loss": math.inf}) if len(calls) == 2 else metrics

    monkeypatch.setattr(SingleEngine, "forward_backward", second_is_infinite)
    folder = tmp_path / "run"
    alone.stop_after[:] = [4]
    assert pretrain(alone.within(folder), make_job(run_dir=folder)).stopped
    alone.stop_after.clear()
    summary = pretrain(alone.within(folder), make_job(run_dir=folder))
    assert (summary.skipped_steps, summary.rollbacks) == (1, 0)

    history = History.from_parquet(folder / EXPORT / "history.parquet").frame()
    figures = figures_of(summary, ["mlm"], chooses=True, documents=120, tokens=0)
    page = sections.training(history, figures)
    chart, table = page.blocks
    assert chart.svg.startswith("<svg")
    assert dict(table.rows)["steps skipped (a loss or gradient was not finite)"] == 1
