"""Tokenizers of checkpoints that come without ``tokenizer.json``."""
