"""wav2vec 2.0 and HuBERT: transformers' classes for CTC and classification, and the bodies alone.

The two are the same model.

Two layouts: the base models normalize after each sub-layer and the first convolution by groups, the
large ones before each sub-layer (``do_stable_layer_norm``) and every convolution by frames. The
vector in place of hidden frames (``masked_spec_embed``) is there if their config hides any; which
frames are hidden is the sample builder's choice. Dropping whole layers in training (``layerdrop``)
has no counterpart here, and these classes do not have their pre-training heads.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

from orchestrator.errors import InputError
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.embeddings.configs import ConvPosConfig, WaveformConfig
from orchestrator.modeling.embeddings.stack_config import EmbeddingStackConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.huggingface.architecture import (
    Architecture,
    Row,
    Table,
    expand,
    linear,
    same,
    weight,
)
from orchestrator.modeling.huggingface.values import (
    JsonObject,
    Values,
    answers_of,
    their_activation,
    their_answers,
    transformer_of,
)
from orchestrator.modeling.targets.configs import SequenceHeadConfig, TargetConfig
from orchestrator.modeling.targets.token_configs import CtcConfig

_OURS = "encoder.layers.{layer}"
_FIRST = "layers.0"


NORMS: dict[str, Literal["group", "layer"]] = {"group": "group", "layer": "layer"}
"""Their ``feat_extract_norm`` → our norm of the convolutions."""


def embedding_config(theirs: Values) -> EmbeddingStackConfig:
    """Return the convolutions over samples and the convolution that tells positions."""
    theirs.require(feat_extract_activation="gelu", feat_proj_layer_norm=True)
    theirs.require(conv_pos_batch_norm=False)
    hides = theirs.number("mask_time_prob") > 0 or theirs.number("mask_feature_prob") > 0
    waveform = WaveformConfig(
        channels=theirs.integers("conv_dim"),
        kernels=theirs.integers("conv_kernel"),
        strides=theirs.integers("conv_stride"),
        norm=theirs.choice("feat_extract_norm", NORMS),
        bias=theirs.flag("conv_bias"),
        norm_eps=theirs.number("layer_norm_eps"),
        dropout=theirs.number("feat_proj_dropout"),
        mask_vector=hides,
    )
    positions = ConvPosConfig(
        kernel_size=theirs.integer("num_conv_pos_embeddings"),
        groups=theirs.integer("num_conv_pos_embedding_groups"),
    )
    return EmbeddingStackConfig(
        parts=(waveform, positions),
        layernorm=not theirs.flag("do_stable_layer_norm"),
        norm_eps=theirs.number("layer_norm_eps"),
        dropout=theirs.number("hidden_dropout"),
    )


Heads = Callable[[Values], tuple[TargetConfig, ...]]
"""Their config → the targets."""


def transcriber(theirs: Values) -> tuple[TargetConfig, ...]:
    """Return the head that transcribes."""
    dropout, zero = theirs.number("final_dropout"), theirs.flag("ctc_zero_infinity")
    return (CtcConfig(dropout=dropout, zero_infinity=zero),)


def classifier(theirs: Values) -> tuple[TargetConfig, ...]:
    """Return the classifier: a linear layer, the mean over frames, an output layer."""
    theirs.require(use_weighted_layer_sum=False)
    size = theirs.integer("classifier_proj_size")
    return (answers_of(theirs, 0.0, "none", pooling="mean", hidden_size=size),)


def nothing(theirs: Values) -> tuple[TargetConfig, ...]:
    """Return no head."""
    del theirs
    return ()


def model_config(heads: Heads, theirs: Values) -> ModelConfig:
    """Return our model config for a ``Wav2Vec2Config`` or ``HubertConfig``."""
    theirs.require(add_adapter=False, adapter_attn_dim=None)
    return ModelConfig(
        hidden_size=theirs.integer("hidden_size"),
        vocab_size=theirs.integer("vocab_size"),
        pad_token_id=theirs.integer("pad_token_id"),
        initializer_range=theirs.number("initializer_range"),
        embedding=embedding_config(theirs),
        encoder=TransformerConfig(
            num_layers=theirs.integer("num_hidden_layers"),
            num_heads=theirs.integer("num_attention_heads"),
            intermediate_size=theirs.integer("intermediate_size"),
            norm_position="pre" if theirs.flag("do_stable_layer_norm") else "post",
            norm_eps=theirs.number("layer_norm_eps"),
            activation=theirs.activation("hidden_act"),
            dropout=theirs.number("hidden_dropout"),
            activation_dropout=theirs.number("activation_dropout"),
            attention_dropout=theirs.number("attention_dropout"),
        ),
        target=heads(theirs),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``Wav2Vec2Config`` or ``HubertConfig``."""
    encoder, (waveform, positions) = transformer_of(config), parts_of(config)
    head = config.target[0] if config.target else None
    values: JsonObject = {
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "pad_token_id": config.pad_token_id,
        "initializer_range": config.initializer_range,
        "conv_dim": [*waveform.channels],
        "conv_kernel": [*waveform.kernels],
        "conv_stride": [*waveform.strides],
        "num_feat_extract_layers": len(waveform.channels),
        "feat_extract_norm": waveform.norm,
        "conv_bias": waveform.bias,
        "feat_proj_dropout": waveform.dropout,
        "num_conv_pos_embeddings": positions.kernel_size,
        "num_conv_pos_embedding_groups": positions.groups,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.size_of_feed_forward(config.dimensions),
        "do_stable_layer_norm": encoder.norm_position == "pre",
        "layer_norm_eps": encoder.norm_eps,
        "hidden_act": their_activation(encoder.activation),
        "hidden_dropout": encoder.dropout,
        "activation_dropout": encoder.activation_dropout,
        "attention_dropout": encoder.attention_dropout,
    }
    if isinstance(head, CtcConfig):
        values |= {"final_dropout": head.dropout, "ctc_zero_infinity": head.zero_infinity}
    elif isinstance(head, SequenceHeadConfig):
        values |= their_answers(head)
        if head.hidden_size is not None:
            values["classifier_proj_size"] = head.hidden_size
    if not waveform.mask_vector:
        values |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    return values


def parts_of(config: ModelConfig) -> tuple[WaveformConfig, ConvPosConfig]:
    """Return the parts of the embedding.

    Raises:
        InputError: They are others.
    """
    waveform, positions = config.embedding.part("waveform"), config.embedding.part("convpos")
    if isinstance(waveform, WaveformConfig) and isinstance(positions, ConvPosConfig):
        return waveform, positions
    raise InputError("only an embedding of waveform and convpos has this form")


def front_rows(prefix: str, waveform: WaveformConfig) -> list[Row]:
    """Return the rows of the convolutions, the projection and the positions."""
    conv, ours = f"{prefix}feature_extractor.conv_layers.{{layer}}", "embedding.waveform"
    layer = f"{ours}.layers.{{layer}}"
    convolution = linear if waveform.bias else lambda *names: (weight(*names),)
    rows = expand(convolution(f"{conv}.conv", f"{layer}.conv"), len(waveform.channels))
    norms = expand(linear(f"{conv}.layer_norm", f"{layer}.norm"), len(waveform.channels))
    grouped = waveform.norm == "group"  # the first convolution alone has a norm
    rows += [row for row in norms if not grouped or f".{_FIRST}." in row.ours[0]]
    rows += linear(f"{prefix}feature_projection.layer_norm", f"{ours}.norm")
    rows += linear(f"{prefix}feature_projection.projection", f"{ours}.projection")
    if waveform.mask_vector:
        rows.append(same(f"{prefix}masked_spec_embed", f"{ours}.mask_vector"))
    kernel = f"{prefix}encoder.pos_conv_embed.conv"
    return [
        *rows,
        same(f"{kernel}.bias", "embedding.convpos.bias"),
        same(
            f"{kernel}.parametrizations.weight.original0",
            "embedding.convpos.gain",
            leading_axes=2,
        ),
        same(f"{kernel}.parametrizations.weight.original1", "embedding.convpos.direction"),
    ]


def table(prefix: str, config: ModelConfig) -> list[Row]:
    """Return every parameter; names of the body start with ``prefix`` (``hubert.``)."""
    encoder, (waveform, _) = transformer_of(config), parts_of(config)
    layer = f"{prefix}encoder.layers.{{layer}}"
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
    rows = [
        row
        for theirs, ours in names.items()
        for row in linear(f"{layer}.attention.{theirs}", f"{_OURS}.attention.{ours}")
    ]
    rows += linear(f"{layer}.layer_norm", f"{_OURS}.norm1")
    rows += linear(f"{layer}.feed_forward.intermediate_dense", f"{_OURS}.feed_forward.up")
    rows += linear(f"{layer}.feed_forward.output_dense", f"{_OURS}.feed_forward.down")
    rows += linear(f"{layer}.final_layer_norm", f"{_OURS}.norm2")
    norm = "encoder.norm" if encoder.norm_position == "pre" else "embedding.norm"
    return [
        *front_rows(prefix, waveform),
        *expand(rows, encoder.num_layers),
        *linear(f"{prefix}encoder.layer_norm", norm),
        *_head_rows(config),
    ]


def _head_rows(config: ModelConfig) -> Table:
    """Return the rows of the head, if there is one."""
    if not config.target:
        return ()
    head = config.target[0]
    if isinstance(head, CtcConfig):
        return linear("lm_head", f"targets.{head.name}.output")
    return (
        *linear("projector", f"targets.{head.name}.dense"),
        *linear("classifier", f"targets.{head.name}.output"),
    )


def _architectures(prefix: str, model_type: str) -> list[Architecture]:
    """Return the classes of a family; the body is called like the model type."""
    heads: dict[str, Heads] = {
        "ForCTC": transcriber,
        "ForSequenceClassification": classifier,
        "Model": nothing,
    }
    return [
        Architecture(
            prefix + name,
            model_type,
            partial(model_config, make),
            their_config,
            partial(table, "" if make is nothing else f"{model_type}."),
            processor="waveform",
            front=model_type if make is nothing else "",
        )
        for name, make in heads.items()
    ]


ARCHITECTURES = (*_architectures("Wav2Vec2", "wav2vec2"), *_architectures("Hubert", "hubert"))
