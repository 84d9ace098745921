"""Every preset of fine-tuning, evaluate, predict and generate: described, and trained an epoch."""

import json
import re
import tempfile
from pathlib import Path

import pytest

from orchestrator.config import load_config
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import InputError
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.finetuning.evaluating import runner as evaluate_runner
from orchestrator.finetuning.evaluating.config import EvaluateConfig
from orchestrator.finetuning.generating import runner as generate_runner
from orchestrator.finetuning.generating.config import GenerateConfig
from orchestrator.finetuning.inputs import resolve
from orchestrator.finetuning.plan import describe
from orchestrator.finetuning.predicting import runner as predict_runner
from orchestrator.finetuning.predicting.config import PredictConfig
from orchestrator.training.finetune import finetune_model
from orchestrator.training.finetune.finetuner import FineTuner
from orchestrator.zoo import Zoo
from tests.support.every_task import Case, commit, data_of
from tests.support.lessons import commit_encoder, learn, run_here
from tests.support.streams import make_place

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "jobs/configs"
PRESETS = sorted(CONFIGS.glob("finetune_*.yaml"))
ROWS = {
    "finetune_tags": Case("tags", "tags"),
    "finetune_regression": Case("regression", "regression", modality="pair"),
    "finetune_question_answering": Case("question_answering", "question_answering"),
    "finetune_multiple_choice": Case("multiple_choice", "multiple_choice"),
    "finetune_text_to_text": Case("generation", "generation"),
    "finetune_siamese": Case("similarity", "similarity", modality="pair"),
    "finetune_simcse": Case("similarity", "similarity", modality="pair"),
}
"""Presets for a file of the user's, and the rows that stand for it."""
SMALLER = ("train.max_train_rows=64", "train.max_eval_rows=64")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A zoo with what the presets name: an encoder that knows docstrings, and a teacher."""
    place = make_place(tmp_path_factory.mktemp("place"))
    data = load_task(DatasetSpec(source="builtin:pydoc/kind", max_rows=400))
    words = [*data.train.texts, *(f"{name} " * 50 for name in data.label_names)]
    commit_encoder(place, "encoder", layers=1, width=16, words=words, vocab_size=1200)
    commit(Zoo(place / "zoo"), Case("generation", "generation"), None, "writer")
    teacher = CONFIGS / "finetune_pydoc.yaml"
    run_here(load_config(FinetuneConfig, teacher, [*runs(place), "train.epochs=1", *SMALLER]))
    return place


def runs(place):
    return [f"run.zoo={place}/zoo", f"run.dir={place}/runs"]


def rows_of(preset, place):
    """Return the overrides that give a preset its rows, and a package that knows their words."""
    case = ROWS.get(preset.stem)
    if case is None:
        return []
    folder = Path(tempfile.mkdtemp(prefix=preset.stem, dir=place))
    if case.name != "generation":
        commit(Zoo(place / "zoo"), case, None, preset.stem)
    source = data_of(case, folder).source
    if preset.stem == "finetune_simcse":  # pairs without scores belong together
        path = Path(source.removeprefix("files:"))
        pairs = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{json.dumps({**row, 'score': 1})}\n" for row in pairs))
    package = "writer" if case.name == "generation" else preset.stem
    return [f"data.source={source}", "data.validation_fraction=0.2", f"package={package}"]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_described_and_trains(preset, place, tmp_path):
    own = load_config(FinetuneConfig, preset, [])
    epochs = [] if own.search else ["train.epochs=1"]
    overrides = [*runs(place), *SMALLER, *epochs, *rows_of(preset, place)]
    config = load_config(FinetuneConfig, preset, overrides)
    assert config.run.name == f"finetune-{config.output}"
    text = describe(resolve(config, Zoo(config.run.zoo).get(config.package)))
    for lesson in config.lessons:
        kind = "classification" if lesson.task is None else lesson.task.type_name()
        assert re.search(rf"task [\w-]+ +{kind} ", text)
    assert "steps of" in text
    summary, _ = learn(config, tmp_path)
    assert summary.steps == config.train.epochs * summary.steps_per_epoch
    assert len(summary.trials) == (4 if config.train.learning_rate == "auto" else 0)


@pytest.mark.parametrize("name", ["evaluate_pydoc", "evaluate_zero_shot"])
def test_presets_of_evaluate(place, name):
    config = load_config(EvaluateConfig, CONFIGS / f"{name}.yaml", runs(place))
    assert "(classification) on " in evaluate_runner.check(config)


def test_the_preset_of_predict(place, tmp_path):
    (tmp_path / "texts.csv").write_text("text\nReturn the sum\nA queue\n")
    files = [f"input={tmp_path}/*.csv", f"output={tmp_path}/out"]
    config = load_config(PredictConfig, CONFIGS / "predict_files.yaml", [*runs(place), *files])
    assert "stdlib-area/v0001" in predict_runner.check(config)


def test_the_preset_of_generate(place):
    config = load_config(GenerateConfig, CONFIGS / "generate_text.yaml", runs(place))
    assert "writer/v0001" in generate_runner.check(config)


def test_the_page_names_every_preset():
    page = (ROOT / "docs/finetuning.md").read_text(encoding="utf-8")
    others = [*CONFIGS.glob("evaluate_*"), *CONFIGS.glob("predict_*"), *CONFIGS.glob("generate_*")]
    assert not [path.name for path in [*PRESETS, *others] if path.name not in page]


def test_a_named_head_is_not_replaced_by_the_packages_own(place):
    preset = CONFIGS / "finetune_text_to_text.yaml"
    overrides = [*runs(place), *rows_of(preset, place), "head=mine"]
    config = load_config(FinetuneConfig, preset, overrides)
    with pytest.raises(InputError, match="head 'mine': generation continues the package's own"):
        resolve(config, Zoo(config.run.zoo).get(config.package))


def test_the_plan_has_the_passes_that_the_trainer_takes(place, monkeypatch):
    preset = CONFIGS / "finetune_regression.yaml"
    overrides = [*runs(place), *SMALLER, *rows_of(preset, place), "train.global_batch_size=16"]
    config = load_config(FinetuneConfig, preset, overrides)
    inputs = resolve(config, Zoo(config.run.zoo).get(config.package))
    assert "micro-batches of 16" in describe(inputs)
    monkeypatch.setattr(finetune_model, "COSTLY_WEIGHTS", 1)
    assert "micro-batches of 8" in describe(inputs)
    options = config.train.with_rate(1e-3)
    tuner = FineTuner(Path(inputs.package.path), inputs.lessons, options)
    assert tuner.data.micro_batch_size == 8
