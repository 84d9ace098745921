"""Embedders whose body is a decoder of texts, in the layout that Qwen3-Embedding and EmbeddingGemma
are published in: the vectors are those of sentence-transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
)

from orchestrator.api import load
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo
from tests.support.published import byte_merges

EXACT = 1e-6
TEXTS = [
    "hello world",
    "The quick brown fox jumps over the lazy dog, and the sea shells.",
    "it's 1,234.56 or 78, isn't it? " * 9,
    "今天天气很好",
]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
QUERY = "Instruct: Given a web search query, retrieve relevant passages\nQuery:"


def save_tokenizer(folder, begin, end, side):
    """Write a byte-level tokenizer that adds tokens at the ends, and return its size."""
    special = ("<pad>", "<bos>", "<end>")
    vocabulary, merges = byte_merges(special)
    own = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    both = [token for token in (begin, end) if token]
    own.post_processor = processors.TemplateProcessing(
        single=[*([begin] if begin else []), "$A", *([end] if end else [])],
        special_tokens=[(token, vocabulary[token]) for token in both],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", padding_side=side, model_max_length=64
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special[1:])})
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def saved(folder, modules, prompts):
    body = folder.parent / "body"
    made = SentenceTransformer(
        modules=[Transformer(str(body)), *modules], prompts=prompts, device="cpu"
    )
    made.save(str(folder))


def qwen(folder, published):
    """Left padding, last token, length 1; a published config names the language model's class."""
    body = folder.parent / "body"
    size = save_tokenizer(body, "", "<end>", "left")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=size, **SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=1
    )
    Qwen3Model(config).save_pretrained(body)
    saved(folder, [Pooling(32, "lasttoken"), Normalize()], {"query": QUERY, "document": ""})
    if published:
        path = folder / "config.json"
        values = json.loads(path.read_text())
        values |= {"architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True}
        path.write_text(json.dumps(values))


def gemma(folder, published):
    """Both sides are read, the mean goes through two layers without bias."""
    body = folder.parent / "body"
    size = save_tokenizer(body, "<bos>", "<end>", "right")
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=size,
        **SIZES,
        use_bidirectional_attention=True,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    )
    Gemma3TextModel(config).save_pretrained(body)
    layers = [
        Dense(32, 48, bias=False, activation_function=nn.Identity()),
        Dense(48, 32, bias=False, activation_function=nn.Identity()),
    ]
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    saved(folder, [Pooling(32, "mean"), *layers, Normalize()], prompts)


@pytest.mark.parametrize(
    ("write", "published"),
    [(qwen, False), (qwen, True), (gemma, True)],
    ids=["qwen", "qwen_published", "gemma"],
)
def test_vectors_are_equal_here_and_after_an_export(write, published, tmp_path: Path):
    write(tmp_path / "model", published)
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    zoo = Zoo(str(tmp_path / "zoo"))
    package = import_checkpoint(zoo, f"hf:{tmp_path / 'model'}", ImportOptions(name="embedder"))
    assert package.manifest.metrics["import.embedding_max_abs_difference"] < EXACT
    ours = load("embedder", zoo=zoo.root)
    export_package(package, tmp_path / "out")
    again = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    for prompt in (None, "query", "document"):
        expected = theirs.encode(TEXTS, prompt_name=prompt)
        found = ours.embed(TEXTS, prompt)
        np.testing.assert_allclose(found, expected, atol=EXACT, rtol=0)
        np.testing.assert_allclose(
            again.encode(TEXTS, prompt_name=prompt), expected, atol=EXACT, rtol=0
        )
        for row, text in enumerate(TEXTS):  # alone: without padding
            alone = theirs.encode([text], prompt_name=prompt)[0]
            np.testing.assert_allclose(found[row], alone, atol=EXACT, rtol=0)
    assert np.abs(found[0] - found[1]).max() > 0.05
