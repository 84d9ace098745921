"""Mixtral: Mistral with experts (Jiang et al. 2024); the balance of experts is a second target."""

from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.architecture import Architecture, Row, expand, weight
from orchestrator.modeling.huggingface.families import llama, mistral
from orchestrator.modeling.huggingface.families.causal_heads import heads_of
from orchestrator.modeling.huggingface.values import JsonObject, Values, transformer_of
from orchestrator.modeling.layers.block_options import ExpertsConfig
from orchestrator.modeling.targets.configs import BalanceConfig

EXPERT_LAYERS = {"w1": "gate", "w2": "down", "w3": "up"}
"""Their names of an expert's linear layers → ours."""

_LAYER = "model.layers.{layer}.block_sparse_moe"
_OURS = "encoder.layers.{layer}.feed_forward"


def model_config(theirs: Values) -> ModelConfig:
    """Return our model config for a ``MixtralConfig``."""
    theirs.require(router_jitter_noise=0.0)
    top_k, weight = theirs.integer("num_experts_per_tok"), theirs.number("router_aux_loss_coef")
    return llama.body_config(
        theirs,
        options={
            "window": theirs.optional_integer("sliding_window"),
            "experts": ExpertsConfig(num_experts=theirs.integer("num_local_experts"), top_k=top_k),
        },
        more_targets=(BalanceConfig(weight=weight, top_k=top_k),) if weight else (),
    )


def their_config(config: ModelConfig) -> JsonObject:
    """Return the values of a ``MixtralConfig``."""
    values, encoder = mistral.their_config(config), transformer_of(config)
    balance = [target.weight for target in config.target if target.type_name() == "balance"]
    values["router_aux_loss_coef"] = balance[0] if balance else 0.0
    if encoder.experts is not None:
        values["num_local_experts"] = encoder.experts.num_experts
        values["num_experts_per_tok"] = encoder.experts.top_k
    return values


def table(config: ModelConfig) -> list[Row]:
    """Return every parameter of ``MixtralForCausalLM``; each expert has a tensor of its own."""
    encoder = transformer_of(config)
    count = 0 if encoder.experts is None else encoder.experts.num_experts
    rows = [*llama.body_table(config), weight(f"{_LAYER}.gate", f"{_OURS}.router")]
    for theirs, ours in EXPERT_LAYERS.items():
        names = tuple(f"{_LAYER}.experts.{expert}.{theirs}.weight" for expert in range(count))
        rows.append(Row(names, (f"{_OURS}.{ours}",)))
    return expand(rows, encoder.num_layers)


_LM = Architecture(
    "MixtralForCausalLM", "mixtral", model_config, their_config, table, llama.REPEATED
)
ARCHITECTURES = (_LM, *heads_of(_LM))
