"""Embeddings: a stack of parts, summed.

Importing this package registers the built-in parts, without torch.
"""

from orchestrator.modeling.embeddings import configs as configs
from orchestrator.modeling.embeddings import stack_config as stack_config
