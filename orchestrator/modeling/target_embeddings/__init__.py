"""Embeddings of the decoder's input: the parts of ``embeddings``, in a slot of their own."""

from orchestrator.modeling import embeddings as embeddings
