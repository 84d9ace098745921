"""What a graph answers: vectors of texts and the logits of heads, as ONNX nodes."""
