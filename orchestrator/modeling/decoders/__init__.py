"""Decoders: read the encoder's output through cross-attention. Importing registers them, without torch."""

from orchestrator.modeling.decoders import configs as configs
