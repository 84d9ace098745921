"""Proxy scores and latency of a package that reads image files."""

import json

import numpy as np
import pytest
from transformers import ViTConfig, ViTModel

from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.selection.costs.latency import try_time
from orchestrator.selection.scores.features import ProxyPayload, try_package
from orchestrator.zoo import Zoo
from tests.support.every_task import Case, data_of

SETTINGS = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 8, "width": 8},
    "do_rescale": True,
    "do_normalize": True,
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "image_size": 8, "patch_size": 4}


@pytest.mark.parametrize("layers", ["last", "mean"])
def test_image_files_are_scored_and_timed_as_the_package_reads_them(layers, tmp_path):
    ViTModel(ViTConfig(**SIZES), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps(SETTINGS))
    import_checkpoint(Zoo(tmp_path / "zoo"), f"hf:{tmp_path / 'vit'}", ImportOptions(name="vit"))
    payload = ProxyPayload(
        package="vit",
        zoo=str(tmp_path / "zoo"),
        task=data_of(Case("p", "classification", modality="image"), tmp_path),
        proxies=("knn",),
        rows=20,
        max_length=12,
        seed=3,
        layers=layers,
    )
    score, latency = try_package(payload), try_time(payload)
    assert (score.error, latency.error) == ("", "")
    assert np.isfinite(score.values["knn"])
    assert latency.ms > 0
    assert latency.tokens == 0
