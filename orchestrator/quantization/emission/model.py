"""Emission: from a config and its parameters to an ONNX model.

Inputs, int32: ``input_ids`` [B, S], ``attention_mask`` [B, S] and, if the model has segments,
``token_type_ids`` [B, S]; ``embedding_mask`` [B, S] if the package states that prompts are not
pooled. Outputs, float32: ``embedding`` [B, D] and ``logits.<target>`` [B, K].
B and S are symbolic.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from orchestrator.arrays import AnyArray
from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import SinusoidalPosConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import (
    GatedCnnConfig,
    TransformerConfig,
)
from orchestrator.modeling.encoders.recurrent_configs import RecurrentConfig
from orchestrator.modeling.sentence.statement import SentenceEmbedding
from orchestrator.modeling.targets.configs import ClsConfig, PairConfig
from orchestrator.quantization.backends.onnxruntime_cpu.session import (
    METADATA_POSITIONS,
    METADATA_VOCAB,
)
from orchestrator.quantization.emission.embeddings import emit_embedding
from orchestrator.quantization.emission.gatedcnn import GatedCnnEmitter
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.emission.heads import HeadEmitter
from orchestrator.quantization.emission.recurrent import CELLS, RecurrentEmitter
from orchestrator.quantization.emission.transformer import TransformerEmitter
from orchestrator.quantization.emission.weights import Weights
from orchestrator.quantization.kinds import Range
from orchestrator.quantization.plans import Plan, Unit

SUPPORTED_ENCODERS = ("transformer", "gatedcnn", *CELLS, *(f"bi{cell}" for cell in CELLS))


@dataclass(frozen=True, slots=True)
class Emission:
    """An ONNX model and its units: the GEMMs that a plan can choose a kind for."""

    model: onnx.ModelProto
    units: tuple[Unit, ...]

    def to_bytes(self) -> bytes:
        """Return the content of ``model.onnx``."""
        return bytes(self.model.SerializeToString())


FREE_OPTIONS = frozenset(
    {
        "type", "num_layers", "num_heads", "num_kv_heads", "head_size", "intermediate_size",
        "norm_position", "norm", "norm_eps", "activation", "feed_forward", "bias", "mask", "rotary",
        "attention", "dropout", "activation_dropout", "attention_dropout", "drop_path",
    }
)  # fmt: skip
"""Options of transformer blocks that have an ONNX form, or no effect in inference. All other
options, and those that are added later, must be at their defaults."""


def emit(
    config: ModelConfig,
    state: Mapping[str, AnyArray],
    plan: Plan | None = None,
    ranges: Mapping[str, Range] | None = None,
    *,
    observe: bool = False,
    statement: SentenceEmbedding | None = None,
) -> Emission:
    """Write a model as an ONNX graph.

    Args:
        config: The model's config.
        state: Its parameters by name, as in ``model.safetensors``; those of the statement's layers
            too, as ``sentence.layers.<place>.*``.
        plan: The kind of every unit; None: float.
        ranges: Calibrated input range of each unit, for ``static_s7``.
        observe: Also return the extremes of every unit's input (see ``calibrators``).
        statement: What the package states about embeddings.

    Raises:
        InputError: If a component has no ONNX form here, a parameter is missing, not finite or
            unused, the plan does not fit, or the model is too large for one file.
    """
    graph = GraphBuilder(plan or Plan({}), ranges, observe=observe)
    weights = Weights(state)
    if config.decoder is not None:
        raise InputError(
            "a model with a decoder cannot be quantized yet; supported: encoder models"
        )
    _require_plain(config)
    mask = graph.input("attention_mask", ["batch", "length"])
    hidden = emit_embedding(graph, config, weights, mask)
    hidden = _emit_encoder(graph, config, weights, hidden, mask)
    HeadEmitter(graph, config, weights, statement).emit(hidden, mask)
    _require_all_read(weights, config)
    model = graph.model()
    onnx.helper.set_model_props(
        model,
        {
            METADATA_VOCAB: str(config.vocab_size),
            METADATA_POSITIONS: str(config.max_position_embeddings),
        },
    )
    return Emission(model, tuple(graph.units))


def _require_plain(config: ModelConfig) -> None:
    """Refuse options that have no ONNX form here yet."""
    plain = TransformerConfig()
    encoder = config.encoder
    found = []
    if isinstance(encoder, TransformerConfig):
        others = (name for name in type(encoder).model_fields if name not in FREE_OPTIONS)
        found = [name for name in others if getattr(encoder, name) != getattr(plain, name)]
        if encoder.norm_position not in ("post", "pre"):
            found.append(f"norm_position: {encoder.norm_position}")
        if encoder.norm == "rms_offset":
            found.append("norm: rms_offset")
        if encoder.mask == "prefix":
            found.append("mask: prefix")
        if encoder.rotary is not None and encoder.rotary.layout != "halves":
            found.append("rotary.layout: pairs")
        if encoder.rotary is not None and encoder.rotary.scaling is not None:
            found.append("rotary.scaling")
        if encoder.rotary is not None and encoder.rotary.share != 1.0:
            found.append("rotary.share")
    found = [f"encoder.{name}" for name in found]
    other = EmbeddingStackConfig()
    names = ["size", "max_position_embeddings"]
    names += ["norm_bias"] if config.embedding.layernorm else []
    found += [
        f"embedding.{name}"
        for name in names
        if getattr(config.embedding, name) != getattr(other, name)
    ]
    waves = config.embedding.part("sinusoidalpos")
    if isinstance(waves, SinusoidalPosConfig):
        layout = SinusoidalPosConfig(layout=waves.layout)
        names = [name for name, value in waves if value != getattr(layout, name)]
        found += [f"sinusoidalpos.{name}" for name in names]
    if found:
        raise InputError(
            f"a model with {', '.join(found)} cannot be quantized yet; supported: transformers "
            "without these options"
        )


def _emit_encoder(
    graph: GraphBuilder, config: ModelConfig, weights: Weights, hidden: str, mask: str
) -> str:
    encoder = config.encoder
    if isinstance(encoder, TransformerConfig):
        emitter = TransformerEmitter(graph, encoder, config.dimensions, weights)
        return emitter.emit(hidden, mask)
    if isinstance(encoder, GatedCnnConfig):
        return GatedCnnEmitter(graph, encoder, weights).emit(hidden, mask)
    if isinstance(encoder, RecurrentConfig):
        return RecurrentEmitter(graph, encoder, weights).emit(hidden, mask)
    raise InputError(
        f"encoder {encoder.type_name()!r} cannot be quantized yet; supported: "
        f"{', '.join(SUPPORTED_ENCODERS)}"
    )


def _require_all_read(weights: Weights, config: ModelConfig) -> None:
    """Refuse to drop parameters, except those of heads that do not classify."""
    dropped = tuple(
        f"targets.{target.name}."
        for target in config.target
        if not isinstance(target, ClsConfig | PairConfig)
    )
    unread = [name for name in weights.unread() if not name.startswith(dropped)]
    if unread:
        raise InputError(
            f"parameters without a place in the ONNX graph: {', '.join(unread)}; the package's "
            "config does not describe them"
        )
