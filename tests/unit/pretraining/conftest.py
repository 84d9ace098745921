"""A tiny job on a few documents, and a worker group of one."""

from dataclasses import dataclass, field

import pytest
import torch

from orchestrator.cluster.context import Worker
from orchestrator.config import load_config
from orchestrator.pretraining.config import PretrainConfig
from orchestrator.pretraining.inputs import prepare_inputs

SUBJECTS = ("the fox", "a dog", "the old cat", "a young bird")
VERBS = ("sees", "likes", "chases")
OBJECTS = ("red balls", "blue boxes", "green trees", "small houses")


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    """A folder with one document of ordinary sentences a line."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(3)

    def pick(words):
        return words[int(torch.randint(0, len(words), (), generator=generator))]

    lines = [
        ". ".join(f"{pick(SUBJECTS)} {pick(VERBS)} {pick(OBJECTS)}" for _ in range(6))
        for _ in range(120)
    ]
    folder = tmp_path_factory.mktemp("documents")
    for index, line in enumerate(lines):
        (folder / f"{index:03}.txt").write_text(line)
    return folder


@pytest.fixture
def make_config(documents, tmp_path):
    """Build a job's config with overrides."""

    def make(*overrides):
        path = tmp_path / "job.yaml"
        path.write_text(
            f"""
run: {{name: tiny, dir: "{tmp_path}/runs", zoo: "{tmp_path}/zoo"}}
data:
  data: {{source: "files:{documents}"}}
  tokenizer: {{vocab_size: 300}}
  block_size: 16
model:
  hidden_size: 16
  max_position_embeddings: 16
  embedding: {{dropout: 0.1}}
  encoder: {{type: transformer, num_layers: 1, num_heads: 2, dropout: 0.1}}
  target: mlm
train:
  max_steps: 6
  global_batch_size: 8
  micro_batch_size: 4
  log_every_steps: 1
  eval_every_steps: 3
  checkpoint_every_steps: 2
  eval_blocks: 8
  eval_batch_size: 8
package: {{name: tiny-model}}
"""
        )
        return load_config(PretrainConfig, path, overrides)

    return make


@pytest.fixture
def make_job(make_config, tmp_path_factory):
    """Build what a worker gets for a config, with the corpus prepared."""
    cache = tmp_path_factory.mktemp("corpora")

    def make(*overrides, run_dir):
        config = make_config(*overrides)
        return prepare_inputs(config, cache).job(run_dir)

    return make


@dataclass(frozen=True, slots=True)
class Recording(Worker):
    """A worker alone that remembers its events and can be told to stop after a step."""

    events: list = field(default_factory=list)
    stop_after: list = field(default_factory=list)

    def emit(self, event):
        self.events.append(event)

    def should_stop(self):
        return any(getattr(event, "step", None) in self.stop_after for event in self.events)


@pytest.fixture
def alone(tmp_path):
    """A group of one in this process; ``events`` and ``stop_after`` are its remote control."""
    return Recording(rank=0, world=1, run_dir=tmp_path)
