"""Branches from another run's checkpoints, and new runs from a package's weights."""

import hashlib
import shutil

import pandas as pd
import pytest
from safetensors.torch import load_file

from orchestrator.errors import ConfigError, InputError
from orchestrator.pretraining import runner
from orchestrator.pretraining.worker import EXPORT, pretrain
from orchestrator.storage import RunFolder, commit_folder, read_manifest, temporary_sibling
from orchestrator.training.events import RunStarted
from orchestrator.zoo import Zoo
from tests.support.fragments import recut

TRUNK = "train.schedule={type: infinite, warmup_steps: 1}"
RELEASE = "train.schedule={type: infinite, warmup_steps: 1, decay_steps: 3, final_ratio: 0.1}"
KEEP = ("train.checkpoint_every_steps=1", "train.keep_every_steps=2")
FROM_TRUNK = "train.start_from={run: trunk, step: 4}"


def train(worker, config):
    """Run a job to its end without a cluster; return its folder and the exported weights."""
    with RunFolder.open(config, runner.STAGE) as run:
        work = runner._Work(config, run)
        summary = pretrain(worker.within(run.path), work.prepare())
        exported = {}
        if not summary.stopped:
            loaded = load_file(run.path / EXPORT / "model.safetensors")
            exported = {name: value.numpy().tobytes() for name, value in loaded.items()}
            work.commit(summary)
        return run.path, exported


def digest(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def cut_up(folder):
    """Store a checkpoint as two ranks of a sharded engine would have."""
    manifest = read_manifest(folder)
    staged = temporary_sibling(folder)
    recut(folder, staged, ranks=2)
    shutil.copy(folder / "extra.json", staged)
    del manifest["files"]
    commit_folder(staged, folder, manifest)


@pytest.fixture
def trunk(alone, make_config):
    """A finished trunk of six steps: its folder and weights."""
    return train(alone, make_config("run.name=trunk", TRUNK, *KEEP))


def test_a_branch_is_its_trunk_up_to_the_release_bit_for_bit(trunk, alone, make_config):
    folder, last = trunk
    kept = folder / "checkpoints"
    assert [path.name for path in sorted(kept.iterdir())] == [
        "step-00000002",
        "step-00000004",
        "step-00000006",
    ]
    before = digest(kept / "step-00000004")
    config = make_config("run.name=branch", RELEASE, "train.max_steps=7", FROM_TRUNK)
    assert "step 4" in runner.check(config)
    path, branch = train(alone, config)
    _, whole = train(alone, make_config("run.name=whole", RELEASE, "train.max_steps=7"))
    assert branch == whole  # which never stopped
    assert [each.name for each in (path / "checkpoints").iterdir()] == ["step-00000007"]
    history = Zoo(config.run.zoo).get("tiny-model/v0002").history()
    rates = history[history.metric == "learning_rate"].set_index("step").value
    assert rates.loc[4] == pytest.approx(rates.loc[1])
    assert rates.loc[7] < 0.5 * rates.loc[4]

    assert digest(kept / "step-00000004") == before
    cut_up(kept / "step-00000006")  # as a sharded engine would have written it
    on = make_config("run.name=on", TRUNK, "train.start_from={run: trunk}", "train.max_steps=8")
    _, continued = train(alone, on)
    _, uninterrupted = train(alone, make_config("run.name=long", TRUNK, "train.max_steps=8"))
    assert continued == uninterrupted != last


def test_a_branch_survives_what_happens_to_its_trunk(trunk, alone, make_config):
    config = make_config("run.name=branch", RELEASE, "train.max_steps=7", FROM_TRUNK)
    alone.stop_after.append(4)
    alone.emit(RunStarted(run="r", step=4))
    train(alone, config)
    shutil.rmtree(trunk[0])
    alone.stop_after.clear()
    _, branch = train(alone, config)
    assert len(branch) > 1


REFUSED = [
    (["train.start_from={run: nobody}"], "nobody does not exist"),
    (["train.start_from={run: trunk, step: 3}"], "it has 2, 4, 6"),
    ([FROM_TRUNK, "model.hidden_size=32"], "there, [32"),
    ([FROM_TRUNK, "model.encoder.activation=relu"], "encoder.activation"),
    ([FROM_TRUNK, "train.optimizer.type=lion"], "has the state of adamw"),
    ([FROM_TRUNK, "train.max_steps=4"], "is after step 4"),
    (["train.start_from={package: nobody}"], "nobody"),
    (["train.start_from={package: tiny-model}"], "data.tokenizer: {path:"),
    (["train.start_from={package: tiny-model}", "model.encoder.num_layers=2"], "is missing"),
]


def test_what_a_run_cannot_start_from(trunk, make_config):
    for overrides, words in REFUSED:
        with pytest.raises(InputError) as error:
            runner.check(make_config("run.name=branch", *overrides))
        assert words in str(error.value)


def test_another_tokenizer_is_noticed_when_the_corpus_is_there(trunk, alone, make_config):
    other = make_config("run.name=branch", FROM_TRUNK, "data.tokenizer.lowercase=false")
    runner.check(other)
    config = make_config("run.name=branch", FROM_TRUNK, "data.tokenizer.type=bpe")
    with pytest.raises(InputError, match="another tokenizer"):
        train(alone, config)


def test_a_package_gives_its_weights_to_a_run_that_begins_at_zero(trunk, alone, make_config):
    package = Zoo(make_config().run.zoo).get("tiny-model")
    config = make_config(
        "run.name=more",
        "train.start_from={package: tiny-model}",
        f"data.tokenizer={{path: '{package.path}'}}",
        "train.max_steps=1",
        "train.optimizer.learning_rate=1e-9",
        "package.name=more",
    )
    assert "weights of tiny-model/v0001" in runner.check(config)
    train(alone, config)
    trained = Zoo(config.run.zoo).get("more")
    before = load_file(package.path / "model.safetensors")
    after = load_file(trained.path / "model.safetensors")
    assert all(abs(after[name] - before[name]).max() < 1e-6 for name in before)
    assert trained.manifest.parents[0].name == "tiny-model"
    assert pd.DataFrame(trained.history()).step.min() == 1


def test_exactly_one_place_to_start_from(make_config):
    with pytest.raises(ConfigError, match="Give exactly one of run, path and package"):
        make_config("train.start_from={run: a, package: b}")
    with pytest.raises(ConfigError, match="has no steps"):
        make_config("train.start_from={package: b, step: 3}")
    with pytest.raises(ConfigError, match="not a multiple of checkpoint_every_steps"):
        make_config("train.keep_every_steps=3")
