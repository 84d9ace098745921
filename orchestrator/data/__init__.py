"""Data: where rows and documents come from, and how they become batches.

``spec`` says what to read and ``sources`` reads it; ``rows`` and ``documents`` are the two doors to
it; ``processors`` turns text, images and sound into model inputs; ``corpora`` packs a corpus on
disk; ``samples`` builds batches; ``steps`` decides which samples make global step t.
"""
