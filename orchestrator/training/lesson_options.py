"""Options of lessons in configs. Imports without torch."""

from typing import Literal

ClassWeights = Literal["none", "balanced"] | dict[str, float]
"""Weights of the classes in the loss: none; inversely to their frequency; or by name."""
