"""The protocol of OpenAI."""

from serving.protocols.openai import completions, routes

__all__ = ["completions", "routes"]
