"""The package of a job: its files, the figures in them, and texts for people."""
