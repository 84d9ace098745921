"""Embeddings as ONNX nodes: tokens and positions, images, sounds."""
