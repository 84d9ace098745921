"""Folders of ModernBERT, EuroBERT, Nomic BERT and GTE: in, fine-tuned, out, with equal answers."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer, pipeline

import orchestrator
from orchestrator.config import validate_config
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo
from tests.support import published
from tests.support.lessons import run_here

from .harness import files, randomize

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24, "max_position_embeddings": 64, "pad_token_id": 0}
WORDS = {"fruit": ("apple", "pear", "plum"), "animal": ("cat", "dog", "cow")}
OLD_KEYS = {"global_attn_every_n_layers": 2, "global_rope_theta": 900.0, "local_rope_theta": 90.0}


def write(folder, family, head, layout, **options):
    layout(folder)
    size = len(AutoTokenizer.from_pretrained(folder))
    config = getattr(transformers, f"{family}Config")(**SIZES | options, vocab_size=size)
    model = getattr(transformers, family + head)(config).eval()
    randomize(model, seed=2)
    model.save_pretrained(folder)


def modernbert(folder):
    """As of 2024: one number for the pattern, and two bases at the top."""
    write(folder, "ModernBert", "ForMaskedLM", published.fast, local_attention=6, **OLD_KEYS)
    values = json.loads((folder / "config.json").read_text())
    for key in ("layer_types", "rope_parameters"):
        del values[key]
    (folder / "config.json").write_text(json.dumps(values | OLD_KEYS | {"layer_norm_eps": 1e-5}))


words = partial(published.saved_words, name="BertTokenizer")
FOLDERS = {
    "modernbert": modernbert,
    "eurobert": partial(write, family="EuroBert", head="ForMaskedLM", layout=published.fast),
    "nomic_bert": partial(write, family="NomicBert", head="Model", layout=words),
    "gte": partial(write, family="Gte", head="Model", layout=words),
}


def lesson(place):
    """Texts in two classes, with the layers of the family's class as head."""
    lines = [
        f"a {word} and a {other}\t{label}"
        for label, chosen in WORDS.items()
        for word in chosen
        for other in chosen
    ]
    (place / "rows.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    parts = {"validation_fraction": 0.25, "test_fraction": 0.25}
    train = {"epochs": 8, "global_batch_size": 4, "learning_rate": 1e-2, "patience": None}
    fields = {
        "run": {"name": "tune", "dir": str(place / "runs"), "zoo": str(place / "zoo")},
        "package": "encoder",
        "output": "tuned",
        "task": {"type": "classification"},
        "data": {"source": f"files:{place / 'rows.tsv'}", **parts},
        "train": train | {"exportable": True},
    }
    return validate_config(FinetuneConfig, fields, "test")


@pytest.mark.parametrize("name", list(FOLDERS))
def test_a_published_folder_is_tuned_and_answers_as_in_transformers(name, tmp_path):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    FOLDERS[name](shipped)
    zoo = Zoo(str(tmp_path / "zoo"))
    package = import_checkpoint(zoo, f"hf:{shipped}", ImportOptions(name="encoder"))
    export_package(package, tmp_path / "again")
    configs = [json.loads((tmp_path / f / "config.json").read_text()) for f in ("shipped", "again")]
    assert configs[0] == configs[1]
    assert all(
        torch.equal(tensor, files(tmp_path / "again")[key])
        for key, tensor in files(shipped).items()
    )

    run_here(lesson(tmp_path))
    out = tmp_path / "out"
    export_package(zoo.get("tuned"), out)
    classify = pipeline("text-classification", model=str(out), device="cpu", top_k=None)
    texts = [f"a {word}" for chosen in WORDS.values() for word in chosen]
    loaded = orchestrator.load("tuned", zoo=zoo.root)
    found = np.array([answer.scores for answer in loaded.predict(texts)])
    scores = [{each["label"]: each["score"] for each in row} for row in classify(texts)]
    expected = [[row[label] for label in loaded.labels] for row in scores]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found[:, 0]) > 0.01  # a thousand times the tolerance
