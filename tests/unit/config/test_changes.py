"""Settings of every stage that may change when a run goes on; rows that may not."""

import json
from typing import get_args

import pytest

from orchestrator.config import StrictModel, validate_config
from orchestrator.config.changes import change_of
from orchestrator.config.job import JobConfig
from orchestrator.continual.config import ContinualConfig
from orchestrator.data.rows.same_rows import require_same_rows
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.demo.config import DemoConfig
from orchestrator.errors import ConfigError, InputError
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.finetuning.evaluating.config import EvaluateConfig
from orchestrator.finetuning.predicting.config import PredictConfig
from orchestrator.pretraining.config import CorpusJobConfig, PretrainConfig
from orchestrator.quantization.config import QuantizeConfig
from orchestrator.selection.config import BenchmarkConfig, SelectConfig
from orchestrator.storage import RunFolder

STAGES = [
    BenchmarkConfig, ContinualConfig, CorpusJobConfig, DemoConfig, EvaluateConfig, FinetuneConfig,
    PredictConfig, PretrainConfig, QuantizeConfig, SelectConfig,
]  # fmt: skip
TASK = {"source": "builtin:pydoc/kind"}
TUNED = {"package": "m", "output": "o", "data": TASK}
JOBS = {
    FinetuneConfig: TUNED,
    ContinualConfig: {"tasks": [TASK]},
    SelectConfig: {"target": TASK, "package": "p"},
    BenchmarkConfig: {"datasets": [TASK]},
    QuantizeConfig: {},
    EvaluateConfig: {"package": "m", "data": TASK},
    PredictConfig: {"package": "m", "input": "x.csv", "output": "y"},
}


def holds(model, path):
    """Return whether a config class has a setting or section of this path."""
    name, _, rest = path.partition(".")
    if name not in model.model_fields:
        return False
    found = list(sections(model.model_fields[name].annotation))
    return not rest or any(holds(each, rest) for each in found)


def sections(annotation):
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        yield annotation
    for each in get_args(annotation):
        yield from sections(each)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_listed_exists(stage):
    assert [path for path in stage.changes if not holds(stage, path)] == []
    assert change_of(stage.changes, "run.dir") is not None


def config(root, stage, **settings):
    run = {"name": "r", "dir": str(root), "zoo": str(root / "zoo")}
    return validate_config(stage, {"run": run, **JOBS[stage], **settings}, "test")


CHANGED = [
    (FinetuneConfig, {"train": {"log_every_steps": 3, "checkpoint_every_steps": 5}}),
    (FinetuneConfig, {"train": {"micro_batch_size": 4, "eval_batch_size": 8}}),
    (FinetuneConfig, {"train": {"hang_timeout_s": 600}, "licence": "MIT", "cache": "x"}),
    (FinetuneConfig, {"engine": {"type": "zero", "zero_stage": 3}}),
    (FinetuneConfig, {"engine": {"activation_checkpointing": True}}),
    (ContinualConfig, {"train": {"micro_batch_size": 4, "log_every_steps": 3}}),
    (ContinualConfig, {"train": {"hang_timeout_s": 600, "checkpoint_every_steps": 5}}),
    (ContinualConfig, {"eval_batch_size": 8, "cache": "x", "engine": {"type": "ddp"}}),
    (SelectConfig, {"fine_tune": {"eval_batch_size": 8}}),
    (BenchmarkConfig, {"fine_tune": {"eval_batch_size": 8}}),
    (QuantizeConfig, {"cache": "x"}),
    (EvaluateConfig, {"threads": 2, "cache": "x"}),
    (PredictConfig, {"threads": 2}),
]


@pytest.mark.parametrize(("stage", "settings"), CHANGED)
def test_what_decides_nothing_may_change_in_every_stage(tmp_path, stage, settings):
    RunFolder.open(config(tmp_path, stage), "s").close()
    with RunFolder.open(config(tmp_path, stage, **settings), "s") as run:
        assert run.changed


REFUSED = [
    (FinetuneConfig, {"train": {"epochs": 9}}, "train.epochs"),
    (FinetuneConfig, {"train": {"global_batch_size": 64}}, "train.global_batch_size"),
    (FinetuneConfig, {"engine": {"precision": "bf16"}}, "engine.precision"),
    (ContinualConfig, {"train": {"max_steps": 9}}, "train.max_steps"),
    (ContinualConfig, {"method": {"preset": "ewc"}}, "method.preset"),
    (SelectConfig, {"fine_tune": {"epochs": 9}}, "fine_tune.epochs"),
    (QuantizeConfig, {"calibration_rows": 9}, "calibration_rows"),
    (EvaluateConfig, {"worst_rows": 9}, "worst_rows"),
    (PredictConfig, {"format": "jsonl"}, "format"),
]


@pytest.mark.parametrize(("stage", "settings", "path"), REFUSED)
def test_what_decides_is_refused_in_every_stage(tmp_path, stage, settings, path):
    RunFolder.open(config(tmp_path, stage), "s").close()
    with pytest.raises(ConfigError) as refused:
        RunFolder.open(config(tmp_path, stage, **settings), "s")
    assert [problem.path for problem in refused.value.problems] == [path]
    assert "Choose another run.name, or set it back" in str(refused.value)
    assert "delete" not in str(refused.value)


def test_other_rows_are_refused_wherever_they_are(tmp_path):
    rows = [{"text": f"row number {n} is {n % 3}", "label": "ab"[n % 2]} for n in range(40)]

    def tasks(rows, name):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        return {"kind": load_task(DatasetSpec(source=f"files:{file}"), tmp_path / "cache")}

    run = {"name": "r", "dir": str(tmp_path / "runs")}
    with RunFolder.open(JobConfig(run=run), "s") as folder:
        for name, same in (("first", rows), ("copy", rows), ("moved", rows[::-1])):
            require_same_rows(folder, tasks(same, name))
        for changed in (
            rows[1:],
            [*rows, {"text": "one more", "label": "a"}],
            [{**rows[0], "label": "b"}, *rows[1:]],
        ):
            with pytest.raises(InputError, match="began with other rows of kind"):
                require_same_rows(folder, tasks(changed, "changed"))
