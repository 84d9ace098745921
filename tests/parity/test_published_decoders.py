"""Folders of decoders as published: in, fine-tuned, out, with the answers that transformers gives.

Qwen 3, SmolLM 3, OLMo 2, Phi-3, Gemma 2 and Gemma 3, each with the files of its folders.
"""

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import orchestrator
from orchestrator.config import validate_config
from orchestrator.finetuning.config import FinetuneConfig
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo
from tests.support import published
from tests.support.lessons import run_here

from .test_heads import CAUSAL
from .test_published_folders import FAMILIES

WORDS = {"fruit": ("apple", "pear", "plum"), "animal": ("cat", "dog", "cow")}
MODELS = {
    "Qwen3": "Qwen3",
    "SmolLM3": "SmolLM3",
    "Olmo2": "Olmo2",
    "Phi3": "Phi3",
    "Gemma2": "Gemma2",
    "Gemma3": "Gemma3Text",
}
"""First part of the class with the language model → that of the class with a classifier."""


def shipped(family, folder):
    """Write a folder of a language model with its tokenizer's files."""
    folder.mkdir()
    config_class, sizes = CAUSAL[MODELS[family]]
    kind = config_class.model_type
    published.write(folder, "config.json", {"model_type": kind})
    FAMILIES[kind][0](folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:  # GPT-2's files name none; OLMo 2's do
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "config.json"}
    torch.manual_seed(1)
    own = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = config_class(**sizes | own | ends | {"initializer_range": 0.15})
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)
    for name, content in kept.items():
        (folder / name).write_bytes(content)


def lesson(place, task, rows, **train):
    lines = "".join("\t".join(row) + "\n" for row in rows)
    (place / "rows.tsv").write_text(lines)
    common = {"epochs": 3, "global_batch_size": 4, "learning_rate": 2e-2, "patience": None}
    fields = {
        "run": {"name": "tune", "dir": str(place / "runs"), "zoo": str(place / "zoo")},
        "package": "decoder",
        "output": "tuned",
        "task": task,
        "data": {
            "source": f"files:{place / 'rows.tsv'}",
            "validation_fraction": 0.25,
            "test_fraction": 0.25,
        },
        "train": common | train,
    }
    return validate_config(FinetuneConfig, fields, "test")


def sentences():
    return [
        (f"a {word} and a {other}", label)
        for label, words in WORDS.items()
        for word in words
        for other in words
    ]


@pytest.mark.parametrize("family", list(MODELS))
def test_a_published_folder_learns_to_classify_and_answers_as_in_transformers(family, tmp_path):
    shipped(family, tmp_path / "shipped")
    zoo = Zoo(str(tmp_path / "zoo"))
    import_checkpoint(zoo, f"hf:{tmp_path / 'shipped'}", ImportOptions(name="decoder"))
    rows = [("text", "label"), *sentences()]
    run_here(lesson(tmp_path, {"type": "classification"}, rows, exportable=True))
    tuned, out = zoo.get("tuned"), tmp_path / "out"
    export_package(tuned, out)
    classify = pipeline("text-classification", model=str(out), device="cpu", top_k=None)
    assert type(classify.model).__name__ == f"{MODELS[family]}ForSequenceClassification"
    texts = [text for text, _ in sentences()] + ["a", "a cow and a cow and a plum " * 2]
    loaded = orchestrator.load("tuned", zoo=zoo.root)
    found = np.array([answer.scores for answer in loaded.predict(texts)])
    scores = [{each["label"]: each["score"] for each in row} for row in classify(texts)]
    expected = [[row[label] for label in loaded.labels] for row in scores]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found[:, 0]) > 0.05  # it does not say the same of all


@pytest.mark.parametrize("family", list(MODELS))
def test_a_published_folder_learns_to_write_and_writes_as_in_transformers(family, tmp_path):
    shipped(family, tmp_path / "shipped")
    zoo = Zoo(str(tmp_path / "zoo"))
    import_checkpoint(zoo, f"hf:{tmp_path / 'shipped'}", ImportOptions(name="decoder"))
    rows = [("prompt", "target"), *((f"{text} is", f" {label}") for text, label in sentences())]
    run_here(lesson(tmp_path, {"type": "generation", "max_new_tokens": 8}, rows))
    out = tmp_path / "out"
    export_package(zoo.get("tuned"), out)
    theirs = AutoModelForCausalLM.from_pretrained(out).eval()
    assert type(theirs).__name__ == f"{family}ForCausalLM"
    tokenizer = AutoTokenizer.from_pretrained(out)
    loaded = orchestrator.load("tuned", zoo=zoo.root)
    if family != "SmolLM3":  # its files here name no such token
        assert theirs.config.eos_token_id == tokenizer.eos_token_id is not None
    texts = ["a dog and a plum is", "a cow is"]
    found = [answer.text for answer in loaded.predict(texts)]
    for text, written in zip(texts, found, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": tokenizer.eos_token_id}
        answer = theirs.generate(ids, **options)[0, ids.shape[1] :]
        assert written == tokenizer.decode(answer, skip_special_tokens=True).strip()
