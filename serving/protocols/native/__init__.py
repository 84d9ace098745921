"""The routes and shapes of Text Embeddings Inference and of Hugging Face's client."""

from serving.protocols.native import routes

__all__ = ["routes"]
