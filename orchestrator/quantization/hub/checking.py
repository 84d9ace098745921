"""Numeric check of an exported graph: random padded rows through it and through the package.

Legend: B batch, S length, C choices of a row.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from orchestrator.arrays import AnyArray, Float32Array
from orchestrator.errors import IntegrityError
from orchestrator.inference.models import EMBEDDING, load_folder
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.sentence.embedder import SentenceEmbedder
from orchestrator.modeling.targets.configs import TargetConfig
from orchestrator.quantization.backends.onnxruntime_cpu.session import open_session
from orchestrator.quantization.emission.model import HIDDEN
from orchestrator.quantization.hub.renaming import BORDERS, LOGITS, SENTENCE
from orchestrator.quantization.plans import PlanFile

TOLERANCE: Final = 1e-4
"""Largest difference, in units of the largest value, that rounding in fp32 explains."""
LONGEST: Final = {"sequence_length": 12, "frames": 64, "samples": 8000}
"""Tokens, frames or samples of the longest row that is compared, by the name of the dimension."""
SHARES: Final = (1.0, 0.6, 0.1)
"""Lengths of the rows, as shares of the longest."""
SIDE: Final = 32
"""Pixels of an image whose size is free."""
IMAGES: Final = 4
"""Dimensions of images; others have their positions in the second one."""
SEED: Final = 20


def answers_batches(folder: Path) -> bool:
    """Return whether the answer to a row does not depend on the other rows."""
    plan = PlanFile.read(folder)
    return plan is None or plan.batch_invariant


def check(file: Path, folder: Path, config: ModelConfig, head: TargetConfig | None) -> float:
    """Return the largest difference of an output from the package's model, of padded rows.

    Raises:
        IntegrityError: It is larger than rounding explains.
    """
    session = open_session(file)
    inputs = {value.name: value.shape for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    name = EMBEDDING if head is None else head.name
    model, embedder = load_folder(folder), SentenceEmbedder.load(folder)
    batch, worst = sample(config, inputs), 0.0
    together = [batch] if "input_ids" in inputs and answers_batches(folder) else []
    for rows in [*alone(batch), *together]:
        expected = model.run(rows, [name])[name]
        feed = {each: _fed(rows[each], shape) for each, shape in inputs.items()}
        found = dict(zip(outputs, session.run(None, feed), strict=True))
        if not found.keys() & {LOGITS, SENTENCE, *BORDERS} and embedder is not None:
            found[SENTENCE] = _pooled(embedder, found[HIDDEN], rows)
        answer = _answer_of(found).reshape(expected.shape)
        if (
            answer.ndim == 3 and "input_ids" in rows
        ):  # whatever an encoder makes of padding, nobody reads it
            real = rows["attention_mask"][..., None]
            answer, expected = answer * real, expected * real
        difference = float(np.abs(answer - expected).max())
        limit = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if not difference <= limit:  # also true for NaN
            raise IntegrityError(
                f"the exported graph differs from {folder} by {difference:.3g} at {name!r}. "
                "Nothing was written; report this with the versions of onnx and onnxruntime."
            )
        worst = max(worst, difference)
    return worst


def _answer_of(found: Mapping[str, Float32Array]) -> Float32Array:
    """Return the outputs that were exported as our one."""
    if BORDERS[0] in found:
        return np.stack([found[name] for name in BORDERS], axis=-1)
    return found[LOGITS] if LOGITS in found else found[SENTENCE]


def _pooled(
    embedder: SentenceEmbedder, hidden: Float32Array, rows: Mapping[str, AnyArray]
) -> Float32Array:
    """Return the vectors that the package's pooling makes of exported token vectors."""
    mask = torch.from_numpy(rows["attention_mask"])
    vectors: Float32Array = embedder(torch.from_numpy(hidden), mask).numpy()
    return vectors


def _fed(values: AnyArray, shape: Sequence[int | str]) -> AnyArray:
    """Return an input in the shape that the graph declares: one choice per row where it has any."""
    return values[:, None] if len(shape) > values.ndim else values


def alone(batch: Mapping[str, AnyArray]) -> list[dict[str, AnyArray]]:
    """Return each row alone, without its padding."""
    count = len(next(iter(batch.values())))
    mask = batch.get("attention_mask")
    ends = [None] * count if mask is None else mask.sum(axis=1).tolist()
    return [
        {
            name: values[row : row + 1, :end] if values.ndim < IMAGES else values[row : row + 1]
            for name, values in batch.items()
        }
        for row, end in enumerate(ends)
    ]


def sample(config: ModelConfig, shapes: Mapping[str, Sequence[int | str]]) -> dict[str, AnyArray]:
    """Return random rows of every input, padded on the right."""
    rng = np.random.default_rng(SEED)
    named = [size for shape in shapes.values() for size in shape if size in LONGEST]
    longest = LONGEST[str(named[0])] if named else 1
    if "input_ids" in shapes:
        longest = min(longest, config.max_position_embeddings)
    lengths = np.maximum(1, (np.asarray(SHARES) * longest).astype(np.int64))
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    ids = rng.integers(0, max(1, config.vocab_size), mask.shape)
    made: dict[str, AnyArray] = {
        "input_ids": np.where(mask, ids, config.pad_token_id),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, config.type_vocab_size, mask.shape) * mask,
    }
    for name in shapes.keys() - made.keys():
        free = {size: longest if size in LONGEST else SIDE for size in shapes[name]}
        sizes = [size if isinstance(size, int) else free[size] for size in shapes[name][1:]]
        made[name] = rng.standard_normal((len(lengths), *sizes)).astype(np.float32)
    return {name: values for name, values in made.items() if name in shapes}
