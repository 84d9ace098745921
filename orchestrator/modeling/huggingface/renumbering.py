"""Exchange of two token ids in a package, for classes that require a certain padding id.

Tokenizers made here pad with id 0. transformers' Speech2Text works with padding id 1 only, so the
exported model has its tokens renumbered: two rows of each table over the vocabulary change places,
and two numbers in ``tokenizer.json``. The two are the same model of the same texts.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.sources import PROCESSOR_FILES
from orchestrator.modeling.package import write_config
from orchestrator.modeling.tensor_files import (
    SHARD_BYTES,
    TensorReader,
    skeletons,
    weight_files,
    write_tensors,
)

TOKENIZER = "tokenizer.json"


def write_with_padding(
    folder: Path, config: ModelConfig, pad: int, target: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a copy of a model and its tokenizer in which the padding token has another id.

    The token that had that id gets the one of padding.

    Args:
        folder: The model's files.
        config: Its config.
        pad: The new id.
        target: An existing folder.
        shard_bytes: Larger models are written as several files.
    """
    ids = {config.pad_token_id: pad, pad: config.pad_token_id}
    files = weight_files(folder)
    read = TensorReader(files)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name in files:
            tensor = read(name)
            over_words = len(tensor) == config.vocab_size and _of_words(name, config)
            yield name, _exchanged(tensor, ids) if over_words else tensor

    write_tensors(target, skeletons(files), tensors(), shard_bytes)
    write_config(target, config.model_copy(update={"pad_token_id": pad}))
    for name in PROCESSOR_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    if (folder / TOKENIZER).is_file():
        content = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
        text = json.dumps(renumbered(content, ids), indent=2, ensure_ascii=False)
        (target / TOKENIZER).write_text(text, encoding="utf-8")


def _of_words(name: str, config: ModelConfig) -> bool:
    """Return whether a tensor has one row per token: word tables, output layers over tokens."""
    outputs = [f"targets.{each.name}.output." for each in config.target if each.reads_words]
    return name.endswith("word.weight") or name.startswith(tuple(outputs))


def _exchanged(tensor: Tensor, ids: dict[int, int]) -> Tensor:
    """Return a copy whose rows ``ids`` have changed places."""
    copy = tensor.clone()
    for old, new in ids.items():
        copy[new] = tensor[old]
    return copy


def renumbered(content: dict[str, Any], ids: dict[int, int]) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` with other ids.

    Args:
        content: WordPiece, BPE or Unigram, with framing by template or none.
        ids: Old id → new id, a permutation.
    """
    model = dict(content["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        pairs = [(ids.get(number, number), token) for token, number in vocabulary.items()]
        model["vocab"] = {token: number for number, token in sorted(pairs)}
    else:
        model["vocab"] = [vocabulary[ids.get(number, number)] for number in range(len(vocabulary))]
        if model.get("unk_id") is not None:
            model["unk_id"] = ids.get(model["unk_id"], model["unk_id"])
    added = [token | {"id": ids.get(token["id"], token["id"])} for token in content["added_tokens"]]
    framing = content.get("post_processor")
    return content | {
        "model": model,
        "added_tokens": sorted(added, key=lambda token: int(token["id"])),
        "post_processor": framing if framing is None else _framing(framing, ids),
    }


def _framing(framing: dict[str, Any], ids: dict[int, int]) -> dict[str, Any]:
    special = framing.get("special_tokens", {})
    numbered = {
        name: token | {"ids": [ids.get(number, number) for number in token["ids"]]}
        for name, token in special.items()
    }
    return framing | {"special_tokens": numbered}
