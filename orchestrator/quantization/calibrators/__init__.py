"""Calibrators: from activations on real texts to the range of each ``static_*`` input."""
