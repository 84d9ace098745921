"""Job scripts: each runs one verb of the command line, so that `ray job submit` can start it."""
