"""Data: from sources to batches.

``spec`` has the configs; ``sources`` reads, and ``sources.opening`` opens any source; ``rows`` are
labelled; ``processors`` and ``media`` turn text, images and sound into model inputs; ``corpora``
and ``sharded`` store prepared data; ``samples`` builds batches; ``steps`` selects the samples of a
step.
"""
