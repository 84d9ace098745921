"""The config of a model: sizes, component slots, ``config.json``, and options of low-rank adapters.

Imports without torch: a graph is served without it.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

import orchestrator.modeling.decoders
import orchestrator.modeling.embeddings
import orchestrator.modeling.encoders
import orchestrator.modeling.targets  # noqa: F401 - these four imports fill the registries
from orchestrator.config import StrictModel, validate_config
from orchestrator.config.registry import Choice, Registry
from orchestrator.errors import ConfigError, IntegrityError, Problem
from orchestrator.modeling.component import (
    ComponentConfig,
    DecoderConfig,
    Dimensions,
    EncoderConfig,
    Visibility,
    decoders,
    embeddings,
    encoders,
    inside,
    target_embeddings,
    targets,
)
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.layers.bias_options import PatchBiasConfig
from orchestrator.modeling.targets.configs import TargetConfig

Target = Annotated[TargetConfig, Choice(targets)]
"""One target: a name or a mapping with ``type``."""

VISIBILITIES: dict[Visibility | None, str] = {
    "past": "earlier positions only",
    "everything": "every position",
    "halves": "the past in one half and the future in the other",
}
"""Visibility of an encoder's output, in words."""

LOOKS_AHEAD = "The part convpos reads later positions, which hold"
"""Reason why a part of an embedding cannot be used."""

ADVICE: dict[Visibility | None, str] = {
    "past": "Use `mask: causal`, a recurrent encoder in one direction, or the target `mlm`.",
    "halves": "Use birnn, bilstm or bigru.",
}
"""Options that give an encoder that visibility."""

CONFIG_FILE = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Names of the files of a model; the index lists the shards of a large one."""
MODEL_TYPE = "orchestrator"
"""Value of Hugging Face's ``model_type`` key: their tools name the format they cannot open."""


class StreamSizes(StrictModel):
    """Sizes of the second stream of a dual model; null: as in the first."""

    hidden_size: PositiveInt | None = None
    """Width of every vector between components."""
    vocab_size: PositiveInt | None = None
    """Rows of the word table."""
    max_position_embeddings: PositiveInt | None = None
    """Longest sequence, in positions."""


class ModelConfig(StrictModel):
    """A model: embedding, encoder, optional target embedding and decoder, and targets."""

    hidden_size: PositiveInt = 128
    """Width of every vector between components."""
    vocab_size: NonNegativeInt = 0
    """Rows of the word table; 0: filled in from the tokenizer."""
    max_position_embeddings: PositiveInt = 512
    """Longest sequence, in positions."""
    type_vocab_size: PositiveInt = 2
    """Rows of the segment table."""
    pad_token_id: NonNegativeInt = 0
    """Id of the padding token."""
    second: StreamSizes | None = None
    """Sizes of the second stream of a dual model where they differ from the first; null: equal."""
    initializer_range: PositiveFloat = 0.02
    """Standard deviation of new weights."""
    initialization: Literal["normal", "gpt2", "t5", "clip"] = "normal"
    """Scheme of new weights, by those whose standard deviation differs: none; outputs into the
    residual stream (GPT-2); most, by the number of inputs (T5); most, by width and depth (CLIP)."""
    embedding: EmbeddingStackConfig = EmbeddingStackConfig()
    """Embedding of the input."""
    encoder: Annotated[EncoderConfig, Choice(encoders)]
    """Encoder of the whole sequence."""
    target_embedding: EmbeddingStackConfig | None = None
    """Embedding of the decoder's input (`decoder_input_ids`)."""
    decoder: Annotated[DecoderConfig, Choice(decoders)] | None = None
    """Decoder of the target sequence; reads the encoder's output."""
    share_embedding: bool = False
    """Use one word table for the embedding and the target embedding (T5, BART)."""
    target: tuple[Target, ...] = ()
    """The heads; a single mapping or name is accepted. None: the model only encodes."""

    @field_validator("target", mode="before")
    @classmethod
    def _one_target_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, dict, ComponentConfig)) else value

    @property
    def dimensions(self) -> Dimensions:
        """The sizes that components share."""
        output_side = self.target_embedding or self.embedding
        first = Dimensions(
            hidden_size=self.hidden_size,
            vocab_size=self.vocab_size,
            max_position_embeddings=self.max_position_embeddings,
            type_vocab_size=self.type_vocab_size,
            pad_token_id=self.pad_token_id,
            embedding_size=output_side.size or 0,
            registers=self.embedding.registers,
        )
        if self.second is None:
            return first
        return replace(first, second=replace(first, **self.second.model_dump(exclude_none=True)))

    def with_targets(self, targets: Sequence[TargetConfig]) -> ModelConfig:
        """Return this config with other targets."""
        return self.model_copy(update={"target": tuple(targets)})

    def with_vocab(self, size: int) -> ModelConfig:
        """Return this config with a vocabulary of ``size`` tokens."""
        return self.model_copy(update={"vocab_size": size})

    def problems(self) -> Iterable[Problem]:
        """Yield what does not fit together."""
        sizes = self.dimensions
        if sizes.vocab_size and sizes.pad_token_id >= sizes.vocab_size:
            message = f"{sizes.pad_token_id} is not below vocab_size ({sizes.vocab_size})."
            yield Problem("pad_token_id", message)
        yield from inside("embedding", self.embedding.check(sizes))
        yield from inside("encoder", self.encoder.check(sizes))
        if self.target_embedding is not None:
            yield from inside("target_embedding", self.target_embedding.check(sizes))
        if self.decoder is not None:
            yield from inside("decoder", self.decoder.check(sizes))
        yield from self._pairing_problems()
        yield from self._stream_problems()
        yield from self._target_problems()

    def _pairing_problems(self) -> Iterator[Problem]:
        if self.decoder is not None and self.target_embedding is None:
            yield Problem(
                "target_embedding",
                "is missing, but there is a decoder. Add it (for example "
                "`{parts: [word, pos]}`), or remove the decoder.",
            )
        if self.decoder is None and self.target_embedding is not None:
            yield Problem("target_embedding", "has no decoder to feed. Add one, or remove it.")
        if self.target_embedding is not None and self.target_embedding.looks_ahead:
            yield Problem("target_embedding.parts", f"{LOOKS_AHEAD} the answers of a decoder.")
        bias = getattr(self.encoder, "position_bias", None)
        if isinstance(bias, PatchBiasConfig) and self.embedding.free_grid:
            yield Problem(
                "encoder.position_bias",
                f"is a table of {bias.rows} by {bias.columns} patches, but images may have other "
                "sizes. Set the image part's `interpolate` false.",
            )
        made, read = self.embedding.width(self.hidden_size), self.hidden_size
        read = getattr(self.encoder, "input_size", None) or read
        if made != read:
            yield Problem(
                "encoder",
                f"reads vectors of {read}, but the embedding makes {made}. Set `embedding.size`, "
                "`embedding.projection` and `encoder.input_size` to fit, or leave all three out.",
            )
        output = self.target_embedding
        if output is not None and output.width(self.hidden_size) != self.hidden_size:
            yield Problem("target_embedding.projection", "'none' is not for a decoder.")
        if self.share_embedding:
            both = (self.embedding, self.target_embedding)
            if not all(stack is not None and stack.word_table is not None for stack in both):
                yield Problem(
                    "share_embedding",
                    "needs a `word` part on both sides. Add one, or set it false.",
                )

    def _stream_problems(self) -> Iterator[Problem]:
        """Yield what reads one stream beside what makes two, or the other way round."""
        two = self.embedding.two_streams
        made = f"the embedding makes {'two streams' if two else 'one stream'}"
        if self.encoder.two_streams != two:
            fitting = "`dual`" if two else "another one"
            yield Problem("encoder.type", f"{self.encoder.type_name()!r}: {made}. Use {fitting}.")
        if two and self.decoder is not None:
            yield Problem("decoder", "reads one stream, but the embedding makes two. Remove it.")
        if self.target_embedding is not None and self.target_embedding.two_streams:
            yield Problem("target_embedding.parts", "`dual` cannot feed a decoder. Take it out.")
        if self.second is not None and not two:
            yield Problem("second", f"sets sizes of a second stream, but {made}. Remove it.")
        for index, target in enumerate(self.target):
            if target.two_streams != two:
                yield Problem(
                    f"target.{index}.type",
                    f"{target.type_name()!r} reads {'two' if target.two_streams else 'one'}, but "
                    f"{made}.",
                )

    def _target_problems(self) -> Iterator[Problem]:
        output = self.embedding if self.target_embedding is None else self.target_embedding
        names = [target.name for target in self.target]
        for index, target in enumerate(self.target):
            where = f"target.{index}"
            if names.index(target.name) != index:
                yield Problem(f"{where}.name", f"{target.name!r} is used twice. Name each target.")
            if target.ties_words and output.word_table is None:
                yield Problem(
                    f"{where}.tie", "needs a `word` embedding part. Add one, or set tie to false."
                )
            yield from inside(where, target.check(self.dimensions))
            if target.type_name() == "mim" and self.embedding.registers:
                yield Problem(f"{where}.type", "mim counts patches after the class token alone.")
            skips = getattr(target, "pooling", None) == "last_token"
            if skips and (self.decoder is not None or not self.embedding.reads_words):
                yield Problem(f"{where}.pooling", "last_token is for encoders of texts.")
            if target.balances is not None:
                yield from inside(where, self._balance_problems(target.balances))
            if target.needs_visibility and self.decoder is None and self.embedding.looks_ahead:
                yield Problem(f"{where}.type", f"{LOOKS_AHEAD} the answers of this target.")
            if self.decoder is None and not _fits(target.needs_visibility, self.encoder.visibility):
                needed, given = target.needs_visibility, self.encoder.visibility
                yield Problem(
                    f"{where}.type",
                    f"{target.type_name()!r} needs an encoder whose outputs know "
                    f"{VISIBILITIES[needed]}; {self.encoder.type_name()!r} as configured knows "
                    f"{VISIBILITIES[given]}, the answer included. {ADVICE[needed]}",
                )

    def _balance_problems(self, top_k: int) -> Iterator[Problem]:
        experts = getattr(self.encoder, "experts", None)
        if experts is None:
            yield Problem("type", "balances experts, but the encoder has none. Remove it.")
        elif getattr(self.encoder, "shared_layers", False):
            yield Problem("type", "sees one pass of a shared block, not all. Share no layers.")
        elif experts.top_k != top_k:
            yield Problem("top_k", f"{top_k} is not the encoder's experts.top_k ({experts.top_k}).")


REGISTERED: dict[str, Registry[Any]] = {
    "embedding": embeddings,
    "encoder": encoders,
    "target_embedding": target_embeddings,
    "decoder": decoders,
    "target": targets,
}
"""The component table of each slot of a model."""


def has_weights(names: Container[str]) -> bool:
    """Return whether the file names of a package include weights that can be read here."""
    return WEIGHTS in names or INDEX in names


def read_config(folder: Path) -> ModelConfig:
    """Return the model config of a folder.

    Raises:
        IntegrityError: The config is missing or of another format.
    """
    path = folder / CONFIG_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}. Restore it.") from error
    return parse_config(data, str(path))


def parse_config(data: object, where: str) -> ModelConfig:
    """Return the model config that is the content of a ``config.json``.

    Args:
        data: The content.
        where: What messages call it.

    Raises:
        IntegrityError: The config is of another format.
    """
    content = dict(data) if isinstance(data, dict) else {}
    found = content.pop("model_type", None)
    if found != MODEL_TYPE:
        raise IntegrityError(
            f"{where}: model_type is {found!r}, only {MODEL_TYPE!r} is read here. "
            "Import other checkpoints into the zoo first."
        )
    try:
        return validate_config(ModelConfig, content, where)
    except ConfigError as error:
        raise IntegrityError(str(error)) from error


class LoraConfig(StrictModel):
    """Train a low-rank change of some linear layers instead of all weights (Hu et al. 2021)."""

    layers: tuple[str, ...] = ("*.attention.query", "*.attention.value")
    """Names of linear layers, with `*`, `?` and `[a-z]`; `*` alone takes all below the heads."""
    rank: PositiveInt = 8
    """Rank r of the change."""
    alpha: PositiveFloat = 16.0
    """The change is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate on what the change reads."""
    rank_stabilised: bool = False
    """Multiply by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023)."""
    train: tuple[str, ...] = ("targets",)
    """Parameters that are trained as well, by name; the heads, as a rule."""

    @property
    def scale(self) -> float:
        """Factor on the change."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)

    def problems(self) -> Iterable[Problem]:
        """There must be something to adapt."""
        if not self.layers:
            yield Problem("layers", "is empty. Name linear layers, for example *.attention.query.")


def _fits(needed: Visibility | None, given: Visibility | None) -> bool:
    return needed is None or given is None or needed == given
