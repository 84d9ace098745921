"""Models from parts: embedding, encoder, target embedding, decoder, target(s).

``config`` and ``catalog`` import without torch; ``builder``, ``model`` and ``package`` build, run
and store models.
"""
