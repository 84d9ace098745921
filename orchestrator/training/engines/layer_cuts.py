"""Models whose layers an engine can cut among workers, judged by their configs. Imports no torch.

``cluster/engines/tensor_parallel.py`` makes the cuts.
"""

from collections.abc import Iterator, Mapping

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EncoderConfig, inside
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.layers.bias_options import DisentangledConfig, PatchBiasConfig
from orchestrator.modeling.layers.block_options import BlockOptions, ExpertsConfig
from orchestrator.modeling.targets.configs import StatesConfig
from orchestrator.training.engines.engine_config import EngineConfig

REMEDY = "Set engine.tensor_parallel to 1"
WHOLE = "Set engine.sequence_parallel to false"


def cut_problems(model: ModelConfig, engine: EngineConfig) -> Iterator[Problem]:
    """Yield what of a model the engine's cuts cannot have.

    Args:
        model: The model.
        engine: Its settings; nothing is cut by default.
    """
    stacks = {"encoder": model.encoder, "decoder": model.decoder}
    if engine.expert_parallel > 1:
        yield from _expert_problems(stacks, engine.expert_parallel)
    if engine.tensor_parallel == 1:
        return
    for path, stack in stacks.items():
        if stack is not None:
            yield from inside(path, _stack_problems(stack, model.dimensions, engine))
    if engine.sequence_parallel and any(isinstance(t, StatesConfig) for t in model.target):
        yield Problem("target", f"'states' reads all positions of every layer. {WHOLE}")


def _expert_problems(stacks: Mapping[str, EncoderConfig | None], ranks: int) -> Iterator[Problem]:
    with_experts: dict[str, ExpertsConfig] = {}
    for path, stack in stacks.items():
        if isinstance(stack, BlockOptions) and stack.experts is not None:
            with_experts[path] = stack.experts
    if not with_experts:
        yield Problem("encoder", "has no experts. Set engine.expert_parallel to 1, or add experts")
    for path, experts in with_experts.items():
        if experts.num_experts % ranks:
            yield Problem(
                f"{path}.experts.num_experts",
                f"{experts.num_experts} cannot be cut in {ranks} equal parts. Use a multiple, or "
                "another engine.expert_parallel",
            )


def _stack_problems(
    stack: EncoderConfig, dimensions: Dimensions, engine: EngineConfig
) -> Iterator[Problem]:
    parts = engine.tensor_parallel
    if not isinstance(stack, BlockOptions):
        yield Problem(
            "type",
            f"{stack.type_name()!r} is not one stack of attention heads and feed-forwards, which "
            f"tensor_parallel: {parts} cuts. {REMEDY}, or use a transformer",
        )
        return
    inner = stack.size_of_feed_forward(dimensions)
    for name, number in (
        ("num_heads", stack.num_heads),
        ("num_kv_heads", stack.num_kv_heads),
        ("intermediate_size", inner),
    ):
        if number is not None and number % parts:
            yield Problem(name, f"{number} cannot be cut in {parts} equal parts. {REMEDY}")
    if isinstance(stack.position_bias, DisentangledConfig):
        yield Problem(
            "position_bias", f"all heads of disentangled attention read one table. {REMEDY}"
        )
    if stack.query_key_norm == "projection":
        yield Problem("query_key_norm", f"'projection' normalizes over all heads. {REMEDY}")
    if engine.sequence_parallel:
        yield from _sequence_problems(stack)


def _sequence_problems(stack: BlockOptions) -> Iterator[Problem]:
    """Yield what needs all positions, or the same noise for all, between the layers of a block."""
    bias = stack.position_bias
    reasons = {
        "shared_layers": (stack.shared_layers, "the one block is first and last many times over"),
        "experts": (stack.experts is not None, "the router reads all tokens"),
        "position_bias": (
            isinstance(bias, PatchBiasConfig) and not bias.shared,
            "a bias of each block's own counts the positions of the block",
        ),
    }
    if isinstance(stack, TransformerConfig):
        reasons |= {
            "residual_attention": (stack.residual_attention, "scores go from block to block"),
            "convolution": (stack.convolution is not None, "it reads neighboring positions"),
            "drop_path": (stack.drop_path > 0, "all positions of a sample skip together"),
        }
    for name, (found, reason) in reasons.items():
        if found:
            yield Problem(name, f"{reason}, and positions are cut. {WHOLE}")
