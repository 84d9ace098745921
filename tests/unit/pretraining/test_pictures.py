"""Own pictures as pre-training rows: folders of classes and tables of files, to a package."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from orchestrator.data.media.images import ImageProcessor
from orchestrator.data.rows.rows import Rows
from orchestrator.errors import ConfigError, InputError
from orchestrator.inference.predictor import Predictor
from orchestrator.pretraining import runner
from orchestrator.pretraining.inputs import open_inputs, prepare_inputs
from orchestrator.pretraining.worker import pretrain
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo

PATCHES = "{type: patch, image_size: 8, patch_size: 4, channels: CHANNELS}"
VISION = [
    f"model.embedding={{parts: [{PATCHES}, pos], layernorm: false}}",
    "model.encoder={type: transformer, num_layers: 1, num_heads: 2}",
    "model.target={type: cls, num_labels: 2, pooling: first}",
    "data={data: {source: 'files:FOLDER'}}",
]


def draw(folder, splits=("",), size=(12, 10)):
    """Write light and dark pictures, with another shade each."""
    rng = np.random.default_rng(0)
    for split in splits:
        for name, low in (("dark", 0), ("light", 160)):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(30):
                pixels = rng.integers(low, low + 90, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def overrides(folder, channels=3):
    return [
        each.replace("CHANNELS", str(channels)).replace("FOLDER", str(folder)) for each in VISION
    ]


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("splits", [("",), ("train", "validation")])
def test_a_folder_of_classes_is_learned(alone, make_config, tmp_path, splits, channels):
    folder = draw(tmp_path / "pictures", splits)
    config = make_config(
        *overrides(folder, channels), "train.max_steps=40", "train.eval_every_steps=0",
        "train.optimizer.learning_rate=0.01", "train.checkpoint_every_steps=0",
        "train.eval_blocks=null",
    )  # fmt: skip
    assert "labelled for cls" in runner.check(config)
    with RunFolder.open(config, runner.STAGE) as run:
        work = runner._Work(config, run)
        job = work.prepare()
        work.commit(pretrain(alone.within(run.path), job))
        metrics = work.result().metrics
    package = Zoo(config.run.zoo).get("tiny-model")
    assert package.manifest.task.labels == {"cls": ["dark", "light"]}
    assert package.manifest.task.modality == "vision"
    assert metrics["accuracy"] > 0.9
    assert metrics["accuracy"] > metrics["baseline_accuracy"]
    processor = ImageProcessor.load(package.path)
    pixels = processor.arrays([Image.open(folder / splits[0] / "light/0.png")])["pixel_values"]
    assert pixels.shape == (1, channels, 8, 8)
    files = [(folder / splits[0] / name / "0.png").read_bytes() for name in ("light", "dark")]
    answers = Predictor.open(package).answers(Rows([], None, np.zeros(2), pictures=files))
    assert [answer.label for answer in answers] == ["light", "dark"]


def test_a_table_names_the_files(make_config, tmp_path):
    folder = draw(tmp_path / "pictures")
    rows = [
        {"path": str(file.relative_to(folder)), "label": file.parent.name}
        for file in sorted(folder.rglob("*.png"))
    ]
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    inputs = prepare_inputs(make_config(*overrides(folder)), tmp_path / "cache")
    assert inputs.corpus.label_names == ("dark", "light")
    assert len(inputs.corpus.train) + len(inputs.corpus.validation) == 48  # and 12 for the test


def test_training_pictures_are_cropped_anew_in_every_epoch(make_config, tmp_path):
    folder = draw(tmp_path / "pictures")
    crop = "samples={type: labelled, family: clip, crop: {area: [0.3, 0.6]}}"
    config = make_config(*overrides(folder), crop)
    inputs = prepare_inputs(config, tmp_path / "cache")
    first, second, again = (
        inputs.train.collate(np.arange(4), epoch)["pixel_values"] for epoch in (0, 1, 0)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    one = inputs.train.collate(np.arange(2, 3), 1)["pixel_values"]
    assert torch.equal(one[0], second[2])  # whatever the batch
    held = [inputs.held_out.collate(np.arange(4), epoch)["pixel_values"] for epoch in (0, 1)]
    assert torch.equal(*held)
    file = Image.open(folder / "dark/0.png")
    theirs = transformers.CLIPImageProcessor(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
    )(file, return_tensors="pt")["pixel_values"]
    ours = inputs.corpus.processor.arrays([file])["pixel_values"]
    assert np.abs(ours - theirs.numpy()).max() < 0.02  # their resizing may round in another way
    opened = open_inputs(inputs.job(tmp_path / "run"))
    assert torch.equal(opened.train.collate(np.arange(4), 1)["pixel_values"], second)


def test_what_does_not_fit_is_refused(make_config, tmp_path, documents):
    folder = draw(tmp_path / "pictures")
    text = ["model.target={type: cls, num_labels: 2}", f"data.data.source=files:{folder}"]
    with pytest.raises(InputError, match="files of pictures, which the model does not read"):
        prepare_inputs(make_config(*text), tmp_path / "cache")
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="the rows are texts, and the model reads pictures"):
        prepare_inputs(make_config(*overrides(tmp_path / "rows.jsonl")), tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"samples\.family: is for files of pictures"):
        make_config(text[0], "samples={type: labelled, family: beit}")
    with pytest.raises(ConfigError, match="images have no tokens to mask"):
        make_config(*overrides(folder), "model.target=[mlm, {type: cls, num_labels: 2}]")
    with pytest.raises(ConfigError, match="images have no tokenizer"):
        make_config(*overrides(folder), "data.tokenizer.vocab_size=500")
    config = make_config(*overrides(folder), "model.target.num_labels=3")
    with pytest.raises(InputError, match="the rows have 2 classes, the target has num_labels 3"):
        runner.check(config)
