"""Check of sentence vectors: texts through a folder of theirs, and through the package.

The other side is sentence-transformers where it is installed. Else it is the encoder of
transformers with the definitions of the poolings, one text at a time and without padding.

Legend: N texts, S tokens of one, D width of token vectors, E width of the vector.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, normalizers
from torch import Tensor

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.huggingface.architecture import quiet
from orchestrator.modeling.huggingface.checking import TOLERANCE
from orchestrator.modeling.package import load_model
from orchestrator.modeling.sentence.embedder import SentenceEmbedder
from orchestrator.modeling.sentence.statement import DenseLayer

TEXTS = (
    "A queue hands tasks to the workers in the order in which they came.",
    "Crème brûlée, MIXED Case",
    "5 > 3",
    "the sum of the elements of an array over the given axis " * 40,
)
"""Short and long, with accents and capitals; the last one is cut by most limits."""

Embed = Callable[[str], Float32Array]
"""The texts under a prompt, named or "" → their vectors [N, E]."""


def check_vectors(theirs: Path, ours: Path) -> float:
    """Compare the vectors of a few texts, under each prompt; return the largest difference.

    Args:
        theirs: A folder that sentence-transformers opens.
        ours: A folder with the same model in our form, and its statement.

    Raises:
        InputError: There is no tokenizer.
        IntegrityError: A vector differs by more than rounding explains.
    """
    if not (ours / "tokenizer.json").is_file():
        raise InputError(f"{theirs} has no tokenizer, so no text has a vector. Add its files.")
    embedder = SentenceEmbedder.load(ours)
    assert embedder is not None
    installed = importlib.util.find_spec("sentence_transformers") is not None
    with quiet():
        reference = (library_vectors if installed else plain_vectors)(theirs, embedder)
    found = _our_vectors(ours, embedder)
    largest, difference = float(np.finfo(np.float32).tiny), 0.0
    for name in ("", *embedder.statement.prompts):
        expected = reference(name)
        difference = max(difference, float(np.abs(found(name) - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    if not difference <= TOLERANCE * largest:
        raise IntegrityError(
            f"vectors of texts differ from theirs by {difference:.3g} at a largest value of "
            f"{largest:.3g}; rounding explains {TOLERANCE:g} of it. The conversion of this "
            "checkpoint is wrong, so nothing was written. Please report its modules.json."
        )
    return difference


def library_vectors(folder: Path, embedder: SentenceEmbedder) -> Embed:
    """Return ``SentenceTransformer.encode`` in fp32 on the CPU."""
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, trust_remote_code=False
    ).float()
    model.max_seq_length = embedder.statement.max_length  # theirs may exceed the positions

    def vectors(name: str) -> Float32Array:
        # An empty prompt also turns the default one off.
        prompt = embedder.statement.prompt(name)
        found: Float32Array = model.encode([*TEXTS], prompt=prompt, show_progress_bar=False)
        return found

    return vectors


def plain_vectors(folder: Path, embedder: SentenceEmbedder) -> Embed:
    """Return the definitions of poolings and layers on the encoder of transformers."""
    from transformers import AutoModel, AutoTokenizer

    statement = embedder.statement
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    model.eval()

    @torch.no_grad()
    def vectors(name: str) -> Float32Array:
        prompt, rows = statement.prompt(name), []
        for text in TEXTS:
            whole, start = (_folded(each, embedder) for each in (prompt + text, prompt))
            cut = {"truncation": True, "max_length": statement.max_length}
            hidden = model(**tokenizer(whole, return_tensors="pt", **cut)).last_hidden_state[0]
            ids = tokenizer(start, **cut)["input_ids"] if prompt else []
            first = len(ids) - int(bool(ids) and ids[-1] in tokenizer.all_special_ids)
            rows.append(_defined(hidden.numpy(), embedder, first))
        return np.stack(rows).astype(np.float32)

    return vectors


def _defined(hidden: AnyArray, embedder: SentenceEmbedder, prompt: int) -> AnyArray:
    """Return the vector [E] of one text from its token vectors [S, D]."""
    first = 0 if embedder.statement.include_prompt else prompt
    chosen, places = hidden[first:], np.arange(first + 1, len(hidden) + 1)
    poolings = {
        "cls": lambda: chosen[0],
        "lasttoken": lambda: chosen[-1],
        "max": lambda: chosen.max(0),
        "mean": lambda: chosen.mean(0),
        "mean_sqrt_len_tokens": lambda: chosen.sum(0) / np.sqrt(len(chosen)),
        "weightedmean": lambda: places @ chosen / places.sum(),
    }
    vector = np.concatenate([poolings[mode]() for mode in embedder.statement.pooling])
    for place, layer in enumerate(embedder.statement.layers):
        if isinstance(layer, DenseLayer):
            state = {n: each.numpy() for n, each in embedder.layers[place].state_dict().items()}
            vector = state["weight"] @ vector + state.get("bias", 0)
            if layer.activation != "identity":
                function: Any = getattr(torch.nn.functional, layer.activation)
                vector = function(torch.from_numpy(vector)).numpy()
        else:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return vector


def _our_vectors(folder: Path, embedder: SentenceEmbedder) -> Embed:
    """Return the vectors of a package, in one padded batch."""
    statement, model = embedder.statement, load_model(folder).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(statement.max_length)

    @torch.no_grad()
    def vectors(name: str) -> Float32Array:
        prompt = statement.prompt(name)
        read = tokenizer.encode_batch([_folded(prompt + text, embedder) for text in TEXTS])
        start = tokenizer.encode(_folded(prompt, embedder)) if prompt else None
        first = len(start) - start.special_tokens_mask[-1] if start is not None else 0
        shape = (len(read), max(map(len, read)))
        batch: dict[str, Tensor] = {
            "input_ids": torch.full(shape, model.config.pad_token_id),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
            "token_type_ids": torch.zeros(shape, dtype=torch.int64),
        }
        for row, each in enumerate(read):
            batch["input_ids"][row, : len(each)] = torch.tensor(each.ids)
            batch["attention_mask"][row, : len(each)] = 1
        chosen = torch.arange(shape[1]).expand(shape) >= first
        found: Float32Array = embedder(*model.read(batch), chosen).numpy()
        return found

    return vectors


def _folded(text: str, embedder: SentenceEmbedder) -> str:
    lowercase = embedder.statement.lowercase
    return normalizers.Lowercase().normalize_str(text) if lowercase else text
