"""Mixed-precision INT8: emit, measure, give every GEMM a kind, verify the artefact itself."""
