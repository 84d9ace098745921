"""A sample kind of another package: checked by the command line, listed, and made into batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples/third_party_sample"

CONFIG = """
run: {{name: windows, dir: {folder}/runs, zoo: {folder}/zoo}}
data: {{data: {{source: "files:{documents}", document: file}}, tokenizer: {{vocab_size: 300}},
  block_size: 32}}
samples: {{type: window, share: 0.25}}
model: {{hidden_size: 16, encoder: {{type: transformer, num_layers: 1, num_heads: 2}}, target: mlm}}
train: {{max_steps: 3, global_batch_size: 4, micro_batch_size: 4}}
package: {{name: windows}}
"""

BATCHES = """
import sys
import numpy as np
from orchestrator.config import load_config
from orchestrator.data.steps import StepSource
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.inputs import prepare_inputs
config = load_config(PretrainConfig, sys.argv[1])
inputs = prepare_inputs(config, __import__("pathlib").Path(sys.argv[2]))
samples = inputs.train
for step in range(3):
    (batch,) = StepSource(samples, 4, 4, 1).window(step)
    asked = batch["labels.mlm"] >= 0
    assert 1 <= int(asked.sum(1).max()) <= 8, asked.sum(1)
    assert (batch["input_ids"][asked] == 4).all()
print("batches", step + 1)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package, as pip installs it."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "third_party_sample.py", "README.md"):
        (copy / name).write_text((EXAMPLE / name).read_text())
    target = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install += ["--no-build-isolation", "--target", str(target), str(copy)]
    subprocess.run(install, check=True, timeout=120, capture_output=True)
    return target


@pytest.fixture
def config(documents, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(CONFIG.format(folder=tmp_path, documents=documents))
    return path


def python(site, *words):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=ROOT,
        check=False,
    )


def test_check_accepts_it_and_shows_it(site, config):
    shown = python(site, "jobs/pretrain.py", "--config", config, "--check")
    assert shown.returncode == 0, shown.stderr
    assert "window for mlm" in shown.stdout + shown.stderr


def test_its_samples_become_batches(site, config, tmp_path):
    shown = python(site, "-c", BATCHES, config, tmp_path / "cache")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-1] == "batches 3"


def test_without_the_package_it_is_unknown(config, tmp_path):
    shown = python(tmp_path, "jobs/pretrain.py", "--config", config, "--check")
    assert shown.returncode == 2
    assert "'window' is not a registered sample" in shown.stderr
