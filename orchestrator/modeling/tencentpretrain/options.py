"""Options of a model of TencentPretrain: its flat JSON, with the defaults of its command line.

Options of data and training change no tensor and are passed over. Options and values whose part is
missing here are refused with what is missing.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue, NonNegativeInt, PositiveInt, field_validator

from orchestrator.config import StrictModel, validate_config
from orchestrator.errors import InputError

Part = Literal[
    "word", "pos", "seg", "sinusoidalpos", "patch", "masked_patch", "speech", "word_patch", "dual"
]
"""Parts of an embedding."""
Encoder = Literal[
    "transformer", "rnn", "lstm", "gru", "birnn", "bilstm", "bigru", "gatedcnn", "dual"
]

PASSED_OVER = frozenset({
    # data
    "tokenizer", "vocab_path", "spm_model_path", "merges_path", "tgt_tokenizer", "tgt_vocab_path",
    "do_lower_case", "vocab_size", "seq_length", "whole_word_masking", "span_masking",
    "span_geo_prob", "span_max_length", "image_preprocess", "audio_preprocess",
    "sampling_rate", "specaugment", "vqgan_model_path", "vqgan_config_path",
    # training
    "label_smoothing", "ignore_index", "prefix_lm_loss", "batch_size", "learning_rate", "warmup",
    "decay", "optimizer", "scheduler", "seed", "reduce", "freeze_parameters",
    "freeze_exclude_by_name", "fp16", "fp16_opt_level", "total_steps", "save_checkpoint_steps",
    "report_steps", "accumulation_steps", "epochs_num",
    # how it is computed
    "use_mp", "tensor_model_parallel_size", "pipeline_model_parallel_size", "attention",
    "deepspeed_checkpoint_activations", "deepspeed_checkpoint_layers_num",
    # sizes that the weights hold
    "conv_layers_num", "feature_size",
})  # fmt: skip
"""Options that are not read."""

MISSING = {
    "image_text_emb": "a picture's encoder inside the embedding of a text (LLaVA)",
    "vision_language_emb": "a picture's encoder inside the embedding of a text (LLaVA)",
    "use_logn_attn": "queries scaled by the logarithm of their position (Qwen)",
    "use_dynamic_ntk": "a rotary base that grows with the length (Qwen)",
    "remove_attention_bias": "linear layers of attention with biases of their own (Qwen)",
    "remove_embedding_combine_layernorm": "a picture's encoder inside the embedding (LLaVA)",
}
"""Options of later versions and branches → the part that would be needed."""
MISSING_VALUES = {
    "image_text": "a picture's encoder inside the embedding of a text (LLaVA)",
    "vision_language": "a picture's encoder inside the embedding of a text (LLaVA)",
    "ner": "target `ner` of a branch",
    "decode": "target `decode` of a branch",
}
"""Names of parts and targets → the part that would be needed."""
SIMILARITY = 0.8
"""Ratio from which a name is near: theirs share endings (``..._num``) and beginnings."""
BLOCK_SIZES = ("feedforward_size", "heads_num")
"""Sizes that only transformers have."""


class Options(StrictModel):
    """Options that decide what the model is."""

    embedding: tuple[Part, ...] = ("word",)
    tgt_embedding: tuple[Literal["word", "pos", "seg", "sinusoidalpos"], ...] = ()
    encoder: Encoder = "transformer"
    decoder: Literal["transformer"] | None = None
    target: tuple[Literal["mlm", "lm", "bilm", "sp", "cls", "clr"], ...] = ("mlm",)
    stream_0: dict[str, JsonValue] | None = None
    """Options of the first stream of a dual model, in place of those beside it."""
    stream_1: dict[str, JsonValue] | None = None
    emb_size: PositiveInt | None = None
    hidden_size: NonNegativeInt = 0
    feedforward_size: NonNegativeInt = 0
    hidden_act: Literal["gelu", "gelu_fast", "relu", "silu"] = "gelu"
    heads_num: NonNegativeInt = 0
    layers_num: NonNegativeInt = 0
    decoder_layers_num: PositiveInt | None = None
    max_seq_length: PositiveInt = 512
    dropout: float = 0.1
    mask: Literal["fully_visible", "causal", "causal_with_prefix", "prefix"] = "fully_visible"
    """Their code takes every other name for ``causal_with_prefix``; two of its files use one."""
    layernorm: Literal["normal", "normal_torch", "t5", "rms"] = "normal"
    layernorm_eps: float = 1e-6
    layernorm_positioning: Literal["post", "pre"] = "post"
    feed_forward: Literal["dense", "gated"] = "dense"
    attention_head_size: PositiveInt | None = None
    local_kv_heads_num: PositiveInt | None = None
    relative_position_embedding: bool = False
    relative_attention_buckets_num: PositiveInt = 32
    rotary_position_embedding: bool = False
    alibi_position_embedding: bool = False
    layer_number_scale: bool = False
    remove_attention_scale: bool = False
    remove_transformer_bias: bool = False
    remove_embedding_layernorm: bool = False
    parameter_sharing: bool = False
    factorized_embedding_parameterization: bool = False
    has_residual_attention: bool = False
    has_lmtarget_bias: bool = False
    tie_weights: bool = False
    share_embedding: bool = False
    deep_init: bool = False
    pooling: Literal["first", "mean", "last", "max"] = "first"
    labels_num: PositiveInt | None = None
    data_processor: str | None = None
    bidirectional: bool = False
    kernel_size: PositiveInt = 4
    block_size: PositiveInt = 2
    image_height: PositiveInt = 256
    image_width: PositiveInt = 256
    patch_size: PositiveInt = 16
    channels_num: PositiveInt = 3
    patch_proj_bias: bool | None = None
    """An option of later versions; the weights say it."""
    audio_feature_size: PositiveInt = 80
    max_audio_frames: PositiveInt = 6000
    conv_channels: PositiveInt | tuple[PositiveInt, ...] = 1024
    """The weights say it."""
    conv_kernel_sizes: tuple[PositiveInt, ...] = (5, 5)
    projection: bool = True
    image_tokenizer: dict[str, JsonValue] | None = None
    """Options of the model that makes codes of images, which the report names."""

    @field_validator("embedding", "tgt_embedding", "target", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Older files write ``word_pos_seg``, and ``bert`` for mlm and sp."""
        if value is None or isinstance(value, (list, tuple)):
            return value or ()
        if value in ("word_patch", "masked_patch"):
            return (value,)
        return ("mlm", "sp") if value == "bert" else str(value).split("_")

    @property
    def embedding_size(self) -> int:
        """Width of the embedding."""
        return self.emb_size or self.hidden_size

    @property
    def is_first_t5(self) -> bool:
        """Whether it is T5 v1.0, whose tied output layer reads scaled vectors."""
        t5 = self.layernorm == "t5" and self.decoder is not None
        return t5 and self.tie_weights and self.relative_position_embedding

    def ties(self, head: str) -> bool:
        """Return whether their model ties the output layer of a target to a word table.

        Of ``mlm`` and ``lm`` in one model it ties the former alone.
        """
        tied = "mlm" if "mlm" in self.target else "lm"
        return self.tie_weights and head == tied and head in self.target

    def streams(self, source: str = "configuration") -> tuple["Options", ...]:
        """Return the options of each stream: two of a dual model; none where there is one stream.

        Args:
            source: Name of the configuration in messages.
        """
        if self.encoder != "dual":
            return ()
        own = self.model_dump(exclude_unset=True, exclude={"stream_0", "stream_1"})
        return tuple(
            _options({**own, **(stream or {})}, f"{source}: stream_{index}")
            for index, stream in enumerate((self.stream_0, self.stream_1))
        )


def read_options(path: Path) -> Options:
    """Read a configuration file.

    Raises:
        InputError: It cannot be read, lacks a size, or has options or parts that are not known.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. Give the model's JSON file.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path} is not a mapping. Give the model's JSON file.")
    _require_known(f"{path}", raw)
    if raw.get("encoder") != "dual":
        return _checked(f"{path}", _options(raw, f"{path}"))
    for name in ("stream_0", "stream_1"):
        if not isinstance(raw.get(name), dict):
            raise InputError(f"{path}: a dual encoder needs {name}, the options of a stream.")
        _require_known(f"{path}: {name}", raw[name])
    options = _options(raw, f"{path}")
    for index, stream in enumerate(options.streams(f"{path}")):
        _checked(f"{path}: stream_{index}", stream)
    return options


def _options(raw: Mapping[str, Any], source: str) -> Options:
    read = {key: value for key, value in raw.items() if key not in PASSED_OVER}
    return validate_config(Options, read, source)


def _require_known(source: str, raw: Mapping[str, Any]) -> None:
    """Refuse options and parts that are not known, with what is missing."""
    for key in sorted(raw.keys() - Options.model_fields.keys() - PASSED_OVER):
        if key in MISSING:
            raise InputError(f"{source}: {key} cannot be imported. Missing here: {MISSING[key]}.")
        near = difflib.get_close_matches(key, Options.model_fields, n=1, cutoff=SIMILARITY)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{source}: {key!r} is not an option of a model that is read here.{hint}")
    for key in ("embedding", "target"):
        for name in raw[key] if isinstance(raw.get(key), list) else ():
            if name in MISSING_VALUES:
                missing = MISSING_VALUES[name]
                raise InputError(
                    f"{source}: {key}: {name!r} cannot be imported. Missing here: {missing}."
                )


def _checked(source: str, options: Options) -> Options:
    """Return the options of one stream if it has all sizes that its encoder needs."""
    needed = ["hidden_size", "layers_num"]
    needed += BLOCK_SIZES if options.encoder == "transformer" else ()
    for key in needed:
        if not getattr(options, key):
            raise InputError(
                f"{source}: {key} is missing; the encoder {options.encoder!r} needs it. Add it."
            )
    parts = {"patch", "masked_patch", "word_patch"} & set(options.embedding)
    if parts and options.image_height != options.image_width:
        raise InputError(
            f"{source}: images of {options.image_height} by {options.image_width} pixels cannot be "
            "imported. Missing here: images that are not square."
        )
    if options.decoder is not None and not options.tgt_embedding:
        raise InputError(f"{source}: tgt_embedding is missing, but there is a decoder. Add it.")
    if "speech" in options.embedding and options.data_processor not in (None, "s2t"):
        raise InputError(
            f"{source}: sound for {options.data_processor!r} cannot be imported, only for 's2t'."
        )
    return options
