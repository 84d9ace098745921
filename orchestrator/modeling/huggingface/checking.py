"""Numeric check of a conversion: one random batch through their class and through our model.

Legend: B batch, S length, T target length, V vocabulary.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import IntegrityError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, quiet
from orchestrator.modeling.huggingface.samples import Sample, random_sample
from orchestrator.modeling.huggingface.values import JsonObject, Values
from orchestrator.modeling.package import load_model

TOLERANCE = 1e-4
"""Largest difference, in units of the largest value, that rounding in fp32 explains."""


@dataclass(frozen=True, slots=True)
class Report:
    """Result of the check.

    Attributes:
        max_abs_difference: Largest difference of an output.
        max_relative_difference: The same divided by the largest output of theirs.
        outputs: Name of each output of ours that was compared → shape.
        not_compared: Names of those that their class does not answer (a pooler that only travels
            along).
    """

    max_abs_difference: float
    max_relative_difference: float
    outputs: dict[str, list[int]]
    not_compared: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the content of a report file."""
        return {
            "max_abs_difference": self.max_abs_difference,
            "max_relative_difference": self.max_relative_difference,
            "tolerance": TOLERANCE,
            "outputs": {name: [*shape] for name, shape in self.outputs.items()},
            "not_compared": list(self.not_compared),
        }


def check(
    theirs: Path, architecture: Architecture, values: Values, ours: Path, config: ModelConfig
) -> Report:
    """Compare all outputs of two folders in fp32; one model at a time is in memory.

    Args:
        theirs: A folder that transformers opens.
        architecture: Which class it is.
        values: Its complete config.
        ours: A folder with the same model in our form.
        config: Our config.

    Raises:
        IntegrityError: An output differs by more than rounding explains, or is not there.
    """
    sample = random_sample(architecture, values, config)
    made = architecture.computed(config).keys()
    expected = their_outputs(theirs, architecture, sample, frozenset(made))
    found = our_outputs(ours, sample)
    silent = {each.name for each in config.target if each.type_name() == "vector"}
    return compare_outputs(found, expected, sample, silent)


@torch.no_grad()
def their_outputs(
    folder: Path, architecture: Architecture, sample: Sample, made: frozenset[str] = frozenset()
) -> list[Tensor]:
    """Return every tensor that their class answers, in fp32; it may make some parameters itself."""
    import transformers

    with quiet():
        model, loading = getattr(transformers, architecture.name).from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing = set(loading["missing_keys"]) - made
    wrong = {"missing_keys": sorted(missing), "mismatched_keys": sorted(loading["mismatched_keys"])}
    if any(wrong.values()):
        raise IntegrityError(f"{architecture.name} does not find all its tensors: {wrong}.")
    known = inspect.signature(model.forward).parameters
    inputs = {name: value for name, value in sample.theirs.items() if name in known}
    return list(_tensors(model.eval()(**inputs)))


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)


@torch.no_grad()
def our_outputs(folder: Path, sample: Sample) -> dict[str, Tensor]:
    """Return the logits of every head in fp32; ``encoded`` of a model without heads."""
    model = load_model(folder).eval()
    if not model.config.target:
        return {"encoded": model.encode(sample.ours)}
    return model.predict(sample.ours)


def compare_outputs(
    found: Mapping[str, Tensor],
    expected: list[Tensor],
    sample: Sample,
    silent: Collection[str] = (),
) -> Report:
    """Compare each output of ours with the one of theirs that has its shape.

    Args:
        found: Our outputs by name.
        expected: Theirs.
        sample: What both read.
        silent: Names of ours that theirs may keep to itself; one output must be compared.

    Raises:
        IntegrityError: None has, or the nearest one differs.
    """
    largest, relative = 0.0, 0.0
    compared: dict[str, list[int]] = {}
    for name, ours in found.items():
        pairs = [pair for theirs in expected for pair in _aligned(ours, theirs)]
        if not pairs and name in silent and len(found) > 1:
            continue
        if not pairs:
            shapes = ", ".join(str(list(tensor.shape)) for tensor in expected)
            raise IntegrityError(
                f"output {name} has shape {list(ours.shape)}; theirs have {shapes}."
            )
        difference, share = min(_difference(*pair, sample) for pair in pairs)
        if not share <= TOLERANCE:
            raise IntegrityError(
                f"output {name} differs from theirs by {difference:.3g}, {share:.3g} of the "
                f"largest value; rounding explains {TOLERANCE:g}. The conversion of this "
                "checkpoint is wrong, so nothing was written. Please report its config.json."
            )
        largest, relative = max(largest, difference), max(relative, share)
        compared[name] = list(ours.shape)
    return Report(largest, relative, compared, tuple(sorted(found.keys() - compared.keys())))


def _aligned(ours: Tensor, theirs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the ways in which two outputs may be the same.

    A head over positions answers at all of them here, [B, S, K]; some classes leave out the class
    token in front (BEiT) or the image behind a text (ViLT).
    """
    if ours.shape == theirs.shape:
        yield ours, theirs
    elif ours.dim() == theirs.dim() == 3 and ours.shape[::2] == theirs.shape[::2]:
        count = theirs.shape[1]
        if 0 < count < ours.shape[1]:
            yield ours[:, :count], theirs
            yield ours[:, -count:], theirs


def _difference(ours: Tensor, theirs: Tensor, sample: Sample) -> tuple[float, float]:
    """Return the largest difference at real positions, absolute and relative; NaN counts as inf."""
    ours, theirs = ours.double(), theirs.double()
    for mask in sample.masks:
        if ours.dim() > 1 and ours.shape[:2] == mask.shape:
            ours, theirs = ours[mask], theirs[mask]
            break
    difference = float((ours - theirs).abs().nan_to_num(torch.inf).max())
    scale = float(theirs.abs().max())
    return difference, difference / max(scale, torch.finfo(torch.float32).tiny)
