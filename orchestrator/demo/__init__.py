"""``orchestrator demo``: the whole life of a model, each step through the job of a user."""
