"""Samples: the kinds of training samples, made from blocks, rows or examples."""
