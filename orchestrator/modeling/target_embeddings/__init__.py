"""Embeddings of the decoder's input: the same parts, in a slot of their own (see ``embeddings``)."""

from orchestrator.modeling import embeddings as embeddings
