"""Comparison of whole tensors: those that a file stores twice, and those of both models.

The numeric check of outputs reads a few rows of each table only; these comparisons read every row.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from orchestrator.errors import IntegrityError
from orchestrator.modeling.huggingface.architecture import Architecture, Fetch, Repeat, quiet

if TYPE_CHECKING:
    from orchestrator.modeling.config import ModelConfig
    from orchestrator.modeling.huggingface.folder import Source

PARTS = (2, 3)
"""Numbers of stored tensors that transformers joins into one: gate and up; query, key, value."""
ROUNDING = 1e-5
"""Largest difference between sine waves that different libraries computed in fp32."""


def require_repeats(source: "Source", repeats: Mapping[str, Repeat], fetch: Fetch) -> None:
    """Refuse a file whose repeated tensors differ from those that they repeat.

    Args:
        source: The checkpoint.
        repeats: Names in the file of tensors that the table does not name → what they repeat.
        fetch: Reads one tensor of the file.

    Raises:
        IntegrityError: One differs; it is named with the number of rows.
    """
    for name, repeat in sorted(repeats.items()):
        tolerance = 0.0
        if repeat.of:
            expected, what = fetch(repeat.of), repeat.of
        elif repeat.value is not None:
            expected, what = repeat.value(source.config), "the computed table"
        else:
            continue
        tensor = fetch(name)
        if not repeat.of:
            tolerance = max(ROUNDING, torch.finfo(tensor.dtype).eps)
        rows = _differing_rows(tensor, expected, tolerance)
        if rows:
            raise IntegrityError(
                f"{source.folder}: {name} and {what} differ in {len(rows)} of {len(tensor)} rows "
                f"(the first is row {rows[0]}). {source.architecture.name} reads both; here one "
                "tensor serves for both, so outputs would differ. Remove the one that is not "
                "meant from the files."
            )


def _differing_rows(one: Tensor, other: Tensor, tolerance: float) -> list[int]:
    """Return the rows that differ; all of them where shapes differ."""
    if one.shape != other.shape:
        return list(range(len(one)))
    equal = (one.float() - other.float()).abs() <= tolerance
    return (~equal.reshape(len(one), -1).all(dim=1)).nonzero().flatten().tolist()


def their_model(
    folder: Path, architecture: Architecture, config: "ModelConfig", made: frozenset[str]
) -> Any:
    """Open a folder with their class, in fp32.

    Args:
        folder: Their files.
        architecture: Which class it is.
        config: Our config.
        made: Names of parameters that the class may make itself.

    Raises:
        IntegrityError: The folder lacks other tensors.
    """
    import transformers

    with quiet():
        model, loading = getattr(transformers, architecture.name).from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **architecture.arguments(config),
        )
    missing = set(loading["missing_keys"]) - made
    wrong = {"missing_keys": sorted(missing), "mismatched_keys": sorted(loading["mismatched_keys"])}
    if any(wrong.values()):
        raise IntegrityError(f"{architecture.name} does not find all its tensors: {wrong}.")
    return model.eval()


def digest(tensor: Tensor) -> bytes:
    """Return a hash of a tensor's values in fp32, whatever its shape and type."""
    values = tensor.detach().cpu().float().contiguous().reshape(-1)
    return hashlib.blake2b(values.view(torch.uint8).numpy().data, digest_size=16).digest()


def require_known(
    state: Mapping[str, Tensor], known: Iterable[Tensor], architecture: Architecture
) -> int:
    """Refuse a model of theirs that holds a tensor which the package does not hold, in any row.

    Names inside their classes change between releases, so tensors are found by their values.

    Args:
        state: Parameters and stored buffers of their model, without those that it made itself.
        known: The package's tensors in their layout; one at a time is in memory.
        architecture: Which class it is.

    Returns:
        Number of tensors that were compared.

    Raises:
        IntegrityError: Their model holds others; all are named.
    """
    own = [r for r in architecture.repeated if not r.of]
    compared = {
        name: tensor
        for name, tensor in state.items()
        if tensor.is_floating_point() and not any(each.matches(name) for each in own)
    }
    counts = (1, *PARTS) if architecture.splits else (1,)
    digests = {
        digest(part) for tensor in known for count in counts for part in _parts(tensor, count)
    }
    unknown = sorted(name for name, tensor in compared.items() if not _is_known(tensor, digests))
    if unknown:
        raise IntegrityError(
            f"{architecture.name} holds tensors with other values than the package: "
            f"{', '.join(unknown)}. Nothing was written. Please report the checkpoint's "
            "config.json."
        )
    return len(compared)


def _parts(tensor: Tensor, count: int) -> Sequence[Tensor]:
    return (tensor,) if count == 1 or not tensor.dim() else tensor.chunk(count)


def _is_known(tensor: Tensor, digests: set[bytes]) -> bool:
    """Return whether a tensor, or each part that it was joined from, has known values."""
    if digest(tensor) in digests:
        return True
    if tensor.dim() > 2:  # experts, joined along a new first axis
        return all(_is_known(part, digests) for part in tensor)
    if tensor.dim() < 2:
        return False
    return any(all(digest(part) in digests for part in tensor.chunk(count)) for count in PARTS)
