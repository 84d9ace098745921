"""Encoders as ONNX nodes: transformers, recurrent and gated convolutional ones."""
