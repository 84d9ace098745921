"""The layers that a head's options put before its output layer."""

from orchestrator.modeling.layers.feed_forward import Transform
from orchestrator.modeling.targets.configs import TransformConfig


def build_transform(config: TransformConfig | None, width: int) -> Transform | None:
    """Return the layers that a head's options name, of width ``width``, or None."""
    if config is None:
        return None
    return Transform(
        width,
        width,
        activation=config.activation,
        norm_eps=config.norm_eps,
        bias=config.bias,
        norm_bias=config.norm_bias,
    )
