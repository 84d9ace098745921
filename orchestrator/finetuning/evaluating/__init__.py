"""``orchestrator evaluate``: a package measured on labelled rows."""
