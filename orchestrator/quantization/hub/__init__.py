"""Export of packages as ONNX graphs with the files that other tools open."""
