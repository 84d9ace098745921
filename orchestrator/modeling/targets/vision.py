"""Targets for images.

Legend: B batch, S positions, D model width, V visual vocabulary.
"""

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.targets.vision_configs import MimConfig
from orchestrator.modeling.targets.vocabulary import TokenTarget


class MimTarget(TokenTarget):
    """Masked image modelling (Bao et al. 2022, equation 2).

    ``labels`` are [B, S] int64 over all positions, tokens before the patches included: the code of
    a masked patch, -100 elsewhere. Parameters: ``output.weight`` [V, D], ``output.bias`` [V].
    """

    Config = MimConfig

    def __init__(self, config: MimConfig, dimensions: Dimensions) -> None:
        super().__init__(dimensions.hidden_size, config.num_codes, tie=False, bias=True)
