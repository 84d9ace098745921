"""An imported audio classifier answers as its class in transformers, learns, and goes back."""

import json

import numpy as np
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
)

from orchestrator.data.processors.example_processor import open_processor
from orchestrator.data.samples.media_samples import media_arrays, media_processor
from orchestrator.inference.predictor import Predictor
from orchestrator.modeling.config import read_config
from orchestrator.modeling.huggingface.exporting import write_export
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.training.finetune.finetuner import FineTuneConfig, FineTuner
from orchestrator.training.finetune.lessons import Lesson
from orchestrator.zoo import Zoo
from tests.parity.harness import randomize
from tests.support.every_task import Case, data_of, load, task_of

CONFIG = FineTuneConfig(epochs=1, global_batch_size=8, learning_rate=1e-3)
EXPORTABLE = CONFIG.model_copy(update={"exportable": True})
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8),
    "conv_stride": (20, 4),
    "conv_kernel": (40, 8),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 12,
}


def world(folder, theirs):
    randomize(theirs.eval())
    theirs.save_pretrained(folder / "theirs")
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=8000, return_attention_mask=True)
    extractor.save_pretrained(folder / "theirs")
    zoo = Zoo(str(folder / "zoo"))
    package = import_checkpoint(zoo, f"hf:{folder / 'theirs'}", ImportOptions(name="theirs"))
    case = Case("sounds", "classification", modality="audio")
    data = load(case, data_of(case, folder))
    return package, data, task_of(case, data, "cls")


@torch.no_grad()
def theirs_of(folder, data, package):
    model = Wav2Vec2ForSequenceClassification.from_pretrained(folder).eval()
    processor = media_processor(open_processor(package), data.test)
    arrays = media_arrays(data.test, np.arange(len(data.test)), processor)
    return model(torch.from_numpy(arrays["input_values"])).logits.softmax(-1).numpy()


def test_a_classifier_answers_as_theirs_and_goes_on_learning(tmp_path):
    theirs = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SIZES, num_labels=2))
    package, data, task = world(tmp_path, theirs)
    found = [answer.scores for answer in Predictor.open(package).answers(data.test)]
    expected = theirs_of(tmp_path / "theirs", data, package.path)
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)
    tuner = FineTuner(package.path, [Lesson(task, data)], CONFIG, seed=1)
    assert tuner.model.config.target == read_config(package.path).target
    tuner.train_epoch()
    check_goes_back(tuner, data, task, tmp_path)


def test_a_body_gets_the_classifier_of_its_class(tmp_path):
    package, data, task = world(tmp_path, Wav2Vec2Model(Wav2Vec2Config(**SIZES)))
    tuner = FineTuner(package.path, [Lesson(task, data)], EXPORTABLE, seed=1)
    (head,) = tuner.model.config.target
    assert (head.pooling, head.hidden_activation, head.hidden_size) == ("mean", "none", 256)
    tuner.train_epoch()
    check_goes_back(tuner, data, task, tmp_path)


def check_goes_back(tuner, data, task, folder):
    for name in ("child", "out"):
        (folder / name).mkdir()
    tuner.write(folder / "child")
    write_export(folder / "child", {"cls": list(task.labels)}, folder / "out")
    child = Predictor.open_folder(folder / "child", {"cls": task}, default="cls")
    found = [answer.scores for answer in child.answers(data.test)]
    expected = theirs_of(folder / "out", data, folder / "child")
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)
    config = json.loads((folder / "out/config.json").read_text())
    assert [*config["id2label"].values()] == [*task.labels]
