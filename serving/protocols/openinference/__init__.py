"""The Open Inference Protocol, version 2, with binary tensors."""

from serving.protocols.openinference import routes

__all__ = ["routes"]
