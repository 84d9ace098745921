"""The end of a run: weights as they come, in shards when they are many; the package reads them."""

import pandas as pd
import torch

from orchestrator.modeling.config import INDEX, WEIGHTS
from orchestrator.modeling.package import load_model
from orchestrator.pretraining import outcome, window_sources, worker


def test_a_large_model_is_exported_in_shards_with_the_same_weights(
    alone, make_job, tmp_path, monkeypatch
):
    folders = [tmp_path / "one", tmp_path / "several"]
    worker.pretrain(alone.within(folders[0]), make_job(run_dir=folders[0]))
    monkeypatch.setattr(worker, "SHARD_BYTES", 3000)
    worker.pretrain(alone.within(folders[1]), make_job(run_dir=folders[1]))
    one, several = (folder / worker.EXPORT for folder in folders)
    assert (one / WEIGHTS).is_file()
    assert (several / INDEX).is_file()
    assert not (several / WEIGHTS).exists()
    expected = load_model(one).state_dict()
    assert all(torch.equal(v, expected[n]) for n, v in load_model(several).state_dict().items())
    packed = {path.name for pattern in outcome.EXPORTED for path in several.glob(pattern)}
    shards = {path.name for path in several.glob("model-*.safetensors")}
    assert packed == {"config.json", "history.parquet", INDEX, *shards}
    assert len(shards) > 2


def test_a_run_in_fp16_keeps_its_scale_in_the_history_and_exports_fp32(
    alone, make_job, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        window_sources, "device_peak", lambda *_: 1e12
    )  # slow on a CPU, not the point
    worker.pretrain(
        alone.within(tmp_path),
        make_job("engine.precision=fp16", "train.checkpoint_every_steps=0", run_dir=tmp_path),
    )
    model = load_model(tmp_path / worker.EXPORT, dtype=None)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    history = pd.read_parquet(tmp_path / worker.EXPORT / "history.parquet")
    scales = history[history.metric == "loss_scale"].value
    assert len(scales) == 6
    assert scales.iloc[0] == 65536
