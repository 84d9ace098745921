"""Outputs of a graph as ONNX nodes: vectors of texts and logits of heads."""
