"""The protocol of OpenAI, and the reranking of Cohere."""

from serving.protocols.openai import routes

__all__ = ["routes"]
