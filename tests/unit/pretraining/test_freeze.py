"""Frozen parameters of a pre-training job stay what they were, and are checked before a run."""

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.data.randomness import derive_seed
from orchestrator.errors import InputError
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.package import read_config
from orchestrator.pretraining.plan import make_plan
from orchestrator.pretraining.worker import EXPORT, pretrain


def test_frozen_parameters_are_exported_as_they_began(alone, make_job, tmp_path):
    folder = tmp_path / "run"
    job = make_job("train.freeze=[embedding.word, encoder.layers.0.norm1]", run_dir=folder)
    pretrain(alone.within(folder), job)
    after = load_file(folder / EXPORT / "model.safetensors")
    seed = derive_seed(job.config.seed, "model")
    before = build_model(read_config(folder / EXPORT), seed).state_dict()
    same = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    frozen = {"embedding.word.weight"}
    frozen |= {f"encoder.layers.0.norm1.{part}" for part in ("weight", "bias")}
    assert same >= frozen
    trained = [name for name in after if name.endswith("weight") and name not in frozen]
    assert not same & set(trained)


def test_a_check_names_what_cannot_be_frozen(make_config):
    with pytest.raises(InputError, match=r"'encodr' fits no parameter.*Did you mean 'encoder'"):
        make_plan(make_config("train.freeze=[encodr]"))
