"""Encoders: from [B, S, D] to [B, S, D].

Importing this package registers the built-in ones, without torch.
"""

from orchestrator.modeling.encoders import configs as configs
from orchestrator.modeling.encoders import recurrent_configs as recurrent_configs
