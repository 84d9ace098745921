"""Our models as ONNX graphs, written node by node: no exporter, no pattern matcher."""
