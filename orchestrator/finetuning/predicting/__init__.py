"""``orchestrator predict``: a package answers tables and folders on Ray Data."""
