"""Pre-training as its users run it: from Python and from a shell (through Ray jobs: tests/e2e)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from orchestrator.config import load_config
from orchestrator.data.media.audio import AudioProcessor
from orchestrator.data.media.images import ImageProcessor
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.package import load_model
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.runner import run, run_all
from orchestrator.zoo import Zoo

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "jobs" / "configs").glob("pretrain_*.yaml"))
BERT = ROOT / "jobs" / "configs" / "pretrain_bert_nano.yaml"
SMALL = ["data.max_documents=200", "data.tokenizer.vocab_size=600", "train.eval_blocks=16"]
SMALL_ROWS = ["data.data.max_rows=200", "train.eval_blocks=16"]
OF_ROWS = ("digits", "digit_scenes", "morse")


def folders(path):
    return [f"run.dir={path}/runs", f"run.zoo={path}/zoo"]


def result_of(output: str) -> dict:
    return json.loads(output.strip().splitlines()[-1])


ROUND = "names-in-a-round"


def round_of_names(path):
    """The next token is certain; its frequency tells nothing."""
    (path / "text").mkdir()
    names = ["ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"]
    for index in range(60):
        start = index % len(names)
        text = " ".join((names[start:] + names[:start]) * 8)
        (path / "text" / f"{index}.txt").write_text(text)
    return load_config(
        PretrainConfig,
        BERT.with_name("pretrain_gpt_nano.yaml"),
        [
            f"run.name={ROUND}",
            f"data.data.source=files:{path}/text",
            "data.max_documents=null",
            "data.tokenizer.vocab_size=300",
            "data.block_size=32",
            "engine.zero_stage=3",
            "train.max_steps=40",
            "train.optimizer.learning_rate=1e-2",
            *folders(path),
        ],
    )


WHOLE, CUT = "gpt-whole", "gpt-cut"
ENGINES = {
    WHOLE: "engine={type: ddp}",
    CUT: "engine={type: fsdp2, tensor_parallel: 2, sequence_parallel: true}",
}


def without_noise(path, name):
    """The same few steps of a GPT on two workers, which have whole layers, or halves of them."""
    steps = ["train.max_steps=4", "train.schedule.warmup_steps=0", "train.eval_every_steps=4"]
    steps.append("train.optimizer.eps=1e-4")  # less, and the first steps of AdamW amplify rounding
    names = [f"run.name={name}", f"package.name={name}", ENGINES[name]]
    preset = BERT.with_name("pretrain_gpt_nano.yaml")
    return load_config(PretrainConfig, preset, [*SMALL, *steps, *names, *folders(path)])


@pytest.fixture(scope="module")
def launched(local_ray, tmp_path_factory):
    """Jobs on one group of two workers, which starts once: name -> (config, result)."""
    path = tmp_path_factory.mktemp("presets")
    steps = ["train.max_steps=1", "train.schedule.warmup_steps=0"]
    configs = [round_of_names(path), *(without_noise(path, name) for name in ENGINES)]
    for preset in PRESETS:
        rows = any(f"builtin:{name}" in preset.read_text() for name in OF_ROWS)
        small = SMALL_ROWS if rows else SMALL
        configs.append(load_config(PretrainConfig, preset, [*small, *steps, *folders(path)]))
    results = run_all(configs)
    return {c.run.name: (c, r) for c, r in zip(configs, results, strict=True)}


@pytest.fixture
def presets(launched):
    """Every preset after one step."""
    return {name: both for name, both in launched.items() if name not in (ROUND, *ENGINES)}


def test_every_preset_trains_and_commits_a_package(presets):
    assert len(presets) >= 5
    for config, result in presets.values():
        package = Zoo(config.run.zoo).get(result.package)
        package.verify()
        assert package.manifest.metrics["steps"] == 1
        assert package.manifest.metrics["workers"] == config.cluster.workers == 2
        assert load_model(package.path).config.encoder == config.model.encoder
    kinds = {config.model.encoder.type_name() for config, _ in presets.values()}
    assert kinds >= {"transformer", "bilstm", "gatedcnn"}
    assert {c.chosen_samples.type for c, _ in presets.values()} >= {
        "masked",
        "next",
        "neighbours",
        "pairs",
        "spans",
        "denoising",
        "gaps",
        "labelled",
        "masked_patches",
        "image_text",
        "transcripts",
    }
    assert {c.engine.zero_stage for c, _ in presets.values() if c.engine.type == "zero"} >= {2, 3}


@pytest.mark.parametrize(
    ("name", "modality", "files"),
    [
        ("beit", "vision", {"state/codebook.safetensors"}),
        ("clip", "vision", {"tokenizer.json"}),
        ("s2t", "audio", {"tokenizer.json"}),
    ],
)
def test_packages_hold_what_makes_their_input(presets, name, modality, files):
    config, result = presets[f"pretrain-{name}-nano"]
    package = Zoo(config.run.zoo).get(result.package)
    assert package.manifest.task.modality == modality
    assert files | {"preprocessor_config.json"} <= set(package.manifest.files)
    load = AudioProcessor.load if modality == "audio" else ImageProcessor.load
    assert load(package.path)


def test_a_run_leaves_curves_for_people_and_machines(presets):
    config, result = presets["pretrain-bert-nano"]
    assert list(Path(result.run_dir, "tensorboard").glob("events.out.tfevents.*"))
    history = Zoo(config.run.zoo).get(result.package).history()
    assert set(history.split) == {"train", "validation"}
    assert set(history.metric) >= {"loss", "learning_rate", "grad_norm", "tokens_per_second"}


def test_a_finished_run_starts_nothing(presets, monkeypatch):
    monkeypatch.setattr("orchestrator.pretraining.runner._train", None)
    config, result = presets["pretrain-gpt-nano"]
    assert run(config) == result


def test_two_sharded_workers_learn_more_than_word_frequencies(launched):
    metrics = launched[ROUND][1].metrics
    assert launched[ROUND][0].engine.sharding_stage == 3
    assert metrics["loss"] < 0.5 * metrics["unigram_entropy"]
    assert metrics["accuracy"] > 0.8


def test_cut_layers_train_through_ray_and_export_what_whole_ones_do(launched, tmp_path):
    """The packages are equal, and so is what transformers opens and computes."""
    ids, logits, exported = torch.arange(5, 21)[None], {}, {}
    for name in ENGINES:
        config, result = launched[name]
        package = Zoo(config.run.zoo).get(result.package)
        assert package.manifest.metrics["workers"] == 2
        export_package(package, tmp_path / name)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        exported[name] = theirs.state_dict()
        logits[name] = theirs(input_ids=ids).logits
    assert launched[CUT][0].engine.cuts_layers
    assert exported[CUT].keys() == exported[WHOLE].keys()
    for name, value in exported[WHOLE].items():
        assert (exported[CUT][name] - value).abs().max() <= 1e-5, name
    torch.testing.assert_close(logits[CUT], logits[WHOLE], rtol=0, atol=1e-4)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("number", "send"), [(signal.SIGTERM, os.kill), (signal.SIGHUP, os.killpg)]
)
def test_sigterm_saves_and_the_same_command_continues(tmp_path, number, send):
    """In a shell, with a Ray of its own: exit code 3, then 0; nothing is done twice.

    A terminal that is gone sends its SIGHUP to everything that runs in it, Ray included.
    """
    command = [
        sys.executable,
        "jobs/pretrain.py",
        "--config",
        str(BERT),
        *SMALL,
        "cluster.workers=1",
        "train.micro_batch_size=8",
        "train.global_batch_size=8",
        "train.log_every_steps=1",
        "train.eval_every_steps=0",
        "train.checkpoint_every_steps=0",
        *folders(tmp_path),
    ]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    options = {"cwd": ROOT, "env": env, "stdout": subprocess.PIPE, "text": True}
    options["start_new_session"] = True
    log = tmp_path / "stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen([*command, "train.max_steps=5000"], stderr=stderr, **options)
        try:
            _wait_for(lambda: "/5000  loss" in log.read_text(), process, log)
            send(process.pid, number)
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 3, log.read_text()
    assert result_of(output)["status"] == "interrupted"
    (saved,) = (tmp_path / "runs/pretrain-bert-nano/checkpoints").glob("step-*")
    done = int(saved.name.removeprefix("step-"))
    assert 0 < done < 5000
    assert Zoo(tmp_path / "zoo").packages() == []

    _lower_the_end(tmp_path / "runs/pretrain-bert-nano/job.yaml", done + 2)
    again = subprocess.run(
        [*command, f"train.max_steps={done + 2}"],
        timeout=300,
        check=False,
        stderr=subprocess.PIPE,
        **options,
    )
    assert again.returncode == 0, again.stderr
    told = [
        "starting a private Ray", "corpus of", "starting 1 workers", "1 workers started",
        "building the model", f"loading the checkpoint of step {done}",
        f"step {done + 1} is the next",
    ]  # fmt: skip
    assert sorted(told, key=again.stderr.index) == told
    assert result_of(again.stdout)["metrics"]["steps"] == done + 2
    history = Zoo(tmp_path / "zoo").get("bert-nano").history()
    steps = history[(history.split == "train") & (history.metric == "loss")].step
    assert steps.tolist() == list(range(1, done + 3))


def _lower_the_end(job: Path, steps: int) -> None:
    """Let the run end soon: its length is part of its identity."""
    job.write_text(job.read_text().replace("max_steps: 5000", f"max_steps: {steps}"))


def _wait_for(condition, process, log, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
