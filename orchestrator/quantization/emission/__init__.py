"""Our models as ONNX graphs, written node by node: no exporter and no pattern matcher in between."""
