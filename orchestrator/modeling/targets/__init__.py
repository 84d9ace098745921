"""Targets: heads with their losses.

Importing this package registers the built-in ones, without torch.
"""

from orchestrator.modeling.targets import configs as configs
from orchestrator.modeling.targets import pair_configs as pair_configs
from orchestrator.modeling.targets import speech_configs as speech_configs
from orchestrator.modeling.targets import text_configs as text_configs
from orchestrator.modeling.targets import vision_configs as vision_configs
