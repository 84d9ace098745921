"""Tables that relate our parameter names to those of transformers' reference classes."""
