"""The performance matrix: facts, history, files, and clusters of models that score alike."""
