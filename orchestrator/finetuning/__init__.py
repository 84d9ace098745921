"""Fine-tuning as a stage, and what is done with its packages: evaluate, predict, generate.

In the order of a job: ``config``; ``detection`` and ``inputs`` (in the driver); ``plan``
(``--check``); ``runner``; ``worker`` with ``learning_rate`` and ``teaching``; ``results``.
``grid`` runs several of them.
"""
