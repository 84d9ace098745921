"""Folders of DeBERTa-v3 and MPNet as published: in, fine-tuned, out, with equal answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import (
    AutoModel,
    AutoTokenizer,
    DebertaV2Config,
    DebertaV2Model,
    MPNetConfig,
    MPNetModel,
    pipeline,
)

import orchestrator
from orchestrator.config import validate_config
from orchestrator.errors import InputError
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.folder import open_source
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo
from tests.support import published
from tests.support.lessons import run_here

from .harness import randomize
from .test_deberta import V3
from .test_published_folders import DEBERTA, MPNET

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24, "pooler_hidden_size": 16}
WORDS = {"fruit": ("apple", "pear", "plum"), "animal": ("cat", "dog", "cow")}


def write(model, folder):
    torch.manual_seed(2)
    randomize(model.eval())
    model.save_pretrained(folder)


def deberta(folder):
    """As Microsoft publishes it: no class in the config, both heads of pre-training in the file."""
    config = {"do_lower_case": False, "vocab_type": "spm"}
    (folder / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
    published.spiece(folder, name="spm.model", config=config, **DEBERTA)
    size = len(AutoTokenizer.from_pretrained(folder)) + 20  # tables there are larger, too
    write(DebertaV2Model(DebertaV2Config(**V3 | SIZES, vocab_size=size)), folder)
    values = json.loads((folder / "config.json").read_text())
    del values["architectures"]
    (folder / "config.json").write_text(json.dumps(values))
    tensors = load_file(folder / "model.safetensors")
    tensors = {f"deberta.{name}": tensor for name, tensor in tensors.items()}
    for name, shape in {
        "deberta.embeddings.position_embeddings.weight": (512, 16),
        "lm_predictions.lm_head.bias": (size,),
        "lm_predictions.lm_head.dense.weight": (16, 16),
        "mask_predictions.classifier.weight": (1, 16),
        "mask_predictions.dense.weight": (16, 16),
    }.items():
        tensors[name] = torch.randn(shape)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def mpnet(folder):
    """As all-mpnet-base-v2: a body whose config still names a class with a head."""
    body = folder.parent / "body"
    body.mkdir()
    published.saved_words(body, name="MPNetTokenizer", special=MPNET)
    size = len(AutoTokenizer.from_pretrained(body))
    write(MPNetModel(MPNetConfig(**SIZES, vocab_size=size, max_position_embeddings=40)), body)
    encoder = Transformer(str(body), max_seq_length=24)
    modules = [encoder, Pooling(16, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    values = json.loads((folder / "config.json").read_text())
    values["architectures"] = ["MPNetForMaskedLM"]
    (folder / "config.json").write_text(json.dumps(values))


FOLDERS = {"deberta": deberta, "mpnet": mpnet}


@pytest.fixture(params=list(FOLDERS))
def shipped(request, tmp_path):
    folder = tmp_path / "shipped"
    folder.mkdir()
    FOLDERS[request.param](folder)
    return folder


def lesson(place: Path, package: str):
    lines = [
        f"a {word} and a {other}\t{label}"
        for label, words in WORDS.items()
        for word in words
        for other in words
    ]
    (place / "rows.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    fields = {
        "run": {"name": "tune", "dir": str(place / "runs"), "zoo": str(place / "zoo")},
        "package": package,
        "output": "tuned",
        "task": {"type": "classification"},
        "data": {
            "source": f"files:{place / 'rows.tsv'}",
            "validation_fraction": 0.25,
            "test_fraction": 0.25,
        },
        "train": {"epochs": 8, "global_batch_size": 4, "learning_rate": 1e-2, "patience": None}
        | {"pooling": "first", "hidden": True},
    }
    return validate_config(FinetuneConfig, fields, "test")


def test_a_published_folder_is_tuned_and_answers_as_in_transformers(shipped, tmp_path):
    zoo = Zoo(str(tmp_path / "zoo"))
    import_checkpoint(zoo, f"hf:{shipped}", ImportOptions(name="encoder"))
    run_here(lesson(tmp_path, "encoder"))
    tuned = zoo.get("tuned")
    out = tmp_path / "out"
    export_package(tuned, out)
    classify = pipeline("text-classification", model=str(out), device="cpu", top_k=None)
    texts = [f"a {word}" for words in WORDS.values() for word in words]
    loaded = orchestrator.load("tuned", zoo=zoo.root)
    found = np.array([answer.scores for answer in loaded.predict(texts)])
    scores = [{each["label"]: each["score"] for each in row} for row in classify(texts)]
    expected = [[row[label] for label in loaded.labels] for row in scores]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found[:, 0]) > 0.01  # a thousand times the tolerance


def test_a_folder_that_names_no_class_is_the_body(tmp_path):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    deberta(shipped)
    zoo = Zoo(str(tmp_path / "zoo"))
    package = import_checkpoint(zoo, f"hf:{shipped}", ImportOptions(name="v3"))
    report = json.loads((package.path / "evaluation" / "import.json").read_text())
    assert {"lm_predictions.lm_head.bias", "mask_predictions.dense.weight"} <= {
        *report["tensors_left_out"]
    }
    export_package(package, tmp_path / "out")
    configs = [json.loads((f / "config.json").read_text()) for f in (shipped, tmp_path / "out")]
    assert configs[0] == configs[1]
    theirs, again = (AutoModel.from_pretrained(f).eval() for f in (shipped, tmp_path / "out"))
    ids = torch.randint(4, 40, (2, 9))
    assert torch.equal(theirs(ids).last_hidden_state, again(ids).last_hidden_state)


def test_another_type_without_a_class_is_refused(tmp_path):
    deberta(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "bert"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="does not say which class it is"):
        open_source(tmp_path)


def test_an_embedder_is_the_body_that_its_file_holds(tmp_path):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    mpnet(shipped)
    zoo = Zoo(str(tmp_path / "zoo"))
    package = import_checkpoint(zoo, f"hf:{shipped}", ImportOptions(name="embedder"))
    assert package.manifest.producer.model_dump()["architecture"] == "MPNetModel"
    export_package(package, tmp_path / "out")
    texts = ["a cat", "a plum and a pear, then a much longer text of many more words " * 3]
    expected = SentenceTransformer(str(shipped), device="cpu").encode(texts)
    again = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts)
    np.testing.assert_allclose(
        orchestrator.load("embedder", zoo=zoo.root).embed(texts), expected, atol=1e-6
    )
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_an_embedder_with_a_whole_head_stays_what_it_is(tmp_path):
    """A class with a head wrote the file: its tensors have the body's name in front."""
    mpnet(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    named = {f"mpnet.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert open_source(tmp_path).architecture.name == "MPNetForMaskedLM"
