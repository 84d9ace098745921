"""Targets: heads with their losses.

Importing this package registers the built-in ones, without torch.
"""

from orchestrator.modeling.targets import answer_configs as answer_configs
from orchestrator.modeling.targets import configs as configs
from orchestrator.modeling.targets import stream_configs as stream_configs
from orchestrator.modeling.targets import token_configs as token_configs
