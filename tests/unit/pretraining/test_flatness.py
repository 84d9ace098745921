"""`train.flatness` in the run, its checkpoints, its package, and whoever reads that."""

import json
import math
import shutil
from argparse import Namespace
from io import StringIO

import pandas as pd
import pytest
from safetensors.torch import load_file

from orchestrator.config import load_config
from orchestrator.continual.config import ContinualConfig
from orchestrator.continual.plan import describe
from orchestrator.errors import ConfigError, IntegrityError
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.pretraining import runner
from orchestrator.pretraining.results import Interrupted
from orchestrator.pretraining.worker import EXPORT, pretrain
from orchestrator.report.pages import package_page
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo
from orchestrator.zoo.card import CARD_NAME
from orchestrator.zoo.cli import show_package
from orchestrator.zoo.flatness import FLATNESS_FILE, Flatness, read_flatness

FLAT = "train.flatness={rho: 0.3, last_fraction: 0.5}"  # the last 3 of 6 steps


def curve(folder, metric):
    frame = pd.read_parquet(folder / EXPORT / "history.parquet")
    found = frame[(frame.metric == metric) & (frame.split == "train")]
    return dict(zip(found.step, found.value, strict=True))


def weights(folder):
    tensors = load_file(folder / EXPORT / "model.safetensors")
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


@pytest.fixture
def trained(alone, make_job, tmp_path):
    def run(name, *overrides):
        folder = tmp_path / name
        pretrain(alone.within(folder), make_job(*overrides, run_dir=folder))
        return folder

    return run


def test_no_radius_is_no_flatness_bit_for_bit(trained):
    plain, none = trained("plain"), trained("none", "train.flatness={rho: 0, last_fraction: 0.5}")
    assert weights(plain) == weights(none)
    assert curve(plain, "loss") == curve(none, "loss")
    assert not (none / EXPORT / FLATNESS_FILE).exists()


def test_only_the_last_steps_are_sharpness_aware(trained):
    plain, flat = trained("plain"), trained("flat", FLAT)
    assert list(curve(flat, "sharpness")) == [4, 5, 6]
    losses, expected = curve(flat, "loss"), curve(plain, "loss")
    assert {step: losses[step] for step in (1, 2, 3, 4)} == {s: expected[s] for s in (1, 2, 3, 4)}
    assert losses[6] != expected[6]
    found = Flatness.model_validate_json((flat / EXPORT / FLATNESS_FILE).read_text())
    assert (found.rho, found.adaptive, found.steps) == (0.3, True, 3)
    assert found.sharpness == pytest.approx(found.perturbed_loss - found.loss)
    assert found.sharpness > 0


def test_flatness_alone_is_measured_without_a_change_of_the_run(trained):
    plain = trained("plain", "train.optimizer.average_decay=0.5")
    only = trained(
        "only", "train.optimizer.average_decay=0.5", "train.flatness={rho: 0.3, last_fraction: 0}"
    )
    assert weights(plain) == weights(only)
    found = Flatness.model_validate_json((only / EXPORT / FLATNESS_FILE).read_text())
    assert found.steps == 0
    validation = json.loads((only / EXPORT / "summary.json").read_text())["validation"]["loss"]
    assert found.loss == pytest.approx(validation, rel=1e-5)  # of the averaged weights


def test_flops_of_the_second_gradient_count(trained):
    flat = trained("flat", FLAT)
    rate, tokens = curve(flat, "model_flops_per_second"), curve(flat, "tokens_per_second")
    per_token = {step: rate[step] / tokens[step] for step in rate}
    assert per_token[4] == pytest.approx(2 * per_token[3], rel=1e-6)


def test_a_run_stopped_among_its_last_steps_continues_bit_for_bit(
    trained, alone, make_job, tmp_path
):
    whole, folder = trained("whole", FLAT), tmp_path / "stopped"
    job = make_job(FLAT, run_dir=folder)
    alone.events.clear()
    alone.stop_after.append(4)
    assert pretrain(alone.within(folder), job) == Interrupted(step=5)
    alone.stop_after.clear()
    pretrain(alone.within(folder), job)
    assert weights(folder) == weights(whole)
    assert curve(folder, "sharpness") == curve(whole, "sharpness")


@pytest.fixture
def package(alone, make_config):
    config = make_config(FLAT)
    with RunFolder.open(config, runner.STAGE) as run:
        work = runner._Work(config, run)
        job = work.prepare()
        work.commit(pretrain(alone.within(run.path), job))
    return Zoo(config.run.zoo).get("tiny-model")


def test_the_package_its_card_page_and_listing_have_the_figures(package):
    found = read_flatness(package)
    assert found.steps == 3
    shown = f"{found.sharpness:.6g}"
    assert shown in (package.path / CARD_NAME).read_text()
    html = package_page(Zoo(package.path.parents[1]), package.ref).html()
    assert "Flatness" in html
    assert shown in html
    for more, wanted in ((False, shown), (True, f'"steps": {found.steps}')):
        out = StringIO()
        options = Namespace(zoo=str(package.path.parents[1]), ref=package.ref, json=more)
        assert show_package(options, out.write) == 0
        assert wanted in out.getvalue()


def test_the_plan_of_a_stream_says_how_flat_its_start_is(package, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a b", "label": "x"}\n')
    overrides = ["run.name=s", "package=tiny-model", f"tasks=[{{source: 'files:{rows}'}}]"]
    text = describe(load_config(ContinualConfig, None, overrides), package)
    assert f"of the start: sharpness {read_flatness(package).sharpness:.3g} at rho 0.3" in text


def test_a_damaged_file_is_named(package, tmp_path):
    zoo = Zoo(tmp_path / "other")
    with zoo.draft("odd", kind="pretrained") as draft:
        shutil.copytree(package.path / "evaluation", draft.path / "evaluation")
        (draft.path / FLATNESS_FILE).write_text('{"rho": 1}')
        with pytest.raises(IntegrityError, match="flatness"):
            draft.commit()


def test_a_loss_that_diverged_is_null_in_the_file():
    figures = {"rho": 1.0, "adaptive": True, "batches": 1, "steps": 0, "schema_version": 1}
    text = json.dumps(figures | {"loss": None, "perturbed_loss": None, "sharpness": None})
    assert math.isnan(Flatness.model_validate_json(text).sharpness)


def test_other_stages_refuse_it_by_name(tmp_path):
    stream = ["package=a", f"tasks=[{{source: 'files:{tmp_path}'}}]"]
    with pytest.raises(ConfigError, match=r"train\.flatness"):
        load_config(ContinualConfig, None, [*stream, FLAT])
    tuning = ["package=a", "output=b", "data.source=files:mails.csv"]
    with pytest.raises(ConfigError, match=r"train\.flatness"):
        load_config(FinetuneConfig, None, [*tuning, FLAT])
