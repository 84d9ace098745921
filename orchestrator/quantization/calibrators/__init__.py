"""Calibrators: from activations on real texts to the range of each ``static_s7`` input."""
