"""Small folders of sentence-transformers, made by that library with random weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from orchestrator.data.processors.text import TextProcessor

from .packages import SENTENCES

HIDDEN, POSITIONS = 16, 40
PROMPTS = {"query": "compute the query of: ", "passage": "task: "}
TEXTS = (
    "Return the sum of the elements.",
    "A QUEUE that hands Tasks to workers, in the order they came!",
    "tensor",
    "Compute the mean of a tensor along a dimension, keeping its shape. " * 6,
)


def save_bert(folder: Path, *, lowercase: bool = False) -> None:
    """Write a tiny BERT body with a tokenizer."""
    torch.manual_seed(3)
    processor = TextProcessor.train(SENTENCES, 160, max_length=POSITIONS, lowercase=lowercase)
    processor.save(folder)
    (folder / "preprocessor_config.json").unlink()  # ours alone
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=processor.vocab_size,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=POSITIONS,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)


def sentence_folder(
    folder: Path,
    pooling: Any = "mean",
    layers: tuple[Any, ...] = (),
    *,
    include_prompt: bool = True,
    max_seq_length: int | None = 24,
    lowercase: bool = False,
    default: str | None = None,
) -> SentenceTransformer:
    """Write a folder, and return it as that library opens it.

    Args:
        folder: Where.
        pooling: A mode, or several.
        layers: ``(out, activation)`` of a projection, or ``"normalize"``.
        include_prompt: Whether the tokens of a prompt take part in the pooling.
        max_seq_length: Limit in tokens.
        lowercase: ``do_lower_case``, on a tokenizer that keeps capitals.
        default: Name of the default prompt.
    """
    body = folder.parent / f"{folder.name}-body"
    save_bert(body)
    torch.manual_seed(5)
    modes = (pooling,) if isinstance(pooling, str) else pooling
    encoder = Transformer(str(body), max_seq_length=max_seq_length, do_lower_case=lowercase)
    modules: list[Any] = [encoder, Pooling(HIDDEN, pooling, include_prompt=include_prompt)]
    width = HIDDEN * len(modes)
    for layer in layers:
        if layer == "normalize":
            modules.append(Normalize())
        else:
            out, activation = layer
            modules.append(Dense(width, out, activation_function=activation))
            width = out
    made = SentenceTransformer(
        modules=modules, prompts=PROMPTS, default_prompt_name=default, device="cpu"
    )
    made.save(str(folder))
    if lowercase:
        # The library puts the folding into the tokenizer it saves; published folders have a flag.
        shutil.copyfile(body / "tokenizer.json", folder / "tokenizer.json")
        settings = {"max_seq_length": max_seq_length, "do_lower_case": True}
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    return SentenceTransformer(str(folder), device="cpu")
