"""Every job that is refused for its input leaves no run behind, and its name stays free."""

import json
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.cluster import session
from orchestrator.zoo import Zoo
from tests.support.packages import LABELS, SENTENCES, commit_tiny

ROOT = Path(__file__).parents[2]
GONE = "files:gone.jsonl"
JOBS = {
    "pretrain": ("pretrain_bert_nano", [f"data.data.source={GONE}"]),
    "corpus": ("corpus_pydoc", [f"data.data.source={GONE}"]),
    "finetune": ("finetune_pydoc", ["package=tiny", f"data.source={GONE}"]),
    "evaluate": ("evaluate_pydoc", ["package=tiny", f"data.source={GONE}"]),
    "predict": ("predict_files", ["package=tiny", "input=gone.jsonl"]),
    "benchmark": ("benchmark_pydoc", ["packages=[none]"]),
    "select": ("select_pydoc", ["candidates=[tiny]", "matrix=matrix.csv", f"target.source={GONE}"]),
    "continual": ("continual_pydoc", ["package=tiny", f"tasks.1={{name: b, source: {GONE}}}"]),
    "quantize": ("quantize_pydoc", ["package=tiny", "target=topic", f"data.source={GONE}"]),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(session, "_private_ray", None)
    monkeypatch.chdir(tmp_path)
    commit_tiny(Zoo(tmp_path / "zoo"))
    rows = [{"text": SENTENCES[i % 6], "label": LABELS[i % 3]} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "matrix.csv").write_text("model,dataset,score\ntiny/v0001,d,0.5\n")
    return tmp_path


@pytest.mark.parametrize("job", JOBS)
def test_a_refused_job_leaves_no_run_and_its_name_free(place, capsys, job):
    config, wrong = JOBS[job]
    command = [job, "--config", str(ROOT / f"jobs/configs/{config}.yaml"), "run.name=mine"]
    command += ["run.dir=runs", "run.zoo=zoo", *wrong]
    for seed in (1, 2):  # the second one would be refused by what the first one left
        assert main([*command, f"seed={seed}"]) == 2
        shown = capsys.readouterr().err
        assert "gone" in shown or "none" in shown
        assert not (place / "runs" / "mine").exists()
