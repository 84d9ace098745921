"""Mixed-precision INT8: emit, measure, choose a kind for every GEMM, verify the artifact itself."""
