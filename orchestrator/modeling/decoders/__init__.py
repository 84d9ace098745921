"""Decoders: read the encoder's output through cross-attention.

Importing this package registers the built-in ones, without torch.
"""

from orchestrator.modeling.decoders import configs as configs
