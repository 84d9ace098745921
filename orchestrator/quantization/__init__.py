"""Mixed-precision INT8: emit, measure, allocate a kind to every GEMM, verify on the artefact itself."""
