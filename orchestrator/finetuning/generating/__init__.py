"""``orchestrator generate``: a package continues prompts."""
