"""The performance matrix: facts, history, files, and clusters of models with similar scores."""
