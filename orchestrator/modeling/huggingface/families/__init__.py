"""One file per model family: its classes in transformers, expressed as ours."""
