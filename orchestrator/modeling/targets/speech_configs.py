"""Options of the targets for speech. Imports without torch."""

from typing import Literal

from orchestrator.modeling.encoders.block_options import Rate
from orchestrator.modeling.registry import targets
from orchestrator.modeling.targets.configs import TargetConfig


@targets.register("orchestrator.modeling.targets.ctc:CtcTarget")
class CtcConfig(TargetConfig):
    """Transcribe frames without knowing which token belongs to which (wav2vec 2.0)."""

    type: Literal["ctc"] = "ctc"
    dropout: Rate = 0.0
    """Dropout rate before the output layer."""
    zero_infinity: bool = False
    """Leave out sequences that are too short for their labels, rather than fail on them."""

    @property
    def reads_words(self) -> bool:
        """Whether there must be a vocabulary."""
        return True
