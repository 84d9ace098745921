"""Targets: heads with their losses.

Importing this package registers the built-in ones, without torch.
"""

from orchestrator.modeling.targets import configs as configs
from orchestrator.modeling.targets import pair_configs as pair_configs
