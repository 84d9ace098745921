"""Emission: from a config and its parameters to an ONNX model.

Inputs of texts, int32: ``input_ids`` [B, S], ``attention_mask`` [B, S] and, if the model has
segments, ``token_type_ids`` [B, S]; ``embedding_mask`` [B, S] if the package states that prompts
are not pooled. Of images, float32: ``pixel_values`` [B, C, height, width]. Of sounds, float32:
``input_values`` [B, N] or ``input_features`` [B, F, M], with ``attention_mask``.
Outputs, float32: ``embedding`` [B, E] and, of every head that answers in one pass,
``logits.<target>``: [B, K] with one answer per sequence, [B, S, K] with one per token. B and S are
symbolic. The token vectors [B, S, D] are the value ``last_hidden_state``, which exports declare.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import onnx

from orchestrator.arrays import AnyArray
from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.encoders.configs import (
    GatedCnnConfig,
    TransformerConfig,
)
from orchestrator.modeling.encoders.recurrent_configs import RecurrentConfig
from orchestrator.modeling.sentence.statement import SentenceEmbedding
from orchestrator.quantization.backends.onnxruntime_cpu.mapped import aligned
from orchestrator.quantization.backends.onnxruntime_cpu.session import (
    LOGITS_PREFIX,
    METADATA_POSITIONS,
    METADATA_VOCAB,
)
from orchestrator.quantization.emission.embedded import Embedded
from orchestrator.quantization.emission.embeddings.stack import emit_embedding
from orchestrator.quantization.emission.encoders.gatedcnn import GatedCnnEmitter
from orchestrator.quantization.emission.encoders.recurrent import CELLS, RecurrentEmitter
from orchestrator.quantization.emission.encoders.transformer import TransformerEmitter
from orchestrator.quantization.emission.gemms import Product
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.outputs.heads import HeadEmitter, answering
from orchestrator.quantization.emission.weights import Weights
from orchestrator.quantization.kinds import QuantizedWeight, Range
from orchestrator.quantization.plans import Plan, Unit

HIDDEN: Final = "last_hidden_state"
"""Name of the value that holds the token vectors [B, S, D]; no output by itself."""
SUPPORTED_ENCODERS = ("transformer", "gatedcnn", *CELLS, *(f"bi{cell}" for cell in CELLS))


@dataclass(frozen=True, slots=True)
class Emission:
    """An ONNX model and its units: the GEMMs that a plan can choose a kind for."""

    model: onnx.ModelProto
    units: tuple[Unit, ...]
    products: Mapping[str, Product] = field(default_factory=dict)
    """The units that are GEMMs by themselves, of an observed graph."""

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that the graph answers with."""
        names = (output.name for output in self.model.graph.output)
        return tuple(n.removeprefix(LOGITS_PREFIX) for n in names if n.startswith(LOGITS_PREFIX))

    def to_bytes(self) -> bytes:
        """Return the content of ``model.onnx``."""
        return aligned(self.model.SerializeToString())


def emit(
    config: ModelConfig,
    state: Mapping[str, AnyArray],
    plan: Plan | None = None,
    ranges: Mapping[str, Range] | None = None,
    *,
    observe: bool = False,
    statement: SentenceEmbedding | None = None,
    stored: Mapping[str, QuantizedWeight] | None = None,
) -> Emission:
    """Write a model as an ONNX graph.

    Args:
        config: The model's config.
        state: Its parameters by name, as in ``model.safetensors``; those of the statement's layers
            too, as ``sentence.layers.<place>.*``.
        plan: The kind of every unit; None: float.
        ranges: Calibrated input range of each unit, for ``static_*`` kinds.
        observe: Also return the input of every unit (see ``calibrators``).
        statement: What the package states about embeddings.
        stored: Weights that are quantized already, by ``kinds.stored_name``.

    Raises:
        InputError: If a component has no ONNX form here, a parameter is missing, not finite or
            unused, the plan does not fit, or the model is too large for one file.
    """
    graph = GraphBuilder(plan or Plan({}), ranges, observe=observe, stored=stored)
    weights = Weights(state)
    _require_form(config)
    embedded = emit_embedding(graph, config, weights)
    hidden = graph.named(HIDDEN, emit_encoder(graph, config, weights, embedded))
    HeadEmitter(graph, config, weights, statement).emit(hidden, embedded.mask)
    _require_all_read(weights, config)
    model, sizes = graph.model(), config.embedding.dimensions_of_parts(config.dimensions)
    onnx.helper.set_model_props(
        model,
        {
            METADATA_VOCAB: str(config.vocab_size),
            METADATA_POSITIONS: str(sizes.max_position_embeddings),
            **graph.metadata,
        },
    )
    return Emission(model, tuple(graph.units), graph.products)


def _require_form(config: ModelConfig) -> None:
    """Refuse what has no ONNX form, with the reason.

    Raises:
        InputError: If the model has experts, a prefix, two streams, or answers by its decoder.
    """
    encoder, names = config.encoder, ", ".join(head.name for head in answering(config))
    blocks = encoder if isinstance(encoder, TransformerConfig) else None
    if blocks is not None and blocks.experts is not None:
        what, why = "encoder.experts", "a graph would compute every expert for every token"
    elif blocks is not None and blocks.mask == "prefix":
        what, why = "encoder.mask: prefix", "a graph has no input for the prefix"
    elif encoder.two_streams:
        what, why = "a model of two streams", "each is a model of its own; import the tower alone"
    elif config.decoder is not None and names:
        what, why = (
            f"the answers of {names}",
            "a decoder gives them, and only encoders have a graph",
        )
    else:
        return
    raise InputError(f"{what} cannot be a graph: {why}")


def emit_encoder(
    graph: GraphBuilder, config: ModelConfig, weights: Weights, embedded: Embedded
) -> str:
    """Encode what the embedding made; return the hidden states [B, S, D].

    Raises:
        InputError: If the encoder has no ONNX form here.
    """
    encoder, inner = config.encoder, config.embedding.dimensions_of_parts(config.dimensions)
    sizes = replace(config.dimensions, max_position_embeddings=inner.max_position_embeddings)
    if isinstance(encoder, TransformerConfig):
        return TransformerEmitter(graph, encoder, sizes, weights).emit(embedded)
    if isinstance(encoder, GatedCnnConfig):
        return GatedCnnEmitter(graph, encoder, weights).emit(embedded.hidden, embedded.mask)
    if isinstance(encoder, RecurrentConfig):
        return RecurrentEmitter(graph, encoder, weights).emit(embedded.hidden, embedded.mask)
    raise InputError(
        f"encoder {encoder.type_name()!r} cannot be quantized yet; supported: "
        f"{', '.join(SUPPORTED_ENCODERS)}"
    )


def _require_all_read(weights: Weights, config: ModelConfig) -> None:
    """Refuse to drop parameters, except those of heads that a graph does not answer with."""
    written = answering(config)
    dropped = tuple(f"targets.{each.name}." for each in config.target if each not in written)
    if config.decoder is not None:
        dropped = (*dropped, "decoder.", "target_embedding.")
    unread = [name for name in weights.unread() if not name.startswith(dropped)]
    if unread:
        raise InputError(
            f"parameters without a place in the ONNX graph: {', '.join(unread)}; the package's "
            "config does not describe them"
        )
