"""Import and export of Hugging Face checkpoints.

"Theirs" is what transformers calls a thing, "ours" what it is called here.
"""
