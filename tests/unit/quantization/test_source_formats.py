"""Weights of the source package: several files, and formats shorter than fp32."""

import numpy as np
import torch

from orchestrator.modeling.package import write_model
from orchestrator.quantization.source import read_source
from tests.unit.quantization.test_source import CONFIG, random_model


def test_shards_of_a_short_format_are_read(tmp_path):
    model = random_model(CONFIG)
    tied = model.tied_names()
    state = {n: v.bfloat16() for n, v in model.state_dict().items() if n not in tied}
    write_model(tmp_path, state, CONFIG, shard_bytes=2000)
    assert not (tmp_path / "model.safetensors").exists()
    source = read_source(tmp_path)
    assert source.state.keys() == state.keys()
    for name, value in state.items():
        assert source.state[name].dtype == np.float32
        assert np.array_equal(source.state[name], value.to(torch.float32).numpy())
