"""Encoder of two streams.

Legend: B batch, S and T positions of the streams, D and E their widths.
"""

from orchestrator.modeling.component import Dimensions, EncoderConfig, encoders
from orchestrator.modeling.encoders.configs import DualEncoderConfig
from orchestrator.modeling.interfaces import Batch, Encoder, Streams, first_stream, second_stream


class DualEncoder(Encoder):
    """Two encoders, or one that reads both streams; the streams do not see each other.

    Parameters: ``first.*`` and, if not tied, ``second.*``.
    """

    Config = DualEncoderConfig

    def __init__(self, config: DualEncoderConfig, dimensions: Dimensions) -> None:
        super().__init__()
        self.first = _build(config.first, dimensions)
        self.second = None if config.tie else _build(config.of_second, dimensions.of_second)

    def forward(  # type: ignore[override]
        self, hidden: Streams, mask: Streams, batch: Batch
    ) -> Streams:
        """Encode [B, S, D] and [B, T, E] to the same shapes."""
        of_second = self.first if self.second is None else self.second
        return Streams(
            self.first(hidden.first, mask.first, first_stream(batch)),
            of_second(hidden.second, mask.second, second_stream(batch)),
        )


def _build(config: EncoderConfig, dimensions: Dimensions) -> Encoder:
    encoder: Encoder = encoders.component_class(config.type_name())(config, dimensions)
    return encoder
