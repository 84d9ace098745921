"""Checks that a model reads what its examples hold. Imports neither torch nor ray."""

from collections.abc import Iterator

from orchestrator.data.samples.kinds import (
    ExamplesConfig,
    MaskedPatchesConfig,
    TranscriptsConfig,
)
from orchestrator.data.spec import BUILTIN_EXAMPLES, CorpusConfig, TokenizerConfig
from orchestrator.errors import Problem
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import ImageConfig, MaskedPatchConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.pretraining.model_inputs import inputs_of, reader_of, streams_of


def reads_pictures(model: ModelConfig) -> bool:
    """Return whether an input of a model is pictures."""
    return any(isinstance(reader_of(stack), ImageConfig) for stack in streams_of(model))


def reads_sounds(model: ModelConfig) -> bool:
    """Return whether a model's input is sounds."""
    return inputs_of(model).sound is not None


def example_problems(
    model: ModelConfig, chosen: ExamplesConfig, data: CorpusConfig
) -> Iterator[Problem]:
    """Yield what of the examples the model does not read, and what the source does not have."""
    yield from _source_problems(chosen, data)
    stacks = streams_of(model)
    found = sorted(_column(stack) for stack in stacks)
    wanted = sorted("text" if name == "pair" else name for name in chosen.columns)
    if isinstance(chosen, TranscriptsConfig):
        wanted = ["sound"]  # the text is written
    if found != wanted:
        yield Problem(
            "model.embedding.parts",
            f"the model reads {' and '.join(found)}, {chosen.type_name()!r} samples have "
            f"{' and '.join(wanted)}.",
        )
    elif isinstance(chosen, MaskedPatchesConfig) and not isinstance(
        reader_of(stacks[0]), MaskedPatchConfig
    ):
        yield Problem("model.embedding.parts.0", "hides no patches. Use `masked_patch` for `mim`.")
    if "text" not in chosen.columns:
        if data.tokenizer != TokenizerConfig():
            yield Problem("data.tokenizer", "pictures have no tokenizer. Leave it out.")
    else:
        yield from _length_problems(model, stacks, data.block_size)


def _column(stack: EmbeddingStackConfig) -> str:
    """Return the kind of input that a stack reads."""
    part = reader_of(stack)
    if isinstance(part, ImageConfig):
        return "picture"
    return "sound" if part is not None and part.type_name() in ("speech", "waveform") else "text"


def _source_problems(chosen: ExamplesConfig, data: CorpusConfig) -> Iterator[Problem]:
    if data.mixture:
        yield Problem("data.mixture", "examples come from one source. Use data.data.")
        return
    spec = data.data
    fitting = [
        f"builtin:{name}"
        for name, columns in BUILTIN_EXAMPLES.items()
        if set(chosen.columns) <= set(columns)
    ]
    if spec.scheme == "hf" or (
        spec.scheme == "builtin" and not set(chosen.columns) <= set(spec.examples or ())
    ):
        yield Problem(
            "data.data.source",
            f"{spec.source!r} has no examples with {' and '.join(chosen.columns)}. Use "
            f"{', '.join(fitting)} or files:.",
        )


def _length_problems(
    model: ModelConfig, stacks: tuple[EmbeddingStackConfig, ...], length: int
) -> Iterator[Problem]:
    """Yield where texts may be longer than what reads or writes them."""
    sizes = model.dimensions
    rooms = [
        stack.max_position_embeddings or dimensions.max_position_embeddings
        for stack, dimensions in zip(stacks, (sizes, sizes.of_second), strict=False)
        if _column(stack) == "text"
    ]
    if model.target_embedding is not None:
        rooms.append(
            model.target_embedding.max_position_embeddings or sizes.max_position_embeddings
        )
    for room in rooms:
        if length > room:
            yield Problem(
                "data.block_size",
                f"{length} exceeds max_position_embeddings ({room}) of what reads the texts. Raise "
                f"that, or use {room} or fewer tokens.",
            )
