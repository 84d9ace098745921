"""A package as a running model: loading, tokenizing, batching, probing, answering."""
