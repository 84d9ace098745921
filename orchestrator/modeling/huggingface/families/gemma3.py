"""Gemma 3 for text, and EmbeddingGemma: Gemma 2 with norms of queries and keys, and two bases.

Gemma team 2025 ("Gemma 3 Technical Report"), section 2: five blocks with a window for each without,
and each kind has its own rotary positions; norms of queries and keys take the place of the cap on
scores. EmbeddingGemma (Vera et al. 2025) reads both sides (``use_bidirectional_attention``). Models
that read pictures too (``Gemma3ForConditionalGeneration``) are not supported.
"""

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture
from orchestrator.modeling.huggingface.families import gemma2, llama
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.families.layer_types import FULL, SLIDING
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``Gemma3TextConfig``."""
    theirs.require(attn_logit_softcapping=None)  # their attention does not read it
    bases = theirs.section("rope_parameters")
    options: dict[str, object] = {"query_key_norm": "head"}
    both_sides = theirs.flag("use_bidirectional_attention", False)
    if both_sides:
        options["mask"] = "bidirectional"
    if SLIDING in theirs.texts("layer_types"):
        options["window_rotary"] = llama.rotary_config(bases.section(SLIDING))
        if both_sides:  # theirs counts both sides
            options["window"] = theirs.integer("sliding_window") // 2 + 1
    return gemma2.body_config(theirs, options, llama.rotary_config(bases.section(FULL)))


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``Gemma3TextConfig``."""
    encoder = transformer_of(config)
    both_sides = encoder.mask == "bidirectional"
    values: JsonObject = {
        "use_bidirectional_attention": both_sides,
        "rope_parameters": {
            FULL: llama.their_rotary(encoder.rotary),
            SLIDING: llama.their_rotary(encoder.window_rotary or encoder.rotary),
        },
    }
    if both_sides and encoder.window is not None:
        values["sliding_window"] = 2 * (encoder.window - 1)
    return gemma2.their_body(config) | values


_LM = Architecture(
    "Gemma3ForCausalLM", "gemma3_text", model_config, their_config, gemma2.table, llama.REPEATED
)
ARCHITECTURES = (
    _LM,
    *heads_of(_LM, family="Gemma3Text", without=("ForTokenClassification", "ForQuestionAnswering")),
)
