"""Options of the targets for images, and for images with text. Imports without torch."""

from typing import Literal

from pydantic import PositiveInt

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.encoders.block_options import Rate
from orchestrator.modeling.registry import targets
from orchestrator.modeling.targets.configs import TargetConfig

MASKED_PATCHES = 0.4
"""Share of the patches that masked image modelling predicts (Bao et al. 2022, section 2.3)."""

_PACKAGE = "orchestrator.modeling.targets"


@targets.register(f"{_PACKAGE}.vision:ItmTarget")
class ItmConfig(TargetConfig):
    """Tell whether a text and an image belong together, by the first token (ViLT)."""

    type: Literal["itm"] = "itm"
    rank: bool = False
    """One score with a sigmoid in place of two classes, for retrieval."""
    dropout: Rate = 0.0
    """Dropout rate before the output layer."""


@targets.register(f"{_PACKAGE}.vision:MimTarget")
class MimConfig(TargetConfig):
    """Predict the codes that a visual tokenizer gives to masked patches (BEiT)."""

    type: Literal["mim"] = "mim"
    num_codes: PositiveInt = 8192
    """Size of the visual vocabulary."""

    def kept_values(self, dimensions: Dimensions) -> int:
        """Values per position that the backward pass keeps: only masked patches have logits."""
        return round(MASKED_PATCHES * 2 * dimensions.hidden_size)
