"""Samples: how each kind of training sample is made from blocks, rows or examples."""
