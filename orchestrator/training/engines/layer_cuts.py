"""Models whose layers an engine can cut among workers, judged by their configs. Imports no torch.

``cluster/engines/tensor_parallel.py`` makes the cuts.
"""

from collections.abc import Iterator

from orchestrator.errors import Problem
from orchestrator.modeling.component import Dimensions, EncoderConfig
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.layers.bias_options import DisentangledConfig
from orchestrator.modeling.layers.block_options import BlockOptions
from orchestrator.training.engines.engine_config import EngineConfig

REMEDY = "Set engine.tensor_parallel to 1"


def cut_problems(model: ModelConfig, engine: EngineConfig) -> Iterator[Problem]:
    """Yield what of a model the engine's cuts cannot have.

    Args:
        model: The model.
        engine: Its settings; nothing is cut by default.
    """
    if engine.tensor_parallel == 1:
        return
    for path, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        if stack is not None:
            for problem in _stack_problems(stack, model.dimensions, engine):
                yield Problem(f"{path}.{problem.path}".rstrip("."), problem.message)


def _stack_problems(
    stack: EncoderConfig, dimensions: Dimensions, engine: EngineConfig
) -> Iterator[Problem]:
    parts = engine.tensor_parallel
    if not isinstance(stack, BlockOptions):
        yield Problem(
            "type",
            f"{stack.type_name()!r} has no attention heads that tensor_parallel: {parts} could "
            f"cut. {REMEDY}, or use a transformer",
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
    if stack.experts is not None:
        yield Problem("experts", f"are not cut by tensor_parallel. {REMEDY}")
