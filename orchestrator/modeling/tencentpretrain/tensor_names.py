"""Tables of the names of TencentPretrain's tensors and ours.

Norms are called ``gamma`` and ``beta`` (their own LayerNorm), or ``weight`` and ``bias`` (torch's,
T5's and RMSNorm).
"""

from collections.abc import Mapping

from orchestrator.modeling.huggingface.architecture import (
    LAYER,
    Row,
    Table,
    expand,
    linear,
    same,
    weight,
)
from orchestrator.modeling.tencentpretrain.architecture import convolution, stream_norms
from orchestrator.modeling.tencentpretrain.options import Options
from orchestrator.modeling.tencentpretrain.their_targets import our_target

Names = Mapping[str, object]
"""Their tensors by name; what they hold is not read."""

BIAS = "relative_attention_bias.weight"
GATED = "gated"
"""Our name for a convolution of theirs joined with its gate; see ``weights.canonical``."""
RECURRENT = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""Parameters of a recurrent layer, in torch's names."""


def table(options: Options, names: Names, heads: tuple[str, ...]) -> Table:
    """Return the rows of a model, layers written out.

    Args:
        options: Their options.
        names: Names of their tensors, in canonical form.
        heads: Their names of the targets that the weights hold.
    """
    streams = options.streams()
    rows = _two_streams(options, names) if streams else _one_stream(options, names)
    return [*rows, *(row for name in heads for row in _target(name, options))]


def tied_names(options: Options, names: Names) -> dict[str, str]:
    """Return second names of tied tensors → the name that is read; both must hold the same."""
    word = "embedding.word.embedding.weight"
    tied: dict[str, str] = {}
    if options.decoder is not None and options.share_embedding:
        tied[f"tgt_{word}"] = word
    own = options.decoder is not None and not options.share_embedding
    if options.ties("mlm"):
        tied["target.mlm.linear_2.weight"] = word
    if options.ties("lm"):
        tied["target.lm.output_layer.weight"] = f"tgt_{word}" if own else word
    if options.encoder == "dual" and options.tie_weights:
        for second, first in (
            ("embedding.dual.embedding_1.", "embedding.dual.embedding_0."),
            ("encoder.encoder_1.", "encoder.encoder_0."),
        ):
            own_names = [name for name in names if name.startswith(second)]
            tied |= {name: f"{first}{name.removeprefix(second)}" for name in own_names}
    return tied


def _one_stream(options: Options, names: Names) -> list[Row]:
    rows = _embedding(options, options.embedding, ("embedding", "embedding"), names)
    if options.factorized_embedding_parameterization:
        rows += linear("encoder.linear", "embedding.projection")
    rows += _encoder(options, "encoder", "encoder", names)
    if options.decoder is None:
        return rows
    parts = [n for n in options.tgt_embedding if n != "word" or not options.share_embedding]
    rows += _embedding(options, tuple(parts), ("tgt_embedding", "target_embedding"), names)
    rows += expand(_block(options, "decoder"), options.decoder_layers_num or options.layers_num)
    if options.relative_position_embedding:
        rows.append(same(f"decoder.self_pos_emb.{BIAS}", "decoder.position_bias.weight"))
    return rows + _final(options, "decoder")


def _two_streams(options: Options, names: Names) -> list[Row]:
    rows: list[Row] = []
    tied = options.tie_weights
    for index, (name, stream) in enumerate(
        zip(("first", "second"), options.streams(), strict=True)
    ):
        inside, after = stream_norms(index, names, tied=tied)
        if not (tied and index):
            places = (f"embedding.dual.embedding_{index}", f"embedding.dual.{name}")
            bare = stream.model_copy(update={"remove_embedding_layernorm": True})
            rows += _embedding(bare, stream.embedding, places, names)
            rows += _encoder(stream, f"encoder.encoder_{index}", f"encoder.{name}", names)
            if inside is not None:
                rows += _norm(inside, f"embedding.dual.{name}.norm", "normal")
        if after is not None:
            rows += _norm(after, f"embedding.dual.{name}_norm", "normal")
    return rows


def _norm(theirs: str, ours: str, kind: str) -> list[Row]:
    if kind in ("t5", "rms"):
        return [weight(theirs, ours)]
    if kind == "normal_torch":
        return list(linear(theirs, ours))
    return [same(f"{theirs}.gamma", f"{ours}.weight"), same(f"{theirs}.beta", f"{ours}.bias")]


def _linear(theirs: str, ours: str, bias: bool) -> list[Row]:
    return list(linear(theirs, ours)) if bias else [weight(theirs, ours)]


def _embedding(
    options: Options, parts: tuple[str, ...], places: tuple[str, str], names: Names
) -> list[Row]:
    """Return the rows of a stack; ``places`` are what stands before their names and ours."""
    theirs, ours = places
    rows: list[Row] = []
    for part in parts:
        if part in ("word", "pos") or (part == "seg" and "word_patch" not in parts):
            rows.append(weight(f"{theirs}.{part}.embedding", f"{ours}.{part}"))
        elif part == "seg":
            rows.append(same(f"{theirs}.seg.embedding.weight", f"{ours}.word_patch.modality"))
        elif part == "speech":
            for index in range(len(options.conv_kernel_sizes)):
                own = convolution(theirs, index, names)
                rows += linear(own, f"{ours}.speech.convolutions.{index}")
        elif part == "word_patch":
            words = f"{theirs}.word_patch.language_embedding.embedding"
            rows.append(weight(words, f"{ours}.word_patch.text.word"))
            image = f"{ours}.word_patch.image.patch"
            rows += _patches(f"{theirs}.word_patch.vision_embedding", image, names)
        elif part != "sinusoidalpos":
            rows += _patches(f"{theirs}.{part}", f"{ours}.{part}", names)
    if "masked_patch" in parts:
        mask = (f"{theirs}.masked_patch.mask_emb", f"{ours}.masked_patch.mask_token")
        rows.append(same(*mask, leading_axes=1))
    if not options.remove_embedding_layernorm:
        rows += _norm(f"{theirs}.layer_norm", f"{ours}.norm", "normal")
    return rows


def _patches(theirs: str, ours: str, names: Names) -> list[Row]:
    projection = f"{theirs}.projection"
    return [
        same(f"{theirs}.cls_emb", f"{ours}.class_token", leading_axes=2),
        *_linear(projection, f"{ours}.projection", f"{projection}.bias" in names),
    ]


def _encoder(options: Options, theirs: str, ours: str, names: Names) -> list[Row]:
    if options.encoder == "gatedcnn":
        layer = linear(f"{theirs}.{GATED}.{LAYER}", f"{ours}.layers.{LAYER}")
        return expand(layer, options.layers_num)
    if options.encoder != "transformer":
        return _recurrent(options, theirs, ours)
    block = _block(options, "encoder")
    written = expand(block, 1 if options.parameter_sharing else options.layers_num)
    written += _final(options, "encoder")
    if options.relative_position_embedding:
        layered = f"encoder.transformer.0.relative_pos_emb.{BIAS}"
        bias = f"encoder.relative_pos_emb.{BIAS}"
        found = next((n for n in (layered, bias) if _moved(n, theirs) in names), bias)
        written.append(same(found, "encoder.position_bias.weight"))
    return [
        Row(tuple(_moved(n, theirs) for n in row.theirs), tuple(_moved(n, ours) for n in row.ours))
        for row in written
    ]


def _moved(name: str, place: str) -> str:
    """Return a name below ``encoder`` as one below another place."""
    return f"{place}{name.removeprefix('encoder')}"


def _recurrent(options: Options, theirs: str, ours: str) -> list[Row]:
    stacks = {"rnn": "stack"}
    if options.encoder.startswith("bi"):
        stacks = {"rnn_forward": "forward_stack", "rnn_backward": "backward_stack"}
    ends = ("", "_reverse") if options.bidirectional and "rnn" in stacks else ("",)
    return [
        same(f"{theirs}.{own}.{name}_l{layer}{end}", f"{ours}.{stack}.{name}_l{layer}{end}")
        for own, stack in stacks.items()
        for layer in range(options.layers_num)
        for end in ends
        for name in RECURRENT
    ]


def _block(options: Options, side: str) -> list[Row]:
    """Return the rows of one block; ``{layer}`` stands for its number."""
    shared = options.parameter_sharing and side == "encoder"
    if side == "decoder":
        front = f"decoder.transformer_decoder.{LAYER}"
    else:
        front = "encoder.transformer" + ("" if shared else f".{LAYER}")
    ours = f"{side}.layers.{'0' if shared else LAYER}"
    has_bias, kind = not options.remove_transformer_bias, options.layernorm
    rows = _attention(f"{front}.self_attn", f"{ours}.attention", has_bias)
    rows += _norm(f"{front}.layer_norm_1", f"{ours}.norm1", kind)
    last = "layer_norm_2"
    if side == "decoder":
        rows += _attention(f"{front}.context_attn", f"{ours}.cross_attention", has_bias)
        rows += _norm(f"{front}.layer_norm_2", f"{ours}.cross_norm", kind)
        last = "layer_norm_3"
    rows += _norm(f"{front}.{last}", f"{ours}.norm2", kind)
    parts = {"linear_1": "up", "linear_2": "down"}
    if options.feed_forward == "gated":
        parts["linear_gate"] = "gate"
    for theirs, name in parts.items():
        rows += _linear(f"{front}.feed_forward.{theirs}", f"{ours}.feed_forward.{name}", has_bias)
    return rows


def _attention(theirs: str, ours: str, bias: bool) -> list[Row]:
    parts = [(f"linear_layers.{i}", name) for i, name in enumerate(("query", "key", "value"))]
    parts.append(("final_linear", "output"))
    return [r for t, o in parts for r in _linear(f"{theirs}.{t}", f"{ours}.{o}", bias)]


def _final(options: Options, side: str) -> list[Row]:
    """Return the rows of the last norm; their decoder knows T5's and their own LayerNorm only."""
    if options.layernorm_positioning == "post":
        return []
    kind: str = options.layernorm
    kind = kind if side == "encoder" or kind == "t5" else "normal"
    return _norm(f"{side}.layer_norm", f"{side}.norm", kind)


def _target(name: str, options: Options) -> list[Row]:
    theirs, ours = f"target.{name}", f"targets.{our_target(name, options)}"
    tied = options.ties(name)
    if name == "mlm":
        rows = [
            *linear(f"{theirs}.linear_1", f"{ours}.transform_layer.dense"),
            *_norm(f"{theirs}.layer_norm", f"{ours}.transform_layer.norm", "normal"),
            same(f"{theirs}.linear_2.bias", f"{ours}.output.bias"),
        ]
        return rows if tied else [*rows, weight(f"{theirs}.linear_2", f"{ours}.output")]
    if name in ("lm", "bilm"):
        output = f"{theirs}.output_layer"
        bias = options.has_lmtarget_bias
        rows = [same(f"{output}.bias", f"{ours}.output.bias")] if bias else []
        return rows if tied else [*rows, weight(output, f"{ours}.output")]
    if name == "siamese":
        return list(linear("classifier", f"{ours}.output"))
    if name == "clr":
        rows = [same(f"{theirs}.logit_scale", f"{ours}.temperature.scale", leading_axes=-1)]
        for index, stream in enumerate(("first", "second") if options.projection else ()):
            projection = (f"{theirs}.encoder_{index}_projection", f"{ours}.{stream}.projection")
            rows.append(same(projection[0], f"{projection[1]}.weight", transposed=True))
        return rows
    dense, output = linear(f"{theirs}.linear_1", f"{ours}.dense"), f"{ours}.output"
    return [*dense, *linear(f"{theirs}.linear_2", output)]
