"""DINOv2 learns to classify pictures of another size than it was trained on, and goes back."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
)

from orchestrator.data.processors.example_processor import open_processor
from orchestrator.data.samples.media_samples import media_arrays, media_processor
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.huggingface.exporting import write_export
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.training.finetune.finetuner import FineTuneConfig, FineTuner
from orchestrator.training.finetune.lessons import Lesson
from orchestrator.zoo import Zoo
from tests.parity.harness import randomize
from tests.support.every_task import Case, data_of, load, task_of

CONFIG = FineTuneConfig(
    epochs=25, global_batch_size=16, learning_rate=1e-2, exportable=True, dropout=0.0
)
SETTINGS = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 8},
    "do_center_crop": True,
    "crop_size": {"height": 8, "width": 8},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2}
SIZES |= {"image_size": 16, "patch_size": 4}
CLASSES = {
    "plain": (Dinov2Config, Dinov2Model, Dinov2ForImageClassification),
    "registers": (
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
        Dinov2WithRegistersForImageClassification,
    ),
}


@pytest.mark.parametrize("name", list(CLASSES))
def test_dinov2_learns_pictures_and_goes_back(name, tmp_path):
    config_class, body, classifier = CLASSES[name]
    published = body(config_class(**SIZES))
    randomize(published)  # their tiny first values tell no positions apart
    published.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs/preprocessor_config.json").write_text(json.dumps(SETTINGS))
    zoo = Zoo(str(tmp_path / "zoo"))
    package = import_checkpoint(zoo, f"hf:{tmp_path / 'theirs'}", ImportOptions(name="theirs"))
    case = Case("pictures", "classification", modality="image")
    data = load(case, data_of(case, tmp_path))
    task = task_of(case, data)
    tuner = FineTuner(package.path, [Lesson(task, data)], CONFIG, seed=1)
    assert tuner.model.config.target[0].pooling == "first_rest"
    for _ in range(CONFIG.epochs):
        tuner.train_epoch()
    assert tuner.evaluate("test")["accuracy"] > 0.9
    for folder in ("child", "out"):
        (tmp_path / folder).mkdir()
    tuner.write(tmp_path / "child")
    write_export(tmp_path / "child", {task.head: list(task.labels)}, tmp_path / "out")
    settings = json.loads((tmp_path / "out/preprocessor_config.json").read_text())
    assert {key: settings[key] for key in SETTINGS} == SETTINGS
    child = Predictor.open_folder(tmp_path / "child", {task.head: task}, default=task.head)
    rows = dataclasses.replace(data.test, labels=np.zeros(len(data.test)))
    found = [answer.scores for answer in child.answers(rows)]
    theirs = classifier.from_pretrained(tmp_path / "out").eval()
    assert [*theirs.config.id2label.values()] == [*task.labels]
    processor = media_processor(open_processor(tmp_path / "child"), data.test)
    arrays = media_arrays(data.test, np.arange(len(data.test)), processor)
    assert arrays["pixel_values"].shape[2:] == (8, 8)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(arrays["pixel_values"])).logits.softmax(-1)
    np.testing.assert_allclose(np.asarray(found), expected.numpy(), atol=1e-5)
