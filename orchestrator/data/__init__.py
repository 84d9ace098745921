"""Data: from sources to batches.

``spec`` has the configs and ``sources`` reads; ``documents``, ``entries`` and ``rows.tasks`` open
any source; ``processors`` and ``media`` turn text, images and sound into model inputs; ``corpora``
and ``sharded`` store prepared data; ``samples`` builds batches; ``steps`` selects the samples of a
step.
"""
