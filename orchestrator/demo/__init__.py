"""``orchestrator demo``: the whole life of a model, every step through the job a user would run."""
