"""Wire formats: each file only translates between one protocol and `serving.model.service`."""

from serving.protocols import cohere, health, native, openai, openinference

__all__ = ["cohere", "health", "native", "openai", "openinference"]
