"""Evaluations beside training on a cluster with room for one more worker."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.support.ray import started_head

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "jobs" / "configs" / "pretrain_bert_nano.yaml"
SMALL = [
    "data.max_documents=200", "data.tokenizer.vocab_size=600", "model.hidden_size=32",
    "model.encoder.num_layers=1", "model.encoder.intermediate_size=64", "train.eval_blocks=64",
    "train.max_steps=60", "train.log_every_steps=1", "train.eval_every_steps=20",
    "train.schedule.warmup_steps=1", "cluster.workers=2", "engine.zero_stage=2",
]  # fmt: skip


@pytest.mark.slow
def test_figures_are_those_of_the_workers_and_arrive_while_they_train(tmp_path):
    curves = {}
    with started_head(3) as head:
        for name in ("inline", "beside"):
            command = (
                sys.executable,
                "-c",
                "import sys; from orchestrator.cli import main; main()",
            )
            places = (f"run.dir={tmp_path}/runs", f"run.zoo={tmp_path}/zoo", f"run.name={name}")
            beside = f"train.eval_beside={str(name == 'beside').lower()}"
            given = ("pretrain", "--config", str(PRESET), *places, f"package.name={name}", beside)
            done = head.run(*command, *given, *SMALL)
            assert done.returncode == 0, done.stderr[-4000:]
            curves[name] = pd.read_parquet(tmp_path / f"zoo/{name}/v0001/history.parquet")
    found, expected = (
        rows[(rows.split == "validation") & (rows.metric != "seconds")]
        .sort_values(["step", "metric"])
        .reset_index()
        for rows in (curves["beside"], curves["inline"])
    )
    assert found[["step", "metric"]].equals(expected[["step", "metric"]])
    assert found.value.tolist() == pytest.approx(expected.value.tolist(), rel=1e-5)
    rows = curves["beside"]
    first = rows[(rows.split == "validation") & (rows.step == 20)].seconds.min()
    assert rows[(rows.split == "train") & (rows.seconds < first)].step.max() > 20
