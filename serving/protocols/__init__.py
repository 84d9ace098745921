"""Wire formats: each file only translates between one protocol and `serving.model.service`."""

from serving.protocols import health, native, openai, openinference

__all__ = ["health", "native", "openai", "openinference"]
