"""Embeddings: a stack of parts, summed.

Importing this package registers the built-in parts, without torch.
"""

from orchestrator.modeling.embeddings import configs as configs
from orchestrator.modeling.embeddings import dual_configs as dual_configs
from orchestrator.modeling.embeddings import speech_configs as speech_configs
from orchestrator.modeling.embeddings import vision_configs as vision_configs
from orchestrator.modeling.embeddings import word_patch_configs as word_patch_configs
