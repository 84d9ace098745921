"""Deviations of an imported model from their code, in words.

They are numbered as in the list of its defects: LayerNorm (T1), masks (T4), relative positions (T5,
T6), tied output layers of T5 (T7), ALiBi (T9), segments (T11), two norms of a stream (T12), pooling
(T13), the scale of CLIP (T14), lengths of sound (T19), residual attention (T20).
"""

from collections.abc import Collection, Iterator

from orchestrator.modeling.tencentpretrain.options import Options

UNTIED = (
    "the output layer is a table of its own, as in the weights, although tie_weights is true: with "
    "share_embedding their model ties it to a table that is replaced"
)
"""Deviation from a configuration that ties the output layer of weights that do not."""


def deviations_of(
    options: Options, names: Collection[str], heads: Collection[str]
) -> Iterator[str]:
    """Yield what is computed otherwise than by their code.

    Args:
        options: Their options.
        names: Names of their tensors.
        heads: Their names of the targets that the weights hold.
    """
    each = options.streams() or (options,)
    if any(stream.encoder == "transformer" for stream in each):
        yield "attention masks leave positions out, theirs subtract 10000 from their scores (T4)"
    if any(name.endswith(".gamma") for name in names):
        yield (
            "LayerNorm divides by the root of (variance + eps), theirs by (unbiased standard "
            "deviation + eps): about 1 part in 2 * hidden_size (T1)"
        )
    if options.is_first_t5 and "lm" in heads:
        yield "the tied output layer reads vectors divided by sqrt(hidden_size) (T7)"
    for stream in each:
        yield from _of_stream(stream)
    if any("relative_pos_emb" in n and n.startswith("encoder.transformer") for n in names):
        yield (
            "the encoder's position bias is the one that its layers used; the second one beside "
            "them, which their converters write and nothing reads, is left out (T6)"
        )
    if any(name.endswith("seg.embedding.weight") for name in names):
        yield "row 0 of the segment table, theirs for padding, is left out (T11)"
    yield from _of_heads(options, names, heads)


def _of_stream(options: Options) -> Iterator[str]:
    if options.relative_position_embedding and not options.remove_attention_scale:
        yield "the relative position bias is not divided by sqrt(head size) (T5)"
    if options.alibi_position_embedding:
        yield "ALiBi acts on attention; their code declares it and ignores it (T9)"
    if options.layer_number_scale:
        yield "layer_number_scale changes nothing, as in their code (T9)"
    if options.has_residual_attention and options.encoder == "transformer":
        yield "attention carries the scores of real positions alone, theirs also -10000 (T20)"
    if options.mask == "prefix":
        yield "the mask 'prefix' is causal_with_prefix, as every name that their code does not know"
    if options.encoder.startswith("bi") or options.bidirectional:
        yield "the backward direction leaves padding out, theirs reads it first"
    if "speech" in options.embedding:
        yield (
            "each convolution over sound makes floor((frames - 1) / 2) + 1 positions, theirs count "
            "floor(frames / 4) as real: one less where 4 does not divide the frames (T19)"
        )
    if options.image_tokenizer is not None:
        yield "codes of images are tokens here too; the model that makes them is not imported"


def _of_heads(options: Options, names: Collection[str], heads: Collection[str]) -> Iterator[str]:
    if any(name.startswith("embedding.dual.stream_") for name in names):
        yield "dropout acts on a stream once, theirs after each of its two norms (T12)"
    pooled = {"cls", "siamese", "clr"} & set(heads)
    if pooled and any(each.pooling != "first" for each in (options.streams() or (options,))):
        yield "pooling reads each real position once, theirs multiplies it by its segment (T13)"
    if "clr" in heads:
        yield "the scale of similarities stays below 100 while training, as in CLIP (T14)"
    missing = [name for name in options.target if name not in heads]
    if missing and options.stream_0 is None:
        yield f"the weights hold no head: {', '.join(missing)} is left out"
